"""The folder of one process's jobs, on a file system that the nodes see: orders, answers, a sign of life."""

from __future__ import annotations

import contextlib
import os
import tempfile
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from itertools import count
from pathlib import Path

from orchestrator.base.errors import InfrastructureError, StackbenchError
from orchestrator.base.files import os_errors, write_text
from orchestrator.base.lockfile import Lock, abandoned, try_lock
from orchestrator.base.text import Say
from orchestrator.host.folders import remove_tree
from orchestrator.launchers import slurm_queue as slurm
from orchestrator.launchers.slurm_orders import at_work
from orchestrator.launchers.work_area import OWNER_FILE

FOLDER, FINGERPRINT, JOBS, ALIVE, OVER = "slurm", "fingerprint", "jobs", "alive", "over"
BEATS = 6
"""So often a sign of life is given in the time after which a job thinks that nobody is there."""
LONGEST_BEAT_S = 10.0
END_S, KILLED_S, EVERY_S = 6.0, 60.0, 0.5


@dataclass(frozen=True)
class Spool:
    """One process's folder. `adopted`: a killed one's, in which its jobs may still run."""

    folder: Path
    adopted: bool
    lock: Lock
    afterwards: list[Callable[[], None]] = field(default_factory=list)
    """What is to be done when all jobs have ended, before the folder is removed."""

    @property
    def steps(self) -> Path:
        """Where each step has its folder."""
        return self.folder / "steps"

    @property
    def script(self) -> Path:
        """The jobs' script."""
        return self.folder / "job.sh"

    def jobs(self) -> list[str]:
        """Return the ids of all jobs that were submitted, the newest last."""
        return _jobs(self.folder)

    def left_on(self) -> list[str]:
        """Return the nodes on which steps were killed before they could remove what they had there."""
        return sorted({node for _, node, _ in at_work(self.steps)} - {""})

    def note(self, job: str) -> None:
        """Keep a job's id, so that whoever comes after a killed orchestrator finds it."""
        with os_errors(self.folder), (self.folder / JOBS).open("a", encoding="ascii") as file:
            file.write(f"{job}\n")

    @contextlib.contextmanager
    def alive(self, orphan_s: float) -> Iterator[None]:
        """Say again and again that somebody waits for the jobs; without that they end by themselves."""
        ending, pause = threading.Event(), min(LONGEST_BEAT_S, orphan_s / BEATS)

        def beat() -> None:
            for number in count():
                with contextlib.suppress(OSError):
                    (self.folder / ALIVE).write_text(f"{os.getpid()}-{number}\n", encoding="ascii")
                if ending.wait(pause):
                    return

        thread = threading.Thread(target=beat, name="sign of life", daemon=True)
        thread.start()
        try:
            yield
        finally:
            ending.set()
            thread.join()

    def end_jobs(self, say: Say) -> bool:
        """End every job that was submitted and wait until Slurm says that it has ended; return whether it has."""
        with contextlib.suppress(OSError):
            (self.folder / OVER).touch()
        return end_jobs(self.jobs(), say, gentle_s=END_S)


@contextlib.contextmanager
def open_spool(state: Path, fingerprint: str, say: Say) -> Iterator[Spool]:
    """Give a folder for this process, taking over a killed one's with the same fingerprint; at the end it is removed.

    What other killed processes have left is ended and removed.
    """
    place = state / FOLDER
    with os_errors(place):
        place.mkdir(parents=True, exist_ok=True)
    spool = _sweep(place, fingerprint, say)[1]
    if spool is None:
        with os_errors(place):
            folder = Path(tempfile.mkdtemp(dir=place))
            lock = try_lock(folder / OWNER_FILE, say)
            (folder / "steps").mkdir()
        assert lock is not None
        write_text(folder / FINGERPRINT, fingerprint)
        spool = Spool(folder, adopted=False, lock=lock)
    ended = False
    try:
        yield spool
    finally:
        with contextlib.suppress(StackbenchError):
            ended = spool.end_jobs(say)
            if ended and spool.afterwards:
                for do in spool.afterwards:
                    do()
                ended = spool.end_jobs(say)
        if ended:
            remove_tree(spool.folder)
        spool.lock.release()


def sweep(state: Path, say: Say) -> int:
    """End the jobs of killed orchestrators, remove their folders, and return how many there were."""
    return _sweep(state / FOLDER, None, say)[0]


def end_jobs(jobs: list[str], say: Say, *, gentle_s: float = 0.0) -> bool:
    """End jobs, after `gentle_s` in which they may do so themselves; whether Slurm says that they have ended."""
    waited = 0.0
    ending = threading.Event()
    while jobs:
        try:
            states = _states(jobs)
            jobs = [job for job, state in states.items() if not state.over]
            if jobs and waited >= KILLED_S and all(states[job].ending for job in jobs):
                return True  # a node does not answer: Slurm ends it there as soon as it does, or is given up
            if jobs and waited >= gentle_s and waited - gentle_s < EVERY_S:
                slurm.cancel(*jobs)
        except InfrastructureError as error:
            if waited >= KILLED_S:
                say(f"warning: the jobs {', '.join(jobs)} may still run ({error}): end them with scancel")
                return False
        if jobs and waited >= KILLED_S:
            say(f"warning: the jobs {', '.join(jobs)} do not end: end them with scancel")
            return False
        if jobs:
            ending.wait(EVERY_S)
            waited += EVERY_S
    return True


def _states(jobs: list[str]) -> dict[str, slurm.JobState]:
    """Return the jobs' states; of an array that of the first element that has not ended."""
    found: dict[str, slurm.JobState] = {}
    for name, state in slurm.queued(jobs).items():
        job = name.partition("_")[0]
        if job not in found or found[job].over:
            found[job] = state
    return {job: found.get(job, slurm.JobState(slurm.GONE)) for job in jobs}


def _sweep(place: Path, fingerprint: str | None, say: Say) -> tuple[int, Spool | None]:
    removed, taken = 0, None
    folders = sorted(place.iterdir()) if place.is_dir() else []
    for folder in folders:
        if not abandoned(folder, OWNER_FILE):
            continue
        lock = try_lock(folder / OWNER_FILE, None)
        if lock is None:
            continue
        with contextlib.suppress(OSError):
            same = (folder / FINGERPRINT).read_text(encoding="utf-8") == fingerprint
            if same and taken is None and not (folder / OVER).exists():
                taken = Spool(folder, adopted=True, lock=lock)
                continue
        if end_jobs(_jobs(folder), say):
            remove_tree(folder)
            removed += 1
        lock.release()
    return removed, taken


def _jobs(folder: Path) -> list[str]:
    with contextlib.suppress(OSError):
        return (folder / JOBS).read_text(encoding="ascii").split()
    return []
