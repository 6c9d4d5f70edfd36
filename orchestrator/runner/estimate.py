"""How long a plan will take, and what it downloads: from earlier records if there are any, else by a guess."""

from __future__ import annotations

import contextlib
import dataclasses
import itertools
import re
import statistics
import time
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from orchestrator.analysis.statistics import FEWEST_ROUNDS
from orchestrator.base.errors import StackbenchError, UsageError
from orchestrator.base.grouping import grouped
from orchestrator.base.text import counted, in_words
from orchestrator.plan.cell import Cell, Device, Plan, may_be_wanted
from orchestrator.plan.choice import Choice, RunOptions
from orchestrator.plan.memory import cache_bytes, of_one_device, parameters
from orchestrator.plan.stack import Stack
from orchestrator.plan.workload import BATCHED, GENERATING, TRAINING, Workload
from orchestrator.records.record import FAILED, NOTHING_LEFT, Record
from orchestrator.records.runs import find_run, readable, unfinished
from orchestrator.records.store import read_stored, record_files

RECORDS_LOOKED_AT = 400
NS = 1e9
Key = tuple[str, str, str]
"""workload_id, method, device"""

# The guess: a started process with torch, then work at these rates. Round figures of an H100 and of two CPU cores.
START_S: dict[Device, float] = {"cuda": 15.0, "cpu": 4.0}
FLOPS: dict[Device, float] = {"cuda": 300e12, "cpu": 30e9}
BYTES: dict[Device, float] = {"cuda": 1.5e12, "cpu": 5e9}
LAYER_S: dict[Device, float] = {"cuda": 8e-4, "cpu": 3e-4}
COMPILE_S: dict[Device, dict[str, float]] = {
    "cuda": {"forward": 60, "model_inference": 190, "generation": 190, "train_static": 80, "train_dynamic": 400},
    "cpu": {"forward": 18, "model_inference": 22, "generation": 28, "train_static": 28, "train_dynamic": 32},
}
COMPILED_AS = {BATCHED: "generation"}
COMPILE_SHARE = {
    "eager": 0.0,
    "transformers": 0.0,
    "litgpt": 0.0,
    "tinyllama": 0.0,
    "tinyllama_full": 0.0,
    "fused": 0.15,
    "thunder": 3.5,
}
"""Of those times, for methods that compile nothing, a few kernels, or much longer; 1 for any other."""
WARM_SHARE = 0.4
"""Of the time to compile, with everything in the cache: tracing remains."""
PROBE_SHARE = 0.35
"""Of the time to compile a model of full depth: a probe has two layers."""
WAITING_POWER = 0.5
"""Of a GPU's power limit: with less a row's GPU waits for the CPU most of the time."""
AT_THE_CAP_S = 26.0
"""What samples back to back take where a power limit holds a GPU up: most of forward and training."""
EXACT_FLOPS: dict[Device, float] = {"cuda": 40e12, "cpu": 20e9}
"""Of float32 without TF32 on a GPU, of float64 on a CPU: what references are computed in."""
REFERENCE_PASSES: dict[str, int] = {"train_static": 4, "train_dynamic": 8}
"""Forwards of a reference's subject, of many lengths those of two batches; 1 for any other."""
JUDGED_ROWS = 8
"""Of a batch of different prompts: the others are not compared with the reference."""
WRITTEN_BYTES = 500e6
"""A second, of weights that are written, read again and hashed."""
ENGINES_ANSWERS = 16
"""Generations that an engine's proof asks for."""
ELEMENT_BYTES = {"bfloat16": 2, "float32": 4, "float64": 8}


@dataclass(frozen=True)
class Expected:
    """Seconds that one round of a cell will take, and where the figure comes from."""

    seconds: float
    source: Literal["measured", "guess"]


@dataclass(frozen=True)
class Earlier:
    """Medians over earlier rounds of the same work by the same method."""

    seconds: float
    second_start: float | None
    """Seconds of a second start over the compile cache; 0 where none was made, None where no round says."""
    power: float | None = None
    """The GPU's power while samples ran, as a share of its limit; None where no round says."""


@dataclass(frozen=True)
class Estimate:
    """A plan's cost. Unknown sizes are None; `guessed` counts cells without an earlier record."""

    seconds: float
    guessed: int
    cells: int
    download_bytes: int | None
    disk_bytes: int | None


