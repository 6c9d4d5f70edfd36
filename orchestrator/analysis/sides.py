"""The two sides of a comparison: `RUN`, `RUN:method`, `RUN:@stack`, `RUN:method@stack`, or `published`."""

from __future__ import annotations

import contextlib
import re
from typing import TYPE_CHECKING

from orchestrator.analysis.conditions import Ground, ground_of, joined
from orchestrator.analysis.protocol import Protocol, Unit, higher_is_better
from orchestrator.analysis.published import read_published
from orchestrator.analysis.reduce import Reduction
from orchestrator.analysis.rows import Hardware
from orchestrator.base.errors import UsageError
from orchestrator.base.frozen import Frozen
from orchestrator.plan.workload import Workload
from orchestrator.records.record import Flag, Status, is_row
from orchestrator.records.store import find_run, read_record, record_files

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from orchestrator.analysis.published import Published
    from orchestrator.analysis.rows import Row

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
    """All rows of one side. `unreadable` has a line for each record that is none."""

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


def read_sides(a: str, b: str, results: Path, benchmarks: Sequence[str] = ()) -> tuple[Side, Side]:
    """Return both sides' rows. A side without a run is of the other's run; where neither has one, of the newest."""
    first, second = parse_side(a, results), parse_side(b, results)
    if first.run == second.run == PUBLISHED:
        raise UsageError("both sides are the published figures", remedy="name a run as one of them")
    if PUBLISHED in (first.run, second.run):
        # A published figure was reckoned as the note did: so is the other side, or nothing could be compared.
        run = read_side(second if first.run == PUBLISHED else first, None, results, "note", benchmarks)
        published = published_side(first if first.run == PUBLISHED else second, run, read_published())
        return (published, run) if first.run == PUBLISHED else (run, published)
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
    for path in record_files(found.folder):
        try:
            record = read_record(path)
        except UsageError as error:
            unreadable.append(f"records/{path.name}: {error.what}")
            continue
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
        reason=row.reason or row.figure_reason,
        flags=row.flags,
        figure=row.headline,
        unit=row.unit,
        round_seconds=row.round_seconds if row.headline is not None else (),
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
        return (workload.new_tokens or 1) / figure
    return figure / 1e3 if workload.benchmark == "train_static" else figure
