"""Steps on nodes: started in the run's allocation, or each as a job of an array; waited for, never for ever."""

from __future__ import annotations

import contextlib
import signal
import subprocess
import threading
import time
from abc import abstractmethod
from collections.abc import Callable, Sequence
from pathlib import Path

from orchestrator.base.errors import InfrastructureError, StackbenchError
from orchestrator.base.files import write_text
from orchestrator.base.text import one_line
from orchestrator.launchers import KILL_WAIT_S, Exit, Handle
from orchestrator.launchers import slurm_queue as slurm
from orchestrator.launchers.slurm_orders import ANSWER, BEGUN, OUTPUT, SCRIPT
from orchestrator.launchers.slurm_queue import JobState, Queue
from orchestrator.launchers.slurm_scripts import step_script
from orchestrator.launchers.slurm_settings import SlurmSettings
from orchestrator.launchers.slurm_spool import Spool

LOOK_S = 0.2
STATE_EVERY_S = 2.0
NODE_EVERY_S = 20.0
SETTLE_S, ENDING_S = 6.0, 60.0
"""A shared file system may show an answer, and Slurm a job's end, so much later than a step's end. How the job ended
Slurm says only when all of its nodes have done with it, or are given up."""
AGAIN_S = 3.0
"""The pause before a step that could not be begun is tried again: a controller that has just been started can do that
only when its nodes have answered."""
GATHER_S = 0.3
"""Cells that are started within so short a time become elements of one array."""
WORDS = 300


class StepHandle(Handle):
    """A step that was begun. It has ended well when its answer is there; all other ends are the node's or Slurm's."""

    def __init__(self, folder: Path, end: Callable[[], None]) -> None:
        self.folder, self._end = folder, end
        self.ending: JobState | None = None
        """How its job ended, where that ended it."""
        super().__init__("step")

    @property
    def began(self) -> bool:
        """Whether the node has begun with it."""
        return (self.folder / BEGUN).exists()

    def pids(self) -> frozenset[int] | None:
        """Say that they are another host's."""
        return None

    def cancel(self) -> None:
        """Tell the step to end, which removes its container, and wait until it has ended."""
        self._end()
        if self.wait(KILL_WAIT_S) is None:
            raise InfrastructureError("the step cannot be ended", where=self.folder.name)

    def __exit__(self, *_: object) -> None:
        """End it where it still runs."""
        if self.poll() is None:
            with contextlib.suppress(StackbenchError):
                self.cancel()

    def _wait_for_end(self) -> Exit:
        while (why := self._over()) is None:
            time.sleep(LOOK_S)
        if why == "":
            return Exit(0)
        began = time.monotonic()
        while time.monotonic() - began < (ENDING_S if self._job_is_ending() else SETTLE_S):
            if (self.folder / ANSWER).exists():
                return Exit(0)
            why = self._why() or why
            if self.ending is not None:
                break
            time.sleep(LOOK_S)
        return Exit(0) if (self.folder / ANSWER).exists() else Exit(None, error=f"{why}{self._last_words()}")

    @abstractmethod
    def _over(self) -> str | None:
        """Return None while it runs, else why it ended; nothing where its answer is there."""

    @abstractmethod
    def _why(self) -> str | None:
        """Return a better reason, as soon as Slurm knows one."""

    def _job_is_ending(self) -> bool:
        """Whether Slurm will say in a while how its job ended."""
        return False

    def _last_words(self) -> str:
        if self.ending is not None and self.ending.name not in ("FAILED", "COMPLETED"):
            return ""  # Slurm's own word says it all
        with contextlib.suppress(OSError):
            lines = (self.folder / OUTPUT).read_text(encoding="utf-8", errors="replace").splitlines()
            if said := one_line(" / ".join(line for line in lines[-3:] if line.strip()))[-WORDS:]:
                return f" (its last words: {said})"
        return ""


