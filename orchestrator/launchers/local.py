"""A plain process for each cell, in a session of its own: the same spec and folder, where there is no Docker."""

from __future__ import annotations

import contextlib
import ctypes
import os
import resource
import secrets
import signal
import subprocess
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar, NamedTuple

from orchestrator.base.errors import InfrastructureError
from orchestrator.base.interrupt import run_process
from orchestrator.host.gpu import HostGpu
from orchestrator.host.owner import PROC, START_FIELD, Owner, ending_with_us, signature
from orchestrator.launchers import (
    CACHE_FOLDER,
    FINGERPRINT_S,
    KILL_WAIT_S,
    Exit,
    Handle,
    Job,
    Places,
    Prepared,
    cell_environment,
    installed,
    lock_digest,
)
from orchestrator.plan.stack import Stack

OWNER_VARIABLE = "STACKBENCH_OWNER"
PYTHON_VARIABLE = "STACKBENCH_PYTHON"
PREFIX_VARIABLE = "STACKBENCH_CELL_PREFIX"
"""Where it is set, it begins every cell's command and makes the process another user's."""
REACHABLE, WRITABLE = 0o711, 0o777
INHERITED = (
    *("PATH", "LANG", "LC_ALL", "TZ", "TMPDIR", "CC", "CXX", "CPATH", "LIBRARY_PATH"),
    *("LD_LIBRARY_PATH", "CUDA_HOME", "CUDA_PATH", "SSL_CERT_FILE"),
)
"""Variables of ours that a cell gets too. Any other could change unnoticed what is measured."""
CELL_VARIABLE = "STACKBENCH_CELL"
"""Marks every process that a cell starts, as long as it keeps its variables."""
GROUPS, GROUP_PREFIX = (Path("/sys/fs/cgroup"), Path("/sys/fs/cgroup/unified")), "stackbench-"
PR_SET_CHILD_SUBREAPER = 36
OOM_COUNTER = "oom_kill "
OOM_SCORE = b"700"
"""Where memory runs out the kernel ends the cell before us and most others (1000: before all)."""
KILL_EVERY_S, REMOVALS = 0.01, 100
_starting = threading.Lock()
"""Held while a process is started that becomes a cell's: before it does, it looks like one that was left to us."""
STAT_COLUMNS = (1, 3, START_FIELD)
"""Of /proc/PID/stat after the name: parent, session, start."""


