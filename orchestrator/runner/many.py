"""`run-all` on many GPUs of one host or of several: the same steps, with a schedule and a thread for each worker."""

from __future__ import annotations

import sys
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import NamedTuple, TypeVar

from orchestrator.base.errors import UsageError
from orchestrator.base.files import bench_source, check_writable
from orchestrator.base.paths import ORCHESTRATOR, STATE
from orchestrator.base.text import counted, in_words, show
from orchestrator.build.ready import Ready, choose_place, reach_engine, why_not
from orchestrator.host.devices import Host, look
from orchestrator.host.locks import purpose_of
from orchestrator.launchers.work_area import work_area
from orchestrator.launchers.worker import Opening, Worker
from orchestrator.plan import memory
from orchestrator.plan.cell import Cell, Plan
from orchestrator.plan.choice import Choice, Choosing, RunOptions, choose
from orchestrator.plan.hosts import HERE, HostEntry, named_here
from orchestrator.plan.methods import FOLDER as METHODS
from orchestrator.plan.methods import put_methods
from orchestrator.records.references import References
from orchestrator.records.store import Run
from orchestrator.records.weights import FOLDER as WEIGHTS
from orchestrator.records.weights import WeightFolders
from orchestrator.runner import run_all as single
from orchestrator.runner.before import Before
from orchestrator.runner.crew import Crew, Member, SharedOutcomes, sessions
from orchestrator.runner.estimate import Earlier, Key, bound_by_cpu, expected, fitted, history, key_of, with_rounds
from orchestrator.runner.hosts import entries_of, held, how, in_short, made_ready_on, wanted_here
from orchestrator.runner.one_round import Session
from orchestrator.runner.order import Agenda, Turn, first_turns
from orchestrator.runner.outcomes import Outcomes
from orchestrator.runner.plan_text import render
from orchestrator.runner.progress import Progress
from orchestrator.runner.schedule import OF_THE_GPU, Forecast, Policy, Schedule, Seat, forecast
from orchestrator.runner.side_by_side import FEWEST_GPUS, Trials, findings

T = TypeVar("T")
UNKNOWN_GPUS = 1
"""What a plan counts for a host that says how many GPUs it has only when it is reached."""
OF_ENTRY = "/"
"""Between an entry's name, which has none, and the number of one of its hosts in a forecast."""


class Places(NamedTuple):
    """The hosts that are to be used, and this host as far as they ask for it."""

    entries: Sequence[HostEntry]
    host: Host
    options: RunOptions
    """As these hosts mean them."""

    @property
    def elsewhere(self) -> bool:
        """Whether none of them is this host."""
        return all(entry.launcher not in HERE for entry in self.entries)


def places(options: RunOptions) -> Places:
    """Return what `--gpus` or `--hosts` names; what cannot be meant is a UsageError."""
    if options.gpu is not None or (options.gpus is not None and options.hosts is not None):
        what = "--gpu, --gpus and --hosts exclude each other"
        raise UsageError(what, where="--gpus" if options.gpus else "--hosts", remedy="keep one of them")
    entries: Sequence[HostEntry] = named_here(options.gpus or "all", "local")
    own: HostEntry | None = entries[0]
    if options.hosts is not None:
        entries = entries_of(options.hosts, options.launcher)
        hows = tuple(dict.fromkeys(map(how, entries)))
        own = next((entry for entry in entries if entry.launcher in HERE), None)
        local = hows == ("local",) if own is None else own.launcher == "local"
        options = replace(options, hows=hows, launcher="local" if local else "docker")
    if own is None:
        number = sum(entry.gpus_at_most or UNKNOWN_GPUS for entry in entries)
        shown = f"{counted(number, 'GPU')} of {counted(len(entries), 'host')}"
        return Places(entries, Host(gpu=shown, engine="of these hosts"), options)
    # No engine is an error that names what asks for one, raised by `choose`.
    host = look(replace(options, launcher="auto") if options.hosts and own.launcher == "docker" else options)
    found = wanted_here(own, host.found, where="--gpus" if options.hosts is None else None)
    if not found and options.gpus is not None:
        raise UsageError(host.no_gpu, where="--gpus", remedy="leave it out: the CPU is used then")
    models = ", ".join(sorted({gpu.name for gpu in found}))
    others = f" and GPUs of {counted(len(entries) - 1, 'other host')}" if len(entries) > 1 else ""
    shown = f"{counted(len(found), 'GPU')} ({models}){others}"
    return Places(entries, replace(host, gpu=shown if found else None), options)