class Steps:
    """Begins steps in the run's allocation."""

    def __init__(self, spool: Spool, settings: SlurmSettings, queue: Queue, job: str) -> None:
        self._spool, self.settings, self.queue, self.job = spool, settings, queue, job
        queue.watch(job)

    def begin(self, folder: Path, name: str, words: Sequence[str], node: str | None) -> StepHandle:
        """Begin a step on a node: `orchestrator.runner.slurm_node` with `words`, whose files are in `folder`."""
        if (trouble := self.trouble()) is not None:
            raise InfrastructureError(trouble, where="Slurm")
        _write_script(folder, self.settings, words)
        return AllocationStep(self, folder, name, node, lambda: _srun(self.job, folder, name, node))

    def adopt(self, folder: Path, name: str) -> StepHandle | None:
        """Return a handle of a step that another process began; None where it does not run."""
        return AllocationStep(self, folder, name, None, None) if slurm.steps_of(self.job, name) else None

    def trouble(self) -> str | None:
        """Return why no step can be begun any more; None where it can, or nobody knows."""
        state = self.queue.state(self.job)
        return f"the allocation {state.told}" if state is not None and (state.over or state.ending) else None

    def state(self) -> JobState | None:
        """Return what Slurm says of the allocation."""
        return self.queue.state(self.job)


class AllocationStep(StepHandle):
    """A step of the allocation: `srun`, which ends with it, or only its name where another process began it."""

    def __init__(
        self,
        steps: Steps,
        folder: Path,
        name: str,
        node: str | None,
        start: Callable[[], subprocess.Popen[bytes]] | None,
    ) -> None:
        self._steps, self._name, self._node, self._start = steps, name, node, start
        self._process = start() if start is not None else None
        self._asked = self._looked = self._node_looked = time.monotonic()
        self._cancelled = False
        self._silent_since: float | None = None
        super().__init__(folder, self._tell)

    def _tell(self) -> None:
        self._cancelled = True
        found: Sequence[str] = ()
        with contextlib.suppress(InfrastructureError):
            found = slurm.steps_of(self._steps.job, self._name)
            slurm.cancel(*found, signal="TERM")
        if not found and self._process is not None and self._process.poll() is None:
            # It ends what it has started, or waits for; a running step it would kill before that has cleaned up.
            self._process.send_signal(signal.SIGTERM)

    def _over(self) -> str | None:
        if (self.folder / ANSWER).exists():
            return ""  # the last thing that a node does; `srun` itself waits for a controller that does not answer
        if self._process is not None:
            code = self._process.poll()
            if code is not None:
                return None if self._begun_again() else self._of(f"its step ended with exit code {code}")
            return self._why() if self._due() else None
        if not self._due():
            return None
        try:
            runs = bool(slurm.steps_of(self._steps.job, self._name))
            self._silent_since = None
        except InfrastructureError as error:
            self._silent_since = self._silent_since or time.monotonic()
            silent = time.monotonic() - self._silent_since
            return _unknown(silent, error) if silent > self._steps.settings.unknown_s else None
        return None if runs else self._of("its step ended")

    def _of(self, why: str) -> str:
        return "" if (self.folder / ANSWER).exists() else why

    def _begun_again(self) -> bool:
        """Whether the step was tried again, which Slurm has refused before the node began with it."""
        waited = time.monotonic() - self._asked
        if self._start is None or self._cancelled or self.began or waited > self._steps.settings.unknown_s:
            return False
        if self._why() is not None or self._job_is_ending():
            return False
        time.sleep(AGAIN_S)
        if self.began or self._cancelled:
            return False
        self._process = self._start()
        return True

    def _job_is_ending(self) -> bool:
        state = self._steps.state()
        return state is not None and state.ending

    def _due(self) -> bool:
        due = time.monotonic() - self._looked >= STATE_EVERY_S
        if due:
            self._looked = time.monotonic()
        return due

    def _why(self) -> str | None:
        state = self._steps.state()
        if state is not None and state.over:
            self.ending = state
            return f"its job {state.told}"
        if self._node is not None and time.monotonic() - self._node_looked >= (NODE_EVERY_S if self._runs() else 1.0):
            self._node_looked = time.monotonic()
            with contextlib.suppress(InfrastructureError):
                return slurm.node_trouble(self._node)
        return None

    def _runs(self) -> bool:
        return self._process is None or self._process.poll() is None


