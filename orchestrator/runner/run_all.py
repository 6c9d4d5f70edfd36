"""`run-all`: look, choose, make ready, run each round, store it, report. A list of small steps."""

from __future__ import annotations

import contextlib
import os
import shlex
import sys
import time
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

from orchestrator.base import interrupt
from orchestrator.base.errors import InfrastructureError, StackbenchError, UsageError
from orchestrator.base.files import bench_source, check_writable
from orchestrator.base.paths import ORCHESTRATOR, STATE
from orchestrator.base.text import counted, in_words, on_stderr, show
from orchestrator.build.ready import Ready, choose_place, here_already, make_ready, reach_engine
from orchestrator.host.devices import Host, facts, hold_devices, look, pick_gpu, pick_peers
from orchestrator.host.gpu import HostGpu, refuse_busy
from orchestrator.launchers.local import sweep_processes
from orchestrator.launchers.work_area import sweep_folders, work_area
from orchestrator.plan.cell import Cell
from orchestrator.plan.choice import Choice, Choosing, RunOptions, choose
from orchestrator.plan.methods import FOLDER as METHODS
from orchestrator.plan.methods import put_methods
from orchestrator.records.asked import keep_asked
from orchestrator.records.record import Record
from orchestrator.records.runs import find_run, name_of, newest_run, resumable, why_another
from orchestrator.records.store import Run, record_files
from orchestrator.records.weights import FOLDER as WEIGHTS
from orchestrator.records.weights import WeightFolders
from orchestrator.runner.before import Before
from orchestrator.runner.estimate import Earlier, Key, estimate, fitted, history
from orchestrator.runner.one_round import Session, run_round
from orchestrator.runner.order import Agenda, Turn, remaining, turns
from orchestrator.runner.outcomes import Outcomes
from orchestrator.runner.plan_text import cost_line
from orchestrator.runner.progress import Progress, make_progress
from orchestrator.runner.schedule import OF_THE_GPU

REPRODUCE = "reproduce"
"""What the suite of a run is called that nothing goes on with: each `reproduce` starts one."""


def run_all(options: RunOptions, choosing: Choosing = choose, made: list[Run] | None = None) -> int:
    """Run everything that the options ask for and return the exit code; what comes out is a folder of `results`.

    `choosing` says what the options mean on this host; the run is put into `made` as soon as there is one.
    Ctrl-C ends it with 130 after the running cell was killed; everything finished is kept.
    """
    made = [] if made is None else made
    try:
        with interrupt.interruptible(), make_progress() as progress:
            outcomes = _steps(options, choosing, made, progress)
    except interrupt.Interrupted as stop:
        with contextlib.suppress(OSError):
            show(how_to_go_on(made[0] if made else None, options), sys.stderr)
        return stop.exit_code
    show_tables(made[0], outcomes)
    return outcomes.exit_code


def _steps(options: RunOptions, choosing: Choosing, made: list[Run], progress: Progress) -> Outcomes:
    if options.several:
        from orchestrator.runner import many

        return many.steps(options, choosing, made, progress)
    asked = time.monotonic()
    host = look(options)
    choice, known = choose_cells(options, host, choosing, progress)
    client = reach_engine(choice)
    progress.say(cost_line(estimate(choice.plan, choice.stacks, known, here_already(choice, client))))
    sweep(client, progress)
    with made_ready(options, host, choice, client, progress) as session:
        made.append(session.run)
        agenda = Agenda(session.todo, options, known, asked)
        with session.outcomes:  # whose tables are written, however the rounds come to their end
            for turn in next_rounds(session, agenda):
                record = run_round(session, turn)  # which stores it
                report(session, agenda, turn, record)
        sum_up(session.run, session.outcomes, progress, time.monotonic() - asked)
        return session.outcomes


def sum_up(run: Run, outcomes: Outcomes, progress: Progress, seconds: float) -> None:
    """Say how the rounds came out, how long that took, and where the records are."""
    counts = outcomes.counts
    said = ", ".join(f"{count} {status}" for status, count in counts.most_common())
    progress.say(f"{counted(sum(counts.values()), 'record')} in {in_words(seconds)} ({said}): {shown(run)}")


def choose_cells(
    options: RunOptions, host: Host, choosing: Choosing, progress: Progress
) -> tuple[Choice, dict[Key, Earlier]]:
    """Return what is to be run, with as many rounds as there is time for, and what earlier rounds took; say it."""
    choice = choose_place(options, host, choosing)
    check_writable(options.results)
    known = history(options.results)
    choice = fitted(choice, options, known)
    for line in (choice.line, *host.beyond_memory(choice.plan)):
        progress.say(line)
    return choice, known


