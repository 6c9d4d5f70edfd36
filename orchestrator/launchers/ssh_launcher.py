"""Cells in containers on another host, over ssh: its engine is driven from here, its files and readings are a keeper's.

Whatever was measured was measured there: by the host's clock, its GPU's telemetry, its own CPUs' load. What comes back
is as little believed as what a container on this host has written.
"""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import threading
import time
from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path, PurePosixPath
from typing import Any, ClassVar, Literal

import docker

from orchestrator.base import interrupt
from orchestrator.base.errors import InfrastructureError
from orchestrator.base.text import size_in_words
from orchestrator.base.untrusted import sha256_of
from orchestrator.host import docker_engine as engine
from orchestrator.host.folders import FULL_DISK_BYTES
from orchestrator.host.locks import refuse_own
from orchestrator.launchers import Exit, Job, Places, Prepared
from orchestrator.launchers.arguments import CACHE, CHECKPOINT, REFERENCES, WORK, Limits
from orchestrator.launchers.connection import GO_ON, LOST, Connection, SshSettings
from orchestrator.launchers.container import DockerHandle
from orchestrator.launchers.docker import DockerLauncher, container_user, content_of
from orchestrator.launchers.gpu_access import GpuGrant
from orchestrator.launchers.worker import Opening
from orchestrator.plan.stack import GpuAccess, Stack
from orchestrator.plan.workload import digest

READ_BY_BENCH = (".json", ".model", ".safetensors")
"""Endings of the files of a checkpoint that cells read."""
TRANSFER_S = 3600.0
"""How long an engine may be silent while it writes or reads a whole image."""
AGAIN_S = (0.0, 1.0, 2.0, 4.0)
"""Pauses before the attempts to connect again: within the ten seconds that a worker has to say whether it lives."""
SOON_S = 5.0
"""After so long no further attempt begins."""
LOCK_POLL_S = 0.5
SMALL_BYTES = 16_000_000
"""Of a process that was killed no larger file is brought here: nobody waits for it."""

Status = Literal["crashed", "infrastructure"]


class Round:
    """What the keeper sees of one round: the `Far` of its handle."""

    def __init__(self) -> None:
        self._events: deque[tuple[bytes, int, int]] = deque()
        self._trouble: tuple[Status, str] | None = None
        self._readings: dict[str, Any] = {}
        self._seen = (0, 0)

    def take(self, said: Mapping[str, Any], content: bytes) -> None:
        """Take in what the keeper sends by itself; KeyError, TypeError or ValueError for what it would not."""
        if said["seen"] == "events":
            self._events.append((content, int(said["earliest_ns"]), int(said["read_ns"])))
        elif said["seen"] == "trouble":
            self.troubled(said["status"], said["reason"])

    def troubled(self, status: object, reason: object) -> None:
        """Keep what is wrong with what the process has written."""
        why = str(reason)[:400]
        if status == "infrastructure":
            self._trouble = "infrastructure", f"{why} on its host; make room there"
        else:
            self._trouble = "crashed", why

    def ended(self, readings: dict[str, Any]) -> None:
        """Keep what was read until the end."""
        self._readings = readings

    def events(self) -> tuple[bytes, int, int]:
        """Return the next piece of its events, as `Far` says."""
        if not self._events:
            return b"", *self._seen
        new, *times = self._events.popleft()
        self._seen = (times[0], times[1])
        return new, *self._seen

    def trouble(self) -> tuple[Status, str] | None:
        """Return what is wrong with what it has written."""
        return self._trouble

    def readings(self) -> Mapping[str, Any]:
        """Return what was read until the end."""
        return self._readings


