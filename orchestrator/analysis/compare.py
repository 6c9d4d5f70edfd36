"""Two sides, row by row: how B does against A by the one rule, what is refused, and what differs beside the figures."""

from __future__ import annotations

import contextlib
import math
import re
from collections.abc import Sequence
from pathlib import Path
from statistics import fmean
from typing import Any, Literal

from orchestrator.analysis.ceilings import Hardware
from orchestrator.analysis.conditions import Difference, Ground, differences, ground_of, joined, same_device
from orchestrator.analysis.protocol import Protocol, Unit, higher_is_better
from orchestrator.analysis.published import Published, read_published
from orchestrator.analysis.reduce import Reduction
from orchestrator.analysis.rows import Row
from orchestrator.analysis.statistics import Verdict, verdict
from orchestrator.base.errors import EXIT_BAD_ROWS, EXIT_INCONCLUSIVE, EXIT_NOTHING_MEASURED, EXIT_OK, UsageError
from orchestrator.base.files import Frozen
from orchestrator.base.grouping import grouped
from orchestrator.plan.workload import Workload
from orchestrator.records.record import BAD, Flag, Status, is_row
from orchestrator.records.runs import find_run

Result = Literal["faster", "slower", "same", "inconclusive", "refused", "bad", "unmeasured", "only in A", "only in B"]
"""A verdict; or `refused`: none may be given; `bad`: B is wrong or failed, or has no figure where A has one;
`unmeasured`: A has no figure to compare with."""
LOST = ("out_of_memory", "unsupported")
OPEN: tuple[Result, ...] = ("inconclusive", "refused", "only in A")
REGRESSED: tuple[Result, ...] = ("slower", "bad")
VERDICTS: tuple[Result, ...] = ("faster", "slower", "same", "inconclusive")


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
        return EXIT_OK if any(result in VERDICTS for result in results) else EXIT_NOTHING_MEASURED


def compare(a: Side, b: Side, *, across_devices: bool = False) -> Comparison:
    """Compare the rows of both sides that are on the same workload, by the same method, on a stack of the same name.

    Methods may differ where both sides name one, stacks likewise. Rows on different models of device get no verdict
    unless `across_devices`. Comparing a row with itself is a UsageError.
    """
    by_method = not (a.name.method and b.name.method)
    by_stack = not (a.name.stack and b.name.stack) and PUBLISHED not in (a.name.run, b.name.run)

    def key(entry: Entry) -> tuple[str, ...]:
        return (entry.workload_id, entry.method if by_method else "", entry.stack if by_stack else "")

    mine, others = (grouped((key(entry), entry) for entry in side.entries) for side in (a, b))
    found = []
    for one in dict.fromkeys((*mine, *others)):
        first, second = _best(mine.get(one, ()), others.get(one, ()))
        cell = _compared(first, second, across_devices=across_devices)
        crowd = max(len(mine.get(one, ())), len(others.get(one, ())))
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
    judged = [(c.a.round_seconds, c.b.round_seconds) for c in cells if c.a and c.b and c.result in VERDICTS]
    if len(judged) < 2:  # noqa: PLR2004
        return None
    a, b = (_round_means([pair[side] for pair in judged]) for side in (0, 1))
    return Mean(cells=len(judged), verdict=verdict(b, a))


def _round_means(rounds: Sequence[Sequence[float]]) -> list[float]:
    return [math.exp(fmean(math.log(seconds) for seconds in together)) for together in zip(*rounds, strict=False)]


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
    found = verdict(b.round_seconds, a.round_seconds)
    if not same_device(a.ground, b.ground) and not across_devices:
        devices = " / ".join(entry.ground.hardware.name or "not known" for entry in (a, b))
        return CellComparison(**facts, result="refused", reason=f"another device: {devices}", verdict=found)
    return CellComparison(**facts, result=found.outcome, reason=found.reason, verdict=found)


def _without_figure(a: Entry, b: Entry) -> tuple[Result, str]:
    if b.figure is None and (b.status in BAD or (a.figure is not None and b.status in LOST)):
        return "bad", _says("B", b)
    if a.figure is None and b.figure is None:
        return "unmeasured", f"{_says('A', a)}; {_says('B', b)}"
    return ("unmeasured", _says("A", a)) if a.figure is None else ("refused", _says("B", b))


def _says(side: str, entry: Entry) -> str:
    return f"{side} is {entry.status}" + (f": {entry.reason}" if entry.reason else "")


PUBLISHED = "published"
SELECTION = re.compile(r"(?P<run>.*?):(?P<method>[A-Za-z0-9_]*)(@(?P<stack>[A-Za-z0-9_-]+))?", re.DOTALL)


class SideName(Frozen):
    """A side as it was asked for. `run` is a run's name or folder, `published`, or null: the other's, or the newest."""

    text: str
    run: str | None
    method: str | None = None
    stack: str | None = None


class Entry(Frozen):
    """One row of a side, reduced to what a comparison needs."""

    protocol: Protocol
    cell_id: str
    workload_id: str
    workload: Workload
    method: str
    stack: str
    status: Status
    reason: str | None = None
    flags: tuple[Flag, ...] = ()
    figure: float | None
    """Null where the row may show no speed."""
    unit: Unit
    round_seconds: tuple[float, ...] = ()
    ground: Ground

    @property
    def name(self) -> str:
        """`method@stack`."""
        return f"{self.method}@{self.stack}"