def chosen(where: Places, choosing: Choosing, known: Mapping[Key, Earlier]) -> tuple[Choice, Places, Forecast]:
    """Return what is to be run, where, and how long that is expected to take."""
    options = where.options
    choice = choose_place(options, where.host, choosing, elsewhere=where.elsewhere or len(where.entries) > 1)
    if options.hosts is None:
        where = where._replace(entries=named_here(options.gpus or "all", choice.launcher))
    seats = planned_seats(where)
    policy = policy_of(options, known)
    choice = fitted(choice, options, known, lambda plan: forecast(plan, seats, policy).makespan_s)
    return choice, where, forecast(choice.plan, seats, policy)


def planned_seats(where: Places) -> list[Seat]:
    """Return the workers that there will be, as far as that is known before any host is reached."""
    seats = []
    for entry in where.entries:
        here = len(wanted_here(entry, where.host.found)) or 1 if entry.launcher in HERE else None
        number = here or entry.gpus_at_most or UNKNOWN_GPUS
        each = number if here else gpus_together(entry, where) or number
        seats += [Seat(f"{entry.name}{OF_ENTRY}{place // each}") for place in range(number)]
    return seats


def once_each(what: Callable[[Cell], T]) -> Callable[[Cell], T]:
    """Return what tells the same of a cell, worked out once for each."""
    found = dict[int, T]()

    def told(cell: Cell) -> T:
        if id(cell) not in found:
            found[id(cell)] = what(cell)
        return found[id(cell)]

    return told


def seconds_by(known: Mapping[Key, Earlier]) -> Callable[[Cell], float]:
    """Return what tells how long a round is expected to take."""
    return once_each(lambda cell: expected(cell, known).seconds)


def policy_of(options: RunOptions, known: Mapping[Key, Earlier]) -> Policy:
    """Return what a schedule goes by before any worker is known; what `side-by-side` found goes before a guess."""
    differs = findings(options.results)

    def alone(cell: Cell) -> bool:
        if cell.device == "cpu" or cell.workload.devices > 1:  # whose peers are the host's other GPUs
            return True
        key = key_of(cell)
        return differs[key] if key in differs else bound_by_cpu(cell, known)

    return Policy(
        seconds_by(known),
        alone=alone,
        spread=options.spread,
        exclusive=options.exclusive_host,
    )


def too_wide(plan: Plan, where: Places) -> list[str]:
    """Return what no host can run, as it takes more GPUs than any of them has; nothing where one has still to say."""
    there = [gpus_together(entry, where) for entry in where.entries]
    most = max((number for number in there if number is not None), default=0)
    wide = sorted({cell.workload.devices for cell in plan.cells if cell.device == "cuda" and cell.role == "row"})
    if None in there or (not where.elsewhere and where.host.gpu is None):
        return []
    return [
        f"cells of {devices} GPUs will be skipped: they need them in one host, and none has more than {most}"
        for devices in wide
        if devices > max(most, 1)
    ]


def gpus_together(entry: HostEntry, where: Places) -> int | None:
    """Return how many GPUs a cell on the entry's hosts can take; None where only the host itself can say."""
    if entry.launcher in HERE:
        return max(Counter(gpu.name for gpu in wanted_here(entry, where.host.found)).values(), default=0)
    if entry.slurm is not None and entry.slurm.get("cells") == "array":
        return 1
    return None if entry.gpus_at_most is None else entry.gpus_at_most // entry.nodes


def forecast_lines(plan: Plan, found: Forecast, where: Places) -> list[str]:
    """Return how long the plan takes on these hosts, what that costs, and what will not run there, in lines."""
    unknown = [entry.name for entry in where.entries if entry.launcher not in HERE and entry.gpus_at_most is None]
    seats = planned_seats(where)
    work = f"{in_words(found.makespan_s)}, {found.busy_s / 3600:.2f} GPU-hours of work"
    share = found.busy_s / (found.makespan_s * len(seats)) if found.makespan_s else 1.0
    used = f"{share:.1%} of the GPUs' time used ({found.until_last_wave:.1%} until the first has nothing more to do)"
    lines = [f"on {counted(len(seats), 'GPU')} of {counted(len(where.entries), 'host')}: {work}, {used}"]
    costs = {entry.name: entry.cost.per_gpu_hour for entry in where.entries if entry.cost is not None}
    if costs:
        held_s = found.makespan_s / 3600
        paid = sum(costs.get(seat.host.partition(OF_ENTRY)[0], 0.0) * held_s for seat in seats)
        lines.append(f"cost, all GPUs held until the end: {paid:.2f}")
    why = f"says how many GPUs it has only when it is reached: counted as {UNKNOWN_GPUS}"
    return [*lines, *(f"{name} {why}" for name in unknown), *too_wide(plan, where)]