def sweep(client: Any, progress: Progress) -> None:
    """Remove what killed runs have left on this host: containers, processes, folders. What fails is a warning."""
    removals: dict[str, Callable[[], int]] = {
        "container": lambda: _sweep_containers(client),
        "process": sweep_processes,
        "folder": lambda: sweep_folders(warn=progress.say),
    }
    several, found = {"process": "processes"}, []
    for what, remove in removals.items():
        try:
            count = remove()
        except (StackbenchError, OSError) as error:
            progress.say(f"warning: a killed run may have left a {what} behind, which cannot be removed: {error}")
            continue
        if count:
            found.append(counted(count, what, several.get(what)))
    if found:
        progress.say(f"removed what a killed run left behind: {', '.join(found)}")


def _sweep_containers(client: Any) -> int:
    if client is None:
        return 0
    from orchestrator.host import docker_engine as engine

    with engine.engine_errors():
        return engine.sweep(client)


@contextlib.contextmanager
def made_ready(options: RunOptions, host: Host, choice: Choice, client: Any, progress: Progress) -> Iterator[Session]:
    """Hold the devices, make the stacks ready, and open the run: all that its rounds share.

    Sources are hashed and the run's records are read here, and not again.
    """
    gpu = pick_gpu(host.found, options) if choice.uses_gpu else None
    peers = pick_peers(host.found, gpu, choice.plan, allow_busy=options.allow_busy)
    with hold_devices(choice.plan, gpu, progress.say, peers), work_area() as area, own_containers(client):
        if gpu is not None and not options.allow_busy:
            refuse_busy(gpu.uuid)
        source = bench_source(area.bench)
        put_methods(choice.own, choice.plan, area.bench / METHODS)
        launcher, ready = make_ready(choice, gpu, client, area.bench, progress.say, state=STATE, peers=peers)
        with open_run(options, choice, source, gpu=gpu, ready=ready, progress=progress) as run:

            def identity(cell: Cell) -> str:
                of_gpu = gpu.identity if gpu and cell.device == "cuda" else None
                return cell.cell_id(environment=ready.environment(cell.stack), bench_source=source, gpu=of_gpu)

            order = turns(choice.plan, identity)
            firsts = {id(turn.cell): turn for turn in order}
            before = Before(run, choice.plan, [gpu.uuid if gpu else None], [firsts], progress)
            before.forget_strays(options)
            own = before.ordinals[0]
            order = [turn._replace(round=own) if turn.cell.role in OF_THE_GPU else turn for turn in order]
            outcomes, references = Outcomes(run, before.records), before.references(0)
            todo = order if options.rerun else remaining(order, before.records, references)
            if options.rerun:
                outcomes.forget_failures()
            if len(todo) < len(order):
                progress.say(f"{len(order) - len(todo)} of {len(order)} rounds already have results")
            yield Session(
                choice,
                area,
                gpu,
                client,
                launcher,
                ready,
                progress,
                state=STATE,
                source=source,
                orchestrator=bench_source(ORCHESTRATOR),
                run=run,
                references=references,
                weights=WeightFolders(area.folder / WEIGHTS),
                outcomes=outcomes,
                todo=todo,
                peers=len(peers),
            )


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
def open_run(
    options: RunOptions,
    choice: Choice,
    source: str,
    *,
    gpu: HostGpu | None,
    ready: Ready,
    progress: Progress,
    at_once: int | None = None,
) -> Iterator[Run]:
    """Hold the run to go on with, or a new one (always for a trial, on `at_once` GPUs), and say which and why."""
    stacks = {name: ready.facts(name) for name in choice.stacks}
    run = None if options.fresh or at_once else _earlier_run(options, choice, source, progress)
    if run is None:
        run = Run.create(
            options.results,
            choice.plan,
            source,
            host=facts(gpu),
            stacks=stacks,
            note=choice.line,
            launcher=choice.launchers,
            at_once=at_once,
        )
        run.claim(progress.say)
        progress.say(f"run {run.folder.name}")
    else:
        # One that cannot run now did when its records were made: what they were made of stays.
        now = {name: said for name, said in stacks.items() if "fingerprint" in said or name not in run.header.stacks}
        run.update(stacks={**run.header.stacks, **now})
        progress.say(f"going on with run {run.folder.name} (--fresh starts over)")
    try:
        keep_asked(run.folder, options, choice.checkpoints)
        ready.copy_locks(run.folder)
        put_methods(choice.own, choice.plan, run.folder / METHODS)
        yield run
    finally:
        run.release()


