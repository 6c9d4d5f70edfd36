"""Hosts that are held while a run uses them: each opened, and left again, by a thread of its own."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterator, Sequence
from importlib import import_module
from pathlib import Path
from typing import Any, cast

from orchestrator.base import interrupt
from orchestrator.base.errors import InfrastructureError, StackbenchError, UsageError
from orchestrator.base.text import Say, counted, on_stderr
from orchestrator.build.ready import Ready, launcher_of, ready_on
from orchestrator.host import locks
from orchestrator.host.gpu import HostGpu, choose_gpu, gpus, refuse_busy, selected
from orchestrator.launchers.worker import Opener, Opening, Worker
from orchestrator.plan.choice import Choice, LauncherName
from orchestrator.plan.hosts import HERE, HostEntry, How, load_hosts

OPENERS = {"ssh": "orchestrator.launchers.ssh", "slurm": "orchestrator.runner.slurm"}
"""Modules of openers of other hosts, imported where they are asked for: `open_host`, and `settings_of` an entry."""
LEAVE_S = 120.0
"""How long a host may take to be left, before the run ends without it."""


def opener_of(entry: HostEntry) -> Opener:
    """Return what opens an entry's host."""
    if entry.launcher in HERE:
        return open_here
    opener: Opener = import_module(OPENERS[entry.launcher]).open_host
    return opener


def entries_of(file: Path, launcher: LauncherName) -> tuple[HostEntry, ...]:
    """Return the entries of a hosts file, with settings that their launchers take.

    A `launcher` that was named and that an entry contradicts is a UsageError.
    """
    found = load_hosts(file)
    for entry in found:
        if launcher not in ("auto", its := how(entry)):
            what, remedy = f"cells of the host {entry.name} run by {its}", "leave it out, or change the entry"
            raise UsageError(f"{what}, as {file} says", where=f"--launcher {launcher}", remedy=remedy)
    return found


def how(entry: HostEntry) -> How:
    """Return how an entry's cells run; settings that its launcher does not take are a UsageError."""
    if entry.launcher in HERE:
        return cast("How", entry.launcher)
    found: How = getattr(import_module(OPENERS[entry.launcher]).settings_of(entry), "container", "docker")
    return found


def wanted_here(entry: HostEntry, found: Sequence[HostGpu], *, where: str | None = None) -> list[HostGpu]:
    """Return the GPUs of this host that an entry names, in the order of their UUIDs: locks are taken in one order.

    `where`: what to blame for a wrong name, if not the entry.
    """
    if isinstance(entry.gpus, tuple):
        where = where or f"{entry.name}: gpus"
        chosen = {name: choose_gpu(found, name, allow_busy=True, where=where) for name in entry.gpus}
        if len({gpu.uuid for gpu in chosen.values()}) < len(chosen):
            raise UsageError("a GPU is named twice", where=where, remedy="name each once")
        return sorted(chosen.values(), key=lambda gpu: gpu.uuid)
    return sorted(selected(found, None), key=lambda gpu: gpu.uuid)


@contextlib.contextmanager
def open_here(entry: HostEntry, opening: Opening) -> Iterator[Sequence[Worker]]:
    """Give this host's GPUs, locked, as workers; a host without any is one worker."""
    here, client = gpus(), None
    on_gpu = "cuda" in opening.devices.values()
    found = wanted_here(entry, here.found) if on_gpu else []
    if entry.launcher == "docker":
        from orchestrator.host import docker_engine as engine

        client = engine.connect()
    with contextlib.ExitStack() as held:
        if client is not None:
            held.callback(_remove_own, client)
        uuids = [*([None] if "cpu" in opening.devices.values() else []), *(gpu.uuid for gpu in found)]
        held.enter_context(locks.hold_all(uuids, purpose=opening.purpose, say=opening.say, run=opening.run))
        workers = []
        for gpu in (*found, *([] if found else [None])):
            if gpu is not None and not opening.allow_busy:
                refuse_busy(gpu.uuid)
            launcher = launcher_of(client, opening.bench, opening.say, opening.state, gpu=gpu)
            if gpu is not None:
                launcher.peers = gpu.alike(found)
            name = entry.name if gpu is None else f"{entry.name}:{gpu.index}"
            workers.append(Worker(name, entry.name, gpu, launcher, alive=lambda: _why_dead(client)))
        yield workers