def show_plan(options: RunOptions, form: str, width: int | None) -> None:
    """Print what `plan` does, and how long it takes on these hosts: of text the last lines, else on standard error."""
    choice, where, looked = chosen(places(options), choose, history(options.results))
    show(render(choice, options.results, form, width, elsewhere=where.elsewhere))
    for line in (*forecast_lines(choice.plan, looked, where), *where.host.beyond_memory(choice.plan)):
        show(line, sys.stderr if form == "json" else None)


def steps(
    options: RunOptions, choosing: Choosing, made: list[Run], progress: Progress, *, pairs: int | None = None
) -> Outcomes:
    """Do what `run_all` does, with as many rounds at once as there are workers.

    `pairs`: every row so many times alone on each GPU and beside the others, in a run of its own (see side_by_side.py).
    """
    asked = time.monotonic()
    check_writable(options.results)
    known = history(options.results)
    choice, where, looked = chosen(places(options), choosing, known)
    if pairs is not None:
        seats, seconds = planned_seats(where), seconds_by(known)
        choice = in_pairs(choice, len(seats), pairs)
        trials = Trials(choice.plan, len(seats), pairs, seconds)
        looked = forecast(choice.plan, seats, Policy(seconds), trials)
    forecasted = forecast_lines(choice.plan, looked, where)
    for line in (choice.line, *where.host.beyond_memory(choice.plan), *forecasted):
        progress.say(line)
    client = None if where.elsewhere else reach_engine(choice)
    single.sweep(client, progress)
    with work_area() as area:
        source = bench_source(area.bench)
        put_methods(choice.own, choice.plan, area.bench / METHODS)
        opening = _opening(options, choice, area.bench, progress, looked)
        with held(where.entries, opening) as workers:
            progress.say(f"cells run on {in_short(workers)}")
            readies = made_ready_on(workers, choice, progress.say)
            first = next((worker.gpu for worker in workers if worker.gpu is not None), None)
            ready = Ready.on_any(readies)
            with single.open_run(
                options,
                choice,
                source,
                gpu=first,
                ready=ready,
                progress=progress,
                at_once=None if pairs is None else len(workers),
            ) as run:
                made.append(run)
                base = Session(
                    choice,
                    area,
                    first,
                    client,
                    workers[0].launcher,
                    ready,
                    progress,
                    state=STATE,
                    source=source,
                    orchestrator=bench_source(ORCHESTRATOR),
                    run=run,
                    references=References(run.folder),
                    weights=WeightFolders(area.folder / WEIGHTS),
                    outcomes=SharedOutcomes(run),
                    todo=(),
                )
                return _run(base, workers, readies, Agenda((), options, known, asked), known=known, pairs=pairs)


def _opening(options: RunOptions, choice: Choice, bench: Path, progress: Progress, looked: Forecast) -> Opening:
    devices = {cell.stack: cell.device for cell in choice.plan.cells}
    run = f"{choice.plan.suite}-{time.time_ns():x}"
    return Opening(
        run=run,
        bench=bench,
        stacks={name: stack for name, stack in choice.stacks.items() if name in devices},
        devices=devices,
        checkpoints=[found.mount for found in choice.checkpoints.values()],
        state=STATE,
        say=progress.say,
        purpose=purpose_of(run),
        longest_s=max((cell.timeout_s for cell in choice.plan.cells), default=0.0),
        total_s=looked.busy_s,
        allow_busy=options.allow_busy,
    )


