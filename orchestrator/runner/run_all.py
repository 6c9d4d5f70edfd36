"""`run-all`: look, choose, lock, make ready, run every cell, store each at once, tables. A list of small functions."""

from __future__ import annotations

import contextlib
import os
import time
from collections import Counter
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

from orchestrator.base.errors import (
    EXIT_BAD_ROWS,
    EXIT_NOTHING_MEASURED,
    EXIT_OK,
    InfrastructureError,
    StackbenchError,
    UsageError,
)
from orchestrator.base.files import bench_source, check_writable, make_folder
from orchestrator.base.paths import REPOSITORY, STATE
from orchestrator.base.text import counted, in_words
from orchestrator.build.lock import mark_drift
from orchestrator.build.ready import Ready, here_already, make_ready, reach_engine
from orchestrator.host.devices import facts, hold_devices, look, pick_gpu
from orchestrator.host.gpu import refuse_busy
from orchestrator.launchers import Job
from orchestrator.launchers.local import sweep_processes
from orchestrator.launchers.work_area import sweep_folders, work_area
from orchestrator.measure.supervise import TELEMETRY_FILE, Task, blank_record, supervise
from orchestrator.measure.warm import wanted, with_warm_start
from orchestrator.plan.choice import Choosing, choose
from orchestrator.plan.workload import digest
from orchestrator.records.record import Verdict, is_row
from orchestrator.records.references import References
from orchestrator.records.store import Run, newest_run, resumable, stem_of, why_another
from orchestrator.report.tables import write_tables
from orchestrator.runner.estimate import (
    Earlier,
    estimate,
    expected,
    fitted,
    history,
    second_start_seconds,
    used_up,
    wall_seconds,
)
from orchestrator.runner.interrupt import Interrupted, interruptible
from orchestrator.runner.order import OUT_OF_MEMORY, forget_replaced, interleave, remaining, too_large
from orchestrator.runner.plan_text import cost_line, describe
from orchestrator.runner.progress import make_progress

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

    from orchestrator.host.gpu import HostGpu
    from orchestrator.launchers import Launcher
    from orchestrator.launchers.work_area import CellFolder, WorkArea
    from orchestrator.plan.cell import Cell
    from orchestrator.plan.choice import Choice, RunOptions
    from orchestrator.records.record import Record
    from orchestrator.runner.estimate import Key
    from orchestrator.runner.progress import Progress

ORCHESTRATOR = REPOSITORY / "orchestrator"
LISTING_FILE = "dispatch.json"
BAD = ("incorrect", "crashed", "timeout", "infrastructure")
MEASURED = ("ok", "incorrect")


@dataclass
class Session:
    """What the steps of one `run-all` share."""

    options: RunOptions
    choice: Choice
    progress: Progress
    area: WorkArea
    gpu: HostGpu | None
    client: Any
    source: str
    began: float
    known: dict[Key, Earlier]
    run: Run | None = None
    references: References | None = None
    exhausted: list[Record] = field(default_factory=list)
    """Records of the run that ran out of memory: larger shapes need not be tried."""

    def cell_id(self, cell: Cell, ready: Ready) -> str:
        """Return the identity of `cell` on this host with what is installed in its stack."""
        return cell.cell_id(
            environment=ready.environment(cell.stack),
            bench_source=self.source,
            gpu=self.gpu.identity if self.gpu and cell.device == "cuda" else None,
        )


def run_all(options: RunOptions, choosing: Choosing = choose, kept: list[Run] | None = None) -> int:
    """Run everything that the options ask for and return the exit code; what comes out is a folder of `results`.

    `choosing` says what the options mean on this host; the run is put into `kept` as soon as there is one.
    Ctrl-C ends it with 130 after the running cell was killed; everything finished is kept.
    """
    kept = [] if kept is None else kept
    try:
        with interruptible(), make_progress() as progress:
            return _run_all(options, choosing, progress, kept)
    except Interrupted as stop:
        print(_how_to_go_on(kept[0] if kept else None), flush=True)
        return stop.exit_code


