"""Verdicts between the rows of one workload, where both have rounds enough for one."""

from __future__ import annotations

from itertools import combinations
from typing import TYPE_CHECKING

from orchestrator.analysis.statistics import FEWEST_ROUNDS, verdict
from orchestrator.base.text import significant

if TYPE_CHECKING:
    from collections.abc import Sequence

    from orchestrator.analysis.rows import Row

OPPOSITE = {"faster": "slower", "slower": "faster"}
MOST_ROWS = 40
"""Of one workload and method: more are no comparison that anybody reads, and pairs grow with the square."""


def verdicts(rows: Sequence[Row]) -> dict[str, list[str]]:
    """Return `"A:B"` → (outcome, text) for rows A and B by their places: A against B, of one workload and method."""
    alike: dict[tuple[str, str, str], list[int]] = {}
    for place, row in enumerate(rows):
        if row.headline is not None and len(row.figure.round_seconds) >= FEWEST_ROUNDS:
            alike.setdefault((row.benchmark, row.workload_id, row.method), []).append(place)
    found: dict[str, list[str]] = {}
    for places in alike.values():
        for one, other in combinations(places[:MOST_ROWS], 2):
            result = verdict(rows[one].figure.round_seconds, rows[other].figure.round_seconds)
            if result.speedup_interval is None:
                continue
            low, high = result.speedup_interval
            found[f"{one}:{other}"] = [result.outcome, _text(low, high)]
            found[f"{other}:{one}"] = [OPPOSITE.get(result.outcome, result.outcome), _text(1 / high, 1 / low)]
    return found


def _text(low: float, high: float) -> str:
    return f"{significant(low)} to {significant(high)} times as fast at 99 %"  # the level of every verdict