def _run(
    base: Session,
    workers: Sequence[Worker],
    readies: Sequence[Ready],
    agenda: Agenda,
    *,
    known: dict[Key, Earlier],
    pairs: int | None,
) -> Outcomes:
    """Take up the run's records, run what is left, and write the tables."""
    began, options, run, plan = time.monotonic(), agenda.options, base.run, base.choice.plan
    turns = _turns(plan, workers, readies, base.source)
    before = Before(run, plan, [worker.uuid for worker in workers], turns, base.progress)
    # A job of an array runs on whichever GPU Slurm gives it: what has run there is at home nowhere.
    anywhere = any(worker.facts.get("slurm") == "array" for worker in workers)
    before.forget_strays(replace(options, spread=options.spread or anywhere))
    outcomes = SharedOutcomes(run, before.records)
    if options.rerun:
        outcomes.forget_failures()
    members = [
        Member(worker, replace(session, ready=ready, references=before.references(number)), turns[number])
        for number, (worker, session, ready) in enumerate(
            zip(workers, sessions(replace(base, outcomes=outcomes), workers), readies, strict=True)
        )
    ]
    done = _never_done if options.rerun else before.is_done
    schedule: Schedule | Trials
    kind, pace = once_each(agenda.pace.kind), agenda.pace.factor
    if pairs is None:
        policy = replace(policy_of(options, dict(known)), done=done, kind=kind, pace=pace)
        schedule = _schedule(plan, members, before, policy)
    else:
        schedule = Trials(plan, len(workers), pairs, seconds_by(dict(known)), lambda cell: pace(kind(cell)))
    total = sum(cell.rounds for cell in plan.cells if cell.role not in OF_THE_GPU)
    if schedule.waiting < total:
        base.progress.say(f"{total - schedule.waiting} of {total} rounds already have results")
    crew = Crew(members, schedule, agenda)
    with outcomes:
        crew.run(partial(_tick, outcomes, base.progress, crew, schedule))
        if crew.over:
            base.progress.say(f"{crew.over}: {single.how_to_go_on(run, options)}")
        elif not outcomes.counts["infrastructure"] and not schedule.left_behind:
            run.finish(partial(outcomes.write_tables, now=True))
    single.sum_up(run, outcomes, base.progress, time.monotonic() - began)
    return outcomes


def in_pairs(choice: Choice, count: int, pairs: int) -> Choice:
    """Return the choice with the rounds that so many pairs on `count` GPUs take, which are two or more.

    A cell of several GPUs has nothing to run beside, and is left out.
    """
    if count < FEWEST_GPUS:
        what = f"{counted(count, 'GPU')}, and what runs at once needs {FEWEST_GPUS}"
        raise UsageError(what, where="--gpus", remedy="name two or more")
    cells = tuple(cell for cell in choice.plan.cells if cell.workload.devices == 1)
    if not any(cell.role == "row" for cell in cells):
        what = "each of its cells takes several GPUs, and nothing runs beside that"
        raise UsageError(what, where=f"suite {choice.plan.suite}", remedy="name one with cells of one GPU")
    left_out = "; cells of several GPUs are left out" if len(cells) < len(choice.plan.cells) else ""
    plan = choice.plan.model_copy(update={"cells": cells})
    return replace(choice, plan=with_rounds(plan, 2 * pairs * count), line=choice.line + left_out)


def _schedule(plan: Plan, members: Sequence[Member], before: Before, policy: Policy) -> Schedule:
    """Return the schedule of what is left for these workers."""
    seats = [
        Seat(member.worker.host, member.worker.uuid, ordinal)
        for member, ordinal in zip(members, before.ordinals, strict=True)
    ]
    return Schedule(plan, seats, replace(policy, able=partial(_able, members), homes=before.homes))


def _turns(plan: Plan, workers: Sequence[Worker], readies: Sequence[Ready], source: str) -> list[Mapping[int, Turn]]:
    """Return each worker's first turns by cell: workers of one kind, whose cells have the same ids, share them."""
    found: dict[tuple[str | None, int], Mapping[int, Turn]] = {}
    kinds = [(worker.model, id(ready)) for worker, ready in zip(workers, readies, strict=True)]
    for kind, worker, ready in zip(kinds, workers, readies, strict=True):
        if kind not in found:
            found[kind] = first_turns(plan, partial(_identity, worker, ready, source))
    return [found[kind] for kind in kinds]


def _identity(worker: Worker, ready: Ready, source: str, cell: Cell) -> str:
    of_gpu = worker.model if cell.device == "cuda" else None
    return cell.cell_id(environment=ready.environment(cell.stack), bench_source=source, gpu=of_gpu)


def _never_done(_number: int, _cell: Cell, _round: int) -> bool:
    return False


def _tick(outcomes: Outcomes, progress: Progress, crew: Crew, schedule: Schedule | Trials) -> None:
    """Bring the tables and the live line up to date."""
    outcomes.update_tables(progress.say)
    progress.standing(crew.state, schedule.taken, schedule.taken + schedule.waiting, crew.left_s)


def _able(members: Sequence[Member], number: int, cell: Cell) -> bool:
    """Whether nothing is known that keeps a worker from running the cell."""
    session = members[number].session
    if cell.stack in session.ready.refused or why_not(session.choice.stacks[cell.stack], session.gpu, cell.device):
        return False
    if cell.device == "cuda" and cell.workload.devices > session.peers + 1:
        return False
    memory_bytes = session.gpu.memory_bytes if session.gpu else None
    return cell.device != "cuda" or memory.why_not(cell.workload, memory_bytes) is None