@dataclass
class LocalLauncher:
    """Starts cells as processes of this user."""

    bench: Path
    python: Callable[[Stack], Path]
    """Finds, or makes, the Python of a stack on this host."""
    gpu: HostGpu | None = None
    name: str = "local"
    peers: tuple[HostGpu, ...] = ()
    """Further GPUs, for cells of several."""

    handle: ClassVar[type[LocalHandle]]
    """What waits for its processes."""

    def prepare(self, stack: Stack) -> Prepared:
        """Find the stack's Python and ask it what is installed; InfrastructureError where it cannot run bench."""
        python = self.python(stack)
        done = self._ask(stack, python, "--fingerprint")
        found = installed(done.returncode, done.stdout or done.stderr, str(python))
        return Prepared(stack, str(python), *found, lock=lock_digest(stack))

    def facts(self, prepared: Prepared) -> str:
        """Return what `python -m bench --facts` prints with the stack's Python."""
        return self._ask(prepared.stack, Path(prepared.python), "--facts").stdout

    def places(self, job: Job) -> Places:
        """Return the folders where they are, from the root on: the process has another current folder than we."""
        return Places(
            cache=str(job.cache.absolute()) if job.cache else None,
            checkpoint=str(job.checkpoint.absolute() / job.checkpoint_inside) if job.checkpoint else None,
            references=str(job.references.absolute()) if job.references else None,
        )

    def start(self, prepared: Prepared, job: Job) -> LocalHandle:
        """Start the cell's process.

        To be called from the main thread: the kernel kills the process when the thread that started it ends.
        """
        devices, cache = job.cell.workload.devices, job.cache or job.work / CACHE_FOLDER
        environment = self._environment(prepared.stack, job.cell.device, cache, devices)
        environment["HOME"] = str(job.work)
        command = [*_as_other(self.bench, job), prepared.python, "-m", "bench", str(job.work / "spec.json")]
        mark = environment[CELL_VARIABLE] = secrets.token_hex(8)
        group = _make_group(mark)
        try:
            with job.log.open("wb") as log, _starting:
                process = subprocess.Popen(  # noqa: S603  (the stack's own Python)
                    command,
                    env=environment,
                    cwd=job.work,
                    stdin=subprocess.DEVNULL,
                    stdout=log,
                    stderr=subprocess.STDOUT,
                    start_new_session=True,
                    preexec_fn=_becomes_cell(group, prepared.stack.work_bytes),  # noqa: PLW1509
                )
                return self.handle(process, mark, group)
        except (OSError, subprocess.SubprocessError) as error:
            _remove_group(group)
            raise InfrastructureError(f"the process could not be started: {error}", where=prepared.python) from error

    def _ask(self, stack: Stack, python: Path, what: str) -> subprocess.CompletedProcess[str]:
        environment = self._environment(stack, "cpu", Path(os.devnull).parent)
        command = [*_as_other(self.bench), str(python), "-m", "bench", what]
        try:
            return run_process(command, timeout_s=FINGERPRINT_S, env=environment, cwd="/")
        except (OSError, subprocess.TimeoutExpired) as error:
            raise InfrastructureError(f"this Python does not start: {error}", where=str(python)) from error

    def _environment(self, stack: Stack, device: str, cache: Path, devices: int = 1) -> dict[str, str]:
        seen = (self.gpu, *self.peers[: devices - 1]) if device == "cuda" else ()
        inherited = {name: os.environ[name] for name in INHERITED if name in os.environ}
        return {
            **inherited,
            "CUDA_VISIBLE_DEVICES": ",".join(gpu.uuid for gpu in seen if gpu),
            **cell_environment(stack, str(cache), python_path=str(self.bench.parent), home="/"),
            OWNER_VARIABLE: signature(),
        }


