"""A plain process for each cell, in a session of its own: the same spec and folder, where there is no Docker."""

from __future__ import annotations

import contextlib
import ctypes
import os
import signal
import subprocess
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from orchestrator.base.errors import InfrastructureError
from orchestrator.host.gpu import HostGpu
from orchestrator.host.owner import PROC, Owner, signature
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
PR_SET_PDEATHSIG = 1
OOM_COUNTER = "oom_kill "


@dataclass
class LocalLauncher:
    """Starts cells as processes of this user."""

    bench: Path
    python: Callable[[Stack], Path]
    """Finds, or makes, the Python of a stack on this host."""
    gpu: HostGpu | None = None
    name: str = "local"

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
        """Return the folders where they are."""
        return Places(
            cache=str(job.cache) if job.cache else None,
            checkpoint=str(job.checkpoint / job.checkpoint_inside) if job.checkpoint else None,
            references=str(job.references) if job.references else None,
        )

    def start(self, prepared: Prepared, job: Job) -> LocalHandle:
        """Start the cell's process.

        To be called from the main thread: the kernel kills the process when the thread that started it ends.
        """
        environment = self._environment(prepared.stack, job.cell.device, job.cache or job.work / CACHE_FOLDER)
        environment["HOME"] = str(job.work)
        command = [*_as_other(self.bench, job), prepared.python, "-m", "bench", str(job.work / "spec.json")]
        try:
            with job.log.open("wb") as log:
                process = subprocess.Popen(  # noqa: S603  (the stack's own Python)
                    command,
                    env=environment,
                    cwd=job.work,
                    stdin=subprocess.DEVNULL,
                    stdout=log,
                    stderr=subprocess.STDOUT,
                    start_new_session=True,
                    preexec_fn=_die_with(os.getpid()),  # noqa: PLW1509  (calls the kernel only)
                )
        except (OSError, subprocess.SubprocessError) as error:
            raise InfrastructureError(f"the process could not be started: {error}", where=prepared.python) from error
        return LocalHandle(process)

    def _ask(self, stack: Stack, python: Path, what: str) -> subprocess.CompletedProcess[str]:
        environment = self._environment(stack, "cpu", Path(os.devnull).parent)
        command = [*_as_other(self.bench), str(python), "-m", "bench", what]
        try:
            return subprocess.run(  # noqa: S603  (the stack's own Python)
                command, env=environment, capture_output=True, text=True, timeout=FINGERPRINT_S, check=False, cwd="/"
            )
        except (OSError, subprocess.TimeoutExpired) as error:
            raise InfrastructureError(f"this Python does not start: {error}", where=str(python)) from error

    def _environment(self, stack: Stack, device: str, cache: Path) -> dict[str, str]:
        inherited = {name: os.environ[name] for name in INHERITED if name in os.environ}
        return {
            **inherited,
            "CUDA_VISIBLE_DEVICES": self.gpu.uuid if self.gpu and device == "cuda" else "",
            **cell_environment(stack, str(cache), python_path=str(self.bench.parent), home="/"),
            OWNER_VARIABLE: signature(),
        }


class LocalHandle(Handle):
    """A started process. A thread sleeps in the kernel's own wait; the process group is killed as a whole."""

    def __init__(self, process: subprocess.Popen[bytes]) -> None:
        self._process, self._oom_before = process, oom_kills()
        super().__init__("process")

    def pids(self) -> frozenset[int] | None:
        """Return the numbers of all processes in its session."""
        return None if self._ended.is_set() else _session(self._process.pid)

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
            _kill_group(self._process.pid)
            code = self._process.wait()
        except OSError as error:
            return Exit(None, error=f"the wait for the process failed: {error}")
        killed = -code if code < 0 else None
        # The kernel does not say whom it killed: a SIGKILL while its counter rose counts as the kernel's.
        oom = killed == signal.SIGKILL and oom_kills() > self._oom_before
        return Exit(code if code >= 0 else 128 - code, killed, oom=oom)


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
    killed = 0
    wanted = f"{OWNER_VARIABLE}=".encode()
    for place in PROC.iterdir():
        # What is not a process has no number; another user's cannot be read.
        with contextlib.suppress(OSError, ValueError):
            pid, environ = int(place.name), (place / "environ").read_bytes().split(b"\0")
            text = next((entry.removeprefix(wanted) for entry in environ if entry.startswith(wanted)), b"")
            owner = Owner.parse(text.decode("ascii", "replace"))
            if owner is not None and pid != os.getpid() and owner.dead():
                os.kill(pid, signal.SIGKILL)
                killed += 1
    return killed


def clean_environment(variables: Mapping[str, str]) -> dict[str, str]:
    """Return our variables without those that would mislead another Python."""
    return {name: value for name, value in variables.items() if not name.startswith(("PYTHON", "VIRTUAL_ENV"))}


def _session(leader: int) -> frozenset[int]:
    found = set()
    for place in PROC.iterdir():
        with contextlib.suppress(OSError, ValueError):
            if os.getsid(int(place.name)) == leader:
                found.add(int(place.name))
    return frozenset(found)


def _kill_group(group: int) -> None:
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(group, signal.SIGKILL)


def _die_with(parent: int) -> Callable[[], None]:
    """Return what a child does before it becomes the cell: ask the kernel for a SIGKILL when we end."""
    # Loaded here, in the parent: between fork and exec there must be no import and no allocation to wait for.
    libc = ctypes.CDLL(None, use_errno=False)

    def ask() -> None:
        libc.prctl(PR_SET_PDEATHSIG, int(signal.SIGKILL), 0, 0, 0)
        if os.getppid() != parent:
            os._exit(1)

    return ask
