"""Two sides, row by row: how B does against A by the one rule, what is refused, and what differs beside the figures."""

from __future__ import annotations

import math
from statistics import fmean
from typing import TYPE_CHECKING, Any, Literal

from orchestrator.analysis.conditions import Difference, differences, same_device
from orchestrator.analysis.protocol import Protocol
from orchestrator.analysis.sides import PUBLISHED, Entry
from orchestrator.analysis.statistics import Verdict, verdict
from orchestrator.base.errors import EXIT_BAD_ROWS, EXIT_INCONCLUSIVE, EXIT_NOTHING_MEASURED, EXIT_OK, UsageError
from orchestrator.base.frozen import Frozen
from orchestrator.plan.workload import Workload

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from orchestrator.analysis.sides import Side

Result = Literal["faster", "slower", "same", "inconclusive", "refused", "bad", "unmeasured", "only in A", "only in B"]
"""A verdict; or `refused`: none may be given; `bad`: B is wrong or failed, or has no figure where A has one;
`unmeasured`: A has no figure to compare with."""

FAILED = ("incorrect", "crashed", "timeout", "infrastructure")
LOST = ("out_of_memory", "unsupported")
OPEN: tuple[Result, ...] = ("inconclusive", "refused", "only in A")
REGRESSED: tuple[Result, ...] = ("slower", "bad")
TOLD: tuple[Result, ...] = ("faster", "slower", "same", "inconclusive")


class CellComparison(Frozen):
    """B's row against A's. `verdict` is there wherever both have a figure, a refused one too; `reason` says why."""

    workload_id: str
    workload: Workload
    a: Entry | None
    b: Entry | None
    result: Result
    reason: str | None = None
    verdict: Verdict | None = None
    """Of B against A."""
    differences: tuple[Difference, ...] = ()
    remark: str | None = None


class Mean(Frozen):
    """The geometric mean of the ratios of all cells that have a verdict."""

    cells: int
    verdict: Verdict


class Comparison(Frozen):
    """All of it."""

    a: str
    b: str
    protocol: Protocol
    cells: tuple[CellComparison, ...]
    mean: Mean | None
    unreadable: tuple[str, ...] = ()

    @property
    def exit_code(self) -> int:
        """1 where a row is slower or bad, else 2 where one is open, 3 where nothing was compared, else 0."""
        results = [cell.result for cell in self.cells]
        if any(result in REGRESSED for result in results):
            return EXIT_BAD_ROWS
        if not any(cell.a is not None and cell.b is not None for cell in self.cells):
            return EXIT_NOTHING_MEASURED
        if any(result in OPEN for result in results):
            return EXIT_INCONCLUSIVE
        return EXIT_OK if any(result in TOLD for result in results) else EXIT_NOTHING_MEASURED


def compare(a: Side, b: Side, *, across_devices: bool = False) -> Comparison:
    """Compare the rows of both sides that are on the same workload, by the same method, on a stack of the same name.

    Methods may differ where both sides name one, stacks likewise. Rows on different models of device get no verdict
    unless `across_devices`. Comparing a row with itself is a UsageError.
    """
    by_method = not (a.name.method and b.name.method)
    by_stack = not (a.name.stack and b.name.stack) and PUBLISHED not in (a.name.run, b.name.run)

    def key(entry: Entry) -> tuple[str, ...]:
        return (entry.workload_id, entry.method if by_method else "", entry.stack if by_stack else "")

    mine, others = _grouped(a.entries, key), _grouped(b.entries, key)
    found = []
    for one in dict.fromkeys((*mine, *others)):
        first, second = _best(mine.get(one, []), others.get(one, []))
        cell = _compared(first, second, across_devices=across_devices)
        crowd = max(len(mine.get(one, [])), len(others.get(one, [])))
        if crowd > 1:
            cell = cell.model_copy(
                update={"remark": f"{crowd} rows have that name: the best matching two are compared"}
            )
        found.append(cell)
    if a.folder is not None and a.folder == b.folder and any(c.a and c.b and c.a.cell_id == c.b.cell_id for c in found):
        raise UsageError(
            "both sides have the very same rows",
            where=f"{a.name.text} {b.name.text}",
            remedy="name two runs, or two methods or stacks of one: RUN:eager RUN:inductor",
        )
    protocol: Protocol = next((entry.protocol for entry in (*a.entries, *b.entries)), "steady")
    unreadable = tuple(f"{side.title}: {line}" for side in (a, b) for line in side.unreadable)
    return Comparison(
        a=a.title, b=b.title, protocol=protocol, cells=tuple(found), mean=mean(found), unreadable=unreadable
    )