class SshHandle(DockerHandle):
    """A container on another host. Its files are here when its end is."""

    def __init__(self, launcher: SshLauncher, container: str, log: Path, job: Job | None) -> None:
        self._launcher, self._job, self._answered = launcher, job, set[str]()
        self.far = launcher.round if job else None
        super().__init__(launcher.client, container, log)

    def wait(self, timeout_s: float) -> Exit | None:
        """Carry an answer that bench waits for, and wait as any handle."""
        for path in sorted(self._job.work.glob("repeat-*.json")) if self._job else ():
            if path.name not in self._answered:
                self._answered.add(path.name)
                with contextlib.suppress(InfrastructureError):
                    self._launcher.connection.ask("answer", path.read_bytes(), name=path.name)
        return super().wait(timeout_s)

    def _wait_for_end(self) -> Exit:
        ended = super()._wait_for_end()
        if self._launcher.connection.dead:
            return Exit(None, error=str(self._launcher.connection.lost()))
        if self._job is None:
            return ended
        try:
            self._launcher.fetch(self._job, SMALL_BYTES if self._cancelled else None)
        except (InfrastructureError, OSError) as error:
            return Exit(ended.code, ended.signal, error=f"what it left could not be fetched: {error}")
        return ended

    def _gone(self) -> bool:
        return self._launcher.connection.dead

    def __exit__(self, *details: object) -> None:
        """Remove the container; of a host that is gone its keeper does, or the next run's."""
        if not self._launcher.connection.dead:
            super().__exit__(*details)


@dataclass
class SshHost:
    """What the workers of one host share."""

    name: str
    settings: SshSettings
    opening: Opening
    place: Path
    start_s: float
    lock: threading.Lock = field(default_factory=threading.Lock)
    _count: int = 0

    def say(self, line: str) -> None:
        """Show a line about this host."""
        self.opening.say(f"{self.name}: {line}")

    def connect(self) -> Connection:
        """Return an open connection of its own."""
        with self.lock:
            self._count += 1
            folder = self.place / str(self._count)
            folder.mkdir()
        connection = Connection(self.settings, folder)
        connection.open()
        return connection