def history(results: Path, *, limit: int = RECORDS_LOOKED_AT) -> dict[Key, Earlier]:
    """Return what earlier rounds took by workload, method and device, from the newest `limit` records."""
    found: dict[Key, tuple[Record, ...]] = grouped(
        ((record.workload_id, record.method, record.device), record)
        for record in itertools.islice(_newest_records(results), limit)
        if record.status not in FAILED and wall_seconds(record) is not None
    )
    return {
        key: Earlier(
            _median(map(wall_seconds, rounds)) or 0.0,
            _median(map(second_start_seconds, rounds)),
            _median(map(power_share, rounds)),
        )
        for key, rounds in found.items()
    }


def _median(values: Iterable[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return statistics.median(known) if known else None


def wall_seconds(record: Record) -> float | None:
    """Return how long the round took in all; None where the record does not say."""
    if record.provenance is not None and record.provenance.wall_ns is not None:
        return record.provenance.wall_ns / NS
    if record.phases:
        return (max(phase.end_ns for phase in record.phases) - min(phase.begin_ns for phase in record.phases)) / NS
    return None


def second_start_seconds(record: Record) -> float | None:
    """Return what the record says of a second start over its compile cache; None where it says nothing about it.

    The second process begins as the first did, and ends with its first call.
    """
    if record.compiles is None or not record.compiles.made:
        return 0.0
    warm = record.compiles.warm
    if warm is None or warm.first_ns is None:
        return 0.0 if warm is not None and warm.reason == NOTHING_LEFT else None
    first = min((sample.begin_ns for sample in record.samples), default=0)
    before = sum(phase.end_ns - phase.begin_ns for phase in record.phases if phase.end_ns <= first)
    return (before + warm.first_ns) / NS


def power_share(record: Record) -> float | None:
    """Return the GPU's median power while samples ran over its power limit; None where the record does not say."""
    gpu = record.environment.gpu if record.environment else None
    watts = record.telemetry.power_watts if record.telemetry else None
    limit = (gpu.power_limit_watts or gpu.power_default_watts) if gpu else None
    return watts.median / limit if watts and limit else None


def bound_by_cpu(cell: Cell, known: Mapping[Key, Earlier]) -> bool:
    """Whether the CPU decides how long the cell takes: it runs there, or its GPU was seen to wait most of the time.

    A GPU that waits for launches takes little power (generation by eager on an H100: 0.27 of its limit, by a compiler
    that replays graphs 0.97). Unknown is not bound: what is not known runs beside others, and its host's load is in
    its record.
    """
    if cell.device == "cpu":
        return True
    earlier = known.get(key_of(cell))
    return earlier is not None and earlier.power is not None and earlier.power < WAITING_POWER


def key_of(cell: Cell) -> Key:
    """Return what earlier rounds of the same work by the same method are found by."""
    return cell.workload.workload_id, cell.method, cell.device


def expected(cell: Cell, known: Mapping[Key, Earlier], pace: float = 1.0) -> Expected:
    """Return what one round of `cell` will take, its share of the second start included, each within its deadline.

    `pace` is how many times its guess a round of its kind takes here; what is measured stays as it is.
    """
    earlier = known.get(key_of(cell))
    pace = 1.0 if earlier else pace
    first, again = (earlier.seconds, earlier.second_start) if earlier else (pace * guess_seconds(cell), None)
    seconds = min(first, cell.timeout_s)
    if may_be_wanted(cell):  # of one round only
        seconds += min(pace * guess_second_start(cell) if again is None else again, cell.timeout_s) / cell.rounds
    return Expected(seconds, "measured" if earlier else "guess")


def estimate(
    plan: Plan, stacks: Mapping[str, Stack], known: Mapping[Key, Earlier], made: Collection[str] = ()
) -> Estimate:
    """Return the cost of running the whole plan.

    Sizes are what the stacks that are not `made` yet state, before anything is cached; of a ready image that is still
    to be pulled they are unknown.
    """
    times = [(cell, expected(cell, known)) for cell in plan.cells]
    names = dict.fromkeys(cell.stack for cell in plan.cells)
    used = [stacks[name] for name in names if name in stacks and name not in made]
    folders = weights_bytes(plan.cells)
    return Estimate(
        seconds=sum(time.seconds * cell.rounds for cell, time in times),
        guessed=sum(time.source == "guess" for _, time in times),
        cells=len(times),
        download_bytes=_total(stack.build.download_bytes if stack.build else None for stack in used),
        disk_bytes=_total([*(stack.build.most_disk_bytes if stack.build else None for stack in used), folders]),
    )


def weights_bytes(cells: Iterable[Cell]) -> int:
    """Return what the folders of weights of these cells take on the disk, as long as the run lasts."""
    subjects = [subject for cell in cells if cell.role == "weights" for subject in cell.workload.subjects or ()]
    return sum(parameters(one.model) * ELEMENT_BYTES[one.dtype] for one in subjects if one.model is not None)


def guess_seconds(cell: Cell) -> float:
    """Return a rough figure from counts of work and round rates; accurate to a factor of three at best."""
    work, device = cell.workload, cell.device
    total = START_S[device]
    if work.model is None:
        sizes, copied = work.matrix_sizes or (), work.copy_bytes or 0
        once = sum(2 * size**3 for size in sizes) / FLOPS[device] + 2 * copied / BYTES[device]
        precisions = 1 + len(work.precisions or ())
        back_to_back = (work.soak_s or 0) + (work.sustained_s or 0) * len(sizes) * precisions
        return total + once * (work.iterations + work.warmup) * precisions + back_to_back
    work = of_one_device(work)[0]
    assert work.model is not None
    count = parameters(work.model, active=True)
    weights = count * ELEMENT_BYTES[work.dtype]
    total += 2 * parameters(work.model) * ELEMENT_BYTES[work.dtype] / BYTES[device]
    if cell.role == "weights":
        return total + weights_bytes([cell]) / WRITTEN_BYTES
    if work.subjects is not None:
        return total + sum(_reference_seconds(subject, count, device) for subject in work.subjects)
    if work.benchmark in GENERATING:
        batch, new = work.batch or 1, work.new_tokens or 1
        cached = cache_bytes(work) / BYTES[device]
        token = max(weights / BYTES[device] + cached, work.model.layers * LAYER_S[device])
        once = token * new + 2 * count * batch * work.prompt_length / FLOPS[device]
    else:
        tokens = (work.batch or 1) * (work.sequence or 1)
        passes = 3 if work.benchmark in TRAINING else 1
        once = max(2 * passes * count * tokens / FLOPS[device], passes * work.model.layers * LAYER_S[device])
    compiling = _compile_seconds(cell) * (PROBE_SHARE if cell.role == "probe" else 1.0)
    if device == "cuda" and cell.role == "row" and work.benchmark not in GENERATING:
        total += AT_THE_CAP_S
    return total + compiling + once * (work.iterations + (ENGINES_ANSWERS if cell.kind == "engine" else 0))


def _compile_seconds(cell: Cell) -> float:
    benchmark = cell.workload.benchmark
    return COMPILE_S[cell.device].get(COMPILED_AS.get(benchmark, benchmark), 60.0) * COMPILE_SHARE.get(cell.method, 1.0)


def _reference_seconds(subject: Workload, count: int, device: Device) -> float:
    """Return a guess for one reference; that of a generation is one forward over all its tokens."""
    length = subject.sequence or subject.prompt_length + (subject.new_tokens or 0)
    batch = subject.batch or 1
    tokens = (min(batch, JUDGED_ROWS) if subject.benchmark == BATCHED else batch) * length
    return 2 * REFERENCE_PASSES.get(subject.benchmark, 1) * count * tokens / EXACT_FLOPS[device]


def guess_second_start(cell: Cell) -> float:
    """Return a guess of what a second start over the cell's compile cache takes; 0 where nothing is compiled."""
    compiling = _compile_seconds(cell)
    return START_S[cell.device] + WARM_SHARE * compiling if compiling else 0.0


def _newest_records(results: Path) -> Iterator[Record]:
    folders = (run.folder for run in readable(results, lambda _line: None, bundled=True))
    for path in itertools.chain.from_iterable(map(record_files, folders)):
        with contextlib.suppress(StackbenchError):
            # An estimate does not stop for an old file that something else will complain about.
            yield read_stored(path)


def _total(sizes: Iterable[int | None]) -> int | None:
    values = list(sizes)
    return None if any(value is None for value in values) else sum(value or 0 for value in values)


MOST_BUDGETED = 40
"""More rounds add little: the interval shrinks with the root of their number."""
PARTS = re.compile(r"(?:(\d+(?:\.\d+)?)h)?(?:(\d+(?:\.\d+)?)m)?(?:(\d+(?:\.\d+)?)s)?")


def seconds_in(text: str) -> float:
    """Return the seconds in `45m`, `1h30m`, `90s`; anything else is a UsageError."""
    match = PARTS.fullmatch(text.strip())
    hours, minutes, seconds = (float(part or 0) for part in match.groups()) if match else (0.0, 0.0, 0.0)
    total = hours * 3600 + minutes * 60 + seconds
    if total <= 0:
        raise UsageError(f'"{text}" is not a duration', where="--budget", remedy="use 45m, 1h30m or 90s")
    return total


def fitted(
    choice: Choice,
    options: RunOptions,
    known: Mapping[Key, Earlier] | None = None,
    seconds: Callable[[Plan], float] | None = None,
) -> Choice:
    """Return the choice with as many rounds of each row as the budget has room for, at least one; its line says so.

    `known` is what earlier rounds took (read where not given). An unfinished run that differs in its rounds alone keeps
    them, so that it can go on. `seconds` says how long a plan takes; None: those of its rounds in turn.
    """
    if options.budget_s is None:
        return choice
    if options.rounds is not None:
        raise UsageError("--rounds and --budget exclude each other", where="--budget", remedy="leave one of them out")
    known = history(options.results) if known is None else known

    def cost(rounds: int) -> float:
        plan = with_rounds(choice.plan, rounds)
        return seconds(plan) if seconds else estimate(plan, choice.stacks, known).seconds

    begun = None if options.fresh else _begun(choice.plan, options)
    rounds = begun or max((n for n in range(2, MOST_BUDGETED + 1) if cost(n) <= options.budget_s), default=1)
    takes = in_words(cost(rounds))
    line = f"budget {in_words(options.budget_s)}: {counted(rounds, 'round')} of each row, expected {takes}"
    if begun:
        line += " in all, as the unfinished run began"
    elif cost(rounds) > options.budget_s:
        line += ", more than the budget: one round is the least"
    elif rounds < MOST_BUDGETED:
        line += f" ({rounds + 1} would take {in_words(cost(rounds + 1))})"
    if rounds < FEWEST_ROUNDS:
        line += f"; a verdict needs {FEWEST_ROUNDS} rounds, {in_words(cost(FEWEST_ROUNDS))}"
    return dataclasses.replace(choice, plan=with_rounds(choice.plan, rounds), line=f"{choice.line}; {line}")


def with_rounds(plan: Plan, rounds: int) -> Plan:
    """Return the plan with so many rounds of each row; ceilings, references and probes stay as they are."""
    cells = [cell.model_copy(update={"rounds": rounds}) if cell.role == "row" else cell for cell in plan.cells]
    return plan.model_copy(update={"cells": tuple(cells)})


def used_up(options: RunOptions, began: float, cell: Cell, number: int, known: Mapping[Key, Earlier]) -> bool:
    """Whether round `number` of `cell` would exceed the budget; a row's first round always runs.

    So does what it needs: each of several GPUs has a round of its own of that.
    `began` is when the first cell was started, by the monotonic clock.
    """
    if options.budget_s is None or cell.role != "row" or number == 0:
        return False
    return time.monotonic() - began + expected(cell, known).seconds > options.budget_s


def _begun(plan: Plan, options: RunOptions) -> int | None:
    """Return the rounds of the newest unfinished run (or of the one asked for) with this plan but for the rounds."""
    if options.resume is not None:
        begun = [find_run(options.results, options.resume)]
    else:
        begun = [run for run in unfinished(options.results, lambda _line: None) if not run.imported]
    for run in begun:
        rounds = max((cell.rounds for cell in run.plan.cells if cell.role == "row"), default=0)
        if rounds and with_rounds(plan, rounds).plan_id == run.header.plan_id:
            return rounds
    return None
