"""A table's columns, each described once: its head and how a row's cell is worded; in every form of the tables."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from orchestrator.analysis.beside import NOT_FASTER
from orchestrator.analysis.protocol import unit_of
from orchestrator.analysis.published import Published, PublishedFigure
from orchestrator.analysis.reduced_run import Pair
from orchestrator.analysis.rows import Row
from orchestrator.analysis.statistics import LEVEL
from orchestrator.base.text import MISSING, between, between_texts, gigabytes, milliseconds, percent, significant
from orchestrator.plan.workload import BATCHED, GENERATING, Benchmark
from orchestrator.records.record import COMPUTED, Dispatch

SECONDS_DIGITS = 3


@dataclass(frozen=True)
class Cell:
    """A figure, and what stands beside it in a table or below it on the page."""

    text: str = MISSING
    beside: tuple[str, ...] = ()

    def line(self, join: str = " ") -> str:
        """Return its parts on one line."""
        return join.join((self.text, *self.beside))


@dataclass(frozen=True)
class Column:
    """What a table says of each row in one place; `short` is its head in two lines for a narrow table."""

    key: str
    head: str
    cell: Callable[[Pair], Cell]
    short: tuple[str, str] = ("", "")
    join: str = " "
    """What stands between a cell's parts on one line."""

    def line(self, pair: Pair) -> str:
        """Return a row's cell on one line."""
        return self.cell(pair).line(self.join)


def columns(
    benchmark: Benchmark, published: Sequence[Published], devices: int = 1, *, engines: bool = False
) -> list[Column]:
    """Return the columns between a row's name and its status, of rows of so many devices, engines among them or not."""
    unit = unit_of(benchmark)
    return [
        Column("steady", f"steady, {unit}", lambda pair: speed(pair.steady), ("", unit)),
        *(one for one in COLUMNS if benchmark in OF.get(one.key, (benchmark,)) or (engines and one.key == "startup")),
        *([SCALING] if devices > 1 else []),
        *(Column(one.name, f"{one.short}, {unit}", _published_by(one)) for one in published),
    ]


def columns_of(pairs: Sequence[Pair], published: Sequence[Published]) -> list[Column]:
    """Return the columns of a table of these rows, which have their benchmark and number of devices in common."""
    first, engines = pairs[0].steady, any(pair.steady.kind == "engine" for pair in pairs)
    return columns(first.benchmark, published, first.workload.devices, engines=engines)


def speed(row: Row) -> Cell:
    """Return a row's figure with its interval, whose level is said where it is not the usual one."""
    figure = row.figure
    if row.headline is None:
        return Cell()
    text = significant(row.headline)
    if row.protocol == "note":
        return Cell(text if figure.complete else f"{text} *")
    if figure.interval is None:
        return Cell(text)
    level = figure.interval_level or LEVEL
    return Cell(text, (between(*figure.interval) + ("" if level >= LEVEL else f" at {int(level * 100)} %"),))


def against_eager(row: Row) -> Cell:
    """Return how many times as fast as eager the row is, with interval and verdict."""
    if row.versus is None:
        return Cell()
    found = row.versus.verdict
    interval = () if found.speedup_interval is None else (between(*found.speedup_interval, 3),)
    return Cell(f"{significant(found.speedup, 3)}×", (*interval, found.outcome))  # noqa: RUF001  (times)


def checks(row: Row) -> str:
    """Return `9/9`, and what of the proof is missing; the reasons stand below the table."""
    if row.status not in COMPUTED:
        return MISSING
    counts, text = row.evidence.checks, "none"
    if counts is not None:
        text = f"{counts.passed}/{counts.total}" + (f", {counts.unchecked} unchecked" if counts.unchecked else "")
    if row.probe is None or row.probe.passed:
        return text
    return f"{text}; probe {row.probe.status if row.probe.status not in (None, 'ok') else 'unchecked'}"


def name_in(row: Row, rows: Sequence[Row]) -> str:
    """Return `method@stack`, with the cell's own id where another of these rows has the same name."""
    alike = sum(other.name == row.name for other in rows) > 1
    return f"{row.name} ({row.cell_id[:8]})" if alike else row.name


def beside_status(row: Row) -> str:
    """Return what stands beside a row's status: its flags, and how many of its rounds are ok where not all are."""
    flags = f" ({', '.join(row.shown_flags)})" if row.shown_flags else ""
    return flags + (f", {row.rounds_ok} of {row.rounds} rounds ok" if row.rounds_ok < row.rounds > 1 else "")


def error_ratio(row: Row) -> Cell:
    """Return the row's error over eager's."""
    ratio = row.evidence.error_ratio
    return Cell() if ratio is None or row.status != "ok" else Cell(significant(ratio, 3))


def first_call(row: Row, unit: str = "", digits: int = SECONDS_DIGITS) -> Cell:
    """Return an ok row's first call in seconds, cold and warm as far as each was measured: `39.6 cold, 7.31 warm`.

    `unit` goes after each number.
    """
    call = row.first_call
    if call.seconds is None or row.status != "ok":
        return Cell()
    states: list[str] = [call.cache] if call.cache else []
    if call.warm_seconds is not None and call.cache != "warm":
        states.append(f"{significant(call.warm_seconds, digits)}{unit} warm")
    return Cell(f"{significant(call.seconds, digits)}{unit}", (", ".join(states),) if states else ())