@dataclass(kw_only=True)
class SshLauncher(DockerLauncher):
    """Starts cells in containers of another host's engine, on one GPU of it or none."""

    host: SshHost
    connection: Connection
    cpuset: str | None = None
    """The CPUs near its GPU."""
    devices: Sequence[str | None] = (None,)
    """GPUs' UUIDs, and null for the CPU, whose locks are held."""
    here: ClassVar[bool] = False

    def __post_init__(self) -> None:
        self.round = Round()
        self._own_bench = self.bench
        self._job: Job | None = None
        self._stored = dict[str, str]()
        super().__post_init__()

    def _limits(self, info: dict[str, Any]) -> Limits:
        far, total = self.connection.hello, int(info.get("MemTotal") or 0)
        mine = min(filter(None, (total, far.get("memory_limit"))), default=0)
        cpus = self._cpus = int(info.get("NCPU") or 1)
        return Limits(
            memory_bytes=engine.left_of(mine or 10**9),
            cpus=min(cpus, cpus_in(self.cpuset)) if self.cpuset else cpus,
            user=container_user(int(far["uid"]), int(far["gid"]), rootless=engine.is_rootless(info)),
            cpuset=self.cpuset,
            without=engine.not_offered(info),
        )

    def limits_of(self, devices: int) -> Limits:
        """Return the limits of a container that takes so many devices: several may be near different CPUs."""
        return self.limits if devices == 1 else dataclasses.replace(self.limits, cpus=self._cpus, cpuset=None)

    def alive(self) -> str | None:
        """Return why the host can run no more cells, after a few attempts to reach it; None where it can."""
        try:
            self.reach()
            with engine.engine_errors():
                self.client.ping()
            free = int(self.connection.ask("room")[0]["free"])
        except InfrastructureError as error:
            return str(error)
        # One on which every cell fails at once would take all that are left.
        return f"its disk is full ({size_in_words(free)} left)" if free < FULL_DISK_BYTES else None

    def reach(self) -> None:
        """Connect again where the connection is gone, and take the GPU's lock again; InfrastructureError else."""
        if not self.connection.dead:
            return
        failed, began = InfrastructureError(LOST), time.monotonic()
        for pause in AGAIN_S:
            time.sleep(pause)
            interrupt.check()
            try:
                if self.connection.dead:
                    self.connection.open()
                self.claim(wait_s=0)
            except InfrastructureError as error:
                failed = error
                if time.monotonic() - began > SOON_S:
                    break
            else:
                self.host.say("connected again")
                self._stored.clear()
                return
        self.connection.close()  # without the lock nothing may run there
        raise failed

    def claim(self, *, wait_s: float) -> None:
        """Hold the locks of its devices on that host, as long as the connection lasts.

        Where another run has one, it is waited for, at most so long: then InfrastructureError.
        """
        until = time.monotonic() + wait_s
        for uuid in self.devices:
            self._claim(uuid, until)

    def _claim(self, uuid: str | None, until: float) -> None:
        said = False
        while True:
            answer, _ = self.connection.ask("lock", gpu=uuid, purpose=self.host.opening.purpose)
            for line in answer["warned"]:
                self.host.say(str(line)[:400])
            if answer["held"]:
                return
            device, holder = uuid or "the CPU", str(answer["holder"])[:200]
            line = f"{device}: in use by {holder}"
            if time.monotonic() >= until:
                raise InfrastructureError(line, remedy=GO_ON)
            refuse_own(device, holder, self.host.opening.run)
            if not said:
                self.host.say(f"waiting for {line}")
                said = True
            time.sleep(LOCK_POLL_S)
            interrupt.check()

    def prepare(self, stack: Stack) -> Prepared:
        """Ask the stack's image there what is installed in it, as on this host."""
        self.reach()
        self.bench = self._bench_there()
        return super().prepare(stack)

    def places(self, job: Job) -> Places:
        """Return the folders' places in the container; of weights only what bench reads comes along."""
        checkpoint = CHECKPOINT if job.checkpoint else None
        return Places(CACHE if job.cache else None, checkpoint, REFERENCES if job.references else None)

    def start(self, prepared: Prepared, job: Job) -> SshHandle:
        """Bring what the round needs to the host, and start its container there."""
        self.reach()
        self.bench = self._bench_there()
        checkpoint = self._checkpoint_there(job)
        parts = zip(job.part_ids or (job.cell.workload.workload_id,), (job.reference_sha256, *job.beside_sha256))  # noqa: B905
        references = {f"{part}.safetensors": sha256 for part, sha256 in parts if sha256 and job.references}
        for name, sha256 in references.items():
            assert job.references is not None
            self._store("references", sha256, {"file": (job.references / name, sha256)})
        self.round = Round()
        self.connection.on_seen = self._see
        made, _ = self.connection.ask(
            "begin",
            (job.work / "spec.json").read_bytes(),
            job=digest([job.run, str(job.work)]),
            user=self.limits.user,
            references=references,
            cache=job.cache.name if job.cache else None,
            most_bytes=prepared.stack.work_bytes,
            most_files=prepared.stack.work_files,
        )
        there = dataclasses.replace(
            job,
            work=Path(made["work"]),
            cache=Path(made["cache"]) if job.cache else None,
            checkpoint=Path(checkpoint) if checkpoint else None,
            references=Path(made["references"]) if job.references else None,
        )
        arguments = self._arguments(prepared.stack, ("-m", "bench", f"{WORK}/spec.json"), job.cell.device, there)
        self._job = job
        try:
            return self._started(arguments, job)
        finally:
            self._job = None

    def _started(self, arguments: dict[str, Any], job: Job) -> SshHandle:
        handle = self._start(arguments, engine.labels(job.run, job.cell_id, self._owner()), job.log)
        assert isinstance(handle, SshHandle)
        return handle

    def fetch(self, job: Job, most_bytes: int | None = None) -> None:
        """Bring what the round has left in its folder here, each file of at most so many bytes, and what was read."""
        said, series = self.connection.ask("finish")
        if said["trouble"]:
            self.round.troubled(*said["trouble"])
        self.round.ended({**said, "series": series})
        if said["cached"]:  # it stays there; that there is something is what this host has to know
            (job.work / "cache").mkdir(exist_ok=True)
            (job.work / "cache" / "on-its-host").touch()
        for name, size in said["files"].items():
            if PurePosixPath(name).name != name or name.startswith(".") or (most_bytes and size > most_bytes):
                continue
            with (job.work / name).open("wb") as file:
                while file.tell() < size:
                    _, piece = self.connection.ask("get", name=name, offset=file.tell())
                    if not piece:
                        break
                    file.write(piece)

    def bring(self, image: str) -> None:
        """Send the image to the host where it is here and not there; InfrastructureError where there is another."""
        with self.host.lock:
            mine = engine.answers()
            here, there = (client and _image(client, image) for client in (mine, self.client))
            if there is None and here is not None:
                self.host.say(f"sending the image {image} ({here.attrs.get('Size', 0) / 1e9:.3g} GB)")
                with engine.engine_errors():
                    _send_image(mine, self.client, image)
                    there = _image(self.client, image)
            if here is None or there is None or content_of(here.attrs) == content_of(there.attrs):
                return  # where it is nowhere, it is built or pulled there
        what = f"its host has another image of this name ({there.id[7:19]}, here {here.id[7:19]})"
        raise InfrastructureError(what, where=image, remedy="remove one of them, and it is sent from the other")

    def grant(self, stack: Stack, access: GpuAccess, devices: int = 1) -> GpuGrant:
        """Return what gives a container the GPU: by the engine there, whose device files are not known here."""
        if access == "raw":
            remedy = "set up the NVIDIA Container Toolkit there"
            raise InfrastructureError("raw devices of another host cannot be given", where=stack.name, remedy=remedy)
        return super().grant(stack, access, devices)

    def _owner(self) -> str:
        return str(self.connection.hello["owner"])

    def _see(self, said: Mapping[str, Any], content: bytes) -> None:
        self.round.take(said, content)

    def _handle(self, container: str, log: Path) -> DockerHandle:
        if self._job is not None:
            gpu = self._job.gpu
            self.connection.ask("watch", container=container, gpu=gpu)
        return SshHandle(self, container, log, self._job)

    def _start_asking(self, arguments: dict[str, Any]) -> DockerHandle:
        return self._start(arguments, engine.labels("prepare", "ask", self._owner()), Path("/dev/null"))

    def _bench_there(self) -> Path:
        files = {str(path.relative_to(self._own_bench)): path for path in sorted(self._own_bench.rglob("*"))}
        return Path(self._store("bench", None, _hashed(files, "bench/"))) / "bench"

    def _checkpoint_there(self, job: Job) -> str | None:
        if job.checkpoint is None:
            return None
        folder = job.checkpoint / job.checkpoint_inside
        files = {path.name: path for path in sorted(folder.iterdir()) if path.suffix in READ_BY_BENCH}
        return self._store("checkpoints", None, _hashed(files))

    def _store(self, kind: str, name: str | None, files: Mapping[str, tuple[Path, str]]) -> str:
        name = name or digest(sorted((path, sha256) for path, (_, sha256) in files.items()))
        if f"{kind}/{name}" not in self._stored:
            self._stored[f"{kind}/{name}"] = self.connection.store(kind, name, files, self.host.say)
        return self._stored[f"{kind}/{name}"]