def mean(cells: Sequence[CellComparison]) -> Mean | None:
    """Return the geometric mean over the cells that have a verdict, None where fewer than two have one.

    Made of each round's geometric mean over the cells, so that what disturbs all cells of a round counts once. Where
    the cells of a side have different numbers of rounds, the first ones, as many as all have, are taken.
    """
    told = [(c.a.round_seconds, c.b.round_seconds) for c in cells if c.a and c.b and c.result in TOLD]
    if len(told) < 2:  # noqa: PLR2004
        return None
    a, b = (_round_means([pair[side] for pair in told]) for side in (0, 1))
    return Mean(cells=len(told), verdict=verdict(b, a))


def _round_means(rounds: Sequence[Sequence[float]]) -> list[float]:
    return [math.exp(fmean(math.log(seconds) for seconds in together)) for together in zip(*rounds, strict=False)]


def _grouped(entries: Sequence[Entry], key: Callable[[Entry], tuple[str, ...]]) -> dict[tuple[str, ...], list[Entry]]:
    found: dict[tuple[str, ...], list[Entry]] = {}
    for entry in entries:
        found.setdefault(key(entry), []).append(entry)
    return found


def _best(mine: Sequence[Entry], others: Sequence[Entry]) -> tuple[Entry | None, Entry | None]:
    """Return the two that go best together: on the same device, ok, in the same environment, of many rounds."""
    if not mine or not others:
        return next(iter(mine), None), next(iter(others), None)
    return max(
        ((a, b) for a in mine for b in others),
        key=lambda pair: (
            same_device(pair[0].ground, pair[1].ground),
            sum(entry.figure is not None for entry in pair),
            pair[0].ground.packages == pair[1].ground.packages,
            min(len(entry.round_seconds) for entry in pair),
        ),
    )


def _compared(a: Entry | None, b: Entry | None, *, across_devices: bool) -> CellComparison:
    some = a or b
    assert some is not None
    facts: dict[str, Any] = {"workload_id": some.workload_id, "workload": some.workload, "a": a, "b": b}
    if a is None or b is None:
        lonely: Result = "only in B" if a is None else "only in A" if a.figure is not None else "unmeasured"
        return CellComparison(**facts, result=lonely, reason=None if some.figure is not None else some.status)
    facts["differences"] = differences(a.ground, b.ground)
    if a.figure is None or b.figure is None:
        result, reason = _without_figure(a, b)
        return CellComparison(**facts, result=result, reason=reason)
    told = verdict(b.round_seconds, a.round_seconds)
    if not same_device(a.ground, b.ground) and not across_devices:
        devices = " / ".join(entry.ground.hardware.name or "not known" for entry in (a, b))
        return CellComparison(**facts, result="refused", reason=f"another device: {devices}", verdict=told)
    return CellComparison(**facts, result=told.outcome, reason=told.reason, verdict=told)


def _without_figure(a: Entry, b: Entry) -> tuple[Result, str]:
    if b.figure is None and (b.status in FAILED or (a.figure is not None and b.status in LOST)):
        return "bad", _says("B", b)
    if a.figure is None and b.figure is None:
        return "unmeasured", f"{_says('A', a)}; {_says('B', b)}"
    return ("unmeasured", _says("A", a)) if a.figure is None else ("refused", _says("B", b))


def _says(side: str, entry: Entry) -> str:
    return f"{side} is {entry.status}" + (f": {entry.reason}" if entry.reason else "")