def _run_all(options: RunOptions, choosing: Choosing, progress: Progress, kept: list[Run]) -> int:
    began = time.monotonic()
    host = look(options)
    choice = choosing(options, gpu=host.gpu, engine=host.engine)
    check_writable(options.results)
    known = history(options.results)
    choice = fitted(choice, options, known)
    progress.say(choice.line)
    client = reach_engine(choice)
    progress.say(cost_line(estimate(choice.plan, choice.stacks, known, here_already(choice, client))))
    sweep(client, progress)
    gpu = pick_gpu(host.found, options) if choice.uses_gpu else None
    with hold_devices(choice.plan, gpu, progress.say), work_area() as area, own_containers(client):
        if gpu is not None and not options.allow_busy:
            refuse_busy(gpu.uuid)
        session = Session(options, choice, progress, area, gpu, client, bench_source(area.bench), began, known)
        launcher, ready = make_ready(choice, gpu, client, area.bench, progress.say, state=STATE)
        session.run = open_run(session, ready)
        session.references = References.of_run(session.run.folder, session.run.records())
        kept.append(session.run)
        try:
            with tables_at_the_end(session.run):
                complete = run_cells(session, launcher, ready)
            return finish(session, complete=complete)
        finally:
            session.run.release()


def sweep(client: Any, progress: Progress) -> None:
    """Remove what killed runs have left on this host: containers, processes, folders."""
    containers = 0
    if client is not None:
        from orchestrator.host import docker_engine as engine

        with engine.engine_errors():
            containers = engine.sweep(client)
    left = [
        (containers, "container", None),
        (sweep_processes(), "process", "processes"),
        (sweep_folders(), "folder", None),
    ]
    if any(count for count, *_ in left):
        told = ", ".join(counted(count, what, several) for count, what, several in left if count)
        progress.say(f"removed what a killed run had left: {told}")


@contextlib.contextmanager
def own_containers(client: Any) -> Iterator[None]:
    """Remove, at the end, any container of this process that an interruption let slip."""
    try:
        yield
    finally:
        if client is not None:
            from orchestrator.host import docker_engine as engine

            with contextlib.suppress(StackbenchError), engine.engine_errors():
                engine.remove_own(client)


@contextlib.contextmanager
def tables_at_the_end(run: Run) -> Iterator[None]:
    """Write the tables of what there is, however the cells came to their end."""
    try:
        yield
    finally:
        write_tables(run.folder)


def open_run(session: Session, ready: Ready) -> Run:
    """Return the run to go on with, or a new one, and say which and why."""
    options, plan = session.options, session.choice.plan
    stacks = {name: ready.facts(name) for name in session.choice.stacks}
    run = None if options.fresh else _earlier_run(session)
    if run is None:
        run = Run.create(
            options.results,
            plan,
            session.source,
            host=facts(session.gpu),
            stacks=stacks,
            note=session.choice.line,
            launcher=session.choice.launcher,
        )
        run.claim()
        session.progress.say(f"run {run.folder.name}")
        ready.copy_locks(run.folder)
        return run
    run.update(stacks={**run.header.stacks, **stacks})
    ready.copy_locks(run.folder)
    session.progress.say(f"going on with run {run.folder.name} (--fresh starts over)")
    return run


def _earlier_run(session: Session) -> Run | None:
    results, wanted = session.options.results, (session.choice.plan, session.source, session.choice.launcher)
    run, why = resumable(results, *wanted)
    if run is None and session.options.rerun:
        with contextlib.suppress(UsageError):
            newest = newest_run(results)
            run = None if why_another(newest.header, *wanted) else newest
    if run is None:
        if why:
            session.progress.say(f"starting another run: {why}")
        return None
    if not run.claim():
        session.progress.say(f"starting another run: {run.folder.name} is being run by another process")
        return None
    if run.finished:
        run.reopen()
    return run


