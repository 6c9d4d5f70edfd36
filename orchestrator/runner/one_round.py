"""One round of a cell, from its turn to its stored record."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from orchestrator.base import interrupt
from orchestrator.base.errors import StackbenchError, UsageError
from orchestrator.base.files import disk_full, make_folder
from orchestrator.base.text import counted
from orchestrator.build.lock import mark_drift
from orchestrator.build.ready import Ready
from orchestrator.host.folders import WorkArea, empty_tree
from orchestrator.host.gpu import HostGpu
from orchestrator.launchers import Job, Launcher
from orchestrator.launchers.worker import Supervise
from orchestrator.measure.supervise import TELEMETRY_FILE, blank_record, supervise, unworkable
from orchestrator.measure.warm import wanted, with_warm_start
from orchestrator.plan import memory
from orchestrator.plan.cell import Cell
from orchestrator.plan.choice import Choice
from orchestrator.plan.workload import digest
from orchestrator.records.record import Record, Refusal
from orchestrator.records.references import References
from orchestrator.records.store import LISTING_FILE, Run, stem_of
from orchestrator.records.weights import WeightFolders
from orchestrator.runner.order import Turn, needless
from orchestrator.runner.outcomes import Outcomes
from orchestrator.runner.progress import Progress

FULL_DISK_WAIT_S, FULL_DISK_EVERY_S = 60.0, 1.0
"""Others' files come and go; for a disk that stays full there is no use in going on."""


@dataclass(frozen=True)
class Session:
    """What the rounds of one run share: all that is made ready before the first of them."""

    choice: Choice
    area: WorkArea
    gpu: HostGpu | None
    client: Any
    launcher: Launcher
    ready: Ready
    progress: Progress
    state: Path
    source: str
    """Identity of bench as it was when the run began."""
    orchestrator: str
    """Identity of the orchestrator's own code."""
    run: Run
    references: References
    weights: WeightFolders
    outcomes: Outcomes
    todo: Sequence[Turn]
    """The rounds that have no result yet."""
    supervise: Supervise = supervise
    """What runs a round."""
    tick_s: float = 0.1
    """How often a round's events are looked at."""
    away: Callable[[], AbstractContextManager[None]] = contextlib.nullcontext
    """Entered while a round's process works and this one waits."""
    worker: Mapping[str, str] | None = None
    """What records say of the worker, where there are several."""
    peers: int = 0
    """How many GPUs a cell may have beside the run's own."""

    def store(self, record: Record, job: Job, *, log: bool = True) -> Record:
        """Store a round's record and log, and keep what the run's tables need of it; return it as stored."""
        stored = self.with_room(lambda: self.run.save(record, job.log if log else None), job.work)
        self.outcomes.add(stored)
        return stored

    def with_room(self, write: Callable[[], Record], work: Path) -> Record:
        """Return what `write` returns. On a full disk the cell's folder is emptied, and room is waited for, a while."""
        until = time.monotonic() + FULL_DISK_WAIT_S
        while True:
            try:
                return write()
            except UsageError as error:
                if not disk_full(error) or time.monotonic() > until:
                    raise
                self.progress.say(f"{error}; waiting for room")
            if work.parts and work.exists():
                empty_tree(work)
            interrupt.check()
            time.sleep(FULL_DISK_EVERY_S)


def run_round(session: Session, turn: Turn) -> Record:
    """Run one round of a cell, store its record and log, and return the record as stored."""
    cell, ready, show = turn.cell, session.ready, session.progress.event
    refusal = refused(session, turn)
    if refusal is not None:
        # Nothing is started, so nothing but the record touches the disk.
        job = make_job(session, turn, Path())
        return session.store(blank_record(job, refusal), job, log=False)
    with session.area.cell(f"{cell.workload.benchmark}-{cell.method}-{cell.stack}") as folder:
        job = make_job(session, turn, folder)
        if job.cache is not None:
            make_folder(job.cache)
        prepared = ready.prepared[cell.stack]
        record = session.with_room(lambda: session.supervise(session.launcher, prepared, job, show), job.work)
        try:
            if cell.role == "reference" and record.written_by == "bench":
                record = session.references.collect(job.work, cell, record, session.progress.say)
            if cell.role == "weights" and record.written_by == "bench":
                record = session.weights.collect(job.work, cell, record, session.progress.say)
            record = mark_drift(record, ready.locks[cell.stack], prepared)
            stored = session.store(_with_side_files(session.run, record, job), job)
            if wanted(cell, stored):
                # Stored first: an interruption of the second start loses nothing.
                again = with_warm_start(session.launcher, prepared, job, stored, show, run=session.supervise)
                stored = session.store(again, job)
        except (StackbenchError, OSError):
            raise  # the disk's doing, or the user's
        except Exception as error:  # noqa: BLE001  (whatever a cell has written ends its round, not the run)
            return session.store(blank_record(job, unworkable(error)), job)
        return stored