def _hashed(files: Mapping[str, Path], before: str = "") -> dict[str, tuple[Path, str]]:
    return {
        f"{before}{name}": (path, _sha256(path, path.stat().st_mtime_ns))
        for name, path in files.items()
        if path.is_file()
    }


@cache
def _sha256(path: Path, _changed_ns: int) -> str:
    """Return a file's SHA-256, computed once: weights are large."""
    return sha256_of(path.resolve()) or hashlib.sha256().hexdigest()


def cpus_in(cpuset: str) -> int:
    """Return how many CPUs a list of the kernel's names: 20 for `0-15,32-35`."""
    spans = [part.partition("-") for part in cpuset.split(",")]
    return sum(int(last or first) - int(first) + 1 for first, _, last in spans)


def _image(client: Any, name: str) -> Any | None:
    with engine.engine_errors(), contextlib.suppress(docker.errors.ImageNotFound):
        return client.images.get(name)
    return None


def _send_image(here: Any, there: Any, image: str) -> None:
    """Send an image from one engine to another, as `docker save | ssh … docker load` does."""
    timeouts = here.api.timeout, there.api.timeout
    here.api.timeout = there.api.timeout = TRANSFER_S
    try:
        for said in there.api.load_image(here.api.get_image(image)):
            if "error" in said:
                raise InfrastructureError(str(said["error"])[:400], where=image, remedy="make room there")
    finally:
        here.api.timeout, there.api.timeout = timeouts