class LocalHandle(Handle):
    """A started process. A thread sleeps in the kernel's own wait; all that the process started is killed with it."""

    _leaders: ClassVar[set[int]] = set()
    """The cells' processes that are not reaped yet, each the leader of its session."""

    def __init__(self, process: subprocess.Popen[bytes], mark: str, group: Path | None) -> None:
        self._process, self._mark, self._group, self._oom_before = process, mark, group, oom_kills()
        self._started = next((found.started for found in processes(process.pid)), 0)
        self._leaders.add(process.pid)
        super().__init__("process")

    def pids(self) -> frozenset[int] | None:
        """Return the numbers of all processes in its control group, or in its session where it has none."""
        if self._ended.is_set():
            return None
        return _in_group(self._group) or frozenset(p.pid for p in processes() if p.session == self._process.pid)

    def cancel(self) -> None:
        """Kill the process and all that it started; InfrastructureError where the kernel cannot."""
        if not self._ended.is_set():
            _kill_group(self._process.pid)
        if self.wait(KILL_WAIT_S) is None:
            raise InfrastructureError("a process cannot be killed", where=f"process {self._process.pid}")

    def __exit__(self, *_: object) -> None:
        """Kill the process where it still runs."""
        if not self._ended.is_set():
            with contextlib.suppress(InfrastructureError):
                self.cancel()

    def _wait_for_end(self) -> Exit:
        try:
            # Not reaped yet, so that its number, which is also its group's, cannot belong to another process.
            os.waitid(os.P_PID, self._process.pid, os.WEXITED | os.WNOWAIT)
            self._kill_all()
            code = self._process.wait()
            self._leaders.discard(self._process.pid)
        except OSError as error:
            return Exit(None, error=f"the wait for the process failed: {error}")
        killed = -code if code < 0 else None
        # The kernel does not say whom it killed: a SIGKILL while its counter rose counts as the kernel's.
        oom = killed == signal.SIGKILL and oom_kills() > self._oom_before
        return Exit(code if code >= 0 else 128 - code, killed, oom=oom)

    def _kill_all(self) -> None:
        """Kill whatever the cell has started, daemons too, until nothing of it is left; the kernel may hold one up."""
        until = time.monotonic() + KILL_WAIT_S
        while alive := self._alive():
            for pid in alive:
                _kill(pid)
            if time.monotonic() > until:
                break
            time.sleep(KILL_EVERY_S)
        _remove_group(self._group)

    def _alive(self) -> set[int]:
        """Return the processes that are the cell's by control group, session, mark or descent; reap those that ended.

        One whose parent has ended is a child of ours (see `_becomes_cell`), in a session that is none of ours.
        """
        mine, leader, found = os.getpid(), self._process.pid, set(_in_group(self._group))
        with _starting:  # a process that another cell is about to become is not known as a leader yet
            others = {os.getsid(0), *self._leaders} - {leader}
            later = [p for p in processes() if p.started >= self._started and p.pid not in (mine, leader)]
        alone = len(self._leaders) == 1
        for process in sorted(later, key=lambda process: process.started):
            mark = _variable(process.pid, CELL_VARIABLE)
            left_to_us = process.parent == mine and process.session not in others
            # While other cells run, what is left to us without a mark may be theirs.
            adopted = left_to_us and not mark and alone
            marked = process.session == leader or mark == self._mark
            if adopted or marked or process.parent in found:
                found.add(process.pid)
            if process.ended:
                found.discard(process.pid)
                if left_to_us:
                    with contextlib.suppress(ChildProcessError):
                        os.waitpid(process.pid, os.WNOHANG)
        return found - {leader}


def _as_other(bench: Path, job: Job | None = None) -> list[str]:
    """Return what makes the command another user's, who is let to bench and to the job's folders; usually nothing."""
    prefix = os.environ.get(PREFIX_VARIABLE, "").split()
    if prefix:
        bench.parent.parent.chmod(REACHABLE)
        for folder in () if job is None else (job.work, job.cache):
            if folder is not None:
                folder.parent.chmod(REACHABLE)
                folder.chmod(WRITABLE)
    return prefix


def oom_kills() -> int:
    """Return how many processes this kernel has killed because memory ran out; 0 where it does not say."""
    with contextlib.suppress(OSError, ValueError):
        for line in (PROC / "vmstat").read_text(encoding="ascii").splitlines():
            if line.startswith(OOM_COUNTER):
                return int(line.removeprefix(OOM_COUNTER))
    return 0


def sweep_processes() -> int:
    """Kill processes of cells whose orchestrator is dead (a cell dies with it, but not what the cell had started)."""
    killed = set[int]()
    for group in _groups(_top_group()):
        owner = Owner.parse(group.name.removeprefix(GROUP_PREFIX).rpartition("_")[0])
        if owner is not None and owner.dead():
            killed |= {pid for pid in _in_group(group) if _kill(pid)}
            _remove_group(group)
    for process in processes():
        owner = Owner.parse(_variable(process.pid, OWNER_VARIABLE))
        if owner is not None and process.pid != os.getpid() and owner.dead() and _kill(process.pid):
            killed.add(process.pid)
    return len(killed)


def clean_environment(variables: Mapping[str, str]) -> dict[str, str]:
    """Return our variables without those that would mislead another Python."""
    return {name: value for name, value in variables.items() if not name.startswith(("PYTHON", "VIRTUAL_ENV"))}


class Process(NamedTuple):
    """One process of this host. `started` counts clock ticks since boot; `ended`: only its number is left."""

    pid: int
    parent: int
    session: int
    started: int
    ended: bool