def later_compiles(row: Row) -> float | None:
    """Return the seconds that compiles in the warm-up, after the first call, cost; null where there were none."""
    if row.first_call.upfront_seconds is None or row.first_call.seconds is None:
        return None
    later = row.first_call.upfront_seconds - row.first_call.seconds
    return later if later > 0 else None


def break_even(row: Row) -> str:
    """Return after how many passes, tokens or steps the first call and later compiles have paid off."""
    even = row.break_even
    if even is None or even.count is None:
        return "never" if even is not None and even.reason == NOT_FASTER else MISSING
    if even.count == 0:
        return "at once"
    plural = "" if even.count == 1 else "es" if even.of == "pass" else "s"
    return f"{even.count:,} {even.of}{plural}"


def host_memory(row: Row) -> bool:
    """Whether a row's peak is the host's memory: there is no device that has its own."""
    return row.memory.process_bytes is None and row.memory.host_bytes is not None and row.hardware.device != "cuda"


def peaks(row: Row) -> Cell:
    """Return the peaks of memory in GB; where the device has none of its own, the host's."""
    memory = row.memory
    found = (memory.process_bytes, memory.steady_bytes, memory.reserved_bytes)
    if any(count is not None for count in found):
        process, *others = map(gigabytes, found)
        return Cell(process, tuple(others))
    return Cell() if memory.host_bytes is None else Cell(f"{gigabytes(memory.host_bytes)} (host)")


def share(row: Row) -> Cell:
    """Return an ok row's share of the ceiling that bounds it."""
    if row.share.share is None or row.share.bound is None or row.status != "ok":
        return Cell()
    return Cell(percent(row.share.share), (row.share.bound,))


def not_fused(ran: Dispatch) -> str:
    """Return what should have been seen and was not, with what ran in its place."""
    text = f"expected {', '.join(ran.missing)}"
    return f"{text}; ran instead: {ran.instead}" if ran.instead else text


def resembles(fault: str) -> str:
    """Return which known fault the error looks like."""
    return f"the error has the effect of a known fault: {fault}"


def published_text(figure: PublishedFigure) -> str:
    """Return a published figure with its memory, its status where that is not ok, and its correction."""
    if figure.figure is None:
        return figure.status
    text = significant(figure.figure, 3)
    if figure.memory_bytes is not None:
        text += f" ({gigabytes(figure.memory_bytes)} GB)"
    if figure.status != "ok":
        text = f"~~{text}~~ {figure.status}"
    return f"{text}, corrected to {significant(figure.corrected, 3)}" if figure.corrected is not None else text


def scaling(row: Row) -> Cell:
    """Return which share of so many times one device's speed the row has, with its interval."""
    found = row.scaling
    if found is None or row.status != "ok":
        return Cell()
    interval = () if found.interval is None else (between_texts(found.interval, *map(percent, found.interval)),)
    return Cell(percent(found.efficiency), (*interval, found.way))


def _tokens(row: Row) -> Cell:
    first, further = row.figure.first_token_seconds, row.figure.next_token_seconds
    return Cell() if row.status != "ok" or first is None else Cell(milliseconds(first), (milliseconds(further),))


def _each(row: Row) -> Cell:
    return Cell() if row.headline is None else Cell(significant(row.headline / (row.workload.batch or 1)))


def _startup(row: Row) -> Cell:
    seconds = row.first_call.startup_seconds
    return Cell() if row.status != "ok" or seconds is None else Cell(significant(seconds, SECONDS_DIGITS))


def _published_by(comparison: Published) -> Callable[[Pair], Cell]:
    def cell(pair: Pair) -> Cell:
        figure = pair.published
        return Cell() if figure is None or figure not in comparison.figures else Cell(published_text(figure))

    return cell


COLUMNS = (
    Column("versus", "against eager", lambda pair: against_eager(pair.steady), ("times as fast", "as eager")),
    Column("checks", "checks", lambda pair: Cell(checks(pair.steady))),
    Column("ratio", "error ÷ eager's", lambda pair: error_ratio(pair.steady), ("error ÷", "eager's")),
    Column("note", "as the note", lambda pair: speed(pair.note)),
    Column("tokens", "first, further token, ms", lambda pair: _tokens(pair.steady), join=", "),
    Column("each", "each sequence, tokens/s", lambda pair: _each(pair.steady), ("each sequence,", "tokens/s")),
    Column("startup", "start-up, s", lambda pair: _startup(pair.steady), ("start-up,", "s")),
    Column("first", "first call, s", lambda pair: first_call(pair.steady), ("first call, s", "cold, warm")),
    Column("even", "pays off after", lambda pair: Cell(break_even(pair.steady))),
    Column("peak", "peak GB: process, steady, reserved", lambda pair: peaks(pair.steady), ("peak,", "GB"), join=", "),
    Column("share", "of the ceiling", lambda pair: share(pair.steady), ("ceiling,", "%")),
)
OF: Mapping[str, tuple[Benchmark, ...]] = {"tokens": GENERATING, "each": (BATCHED,), "startup": (BATCHED,)}
"""Columns of some benchmarks alone; the start-up also where there are engines."""
SCALING = Column("scaling", "scaling efficiency", lambda pair: scaling(pair.steady), ("scaling,", "%"))
"""Of rows of several devices alone."""
