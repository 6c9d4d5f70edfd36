"""Where a cell's process is started. A launcher is a small protocol: prepare, start, then a handle to wait on."""

from __future__ import annotations

import contextlib
import hashlib
import threading
from abc import abstractmethod
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, Literal, Protocol

from pydantic import Field

from orchestrator.base.errors import InfrastructureError
from orchestrator.base.files import parse_json
from orchestrator.base.telling import telling
from orchestrator.plan.cell import Cell
from orchestrator.plan.stack import Stack

CACHE_FOLDER = "cache"
"""The cell's own compile cache, in its work folder."""
KILL_WAIT_S = 30.0
"""How long a killed cell may take to end before that is an error itself."""
FINGERPRINT_S = 120.0
"""How long a stack may take to say what is installed in it."""


@dataclass(frozen=True)
class Prepared:
    """A stack that is ready to run on this host, and what identifies it."""

    stack: Stack
    python: str
    fingerprint: str
    python_version: str | None = None
    packages: Mapping[str, str] = field(default_factory=dict)
    image: str | None = None
    image_id: str | None = None
    image_content: str | None = None
    """A hash of its layers and settings, independent of when it was built."""
    image_digest: str | None = None
    """The registry's, for an image that came from one."""
    lock: str | None = None
    """SHA-256 of the lock file."""


@dataclass(frozen=True)
class Job:
    """One round of a cell to be run: what it is, what identifies it, and where its process finds its files."""

    cell: Cell
    round: int
    cell_id: str
    bench_source: str
    work: Path
    """The one folder that the process may write to; holds `spec.json`."""
    log: Path
    """Where standard output and error end up; outside `work`, so that the process cannot rewrite it."""
    run: str
    """The run's name."""
    orchestrator: str | None = None
    """Identity of the orchestrator's own code, for the record's provenance."""
    gpu: str | None = None
    """UUID of the GPU to be watched while it runs."""
    cache: Path | None = None
    """A compile cache shared between cells; None: an empty one in `work`."""
    checkpoint: Path | None = None
    """The folder that must be visible, read-only, for the checkpoint to be read."""
    checkpoint_inside: str = ""
    """The checkpoint's place below that folder."""
    weights_ids: tuple[str, ...] = ()
    """Of an engine's cell: the places below that folder of the weights of the workload's parts."""
    weights_sha256: str | None = None
    """Over the files of the first of them."""
    references: Path | None = None
    """The run's references, visible read-only."""
    reference_sha256: str | None = None
    """Of the file among them that the round is checked against; None: there is none."""
    beside_sha256: tuple[str | None, ...] = ()
    """The same of each workload that is run beside the cell's own."""
    tick_s: float = 0.1
    """How often its events are looked at; the end of its process is noticed at once."""
    away: Annotated[Callable[[], AbstractContextManager[None]], Field(exclude=True)] = contextlib.nullcontext
    """Entered while its process alone works and this one waits for it: other rounds are worked on meanwhile. It stays
    on this side: an order to another has nothing of it."""
    worker: Mapping[str, str] | None = None
    """What the record is to say of the worker that runs it; None: the only one."""
    part_ids: tuple[str, ...] = ()
    """The workload_ids which the references of the workload's parts are named by; none: the workload's own."""
    threads: int | None = None
    """CPU threads; None: torch's own choice."""
    only_first: bool = False
    """Only the first call is wanted."""


@dataclass(frozen=True)
class Places:
    """The job's folders as its process sees them."""

    cache: str | None = None
    checkpoint: str | None = None
    references: str | None = None


@dataclass(frozen=True)
class Exit:
    """How a process ended. `error`: the engine or the node failed, and nothing is said about the process."""

    code: int | None
    signal: int | None = None
    oom: bool = False
    error: str | None = None


class Far(Protocol):
    """What is seen of a process on another host by whoever is near it. Times are CLOCK_MONOTONIC there."""

    def events(self) -> tuple[bytes, int, int]:
        """Return what is new in its events (empty: nothing by now), and the times between which that appeared."""

    def trouble(self) -> tuple[Literal["crashed", "infrastructure"], str] | None:
        """Return what is wrong with what it has written, as `Written.trouble` does."""

    def readings(self) -> Mapping[str, Any]:
        """Return, after the end, the GPU's `series` (bytes of the side file), `settings` and `lost`; `load`; `free`."""