def run_cells(session: Session, launcher: Launcher, ready: Ready) -> bool:
    """Run what has no result yet, store each round at once, and return whether every one was run."""
    run, progress = session.run, session.progress
    assert run is not None
    assert session.references is not None
    order = interleave(session.choice.plan)

    def identity(cell: Cell) -> str:
        return session.cell_id(cell, ready)

    forget_replaced(run, {identity(cell) for cell, _ in order})
    todo = order if session.options.rerun else remaining(order, run, session.references, identity)
    if len(todo) < len(order):
        progress.say(f"{len(order) - len(todo)} of {len(order)} rounds have their result already")
    session.exhausted = [record for record in run.records() if record.status == OUT_OF_MEMORY]
    began = time.monotonic()
    titles = Counter(cell.title for cell in session.choice.plan.cells)
    for position, (cell, number) in enumerate(todo):
        over = _out_of_time(session)
        if used_up(session.options, began, cell, number, session.known):
            over = "the budget is used up"
        if over:
            progress.say(f"{over}: {_how_to_go_on(run)}")
            return False
        left = sum(expected(later, session.known).seconds for later, _ in todo[position:])
        title = cell.title if titles[cell.title] == 1 else f"{cell.title} ({describe(cell.workload)})"
        title += f" round {number + 1}" if cell.rounds > 1 else ""
        progress.begin(title, position + 1, len(todo), left)
        record = run_one(session, launcher, ready, cell, number)
        _learn(session, cell, record)
        session.exhausted += [record] if record.status == OUT_OF_MEMORY else []
        write_tables(run.folder)
        progress.end(record, sum(expected(later, session.known).seconds for later, _ in todo[position + 1 :]))
        if record.status == "infrastructure" and not _engine_lives(session):
            progress.say(f"the Docker Engine does not answer any more: {_how_to_go_on(run)}")
            return False
    return True


def run_one(session: Session, launcher: Launcher, ready: Ready, cell: Cell, number: int) -> Record:
    """Run one round of a cell and store its record and log."""
    assert session.run is not None
    assert session.references is not None
    known = session.references.known.get(cell.workload.workload_id)
    task = Task(cell, number, session.cell_id(cell, ready), session.source, bench_source(ORCHESTRATOR), known)
    if cell.stack in ready.refused:
        return session.run.save(blank_record(task, ready.refused[cell.stack]))
    reason = too_large(cell, session.exhausted)
    if reason is not None:
        return session.run.save(blank_record(task, Verdict("skipped", reason)))
    folder = session.area.cell(f"{cell.benchmark}-{cell.method}-{cell.stack}")
    try:
        weights = cell.workload.weights
        checkpoint = session.choice.checkpoints.get(weights.fingerprint or "") if weights else None
        job = Job(
            folder.work,
            folder.log,
            run=session.run.folder.name,
            cell=task.cell_id,
            device=cell.device,
            cache=_shared_cache(session, cell, ready) if cell.cache == "shared" else None,
            checkpoint=checkpoint.mount if checkpoint else None,
            checkpoint_inside=checkpoint.inside if checkpoint else "",
            references=session.references.folder if known else None,
        )
        gpu = session.gpu.uuid if session.gpu and cell.device == "cuda" else None
        record = supervise(launcher, ready.prepared[cell.stack], task, job, gpu=gpu, on_event=session.progress.event)
        if cell.role == "reference" and record.written_by == "bench":
            record = session.references.collect(folder.work, cell, record, session.progress.say)
        record = mark_drift(record, ready.locks[cell.stack], ready.prepared[cell.stack])
        record = _keep_side_files(session.run, record, folder)
        stored = session.run.save(record, folder.log)
        if wanted(cell, stored):
            # Stored first: an interruption of the second start loses nothing.
            prepared, show = ready.prepared[cell.stack], session.progress.event
            warm = with_warm_start(launcher, prepared, task, job, stored, on_event=show)
            stored = session.run.save(warm, folder.log)
        return stored
    finally:
        session.area.discard(folder)