def _remove_own(client: Any) -> None:
    from orchestrator.host import docker_engine as engine

    with contextlib.suppress(StackbenchError), engine.engine_errors():
        engine.remove_own(client)


def _why_dead(client: Any) -> str | None:
    if client is None:
        return None
    from orchestrator.host import docker_engine as engine

    try:
        with engine.engine_errors():
            client.ping()
    except InfrastructureError:
        return "the Docker Engine does not answer any more"
    return None


class _Held(threading.Thread):
    """Opens one host, keeps it until it is let go, and leaves it."""

    def __init__(self, entry: HostEntry, opening: Opening) -> None:
        super().__init__(name=f"host {entry.name}", daemon=True)
        self.entry, self._opening = entry, opening
        self.opened, self.let_go = threading.Event(), threading.Event()
        self.workers: Sequence[Worker] = ()
        self.error: BaseException | None = None

    def run(self) -> None:
        try:
            with opener_of(self.entry)(self.entry, self._opening) as workers:
                self.workers = workers
                self.opened.set()
                self.let_go.wait()
        except BaseException as error:  # noqa: BLE001  (said, or raised again, by the thread that waits)
            self.error = error
        finally:
            self.opened.set()


@contextlib.contextmanager
def held(entries: Sequence[HostEntry], opening: Opening) -> Iterator[list[Worker]]:
    """Open all hosts at once and give their workers; a host that cannot be had is said, and the others do.

    Where none can be had its error is raised. UsageErrors always are.
    """
    threads = [_Held(entry, opening) for entry in entries]
    for thread in threads:
        thread.start()
    try:
        for thread in threads:
            while not thread.opened.wait(interrupt.TICK_S) and not interrupt.pending:
                pass
        interrupt.check()
        yield _workers(threads, opening.say)
    finally:
        for thread in threads:
            thread.let_go.set()
        for thread in threads:
            thread.join(LEAVE_S)
            if thread.is_alive():
                on_stderr(f"host {thread.entry.name} could not be left within {LEAVE_S:g} s")


def _workers(threads: Sequence[_Held], say: Say) -> list[Worker]:
    """Return the workers of the hosts that were opened; say which hosts were not, or raise why."""
    for thread in threads:
        if isinstance(thread.error, InfrastructureError):
            say(f"host {thread.entry.name} is left out: {thread.error}")
        elif thread.error is not None:
            raise thread.error
    workers = [worker for thread in threads for worker in thread.workers]
    if not workers:
        raise next((thread.error for thread in threads if thread.error), InfrastructureError("no host has a GPU"))
    return workers


def made_ready_on(workers: Sequence[Worker], choice: Choice, say: Say) -> list[Ready]:
    """Make the stacks ready on each host, once for each model of GPU there, all hosts at once; by worker."""
    firsts = {_kind(worker): worker for worker in reversed(workers)}
    found: dict[tuple[str, str | None], Ready] = {}
    errors: list[BaseException] = []

    def make(key: tuple[str, str | None], worker: Worker) -> None:
        try:
            found[key] = ready_on(worker.launcher, worker.gpu, choice, say)
        except BaseException as error:  # noqa: BLE001  (raised again below)
            errors.append(error)

    threads = [threading.Thread(target=make, args=item, daemon=True) for item in firsts.items()]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()  # at a signal each raises for itself
    interrupt.check()
    if errors:
        raise errors[0]
    for worker in workers:
        first = firsts[_kind(worker)].launcher
        if first is not worker.launcher and worker.launcher.name == "docker":
            for name in ("images", "access", "refused"):  # what was found out when the first was made ready
                setattr(worker.launcher, name, getattr(first, name))
    return [found[_kind(worker)] for worker in workers]


def _kind(worker: Worker) -> tuple[str, str | None]:
    """Return what workers have in common for which stacks are made ready once."""
    return worker.host, worker.model


def in_short(workers: Sequence[Worker]) -> str:
    """Return how many GPUs of how many hosts there are, and of which models."""
    models = {worker.gpu.name for worker in workers if worker.gpu is not None}
    hosts = {worker.host for worker in workers}
    if not models:
        return f"{counted(len(hosts), 'host')} without a GPU"
    return f"{counted(len(workers), 'GPU')} ({', '.join(sorted(models))}) of {counted(len(hosts), 'host')}"