class Handle(AbstractContextManager["Handle"]):
    """A started process; a thread waits for its end. Leaving the context kills it and removes what it ran in."""

    far: Far | None = None
    """Where it runs on another host."""

    def __init__(self, what: str) -> None:
        self._what, self._ended = what, threading.Event()
        self._exit: Exit | None = None
        threading.Thread(target=self._watch, name=what, daemon=True).start()

    def poll(self) -> Exit | None:
        """Return how it ended, or None while it runs."""
        return self._exit

    def wait(self, timeout_s: float) -> Exit | None:
        """Sleep until it ends, `timeout_s` seconds at most; return as `poll`."""
        self._ended.wait(timeout_s)
        return self._exit

    def _watch(self) -> None:
        try:
            self._exit = self._wait_for_end()
        finally:
            self._exit = self._exit or Exit(None, error=f"the wait for the {self._what} failed")
            self._ended.set()

    @abstractmethod
    def _wait_for_end(self) -> Exit:
        """Wait, in the thread, without a deadline."""

    @abstractmethod
    def pids(self) -> frozenset[int] | None:
        """Return the numbers, on this host, of its processes that run now; None where that is not known."""

    @abstractmethod
    def cancel(self) -> None:
        """Kill it, with everything that it started; return when that is done."""

    def collect(self) -> None:
        """Put its whole output into the job's log file, unless it wrote there itself; call it after the end."""

    @abstractmethod
    def __exit__(self, *_: object) -> None:
        """Kill it where it still runs and remove its container."""


class Launcher(Protocol):
    """Starts cells' processes in one kind of place."""

    name: str

    def prepare(self, stack: Stack) -> Prepared:
        """Make `stack` ready on this host and ask it what is installed. InfrastructureError where that fails."""

    def facts(self, prepared: Prepared) -> str:
        """Return what `python -m bench --facts` prints there: how torch was built, and what was left out."""

    def places(self, job: Job) -> Places:
        """Return where the job's folders are for its process."""

    def start(self, prepared: Prepared, job: Job) -> Handle:
        """Start the job's process: `python -m bench` on the spec in its work folder.

        InfrastructureError where it could not be started.
        """


def cell_environment(stack: Stack, cache: str, *, python_path: str, home: str) -> dict[str, str]:
    """Return the variables that every cell's process gets, wherever it runs: its caches are its own, nothing leaks.

    Of those that a stack sets the cell's own come first: its folders of Python come before the stack's.
    """
    return {
        **stack.environment,
        "HOME": home,
        "USER": "stackbench",
        "LOGNAME": "stackbench",
        "PYTHONPATH": ":".join(filter(None, (python_path, stack.environment.get("PYTHONPATH")))),
        "PYTHONDONTWRITEBYTECODE": "1",
        "PYTHONUNBUFFERED": "1",
        "PYTHONNOUSERSITE": "1",
        "TORCHINDUCTOR_CACHE_DIR": f"{cache}/inductor",
        "TRITON_CACHE_DIR": f"{cache}/triton",
        "CUDA_CACHE_PATH": f"{cache}/cuda",
    }


def installed(code: int | None, output: str, where: str) -> tuple[str, str, dict[str, str]]:
    """Return (fingerprint, Python, packages) from what `python -m bench --fingerprint` printed as it ended with `code`.

    InfrastructureError where it did not run; `where` is the image or the Python.
    """
    line = next((line for line in reversed(output.splitlines()) if line.startswith("{")), "")
    with contextlib.suppress(ValueError, KeyError, TypeError, AttributeError):
        found = parse_json(line)
        packages = {str(name): str(version) for name, version in found["packages"].items()}
        if code == 0:
            return str(found["fingerprint"])[:64], str(found["python"])[:40], packages
    why = telling(output) or "it printed nothing"
    raise InfrastructureError(f"{why}; its Python does not run bench (exit code {code})", where=where)


def lock_digest(stack: Stack) -> str | None:
    """Return the SHA-256 of the stack's lock file; None for a ready image, which has none."""
    if stack.build is None:
        return None
    with contextlib.suppress(OSError):
        return hashlib.sha256((stack.folder / stack.build.lock).read_bytes()).hexdigest()
    return None