def _keep_side_files(run: Run, record: Record, folder: CellFolder) -> Record:
    """Keep the whole listing of what ran and the telemetry; a record must not name a file that is not there."""
    if record.dispatch is not None:
        listing = _kept(run, "dispatch", record, folder.work / LISTING_FILE, record.dispatch.listing_sha256)
        record = record.model_copy(update={"dispatch": record.dispatch.model_copy(update={"listing_sha256": listing})})
    if record.telemetry is not None:
        source = folder.log.with_name(TELEMETRY_FILE)
        series = _kept(run, "telemetry", record, source, record.telemetry.series_sha256)
        record = record.model_copy(update={"telemetry": record.telemetry.model_copy(update={"series_sha256": series})})
    return record


def _kept(
    run: Run, part: Literal["dispatch", "telemetry"], record: Record, source: Path, sha256: str | None
) -> str | None:
    """Keep a side file and return its SHA-256; None where it is not the one that the record names."""
    if sha256 is None:
        return None
    stem = stem_of(record)
    with contextlib.suppress(UsageError):
        if run.keep(part, stem, source) == sha256:
            return sha256
    (run.folder / part / f"{stem}{source.suffix}").unlink(missing_ok=True)
    return None


def finish(session: Session, *, complete: bool) -> int:
    """Close the run where every cell was run, show the tables, and return the exit code."""
    run = session.run
    assert run is not None
    records = list(run.records())
    # What the engine or the disk lost says nothing about a stack: the next run-all tries it again.
    if complete and not any(record.status == "infrastructure" for record in records):
        run.finish()
        write_tables(run.folder)
    session.progress.say("")
    session.progress.say((run.folder / "tables.md").read_text(encoding="utf-8"))
    took = in_words(time.monotonic() - session.began)
    counts = ", ".join(f"{count} {status}" for status, count in Counter(r.status for r in records).most_common())
    session.progress.say(f"{counted(len(records), 'record')} in {took} ({counts}): {_shown(run)}")
    return exit_code(records)


def exit_code(records: Sequence[Record]) -> int:
    """Return 0 where all is well, 1 where a row is bad, 3 where nothing at all was measured."""
    rows = [record for record in records if is_row(record)] or list(records)
    if not any(record.status in MEASURED for record in rows):
        return EXIT_NOTHING_MEASURED
    return EXIT_BAD_ROWS if any(record.status in BAD for record in records) else EXIT_OK


def _shared_cache(session: Session, cell: Cell, ready: Ready) -> Any:
    """Return the cell's own compile cache, kept from process to process; another environment or GPU has another."""
    gpu = session.gpu.identity if session.gpu and cell.device == "cuda" else None
    folder = STATE / "cache" / digest([cell.key, ready.environment(cell.stack), gpu])
    make_folder(folder)
    return folder


def _learn(session: Session, cell: Cell, record: Record) -> None:
    seconds, again = wall_seconds(record), second_start_seconds(record)
    if seconds is None:
        return
    key = (cell.workload.workload_id, cell.method, cell.device)
    if again is None and key in session.known:
        again = session.known[key].second_start  # of the first round alone
    session.known[key] = Earlier(seconds, again)


def _out_of_time(session: Session) -> str:
    limit = session.options.max_minutes
    over = limit is not None and time.monotonic() - session.began > limit * 60
    return f"{limit:g} minutes are over" if over else ""


def _engine_lives(session: Session) -> bool:
    if session.client is None:
        return True
    from orchestrator.host import docker_engine as engine

    try:
        with engine.engine_errors():
            session.client.ping()
    except InfrastructureError:
        return False
    return True


def _how_to_go_on(run: Run | None) -> str:
    if run is None:
        return "stopped before the first cell; nothing was lost"
    kept = sum(1 for _ in run.records())
    return f"stopped; {counted(kept, 'record')} kept in {_shown(run)}; the same command goes on from there"


def _shown(run: Run) -> str:
    try:
        return os.path.relpath(run.folder)
    except (OSError, ValueError):
        return str(run.folder)
