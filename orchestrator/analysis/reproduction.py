"""Whether a figure came out again: what was recorded then against what was measured now, and what differs."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

from orchestrator.analysis.conditions import Difference, Ground, differences, ground_of, joined, same_device
from orchestrator.analysis.reduce import rows
from orchestrator.analysis.rows import Row
from orchestrator.analysis.statistics import FEWEST_ROUNDS, Verdict, verdict
from orchestrator.base.errors import EXIT_BAD_ROWS, EXIT_INCONCLUSIVE, EXIT_NOTHING_MEASURED, EXIT_OK, UsageError
from orchestrator.base.files import Frozen
from orchestrator.records.record import Record, is_row

Answer = Literal["same", "faster", "slower", "inconclusive", "inside", "outside", "refused", "as then", "lost", "none"]
"""A verdict; with few rounds, whether the new figure lies `inside` or `outside` the old interval; `refused`: on another
model of device; `as then`: no figure then and now; `lost`: a figure then and none now; `none`: nothing ran."""
EXIT_CODES: dict[Answer, int] = {
    "same": EXIT_OK,
    "inside": EXIT_OK,
    "as then": EXIT_OK,
    "faster": EXIT_BAD_ROWS,
    "slower": EXIT_BAD_ROWS,
    "lost": EXIT_BAD_ROWS,
    "outside": EXIT_INCONCLUSIVE,
    "inconclusive": EXIT_INCONCLUSIVE,
    "refused": EXIT_INCONCLUSIVE,
    "none": EXIT_NOTHING_MEASURED,
}
HERE = ("skipped", "infrastructure")
"""Statuses that say something about this host and nothing about the row."""


class Reproduction(Frozen):
    """A row then and now."""

    then: Row
    now: Row
    answer: Answer
    why: str
    verdict: Verdict | None
    """Of now against then, wherever both have a figure."""
    differences: tuple[Difference, ...]
    alone: bool = False
    """The old record came without its run: what its probe found is not known."""

    @property
    def exit_code(self) -> int:
        """0 reproduced, 1 not, 2 cannot be said, 3 nothing ran."""
        return EXIT_CODES[self.answer]


def reproduction(then: Sequence[Record], now: Sequence[Record], *, alone: bool = False) -> Reproduction:
    """Return how the rounds of one cell `now` stand to those `then`, each with the records of its run's probes.

    Both must be of one row; else a UsageError. `alone`: the old ones came without their run, so that `then` says what
    its own checks found and nothing of a probe.
    """
    old, new = _row(then, probed=not alone), _row(now)
    found = None
    if old.headline is not None and new.headline is not None:
        found = verdict(new.figure.round_seconds, old.figure.round_seconds)
    before, after = _ground(then), _ground(now)
    answer, why = _answer(old, new, found)
    if found is not None and not same_device(before, after):
        devices = f"{before.hardware.name or 'not known'} then, {after.hardware.name or 'not known'} now"
        answer, why = "refused", f"measured on another device: {devices}"
    return Reproduction(
        then=old,
        now=new,
        answer=answer,
        why=why,
        verdict=found,
        differences=differences(before, after),
        alone=alone and not old.workload.is_own_probe,
    )


def _answer(old: Row, new: Row, found: Verdict | None) -> tuple[Answer, str]:
    if found is None:
        return _without_figure(old, new)
    if min(found.rounds) >= FEWEST_ROUNDS:
        return found.outcome, found.reason or f"by {found.rounds[1]} rounds then and {found.rounds[0]} now"
    few = f"for a verdict both sides need {FEWEST_ROUNDS} rounds (--rounds)"
    if old.figure.interval is None or new.figure.value is None:
        return "inconclusive", f"the record has too few samples for an interval; {few}"
    low, high = old.figure.interval
    kind = f"the old interval ({old.figure.interval_kind})"
    if low <= new.figure.value <= high:
        return "inside", f"the new figure lies inside {kind}; {few}"
    within = (
        " such an interval knows nothing of how processes differ;"
        if old.figure.interval_kind == "within-process"
        else ""
    )
    return "outside", f"the new figure lies outside {kind};{within} {few}"


def _without_figure(old: Row, new: Row) -> tuple[Answer, str]:
    if new.status in HERE and old.status != new.status:
        return "none", f"{new.status} here" + (f": {new.reason}" if new.reason else "")
    if old.headline is None and new.headline is None:
        return ("as then" if old.status == new.status else "lost"), f"{old.status} then, {new.status} now"
    if old.headline is None:
        return "inconclusive", f"there was no figure then ({old.status}), and there is one now"
    return "lost", f"{new.status} now" + (f": {new.reason}" if new.reason else "")


def _row(records: Sequence[Record], *, probed: bool = True) -> Row:
    found = rows(records, "steady", probed=probed)
    if len(found) != 1:
        raise UsageError(f"{len(found)} rows where there should be one", where="reproduce", remedy="name one cell")
    return found[0]


def _ground(records: Sequence[Record]) -> Ground:
    return joined([ground_of(record) for record in records if is_row(record)])
