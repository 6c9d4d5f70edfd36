"""What a cell costs up front: its first call, from an empty compile cache or over a filled one, and later compiles."""

from __future__ import annotations

from dataclasses import dataclass
from statistics import median
from typing import TYPE_CHECKING, Any

from orchestrator.analysis.evidence import graphs_of
from orchestrator.analysis.protocol import first_call_seconds, samples_in

if TYPE_CHECKING:
    from collections.abc import Sequence

    from orchestrator.analysis.protocol import Reduced
    from orchestrator.analysis.rows import CacheState
    from orchestrator.records.record import Record


@dataclass(frozen=True, slots=True)
class FirstCall:
    """Of one round. `upfront_seconds` is the first call and what later compiles in the warm-up cost."""

    seconds: float | None
    upfront_seconds: float | None
    cache: CacheState | None


def first_call(record: Record, steady: Reduced) -> FirstCall:
    """Return the first call of one round, with what it paid for compiles until its timed samples began.

    `steady` is the round under that protocol: a warm-up sample in which the compiler worked counts with its wall time
    less that of a steady sample. A compile in a timed sample is in the steady figure already. Of a record that does not
    say in which samples the compiler worked, the first call alone counts.
    """
    seconds = first_call_seconds(record)
    compiled = _compiled_samples(record)
    walls = [(s.end_ns - s.begin_ns) / 1e9 for s in record.samples if s.phase == "warmup" and s.index in compiled]
    usual = None if steady.seconds is None else steady.seconds / samples_in(record.workload.benchmark, steady)
    return FirstCall(seconds, _upfront(seconds, walls, usual), _cache(record))


def over_rounds(rounds: Sequence[FirstCall], second_process: float | None) -> dict[str, Any]:
    """Return the row's fields: medians of the rounds that began with an empty cache, of all where none did.

    `second_process`, in seconds, is a warm start's first call; where there is none, the rounds that began over a filled
    cache tell the warm figure.
    """
    known = [one for one in rounds if one.seconds is not None]
    cold, warm = ([one for one in known if one.cache == state] for state in ("cold", "warm"))
    chosen = cold or known
    states = {one.cache for one in chosen}
    over_filled = _median([one.seconds for one in warm])
    return {
        "first_call_seconds": _median([one.seconds for one in chosen]),
        "first_call_cache": states.pop() if len(states) == 1 else None,
        "first_call_rounds": tuple(one.seconds for one in known),
        "warm_first_call_seconds": over_filled if second_process is None else second_process,
        "upfront_seconds": _median([one.upfront_seconds for one in chosen]),
    }


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
