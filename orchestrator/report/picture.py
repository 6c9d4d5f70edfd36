"""A picture of how many times as fast as eager each method is, as one SVG file that reads in light and in dark."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from html import escape
from pathlib import Path

from orchestrator.analysis.beside import EAGER
from orchestrator.analysis.reduced_run import Report, make_report, standing
from orchestrator.analysis.rows import Row
from orchestrator.analysis.statistics import FEWEST_ROUNDS
from orchestrator.base.errors import UsageError
from orchestrator.base.files import write_text
from orchestrator.base.grouping import grouped
from orchestrator.base.text import counted, printable, shortened, significant, wrapped
from orchestrator.plan.workload import BATCHED, MEASURED, Workload, particular, told_apart

WIDTH, MARGIN, TOP = 430, 8, 52
LONGEST, CHARACTER, SMALL, DIGIT, FIGURE = 24, 7, 6, 8, 56
"""Of a column: characters of a name that are shown, what one takes, also in small print and of a figure, and the least
room for a figure."""
HEAD, LINE, BAR, FOOT = 42, 21, 13, 18
INDENT = 6
"""Of all text but rows' names, from the left of its column."""
FLAGGED = 2
"""Rows that the caption names; more are counted."""
ARIA = 'role="img" aria-labelledby="title desc"'
STYLE = """
svg { color-scheme: light dark; font: 13px system-ui, "Segoe UI", Roboto, "Liberation Sans", sans-serif; }
.page { fill: #ffffff; } text { fill: #1b1d20; } .muted { fill: #565c63; font-size: 11px; }
.head { font-weight: 600; } .title { font-weight: 600; font-size: 16px; } .end { text-anchor: end; }
.faster { fill: #1d56b0; } .slower { fill: #b8500f; } .eager { stroke: #858c93; } .range { stroke: #1b1d20; }
@media (prefers-color-scheme: dark) {
  .page { fill: #131518; } text { fill: #e7e9eb; } .muted { fill: #a3a9b0; }
  .faster { fill: #6aa6ff; } .slower { fill: #ea9367; } .eager { stroke: #737a82; } .range { stroke: #e7e9eb; }
}
"""


@dataclass(frozen=True)
class Axis:
    """Of a column in pixels: where rows' names end, where eager's line is, and how long a factor of e is."""

    label: int
    eager: float
    scale: float

    @classmethod
    def of(cls, found: Sequence[Group]) -> Axis:
        """Return the axis on which the logarithms of all speedups fit, each with its figure beside it."""
        rows = [row for group in found for row in group.rows]
        logs = [math.log(value) for row in rows for value in values(row)]
        low, high = min([0.0, *logs]), max([0.1, *logs])
        label = 20 + CHARACTER * max(len(group.label(row)) for group in found for row in group.rows)
        figure = max([FIGURE, *(8 + DIGIT * len(factor(value)) for row in rows if (value := speedup(row)))])
        before = label + 8 + (figure if low < 0 else 0)
        scale = (WIDTH - MARGIN - figure - before) / (high - low)
        return cls(label, before - low * scale, scale)


@dataclass(frozen=True)
class Group:
    """The rows of one workload beside eager, the fastest first and those without a bar last."""

    workload: Workload
    rows: tuple[Row, ...]
    name: str
    """The benchmark, with what of the workload others of the benchmark here do not share."""
    what: tuple[str, ...]
    """The workload in words, in lines that a column has room for."""

    @property
    def head(self) -> int:
        """In pixels, of what stands above the rows."""
        return HEAD + FOOT * (len(self.what) - 1)

    @property
    def height(self) -> int:
        """In pixels."""
        return self.head + LINE * len(self.rows)

    def label(self, row: Row) -> str:
        """Return the row's method, with its stack where another row has the same method."""
        alone = sum(other.method == row.method for other in self.rows) == 1
        return shortened(printable(row.method if alone else row.name), LONGEST)


def write_picture(runs: Mapping[str, Path], output: Path) -> int:
    """Write the picture of the runs, folders by name, to `output`; return how many bars it has.

    Runs without a row that can be laid beside eager on its own stack are a UsageError.
    """
    reports = [make_report(folder) for folder in runs.values()]
    write_text(output, picture(reports, tuple(runs)))
    return sum(speedup(row) is not None for group in groups(reports) for row in group.rows)


