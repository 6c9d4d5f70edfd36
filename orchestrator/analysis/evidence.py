"""What a record says beside its figure: checks, kernels, compiles, energy, warnings; of each only what a row needs."""

from __future__ import annotations

import math
from collections.abc import Sequence
from statistics import fmean, median, variance

from orchestrator.analysis.protocol import Columns, Reduced, blocks_of, columns_of, first_call_seconds, samples_in
from orchestrator.analysis.rows import CacheState, CheckCounts, Evidence, FirstCall, Piece, Power
from orchestrator.plan.workload import GENERATING, TRAINING, Workload
from orchestrator.records.record import Compiles, Record

NOT_CALLED = "not called"
LOADING = ("model", "method")
"""Phases before the first call in which weights are made or read, and a method builds what it will call."""
FEWEST_FOR_WARNING = 4
FEWEST_BLOCKS = 3
FIRST_OFF, FIRST_SIGMAS = 0.02, 3.0
"""The first timed sample is off where it is this share and so many robust deviations from the others' median."""
DRIFT, DRIFT_SIGMAS = 0.01, 3.0
"""A drift: the halves' medians differ by this share, and by so many of the difference's own standard errors.

Of sustained samples it is the means, and the errors those of blocks: they alternate, and medians jump from one of their
two levels to the other.
"""
SECOND_TIME = 0.25
"""By this share more is much; a GPU at its power cap takes a tenth more than in the burst before."""
SIGMA_OF_MAD = 1.4826
ERROR_OF_MEDIAN = 1.2533


def evidence(record: Record, samples: Columns | None = None) -> Evidence:
    """Return what `record` brings as evidence; a field is null (empty) where it does not say.

    `samples` are the record's own.
    """
    samples = samples or columns_of(record)
    proof = record.proof
    reference = proof.reference if proof else None
    error, eager_error = (reference.error, reference.eager_error) if reference else (None, None)
    first_off, drift = unsteadiness(samples)
    taints = [taint for place in samples.at("timed", "repeat", "sustained") if (taint := samples.taint[place])]
    return Evidence(
        checks=check_counts(record),
        error=error,
        eager_error=eager_error,
        error_ratio=error / eager_error if error is not None and eager_error else None,
        resembles=proof.resembles if proof else None,
        dispatch=record.dispatch,
        operators=operators(record),
        compiles=compiles(record),
        power=power(record, samples),
        host_load=record.load,
        tainted=len(taints),
        taints=tuple(dict.fromkeys(taints)),
        losses=samples.loss if record.workload.benchmark in TRAINING else (),
        first_off=first_off,
        drift=drift,
        second_time=second_time(samples),
    )


def check_counts(record: Record) -> CheckCounts | None:
    """Return how many checks went which way, and the first one's words that did not pass."""
    checks = record.proof.checks if record.proof else ()
    if not checks:
        return None
    found = [c.status for c in checks]
    worst = next((c for status in ("failed", "unchecked") for c in checks if c.status == status), None)
    return CheckCounts(
        passed=found.count("passed"),
        failed=found.count("failed"),
        unchecked=found.count("unchecked"),
        why=None if worst is None else f"{worst.name}: {worst.what}" if worst.what else worst.name,
    )


def operators(record: Record) -> dict[str, str]:
    """Return what each operator of the method dispatched to, those left out that were not called."""
    found = record.detail.get("operators")
    if not isinstance(found, dict):
        return {}
    return {name: what for name, what in found.items() if isinstance(what, str) and what != NOT_CALLED}


def compiles(record: Record) -> Compiles | None:
    """Return what the compiler did; of older records no more than how many graphs there were after each sample."""
    if record.compiles is not None or not (graphs := graphs_of(record)):
        return record.compiles
    later = graphs[-1] - graphs[0]
    return Compiles(graphs=graphs[-1], recompiles=later, ledger=(), breaks=(), cache_hits=None, cache_misses=None)


def graphs_of(record: Record) -> tuple[int, ...]:
    """Return how many graphs the compiler had made after each sample, or nothing where the record does not say."""
    graphs = record.detail.get("graphs")
    if not isinstance(graphs, list) or not set(map(type, graphs)) <= {int}:
        return ()
    # A count only grows: anything else was not written by bench.
    return tuple(graphs) if graphs == sorted(graphs) and min(graphs, default=0) >= 0 else ()