def _earlier_run(options: RunOptions, choice: Choice, source: str, progress: Progress) -> Run | None:
    wanted = (choice.plan, source, choice.launchers)

    def take(run: Run) -> bool:
        return run.claim(progress.say)

    if options.resume is not None:
        run = find_run(options.results, options.resume)
        if run.bundle is not None:
            remedy = f"take it in first: orchestrator import {shlex.quote(str(run.bundle))}"
            raise UsageError("a bundle cannot be resumed", where=f"--resume {options.resume}", remedy=remedy)
        why = why_another(run, *wanted) or ("" if take(run) else "is being run by another process")
        if why:
            remedy = "give the options that it was begun with, or leave --resume out"
            raise UsageError(f"the run {run.folder.name} {why}", where="--resume", remedy=remedy)
    else:
        found, why = resumable(options.results, *wanted, take=take, say=progress.say)
        if found is None and options.rerun:
            with contextlib.suppress(UsageError):
                newest = newest_run(options.results)
                found = newest if newest.own and not why_another(newest, *wanted) and take(newest) else None
        if found is None:
            if why:
                progress.say(f"starting another run: {why}")
            return None
        run = found
    run.remove_half_written()
    if run.finished:
        run.reopen()
    return run


def next_rounds(session: Session, agenda: Agenda) -> Iterator[Turn]:
    """Yield one round after the other, as long as there are time and an engine; where all were run, close the run."""
    progress, outcomes = session.progress, session.outcomes
    for number, turn in enumerate(agenda.todo, 1):
        interrupt.check()
        over = agenda.over(turn)
        if over:
            progress.say(f"{over}: {how_to_go_on(session.run, agenda.options)}")
            return
        progress.begin(turn.title, number, len(agenda.todo), agenda.left_s)
        yield turn
        if outcomes.status(turn.cell_id, turn.round) == "infrastructure" and not _engine_lives(session.client):
            progress.say(f"the Docker Engine does not answer any more: {how_to_go_on(session.run, agenda.options)}")
            return
    # What the engine or the disk lost says nothing about a stack: the next run-all tries it again.
    if not outcomes.counts["infrastructure"]:
        session.run.finish(partial(session.outcomes.write_tables, now=True))


def report(session: Session, agenda: Agenda, turn: Turn, record: Record) -> None:
    """Show how a round came out and how long the others will take, and bring the tables up to date."""
    agenda.done(turn, record)
    session.outcomes.update_tables(session.progress.say)
    session.progress.end(record, agenda.left_s)


def show_tables(run: Run, outcomes: Outcomes) -> None:
    """Print what came out, short, on standard output; of `reproduce` it is said beside what was recorded then."""
    from orchestrator.report.again import program
    from orchestrator.report.tables import terminal

    if run.plan.suite == REPRODUCE:
        return
    try:
        terminal.show_report(outcomes.report(), name_of(run))
    except OSError as error:  # a full disk below standard output: the run is whole, and its files say the same
        with contextlib.suppress(OSError):
            on_stderr(f"the tables could not be shown ({error.strerror}): {program()} table {name_of(run)}")


def _engine_lives(client: Any) -> bool:
    if client is None:
        return True
    from orchestrator.host import docker_engine as engine

    try:
        with engine.engine_errors():
            client.ping()
    except InfrastructureError:
        return False
    return True


def how_to_go_on(run: Run | None, options: RunOptions) -> str:
    """Return what became of the run that stops here, and how to go on with it."""
    if run is None:
        return "stopped before the first cell; nothing was lost"
    if run.plan.suite == REPRODUCE or run.trial:
        again = "the same command starts again"
    elif options.rerun:
        again = "the same command runs all of its rounds again"
    else:
        again = f"the same command{' without --fresh' if options.fresh else ''} goes on from there"
    return f"stopped; {counted(len(record_files(run.folder)), 'record')} kept in {shown(run)}; {again}"


def shown(run: Run) -> str:
    """Return the run's folder as a person would type it."""
    try:
        return os.path.relpath(run.folder)
    except (OSError, ValueError):
        return str(run.folder)