def refused(session: Session, turn: Turn) -> Refusal | None:
    """Return why nothing of the round is started, or None."""
    cell, gpu = turn.cell, session.gpu
    if (refusal := session.ready.refused.get(cell.stack)) is not None:
        return refusal
    exhausted, incorrect = session.outcomes.exhausted, session.outcomes.incorrect
    if (exhausted or incorrect) and (reason := needless(turn, exhausted, incorrect, session.gpu)):
        return Refusal("skipped", reason)
    if cell.device != "cuda" or gpu is None:
        return None
    # Only what cannot fit whatever the method: an estimate that is beyond it is said before, and tried.
    if not session.choice.asked and (why := memory.why_not(cell.workload, gpu.memory_bytes)):
        return Refusal("skipped", why)
    if (needed := cell.workload.devices) > session.peers + 1:
        there = counted(session.peers + 1, "free GPU")
        return Refusal("skipped", f"it needs {needed} GPUs, and this host has {there} of one model")
    return None


def make_job(session: Session, turn: Turn, folder: Path) -> Job:
    """Return the job of a round in its own `folder`."""
    cell, weights = turn.cell, turn.cell.workload.weights
    checkpoint = session.choice.checkpoints.get(weights.fingerprint or "") if weights else None
    reference, *beside = (session.references.known.get(part) for part in turn.part_ids)
    mount, inside = (checkpoint.mount, checkpoint.inside) if checkpoint else (None, "")
    sha256 = None
    if turn.weights_ids:
        known, inside = session.weights.known, turn.weights_ids[0]
        sha256 = known.get(inside)
        mount = session.weights.folder if known.keys() >= set(turn.weights_ids) else None
    return Job(
        cell,
        turn.round,
        turn.cell_id,
        session.source,
        folder / "work",
        folder / "log.txt",
        run=session.run.folder.name,
        orchestrator=session.orchestrator,
        gpu=session.gpu.uuid if session.gpu and cell.device == "cuda" else None,
        cache=_shared_cache(session, cell) if cell.cache == "shared" else None,
        checkpoint=mount,
        checkpoint_inside=inside,
        weights_ids=turn.weights_ids,
        weights_sha256=sha256,
        references=session.references.folder if reference or any(beside) else None,
        reference_sha256=reference,
        beside_sha256=tuple(beside),
        part_ids=turn.part_ids,
        tick_s=session.tick_s,
        away=session.away,
        worker=session.worker,
    )


def _shared_cache(session: Session, cell: Cell) -> Path:
    """Return the cell's own compile cache, kept from process to process; another environment or GPU has another."""
    gpu = session.gpu.identity if session.gpu and cell.device == "cuda" else None
    return session.state / "cache" / digest([cell.key, session.ready.environment(cell.stack), gpu])


def _with_side_files(run: Run, record: Record, job: Job) -> Record:
    """Keep the whole listing of what ran and the telemetry; a record must not name a file that is not there."""
    part: Literal["dispatch", "telemetry"]
    for part, key, source in (
        ("dispatch", "listing_sha256", job.work / LISTING_FILE),
        ("telemetry", "series_sha256", job.log.with_name(TELEMETRY_FILE)),
    ):
        said, kept = getattr(record, part), None
        named = said and getattr(said, key)
        if named is None:
            continue
        stem = stem_of(record)
        with contextlib.suppress(UsageError):
            kept = run.keep(part, stem, source)
        if kept != named:
            (run.folder / part / f"{stem}{source.suffix}").unlink(missing_ok=True)
            record = record.model_copy(update={part: said.model_copy(update={key: None})})
    return record