def power(record: Record, samples: Columns | None = None) -> Power | None:
    """Return power and clock while the timed samples ran, and the energy of one pass, token or step.

    None of several devices, of which one alone was watched.
    """
    if record.workload.devices > 1:
        return None
    samples, telemetry = samples or columns_of(record), record.telemetry
    timed = samples.at("sustained") or samples.at("timed", "repeat")
    energies = [joules for place in timed if (joules := samples.energy[place]) is not None]
    if telemetry is None and not energies:
        return None
    joules = None
    if energies and len(energies) == len(timed):
        joules = fmean(energies)
    elif telemetry is not None and telemetry.energy_joules is not None and timed:
        joules = telemetry.energy_joules / len(timed)
    units = _energy_units(record)
    found = Power(joules=None if joules is None or units is None else joules / units, per=piece(record.workload))
    if telemetry is None:
        return found
    seen = {"watts": telemetry.power_watts, "sm_clock_mhz": telemetry.sm_clock_mhz}
    return found.model_copy(update={**seen, "throttled": dict(telemetry.throttled), "foreign": telemetry.foreign})


def piece(workload: Workload) -> Piece:
    """Return what a sample consists of, as a person counts it."""
    if workload.benchmark in GENERATING:
        return "token"
    return "step" if workload.benchmark in TRAINING else "pass"


def units_in(workload: Workload, samples: int) -> int | None:
    """Return how many passes, tokens (those that the figure counts) or steps are in so many samples."""
    return (workload.counted_tokens or 0) * samples or None if workload.benchmark in GENERATING else samples


def _energy_units(record: Record) -> int | None:
    # Energy is spent on all sequences of a batch; speed may be given for one of them.
    if record.workload.benchmark in GENERATING and record.workload.new_tokens:
        return record.workload.new_tokens * (record.workload.batch or 1)
    return units_in(record.workload, 1)


def unsteadiness(samples: Columns) -> tuple[float | None, float | None]:
    """Return by what share the first timed sample, and the later half's median, are off; null where they are not.

    Only for samples of one shape that nothing else disturbed. Before the first sustained one there was a soak.
    """
    taint, wall = samples.taint, samples.wall
    sustained = samples.at("sustained")
    timed = [place for place in sustained or samples.at("timed") if taint[place] is None and wall[place] > 0]
    if len(timed) < FEWEST_FOR_WARNING or len({samples.shape[place] for place in timed}) > 1:
        return None, None
    walls = samples.walls(timed)
    if sustained:
        return None, _drift_of_blocks(blocks_of(walls))
    first, others = walls[0], walls[1:]
    typical = median(others)
    off = first / typical - 1
    is_off = abs(off) > FIRST_OFF and abs(first - typical) > FIRST_SIGMAS * _sigma(others)
    half = len(walls) // 2
    early, late = walls[:half], walls[-half:]
    before, after = median(early), median(late)
    shift = after / before - 1
    drifts = abs(shift) > DRIFT and abs(after - before) > DRIFT_SIGMAS * _error_of_difference(early, late)
    return (off if is_off else None), (shift if drifts else None)


def second_time(samples: Columns) -> float | None:
    """Return how many times as long as at first the samples took when they came again; null where it is not much.

    Only for samples of many shapes, which all came again in the soak: a compiler may record a graph of each then.
    """
    timed = {samples.index[place]: place for place in samples.at("timed")}
    if len({samples.shape[place] for place in timed.values()}) < FEWEST_FOR_WARNING:
        return None
    again: dict[int, int] = {}
    for place in samples.at("soak"):
        again.setdefault(samples.index[place], place)
    if again.keys() != timed.keys():
        return None
    first, second = samples.walls(list(timed.values())), samples.walls([again[index] for index in timed])
    if min(first) <= 0:
        return None
    ratio = sum(second) / sum(first)
    # Of one that something held up the sum alone would say so.
    typical = median(late / early for early, late in zip(first, second, strict=True))
    return ratio if min(ratio, typical) > 1 + SECOND_TIME else None


