"""Opening a host over ssh: reached, its GPUs looked at and locked, a worker given for each of them."""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import docker

from orchestrator.base.errors import InfrastructureError, UsageError
from orchestrator.base.text import Say, counted
from orchestrator.host import docker_engine as engine
from orchestrator.host.gpu import HostGpu, selected
from orchestrator.launchers.connection import Connection, SshSettings, socket_folder
from orchestrator.launchers.ssh_launcher import SshHost, SshLauncher
from orchestrator.launchers.worker import Opening, Worker
from orchestrator.plan.hosts import HostEntry


@contextlib.contextmanager
def open_host(entry: HostEntry, opening: Opening) -> Iterator[Sequence[Worker]]:
    """Reach a host over ssh, hold its GPUs' locks, and give a worker for each of them; see `worker.Opener`."""
    settings = settings_of(entry)
    with contextlib.ExitStack() as opened:
        host = SshHost(entry.name, settings, opening, opened.enter_context(socket_folder()), entry.start_s)
        first = host.connect()
        opened.callback(first.close)
        if first.hello["swept"]:
            host.say(f"removed what a killed run left behind: {counted(first.hello['swept'], 'container or folder')}")
        workers = list[Worker]()
        wanted = set(opening.devices.values())
        chosen = _chosen(entry, first.hello, allow_busy=opening.allow_busy) if "cuda" in wanted else []
        for gpu in (*chosen, *([] if chosen else [None])):
            connection = first
            if workers:
                connection = host.connect()
                opened.callback(connection.close)
            # Cells on the CPU run one at a time, whichever worker has them.
            devices = [*([None] if "cpu" in wanted and not workers else []), *([gpu.uuid] if gpu else [])]
            workers.append(_worker(host, connection, gpu, devices))
        yield [_with_peers(worker, chosen) for worker in workers]


def settings_of(entry: HostEntry) -> SshSettings:
    """Return the entry's settings."""
    return entry.settings_as(SshSettings)


def _chosen(entry: HostEntry, hello: Mapping[str, Any], *, allow_busy: bool) -> list[HostGpu]:
    """Return the GPUs that the entry means, in the order of their UUIDs: locks are taken in one order."""
    known = {one.name for one in dataclasses.fields(HostGpu)}
    found = [HostGpu(**{name: value for name, value in gpu.items() if name in known}) for gpu in hello["gpus"]]
    found = [dataclasses.replace(gpu, processes=tuple(gpu.processes)) for gpu in found]
    if entry.gpus == "all":
        chosen = selected(found, None)
        if not chosen and hello["trouble"]:
            raise InfrastructureError(f"no GPU can be asked (NVML: {hello['trouble']})", where=entry.name)
    elif isinstance(entry.gpus, int):
        chosen = found[: entry.gpus]
        if len(chosen) < entry.gpus:
            raise InfrastructureError(f"{len(found)} GPUs are there, {entry.gpus} wanted", where=entry.name)
    else:
        chosen = []
        for wanted in entry.gpus:
            matches = selected(found, wanted)
            if len(matches) != 1:
                there = ", ".join(f"{gpu.uuid} ({gpu.name})" for gpu in found) or "none"
                raise UsageError(f'no GPU "{wanted}", or several', where=f"host {entry.name}", remedy=f"known: {there}")
            chosen += matches
    for gpu in chosen:
        if gpu.busy and not allow_busy:
            what, remedy = f"{gpu.uuid} is busy: {gpu.busy}", "wait, or measure all the same with --allow-busy"
            raise InfrastructureError(what, where=entry.name, remedy=remedy)
    return sorted(set(chosen), key=lambda gpu: gpu.uuid)


def _worker(host: SshHost, connection: Connection, gpu: HostGpu | None, devices: Sequence[str | None]) -> Worker:
    near, why = connection.hello["near"].get(gpu.uuid, (None, "")) if gpu else (None, "it uses no GPU")
    cpuset = near if host.settings.cpuset == "near" else None
    client = _engine(connection)
    launcher = SshLauncher(
        client, host.opening.bench, gpu, host=host, connection=connection, cpuset=cpuset, devices=devices, say=host.say,
        state=host.opening.state,
    )  # fmt: skip
    launcher.claim(wait_s=host.start_s)
    facts = {"over": "ssh", "cpus": cpuset or f"all ({why or 'as set'})"}
    name = f"{host.name}:{gpu.index if gpu else 'cpu'}"
    return Worker(name, host.name, gpu, launcher, alive=launcher.alive, facts=facts)


def _with_peers(worker: Worker, gpus: Sequence[HostGpu]) -> Worker:
    """Return the worker with what its cells of several GPUs may take; the run holds all of their locks."""
    launcher = worker.launcher
    assert isinstance(launcher, SshLauncher)
    launcher.peers = worker.gpu.alike(gpus) if worker.gpu else ()
    if not launcher.peers or launcher.cpuset is None:
        return worker
    return dataclasses.replace(worker, facts={**worker.facts, "cpus": f"{launcher.cpuset}; of several GPUs all"})


def _engine(connection: Connection) -> Any:
    """Return a client of the host's engine, through the connection."""
    try:
        with engine.engine_errors():
            return docker.DockerClient(base_url=f"unix://{connection.socket}", timeout=engine.HTTP_TIMEOUT_S)
    except InfrastructureError as error:
        if connection.dead:
            raise connection.lost() from error
        remedy = f"start it, let this user use it, or name its socket there: socket = … ({connection.settings.socket})"
        raise InfrastructureError(f"its engine does not answer ({error.what})", remedy=remedy) from error


def sweep(entry: HostEntry, say: Say) -> int:
    """Remove what killed runs have left on a host; return how much. A host that cannot be reached is a warning."""
    settings = settings_of(entry)
    with socket_folder() as place:
        connection = Connection(settings, place)
        try:
            connection.open()
        except InfrastructureError as error:
            say(f"warning: {entry.name}: what a killed run may have left there was not looked for: {error}")
            return 0
        finally:
            connection.close()
        return int(connection.hello["swept"])
