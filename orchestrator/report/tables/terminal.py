"""The tables for a terminal: what a row came to, a sentence for each table, where the rest is. At most 100 columns."""

from __future__ import annotations

import io
import shlex
import shutil
import sys
from collections.abc import Iterator, Sequence
from itertools import groupby

from rich.console import Console
from rich.table import Table
from rich.text import Text

from orchestrator.analysis.protocol import Protocol
from orchestrator.analysis.reduce import place
from orchestrator.analysis.reduced_run import Pair, Report
from orchestrator.analysis.rows import Row
from orchestrator.base.grouping import grouped
from orchestrator.base.text import MISSING, one_line, shortened, show
from orchestrator.records.record import BAD, Status
from orchestrator.report.again import program
from orchestrator.report.columns import against_eager, beside_status, checks, name_in, speed
from orchestrator.report.conclusion import conclude
from orchestrator.report.words import GLOSSARY, better, disturbances, disturbed

WIDEST = 100
REASON_LENGTH = 200
COLOURS = {"faster": "green", "slower": "red"}


def show_report(report: Report, run: str, protocol: Protocol | None = None) -> None:
    """Print the tables on standard output: as wide as it is, and in colour, where it is a terminal.

    `run` is how a command names the run. OSError where nothing can be written.
    """
    terminal = sys.stdout.isatty()
    width = min(shutil.get_terminal_size((WIDEST, 24)).columns, WIDEST)
    show(render(report, run, protocol, width=width, terminal=terminal), end="", styled=terminal)


def render(
    report: Report, run: str, protocol: Protocol | None = None, *, width: int = WIDEST, terminal: bool = False
) -> str:
    """Return the tables in `width` columns; in colour on a `terminal` whose environment does not ask for none.

    Speeds are those of `protocol` (steady where null); times as fast as eager, checks and sentence are the same in
    both. What a meaning hangs on is said in words: colour only repeats it.
    """
    out = io.StringIO()
    console = Console(
        file=out, width=width, force_terminal=terminal, highlight=False, emoji=False, legacy_windows=False
    )
    for text in _head(report):
        console.print(text)
    for _, group in groupby(report.pairs, key=lambda pair: (pair.steady.benchmark, pair.steady.workload_id)):
        pairs = list(group)
        rows = [pair.steady for pair in pairs]
        console.print()
        what = one_line(f"{rows[0].benchmark}: {report.what[rows[0].workload_id]}")
        console.print(Text(what, style="bold"), Text(f"({better(rows[0].benchmark)} is better)"))
        console.print(_table(pairs, of_note=protocol == "note"))
        for line in (*_reasons(rows), *_tainted(rows), conclude(rows)):
            console.print(Text(one_line(line)))
    if not report.pairs:
        console.print(Text("no cell has a record yet"))
    flags = _flags(report)
    for line in ["", *flags] if flags else []:
        console.print(Text(line))
    console.print()
    for line in _where(report, run):
        # A command is to be pasted: only the terminal itself may break it.
        console.print(Text(one_line(line)), soft_wrap=True)
    return "".join(f"{line.rstrip()}\n" for line in out.getvalue().splitlines())


def _head(report: Report) -> Iterator[Text]:
    header = report.header
    devices = sorted({pair.steady.hardware.in_words for pair in report.pairs} - {None, ""})
    on = f" on {', '.join(filter(None, devices))}" if devices else ""
    yield Text(one_line(f"run {header.run_id}, suite {header.suite}{on}"), style="bold")
    if header.imported_utc:
        yield Text(one_line(f"imported {header.imported_utc}: not measured here"))
    if not header.finished_utc:
        yield Text(f"not finished: {report.recorded} of {report.planned} rounds are recorded", style="yellow")
    for line in report.unreadable:
        yield Text(one_line(f"could not be read, and is not in the tables: {line}"), style="yellow")
    if told := disturbed(report.ceilings):
        yield Text(one_line(told), style="yellow")
    for line in report.failed_references:
        yield Text(one_line(f"no reference could be made: {shortened(line, REASON_LENGTH)}"), style="yellow")


def _table(pairs: Sequence[Pair], *, of_note: bool) -> Table:
    shown = Table(box=None, pad_edge=False, header_style="bold", padding=(0, 2, 0, 0))
    shown.add_column("method@stack", overflow="fold")
    shown.add_column("speed, as the note" if of_note else "speed", justify="right", overflow="fold")
    for head in ("against eager", "checks", "status"):
        shown.add_column(head, overflow="fold")
    rows = [pair.steady for pair in pairs]
    for pair in sorted(pairs, key=lambda pair: place(pair.note)) if of_note else pairs:
        row = pair.steady
        shown.add_row(
            Text(one_line(name_in(row, rows))),
            Text(_speed(pair.note if of_note else row)),
            _versus(row),
            Text(checks(row)),
            Text(f"{row.status}{beside_status(row)}", style=_colour(row.status)),
        )
    return shown


def _speed(row: Row) -> str:
    figure = speed(row).text
    return figure if figure == MISSING else f"{figure} {row.figure.unit}"


def _versus(row: Row) -> Text:
    cell = against_eager(row)
    outcome = cell.beside[-1] if cell.beside else ""
    return Text(f"{cell.text} {outcome}".rstrip(), style=COLOURS.get(outcome, ""))


def _colour(status: Status) -> str:
    return "green" if status == "ok" else "red" if status in BAD else "yellow"


def _reasons(rows: Sequence[Row]) -> Iterator[str]:
    """Yield a line for each reason why rows have no speed, with the names of its rows."""
    without = [row for row in rows if row.headline is None and (row.reason or row.figure.reason)]
    for (status, reason), names in grouped(
        ((row.status, row.reason or row.figure.reason or ""), row.name) for row in without
    ).items():
        yield f"{', '.join(dict.fromkeys(names))} {status}: {shortened(one_line(reason), REASON_LENGTH)}"


def _tainted(rows: Sequence[Row]) -> Iterator[str]:
    """Yield a line for each thing that disturbed a row which has the flag for it."""
    for row in rows:
        if "tainted" in row.shown_flags:
            yield from (f"tainted {row.name}: {line}" for line in disturbances(row))


def _flags(report: Report) -> list[str]:
    """Return what the flags mean that rows have here."""
    shown = dict.fromkeys(flag for pair in report.pairs for flag in pair.steady.shown_flags)
    return [f"{flag}: {GLOSSARY[flag]}" for flag in shown if flag in GLOSSARY]


def _where(report: Report, run: str) -> list[str]:
    """Return where the rest is: commands that can be pasted."""
    name, called = shlex.quote(run), program()
    explain = []
    if report.pairs:
        row = report.pairs[0].steady
        # A name that several cells have names none of them.
        only = sum(pair.steady.title == row.title for pair in report.pairs) == 1
        cell = shlex.quote(row.title if only else row.cell_id)
        explain = [f"a row's proof:  {called} explain {cell} --run {name}"]
    return [
        f"all columns, and what the words mean:  {called} table {name} --format markdown",
        f"a page for a browser:  {called} report {name}",
        *explain,
    ]