def picture(reports: Sequence[Report], names: Sequence[str]) -> str:
    """Return the runs' picture: a bar for each row from eager's 1 to its own figure, on a logarithmic axis.

    A row whose output is not proved has its status and no bar.
    """
    found = groups(reports)
    if not found:
        remedy = "name another run; of batched_generation there is `--of latency`"
        raise UsageError("no row beside eager on its own stack", where=", ".join(names), remedy=remedy)
    columns = in_columns(found)
    width = 2 * MARGIN + WIDTH * len(columns)
    height = TOP + max(sum(group.height for group in column) for column in columns)
    caption = [line for text in captions(reports, found, names) for line in lines_of(text, width - MARGIN)]
    below = height + FOOT * len(caption) + MARGIN
    axis = Axis.of(found)
    lines = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {below}" width="{width}" {ARIA}>',
        '<title id="title">Times as fast as eager, by method</title>',
        f'<desc id="desc">{text_of("; ".join(map(in_words, found)))}. {text_of(" ".join(caption))}</desc>',
        f"<style>{STYLE}</style>",
        '<rect class="page" width="100%" height="100%" rx="6"/>',
        f'<text class="title" x="{MARGIN + INDENT}" y="24">Times as fast as eager on the same stack</text>',
        f'<text class="muted" x="{MARGIN + INDENT}" y="41">Right of the line is faster, left of it is slower.</text>',
    ]
    for number, column in enumerate(columns):
        lines += drawn(column, MARGIN + WIDTH * number, axis)
    for number, line in enumerate(caption):
        lines.append(
            f'<text class="muted" x="{MARGIN + INDENT}" y="{height + FOOT * (number + 1)}">{text_of(line)}</text>'
        )
    return "\n".join([*lines, "</svg>", ""])


def groups(reports: Sequence[Report]) -> list[Group]:
    """Return the rows that stand beside eager on their own stack, by workload, in the order of the benchmarks."""
    beside = {
        (number, pair.steady.workload_id, pair.steady.stack)
        for number, report in enumerate(reports)
        for pair in report.pairs
        if pair.steady.method == EAGER and pair.steady.headline is not None
    }
    found = grouped(
        (pair.steady.workload_id, pair.steady)
        for number, pair in standing(reports)
        if pair.steady.method != EAGER
        and pair.steady.benchmark != BATCHED
        and (number, pair.steady.workload_id, pair.steady.stack) in beside
    )
    workloads = {key: rows[0].workload for key, rows in found.items()}
    what, names = told_apart(workloads), particular(workloads)
    made = [
        Group(
            workloads[key],
            tuple(sorted(rows, key=lambda row: -(speedup(row) or 0.0))),
            names[key],
            tuple(lines_of(what[key], WIDTH)),
        )
        for key, rows in found.items()
    ]
    return sorted(made, key=lambda group: MEASURED.index(group.workload.benchmark))


def speedup(row: Row) -> float | None:
    """Return how many times as fast as eager a row is whose output is proved; of any other None."""
    proved = row.status == "ok" and row.versus is not None and not {"unchecked", "not_fused"} & set(row.flags)
    return row.versus.verdict.speedup if proved and row.versus is not None else None


def values(row: Row) -> tuple[float, ...]:
    """Return what must fit on the axis: the speedup, and its interval where there is one."""
    value = speedup(row)
    if value is None or row.versus is None:
        return ()
    return (value, *(row.versus.verdict.speedup_interval or ()))


def in_columns(found: Sequence[Group]) -> list[Sequence[Group]]:
    """Return the groups in one column, or in two so that the taller one is as short as possible."""
    if len(found) == 1:
        return [found]
    cuts = range(1, len(found))
    total = [sum(group.height for group in found[:cut]) for cut in cuts]
    cut = min(cuts, key=lambda cut: max(total[cut - 1], sum(group.height for group in found) - total[cut - 1]))
    return [found[:cut], found[cut:]]