class Jobs:
    """Begins steps as jobs of their own: those that are asked for together become one array."""

    def __init__(self, spool: Spool, settings: SlurmSettings, queue: Queue, *, start_s: float) -> None:
        self._spool, self.settings, self.queue, self.start_s = spool, settings, queue, start_s
        self._gathering, self._submitting = threading.Lock(), threading.Lock()
        self._waiting: list[tuple[Path, list[str | InfrastructureError]]] = []
        self._arrays = 0

    def begin(self, folder: Path, name: str, words: Sequence[str], node: str | None) -> StepHandle:  # noqa: ARG002
        """Begin a step as an element of an array; the node is Slurm's choice where none is named."""
        _write_script(folder, self.settings, words)
        mine: list[str | InfrastructureError] = []
        if node is None:
            with self._gathering:
                self._waiting.append((folder, mine))
            time.sleep(GATHER_S)
        with self._submitting:
            if node is not None:
                self._submit([(folder, mine)], f"--nodelist={node}")
            elif not mine:
                with self._gathering:
                    gathered, self._waiting = self._waiting, []
                self._submit(gathered)
        if isinstance(mine[0], InfrastructureError):
            raise mine[0]
        write_text(folder / "job", mine[0])
        return ArrayStep(self, folder, mine[0])

    def adopt(self, folder: Path, name: str) -> StepHandle | None:  # noqa: ARG002
        """Return a handle of a job that another process submitted; None where it has ended."""
        with contextlib.suppress(OSError):
            job = (folder / "job").read_text(encoding="ascii").strip()
            found = slurm.queued([job]).get(job)
            return ArrayStep(self, folder, job) if found is not None and not found.over else None
        return None

    def trouble(self) -> str | None:
        """Say that there is no allocation to lose."""
        return None

    def _submit(self, gathered: Sequence[tuple[Path, list[str | InfrastructureError]]], *options: str) -> None:
        self._arrays += 1
        listing = self._spool.folder / "arrays" / f"{time.time_ns()}-{self._arrays}"
        listing.parent.mkdir(exist_ok=True)
        write_text(listing, "".join(f"{folder.name}\n" for folder, _ in gathered))
        try:
            job = slurm.submit(str(self._spool.script), listing.name, array=len(gathered), options=options)
        except InfrastructureError as error:
            for _, answer in gathered:
                answer.append(error)
            return
        self._spool.note(job)
        for number, (_, answer) in enumerate(gathered):
            answer.append(f"{job}_{number}")
        self.queue.watch(*(f"{job}_{number}" for number in range(len(gathered))))


class ArrayStep(StepHandle):
    """A job of its own."""

    def __init__(self, jobs: Jobs, folder: Path, job: str) -> None:
        self._jobs, self.job, self._submitted = jobs, job, time.monotonic()
        jobs.queue.watch(job)
        super().__init__(folder, lambda: slurm.cancel(job))

    def _over(self) -> str | None:
        if (self.folder / ANSWER).exists():
            self._jobs.queue.drop(self.job)
            return ""
        why = self._why()
        if why is None and not self.began and time.monotonic() - self._submitted > self._jobs.start_s:
            with contextlib.suppress(InfrastructureError):
                slurm.cancel(self.job)
            state = self._jobs.queue.state(self.job)
            waits = f" ({state.reason})" if state and state.reason not in ("", "None") else ""
            return f"its job waited in the queue for more than {self._jobs.start_s:g} s{waits}"
        return why

    def _job_is_ending(self) -> bool:
        state = self._jobs.queue.state(self.job)
        return state is not None and state.ending

    def _why(self) -> str | None:
        queue = self._jobs.queue
        state = queue.state(self.job)
        if queue.silent_s() > self._jobs.settings.unknown_s:
            return _unknown(queue.silent_s(), queue.trouble)
        if state is not None and state.over:
            self.ending = state
            return f"its job {state.told}"
        return None


def _unknown(silent_s: float, trouble: object) -> str:
    return f"for {silent_s:.0f} s Slurm has not said what became of its job ({trouble})"


def _write_script(folder: Path, settings: SlurmSettings, words: Sequence[str]) -> None:
    script = step_script(settings, log=folder / OUTPUT, begun=folder / BEGUN, words=[*words, str(folder)])
    write_text(folder / SCRIPT, script)


def _srun(job: str, folder: Path, name: str, node: str | None) -> subprocess.Popen[bytes]:
    """Start `srun` for a step in the job. It outlives us, so that a step can be found again by who goes on."""
    command = [
        *("srun", f"--jobid={job}", "--overlap", "--nodes=1", "--ntasks=1", "--cpu-bind=none", "--input=none"),
        *("--output=none", "--chdir=/", f"--job-name={name}", *([f"--nodelist={node}"] if node else [])),
        *("bash", str(folder / SCRIPT)),
    ]
    try:
        with (folder / OUTPUT).open("ab") as output:
            return subprocess.Popen(  # noqa: S603
                command,
                env=slurm.environment(),
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
    except OSError as error:
        raise InfrastructureError(f"it could not be started: {error}", where="srun") from error
