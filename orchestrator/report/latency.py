"""A picture of throughput against latency, batch by batch, with the Pareto front: one SVG for light and for dark."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from orchestrator.analysis.ladders import Ladder, Step, ladders
from orchestrator.analysis.reduced_run import Report, make_report, standing
from orchestrator.base.errors import UsageError
from orchestrator.base.files import write_text
from orchestrator.base.grouping import grouped
from orchestrator.base.text import milliseconds, shortened, significant
from orchestrator.report.picture import ARIA, MARGIN, text_of

WIDTH, PLOT, TOP, LEFT, BELOW, LINE = 480, 250, 62, 62, 44, 18
"""In pixels: a plot's column, the plot's height, and the room above it, left of it, below it, and of a line of text."""
PER_ROW, LONGEST, COLOURS, MARKS = 2, 62, 8, 4
MOST_TICKS = 8
TICKS = (1, 2, 5)
HOW_TO_READ = "Up and to the left is better; numbers are sequences at once."
CHARACTER = 6.5
Box = tuple[float, float, float, float]
"""Left, top, right, bottom."""
FORMS = (
    ((-4, -4), (4, -4), (4, 4), (-4, 4)),
    ((0, -5.5), (5, 4), (-5, 4)),
    ((0, -6), (6, 0), (0, 6), (-6, 0)),
)
"""Corners of a square, a triangle, a diamond around a point."""
LIGHT = ("#1d56b0", "#b8500f", "#19723a", "#8a3aa8", "#a3283c", "#0b7285", "#6b5b00", "#555b63")
DARK = ("#6aa6ff", "#ea9367", "#5fc98a", "#cf93ea", "#f08a9b", "#5fc7da", "#d3c04a", "#a3a9b0")
STYLE = """
svg {{ color-scheme: light dark; font: 13px system-ui, "Segoe UI", Roboto, "Liberation Sans", sans-serif; }}
.page {{ fill: #ffffff; }} text {{ fill: #1b1d20; }} .muted {{ fill: #565c63; font-size: 11px; }}
.head {{ font-weight: 600; }} .title {{ font-weight: 600; font-size: 16px; }}
.end {{ text-anchor: end; }} .middle {{ text-anchor: middle; }}
.grid {{ stroke: #e3e6e9; }} .line {{ fill: none; stroke-width: 1.5; }} .open {{ fill: #ffffff; stroke-width: 1.5; }}
.front {{ fill: none; stroke: #1b1d20; stroke-width: 7; stroke-opacity: 0.13; stroke-linejoin: round; }}
.ring {{ fill: none; stroke: #1b1d20; stroke-width: 1.5; }}
{light}
@media (prefers-color-scheme: dark) {{
  .page, .open {{ fill: #131518; }} text {{ fill: #e7e9eb; }} .muted {{ fill: #a3a9b0; }} .grid {{ stroke: #2b3036; }}
  .front {{ stroke: #e7e9eb; stroke-opacity: 0.2; }} .ring {{ stroke: #e7e9eb; }}
{dark}
}}
"""


@dataclass(frozen=True)
class Scale:
    """A logarithmic axis from `low` to `high`, from pixel `begin` to `end`."""

    low: float
    high: float
    begin: float
    end: float

    @classmethod
    def of(cls, values: Sequence[float], begin: float, end: float) -> Scale:
        """Return one on which all values lie, with a little room."""
        low, high = min(values), max(values)
        room = max(high / low, 1.2) ** 0.07
        return cls(low / room, high * room, begin, end)

    def at(self, value: float) -> float:
        """Return the value's pixel."""
        return self.begin + math.log(value / self.low) / math.log(self.high / self.low) * (self.end - self.begin)

    def ticks(self) -> list[float]:
        """Return round values on the axis: 1, 2 and 5 times the powers of ten, or the powers alone where many fit."""
        powers = range(math.floor(math.log10(self.low)), math.ceil(math.log10(self.high)) + 1)
        every = [factor * 10.0**power for power in powers for factor in TICKS]
        found = [tick for tick in every if self.low <= tick <= self.high]
        return found if len(found) <= MOST_TICKS else [tick for tick in found if math.log10(tick).is_integer()]


def write_latency_picture(runs: Mapping[str, Path], output: Path) -> int:
    """Write the picture of the runs, folders by name, to `output`; return how many points it has.

    Runs without a row of batched_generation are a UsageError.
    """
    reports = [make_report(folder) for folder in runs.values()]
    write_text(output, latency_picture(reports, tuple(runs)))
    return sum(len(ladder.steps) for ladder in of_reports(reports))


def of_reports(reports: Sequence[Report]) -> list[Ladder]:
    """Return the ladders of the rows that stand for each method on a stack."""
    return ladders((number, pair.steady) for number, pair in standing(reports))


def latency_picture(reports: Sequence[Report], names: Sequence[str]) -> str:
    """Return the runs' picture: a plot for each ladder, tokens a second of all against milliseconds a further token."""
    found = of_reports(reports)
    if not found:
        raise UsageError("no row of batched_generation with a speed", where=", ".join(names), remedy="name another run")
    series = sorted({step.row.name for ladder in found for step in ladder.steps})
    hues = {name: number % COLOURS for number, name in enumerate(series)}
    columns = min(PER_ROW, len(found))
    width, plots = 2 * MARGIN + WIDTH * columns, -(-len(found) // columns)
    caption = list(captions(reports, names))
    height = TOP + LINE * -(-len(series) // columns) + (PLOT + BELOW + 40) * plots
    below = height + LINE * len(caption) + MARGIN
    light, dark = (
        "\n".join(f".f{n} {{ fill: {colour}; }} .s{n} {{ stroke: {colour}; }}" for n, colour in enumerate(colours))
        for colours in (LIGHT, DARK)
    )
    lines = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {below}" width="{width}" {ARIA}>',
        '<title id="title">Throughput against latency, by batch</title>',
        f'<desc id="desc">{text_of("; ".join(map(in_words, found)))}. {text_of(" ".join(caption))}</desc>',
        f"<style>{STYLE.format(light=light, dark=dark)}</style>",
        '<rect class="page" width="100%" height="100%" rx="6"/>',
        f'<text class="title" x="{MARGIN + 6}" y="24">Throughput against latency</text>',
        f'<text class="muted" x="{MARGIN + 6}" y="42">{HOW_TO_READ}</text>',
    ]
    for number, name in enumerate(series):
        x, y = MARGIN + 12 + WIDTH * (number % columns), TOP + LINE * (number // columns)
        lines.append(mark(hues[name], x, y - 4, proved=True))
        lines.append(f'<text x="{x + 10}" y="{y}">{text_of(shortened(name, LONGEST))}</text>')
    top = TOP + LINE * -(-len(series) // columns)
    for number, ladder in enumerate(found):
        left = MARGIN + WIDTH * (number % columns)
        lines += plot(ladder, hues, left, top + (PLOT + BELOW + 40) * (number // columns))
    for number, line in enumerate(caption):
        lines.append(f'<text class="muted" x="{MARGIN + 6}" y="{height + LINE * number + 6}">{text_of(line)}</text>')
    return "\n".join([*lines, "</svg>", ""])


def plot(ladder: Ladder, hues: Mapping[str, int], left: int, top: int) -> Iterator[str]:
    """Yield the elements of one ladder's plot."""
    head, bottom = top + 36, top + 40 + PLOT
    x = Scale.of([step.further_seconds * 1e3 for step in ladder.steps], left + LEFT, left + WIDTH - 24)
    y = Scale.of([step.tokens_per_second for step in ladder.steps], bottom - 8, head + 14)
    yield f'<text class="head" x="{left + 6}" y="{top + 14}">{text_of(shortened(ladder.what, LONGEST))}</text>'
    yield f'<text class="muted" x="{left + 6}" y="{top + 30}">tokens/s of all sequences</text>'
    for tick in y.ticks():
        at = f"{y.at(tick):.1f}"
        yield f'<line class="grid" x1="{left + LEFT}" x2="{left + WIDTH - 12}" y1="{at}" y2="{at}"/>'
        yield f'<text class="muted end" x="{left + LEFT - 6}" y="{y.at(tick) + 4:.1f}">{tick:,g}</text>'
    for tick in x.ticks():
        at = f"{x.at(tick):.1f}"
        yield f'<line class="grid" x1="{at}" x2="{at}" y1="{head}" y2="{bottom}"/>'
        yield f'<text class="muted middle" x="{at}" y="{bottom + 15}">{tick:,g}</text>'
    middle = left + (LEFT + WIDTH) / 2
    yield f'<text class="muted middle" x="{middle:.1f}" y="{bottom + 31}">ms for a further token of each</text>'

    def place(step: Step) -> tuple[float, float]:
        return x.at(step.further_seconds * 1e3), y.at(step.tokens_per_second)

    yield path("front", [place(step) for step in ladder.front()])
    for name, steps in grouped((step.row.name, step) for step in ladder.steps).items():
        yield path(f"line s{hues[name]}", [place(step) for step in steps])
        for step in steps:
            at_x, at_y = place(step)
            if step.on_front:
                yield f'<circle class="ring" cx="{at_x:.1f}" cy="{at_y:.1f}" r="7.5"/>'
            yield mark(hues[name], at_x, at_y, proved=step.proved)
    yield from labels([(str(step.batch), *place(step)) for step in ladder.steps])


def labels(points: Sequence[tuple[str, float, float]]) -> Iterator[str]:
    """Yield a text beside each point, at the first of four places where it covers no point and no other text."""
    taken = [(x - 7, y - 7, x + 7, y + 7) for _, x, y in points]
    for text, x, y in points:
        wide = CHARACTER * len(text)
        for left, base in ((x + 10, y + 14), (x - 10 - wide, y - 6), (x + 10, y - 6), (x - 10 - wide, y + 14)):
            box = (left, base - 9, left + wide, base)
            if not any(_overlap(box, other) for other in taken):
                taken.append(box)
                yield f'<text class="muted" x="{left:.1f}" y="{base:.1f}">{text}</text>'
                break


def _overlap(one: Box, other: Box) -> bool:
    return one[0] < other[2] and other[0] < one[2] and one[1] < other[3] and other[1] < one[3]


def mark(hue: int, x: float, y: float, *, proved: bool) -> str:
    """Return a point: filled where the row is proved, else open; of a form that goes with its colour."""
    kind = f"f{hue}" if proved else f"open s{hue}"
    form = hue % MARKS
    if form == 0:
        return f'<circle class="{kind}" cx="{x:.1f}" cy="{y:.1f}" r="4.5"/>'
    corners = FORMS[form - 1]
    return f'<polygon class="{kind}" points="{" ".join(f"{x + dx:.1f},{y + dy:.1f}" for dx, dy in corners)}"/>'


def path(kind: str, points: Sequence[tuple[float, float]]) -> str:
    """Return a line through the points."""
    steps = " ".join(f"{'L' if number else 'M'}{x:.1f},{y:.1f}" for number, (x, y) in enumerate(points))
    return f'<path class="{kind}" d="{steps}"/>'


def captions(reports: Sequence[Report], names: Sequence[str]) -> Iterator[str]:
    """Yield what a reader must know of the points, and where they come from."""
    yield "Ringed, on the wide line: the Pareto front, of rows that no proved row beats in both."
    yield "Open: not all of the output could be checked, so never on the front. A wrong row has no point."
    steps = [step for ladder in of_reports(reports) for step in ladder.steps]
    devices = dict.fromkeys(step.row.hardware.name or step.row.hardware.device for step in steps)
    days = sorted({report.header.started_utc[:10] for report in reports})
    yield f"{', '.join(devices)}, {days[0] if len(days) == 1 else f'{days[0]} to {days[-1]}'}: {', '.join(names)}"


def in_words(ladder: Ladder) -> str:
    """Return a ladder's figures in words, for readers who cannot see the picture."""
    figures = (
        f"{step.row.name} at batch {step.batch} {significant(step.tokens_per_second)} tokens/s,"
        f" {milliseconds(step.further_seconds)} ms a token{', on the front' if step.on_front else ''}"
        for step in ladder.steps
    )
    return f"{ladder.what}: {'; '.join(figures)}"