def lines_of(text: str, width: int) -> list[str]:
    """Return small print in lines for a column of so many pixels."""
    return wrapped(printable(text), (width - INDENT - MARGIN) // SMALL, indent=0)


def drawn(column: Sequence[Group], left: int, axis: Axis) -> Iterator[str]:
    """Yield the elements of a column that begins at `left`."""
    eager, top = left + axis.eager, TOP
    for group in column:
        yield f'<text class="head" x="{left + INDENT}" y="{top + 15}">{text_of(group.workload.benchmark)}</text>'
        for number, line in enumerate(group.what):
            yield f'<text class="muted" x="{left + INDENT}" y="{top + 31 + FOOT * number}">{text_of(line)}</text>'
        for number, row in enumerate(group.rows):
            yield from bar(row, group.label(row), left, top + group.head - 2 + LINE * number, axis)
        barred = sum(speedup(row) is not None for row in group.rows)
        begin, end = top + group.head - 5, top + group.head + LINE * barred - 5
        if barred:
            yield f'<line class="eager" x1="{eager:.1f}" x2="{eager:.1f}" y1="{begin}" y2="{end}"/>'
        top += group.height


def bar(row: Row, label: str, left: int, top: int, axis: Axis) -> Iterator[str]:
    """Yield a row's label, its bar, its interval where there is one, and its figure; or, beside its label, its status.

    No line of eager's runs through a status: it has the whole column.
    """
    middle, line, eager = top + BAR / 2, top + BAR - 2, left + axis.eager
    yield f'<text class="end" x="{left + axis.label}" y="{line}">{text_of(label)}</text>'
    value = speedup(row)
    if value is None or row.versus is None:
        why, beside = ", ".join(dict.fromkeys([row.status, *row.shown_flags])), axis.label + 8
        shown = text_of(shortened(why, (WIDTH - MARGIN - beside) // SMALL))
        yield f'<text class="muted" x="{left + beside}" y="{line}">{shown}</text>'
        return
    x = eager + math.log(value) * axis.scale
    kind = "faster" if value >= 1 else "slower"
    yield (
        f'<rect class="{kind}" x="{min(x, eager):.1f}" y="{top}" width="{abs(x - eager):.1f}" height="{BAR}" rx="1.5"/>'
    )
    ends = row.versus.verdict.speedup_interval
    if ends is not None:
        low, high = (eager + math.log(end) * axis.scale for end in ends)
        yield f'<line class="range" x1="{low:.1f}" x2="{high:.1f}" y1="{middle}" y2="{middle}"/>'
        x = high if value >= 1 else low
    place = f'x="{x + 5:.1f}"' if value >= 1 else f'class="end" x="{x - 5:.1f}"'
    yield f'<text {place} y="{line}">{factor(value)}</text>'


def factor(value: float) -> str:
    """Return a figure as the column against eager has it: three digits and a multiplication sign."""
    return f"{significant(value, 3)}×"  # noqa: RUF001  (times)


def captions(reports: Sequence[Report], found: Sequence[Group], names: Sequence[str]) -> Iterator[str]:
    """Yield what a reader must know of the figures: how sure they are, and where they come from."""
    rows = [row for group in found for row in group.rows]
    fewest, most = min(row.rounds_ok for row in rows), max(row.rounds_ok for row in rows)
    rounds = counted(most, "round") if fewest == most else f"{fewest} to {most} rounds"
    if most < FEWEST_ROUNDS:
        yield f"{'One round' if most == 1 else rounds}, no verdict: that takes at least {FEWEST_ROUNDS} rounds a side."
    else:
        yield f"{rounds}; the lines over the bars are 99 % intervals."
    yield "Every output was checked before its speed counts; a row without proven output has no bar."
    flagged = [
        f"{group.name} {row.name} {', '.join(row.shown_flags)}"
        for group in found
        for row in group.rows
        if row.shown_flags and speedup(row) is not None
    ]
    if flagged:
        more = f" and {len(flagged) - FLAGGED} more" if flagged[FLAGGED:] else ""
        yield f"Flagged, as its table explains: {'; '.join(flagged[:FLAGGED])}{more}."
    gpus = dict.fromkeys(row.hardware.name or row.hardware.device for row in rows)
    days = sorted({report.header.started_utc[:10] for report in reports})
    when = days[0] if len(days) == 1 else f"{days[0]} to {days[-1]}"
    yield f"{', '.join(gpus)}, {when}: {', '.join(names)}"


def in_words(group: Group) -> str:
    """Return a group's figures in words, for readers who cannot see the picture."""
    figures = (f"{group.label(row)} {factor(value) if (value := speedup(row)) else row.status}" for row in group.rows)
    return f"{group.name}: {', '.join(figures)}"


def text_of(text: str) -> str:
    """Return text for an element: what others wrote is made printable, and is never markup."""
    return escape(printable(text))