def _drift_of_blocks(blocks: Sequence[float]) -> float | None:
    half = len(blocks) // 2
    if half < FEWEST_BLOCKS:
        return None
    early, late = blocks[:half], blocks[-half:]
    apart = fmean(late) - fmean(early)
    error = math.sqrt((variance(early) + variance(late)) / half)
    return apart / fmean(early) if abs(apart) > max(DRIFT * fmean(early), DRIFT_SIGMAS * error) else None


def _error_of_difference(early: Sequence[float], late: Sequence[float]) -> float:
    """Return the standard error of the difference of two medians of equally many values."""
    before, after = median(early), median(late)
    residuals = [*(x - before for x in early), *(x - after for x in late)]
    return ERROR_OF_MEDIAN * _sigma(residuals) * math.sqrt(2 / len(early))


def _sigma(values: Sequence[float]) -> float:
    middle = median(values)
    return SIGMA_OF_MAD * median([abs(value - middle) for value in values])


def first_call(record: Record, steady: Reduced, samples: Columns) -> FirstCall:
    """Return the first call of one round, with what it paid for compiles until its timed samples began.

    `steady` is the round under that protocol: a warm-up sample in which the compiler worked counts with its wall time
    less that of a steady sample. A compile in a timed sample is in the steady figure already. Of a record that does not
    say in which samples the compiler worked, the first call alone counts.
    """
    seconds = first_call_seconds(samples)
    compiled = _compiled_samples(record)
    walls = samples.walls([place for place in samples.at("warmup") if samples.index[place] in compiled])
    usual = None if steady.seconds is None else steady.seconds / samples_in(record.workload.benchmark, steady)
    return FirstCall(seconds, _upfront(seconds, walls, usual), _cache(record), startup_seconds=startup(record, seconds))


def over_rounds(rounds: Sequence[FirstCall], second_process: float | None) -> FirstCall:
    """Return the row's first call: medians of the rounds that began with an empty cache, of all where none did.

    `second_process`, in seconds, is a warm start's first call; where there is none, the rounds that began over a filled
    cache give the warm figure.
    """
    known = [one for one in rounds if one.seconds is not None]
    cold, warm = ([one for one in known if one.cache == state] for state in ("cold", "warm"))
    chosen = cold or known
    states = {one.cache for one in chosen}
    over_filled = _median([one.seconds for one in warm])
    return FirstCall(
        seconds=_median([one.seconds for one in chosen]),
        upfront_seconds=_median([one.upfront_seconds for one in chosen]),
        cache=states.pop() if len(states) == 1 else None,
        rounds=tuple(one.seconds for one in known if one.seconds is not None),
        warm_seconds=over_filled if second_process is None else second_process,
        startup_seconds=_median([one.startup_seconds for one in chosen]),
    )


def startup(record: Record, first_call_seconds: float | None) -> float | None:
    """Return how long it took until the first call had ended: what an engine says of it, else by the cell's phases."""
    told = record.detail.get("startup")
    if isinstance(told, dict):
        nanoseconds = told.get("startup_ns")
        return nanoseconds / 1e9 if type(nanoseconds) is int and nanoseconds > 0 else None
    loading = [phase.end_ns - phase.begin_ns for phase in record.phases if phase.name in LOADING]
    return None if first_call_seconds is None or not loading else sum(loading) / 1e9 + first_call_seconds


def _compiled_samples(record: Record) -> set[int]:
    """Return the indices of the samples in which the compiler made something."""
    if record.compiles is not None:
        return {entry.sample for entry in record.compiles.ledger}
    graphs = graphs_of(record)
    return {index for index in range(1, len(graphs)) if graphs[index] > graphs[index - 1]}


def _upfront(first: float | None, walls: Sequence[float], usual: float | None) -> float | None:
    if first is None or not walls:
        return first
    return None if usual is None else first + sum(max(wall - usual, 0.0) for wall in walls)


def _cache(record: Record) -> CacheState | None:
    if "warm" in record.flags:
        return "partly warm" if record.compiles is not None and record.compiles.cache_misses else "warm"
    return "cold" if "cold" in record.flags else None


def _median(values: Sequence[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return median(known) if known else None