def processes(*pids: int) -> Iterator[Process]:
    """Yield the processes of these numbers that there are, or all."""
    for place in [PROC / str(pid) for pid in pids] or PROC.iterdir():
        # What is not a process has no number.
        with contextlib.suppress(OSError, ValueError):
            # After the name, which may hold anything.
            fields = (place / "stat").read_bytes().rpartition(b")")[2].split()
            parent, session, started = (int(fields[column]) for column in STAT_COLUMNS)
            yield Process(int(place.name), parent, session, started, ended=fields[0] in b"ZX")


def _variable(pid: int, name: str) -> str:
    """Return a variable that the process was started with; empty where it has none, or is another user's."""
    wanted = f"{name}=".encode()
    with contextlib.suppress(OSError):
        for entry in (PROC / str(pid) / "environ").read_bytes().split(b"\0"):
            if entry.startswith(wanted):
                return entry.removeprefix(wanted).decode("ascii", "replace")
    return ""


def _kill(pid: int) -> bool:
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.kill(pid, signal.SIGKILL)
        return True
    return False


LocalLauncher.handle = LocalHandle


def _kill_group(group: int) -> None:
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(group, signal.SIGKILL)


def _make_group(mark: str) -> Path | None:
    """Make a control group (of version 2) for a cell inside of ours; None where that is not allowed here.

    No limit is set in it. All that a process starts is in its group, whatever else it may do to get away.
    """
    with contextlib.suppress(OSError, ValueError, StopIteration):
        lines = (PROC / "self/cgroup").read_text(encoding="utf-8").splitlines()
        own = next(line.removeprefix("0::/") for line in lines if line.startswith("0::/"))
        top = _top_group()
        group = top / own / f"{GROUP_PREFIX}{signature()}_{mark}" if top else None
        if group is not None:
            group.mkdir()
        return group
    return None


def _top_group() -> Path | None:
    return next((place for place in GROUPS if (place / "cgroup.procs").exists()), None)


def _groups(top: Path | None) -> list[Path]:
    """Return a control group and all below it, innermost first; those that vanish meanwhile are left out."""
    return [Path(place) for place, _, _ in os.walk(top, topdown=False)] if top else []


def _in_group(top: Path | None) -> frozenset[int]:
    """Return the processes in a control group and those below it."""
    found = set[int]()
    for group in _groups(top):
        with contextlib.suppress(OSError, ValueError):
            found.update(map(int, (group / "cgroup.procs").read_text(encoding="ascii").split()))
    return frozenset(found - {0})


def _remove_group(top: Path | None) -> None:
    """Kill what is left in a control group, at once, and remove it with those below it."""
    if top is not None:
        with contextlib.suppress(OSError):
            (top / "cgroup.kill").write_text("1", encoding="ascii")
        for _ in range(REMOVALS):
            for group in _groups(top):
                with contextlib.suppress(OSError):
                    group.rmdir()
            if not top.exists():
                break
            time.sleep(KILL_EVERY_S)  # what was killed a moment ago is still in it


def _becomes_cell(group: Path | None, file_bytes: int) -> Callable[[], None]:
    """Return what a child does before it becomes the cell; nothing that it starts gets out of these bounds.

    It enters its control group, is killed when we end and before us where memory runs out, leaves no core files, and
    writes no file of more than `file_bytes`. What it starts becomes our child, and not the init process's, when its
    parent ends: we have to know of it to kill it.
    """
    ctypes.CDLL(None).prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
    end_with_us = ending_with_us()
    most = resource.getrlimit(resource.RLIMIT_FSIZE)[1]
    file_limit = file_bytes if most == resource.RLIM_INFINITY else min(file_bytes, most)
    writes = [(f"{PROC}/self/oom_score_adj", OOM_SCORE), *([(f"{group}/cgroup.procs", b"0")] if group else ())]

    def ask() -> None:
        end_with_us()
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        resource.setrlimit(resource.RLIMIT_FSIZE, (file_limit, file_limit))
        for place, text in writes:
            with contextlib.suppress(OSError):
                os.write(os.open(place, os.O_WRONLY | os.O_CLOEXEC), text)

    return ask