class Side(Frozen):
    """All rows of one side. `unreadable` has a line for each file that is not a record."""

    name: SideName
    title: str
    folder: str | None
    entries: tuple[Entry, ...]
    unreadable: tuple[str, ...] = ()


def parse_side(text: str, results: Path) -> SideName:
    """Return what `text` asks for. What names a run as it stands is that run, whatever signs are in its name."""
    if text == PUBLISHED:
        return SideName(text=text, run=PUBLISHED)
    match = SELECTION.fullmatch(text)
    if match is None or not (match["method"] or match["stack"]):
        return SideName(text=text, run=text or None)
    with contextlib.suppress(UsageError):
        find_run(results, text)
        return SideName(text=text, run=text)
    return SideName(text=text, run=match["run"] or None, method=match["method"] or None, stack=match["stack"])


def read_sides(
    a: str, b: str, results: Path, benchmarks: Sequence[str] = (), run: str | None = None
) -> tuple[Side, Side]:
    """Return both sides' rows. A side without a run is of `run`, else of the other's; where neither has, the newest."""
    first, second = (
        side if run is None or side.run is not None else side.model_copy(update={"run": run})
        for side in (parse_side(a, results), parse_side(b, results))
    )
    if first.run == second.run == PUBLISHED:
        raise UsageError("both sides are the published figures", remedy="name a run as one of them")
    if PUBLISHED in (first.run, second.run):
        # A published figure was computed as the note did: so is the other side, or nothing could be compared.
        own = read_side(second if first.run == PUBLISHED else first, None, results, "note", benchmarks)
        published = published_side(first if first.run == PUBLISHED else second, own, read_published())
        return (published, own) if first.run == PUBLISHED else (own, published)
    one = read_side(first, second.run, results, "steady", benchmarks)
    other = read_side(second, one.folder, results, "steady", benchmarks)
    return one, other


def read_side(
    name: SideName, run: str | None, results: Path, protocol: Protocol, benchmarks: Sequence[str] = ()
) -> Side:
    """Return the rows of a run that `name` selects; a name that no row has is a UsageError with those that there are.

    `run` stands in where the name has none.
    """
    found = find_run(results, name.run or run)
    reduction, grounds, unreadable = Reduction(), dict[str, list[Ground]](), list[str]()
    for record in found.records(unreadable):
        reduction.add(record)
        if is_row(record):
            grounds.setdefault(record.cell_id, []).append(ground_of(record))
    rows = reduction.rows(protocol)
    for kind, word, known in (
        ("method", name.method, [row.method for row in rows]),
        ("stack", name.stack, [row.stack for row in rows]),
    ):
        if word is not None and word not in known:
            raise UsageError(
                f'no row of this run has the {kind} "{word}"',
                where=found.folder.name,
                remedy=f"known: {', '.join(dict.fromkeys(known)) or 'none'}",
            )
    chosen = [
        row
        for row in rows
        if name.method in (None, row.method)
        and name.stack in (None, row.stack)
        and (not benchmarks or row.benchmark in benchmarks)
    ]
    selected = f"{name.method or ''}{f'@{name.stack}' if name.stack else ''}"
    return Side(
        name=name,
        title=f"{found.folder.name}{f':{selected}' if selected else ''}",
        folder=str(found.folder),
        entries=tuple(entry_of(row, joined(grounds[row.cell_id])) for row in chosen),
        unreadable=tuple(unreadable),
    )


def entry_of(row: Row, ground: Ground) -> Entry:
    """Return what of a row a comparison needs."""
    return Entry(
        protocol=row.protocol,
        cell_id=row.cell_id,
        workload_id=row.workload_id,
        workload=row.workload,
        method=row.method,
        stack=row.stack,
        status=row.status,
        reason=row.reason or row.figure.reason,
        flags=row.flags,
        figure=row.headline,
        unit=row.figure.unit,
        round_seconds=row.figure.round_seconds if row.headline is not None else (),
        ground=ground,
    )


def published_side(name: SideName, beside: Side, published: Sequence[Published]) -> Side:
    """Return the published figures of the workloads and methods of another side."""
    entries: dict[tuple[str, str], Entry] = {}
    for other in beside.entries:
        for comparison in published:
            for figure in comparison.for_workload(other.workload):
                if figure.method != other.method or (other.workload_id, other.method) in entries:
                    continue
                value = figure.corrected if figure.corrected is not None else figure.figure
                right = value is not None and (figure.status == "ok" or figure.corrected is not None)
                caveats = [comparison.caveats[key] for key in figure.caveats]
                entries[other.workload_id, other.method] = Entry(
                    protocol="note",
                    cell_id="",
                    workload_id=other.workload_id,
                    workload=other.workload,
                    method=other.method,
                    stack=PUBLISHED,
                    status="ok" if right else figure.status,
                    reason=" ".join(caveats) or None,
                    figure=value if right else None,
                    unit=figure.unit,
                    round_seconds=(_seconds(value, other.workload),) if right and value else (),
                    ground=Ground(hardware=Hardware(device="cuda", name=comparison.gpu, driver=comparison.driver)),
                )
    return Side(name=name, title=PUBLISHED, folder=None, entries=tuple(entries.values()))


def _seconds(figure: float, workload: Workload) -> float:
    if higher_is_better(workload.benchmark):
        return (workload.counted_tokens or 1) / figure
    return figure / 1e3 if workload.benchmark == "train_static" else figure
