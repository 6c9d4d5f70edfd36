"""The tables for a paper: one LaTeX table for each benchmark and workload, narrow enough for a column of text.

What is long and stands in many cells is written once, in the caption, and has a letter in the cells.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Mapping, Sequence
from itertools import groupby

from orchestrator.analysis.protocol import Protocol
from orchestrator.analysis.reduce import place
from orchestrator.analysis.reduced_run import Report
from orchestrator.analysis.rows import Row
from orchestrator.analysis.statistics import LEVEL
from orchestrator.base.text import MISSING, between, counted, gigabytes, shortened, significant
from orchestrator.records.record import COMPUTED
from orchestrator.report.columns import (
    SECONDS_DIGITS,
    against_eager,
    columns,
    error_ratio,
    first_call,
    host_memory,
    share,
)
from orchestrator.report.words import better

REASON_LENGTH = 60
LETTERS = 26
SPECIAL = {
    "\\": r"\textbackslash{}",
    "{": r"\{",
    "}": r"\}",
    "$": r"\$",
    "&": r"\&",
    "#": r"\#",
    "%": r"\%",
    "_": r"\_",
    "^": r"\textasciicircum{}",
    "~": r"\textasciitilde{}",
    "<": r"\textless{}",
    ">": r"\textgreater{}",
    "|": r"\textbar{}",
    '"': r"\textquotedbl{}",
    "'": r"\textquotesingle{}",
    "`": r"\textasciigrave{}",
    "-": "{-}",
    "[": "{[}",
    "]": "{]}",
    "×": r"$\times$",  # noqa: RUF001  (times)
    "÷": r"$\div$",
    "±": r"$\pm$",
    "–": "--",  # noqa: RUF001  (a dash)
    "…": r"\dots{}",
}
"""Dashes are kept from joining, and brackets from being taken for the option of a line's end."""


def render(report: Report, protocol: Protocol | None = None) -> str:
    """Return the tables; the figures are those of `protocol` (steady where null)."""
    of_note = protocol == "note"
    rows = sorted((p.note for p in report.pairs), key=place) if of_note else [p.steady for p in report.pairs]
    head = f"% run {report.header.run_id}, suite {report.header.suite}, started {report.header.started_utc}"
    parts = [_comment(head), "% needs \\usepackage{booktabs} and \\usepackage[T1]{fontenc}, \\usepackage{textcomp}"]
    for _, group in groupby(rows, key=lambda row: row.workload_id):
        parts.append(_table(list(group), report.what))
    if not rows:
        parts.append("% no cell has a record yet")
    return "\n".join(parts) + "\n"


def escape(text: str) -> str:
    """Return `text` so that LaTeX sets it as it is; what no plain font has, control signs too, becomes a `?`."""
    line = " ".join(text.split())
    return "".join(SPECIAL.get(c) or (c if c.isascii() and c.isprintable() else _plain(c)) for c in line)


def _plain(character: str) -> str:
    """Return the letter without its accent, or a question mark."""
    bare = unicodedata.normalize("NFKD", character)[0]
    return bare if bare.isascii() and bare.isalnum() else "?"


def _comment(text: str) -> str:
    """Return one line that nothing gets out of."""
    return "".join(c if c.isascii() and c.isprintable() else "?" for c in " ".join(text.split()))


class Marks:
    """Letters that stand raised in a table for texts that its caption has once."""

    def __init__(self) -> None:
        self.texts: list[str] = []

    def __call__(self, text: str) -> str:
        """Return the raised letter for a plain text, a new one or the one that it has."""
        if text not in self.texts:
            self.texts.append(text)
        return rf"\textsuperscript{{{_letter(self.texts.index(text))}}}"

    def legend(self) -> str:
        """Return what the letters stand for."""
        return " ".join(f"({_letter(number)}) {text}." for number, text in enumerate(self.texts))


def _letter(number: int) -> str:
    return chr(ord("a") + number) if number < LETTERS else str(number)


def _table(rows: Sequence[Row], what: Mapping[str, str]) -> str:
    first, marks = rows[0], Marks()
    stacks = dict.fromkeys(row.stack for row in rows)
    heads_of = {column.key: column.short for column in columns(first.benchmark, ())}
    header = [("method" if len(stacks) == 1 else "method@stack", ""), heads_of["steady"]]
    header += [("interval", ""), heads_of["versus"]] if first.protocol == "steady" else []
    header += [heads_of[key] for key in ("ratio", "first", "peak", "share")]
    body = [_line(row, marks, alone=len(stacks) == 1, width=len(header)) + r" \\" for row in rows]
    heads = [" & ".join(escape(part) for part in line) + r" \\" for line in zip(*header, strict=True)]
    return "\n".join(
        [
            r"\begin{table}",
            r"\centering\footnotesize\setlength{\tabcolsep}{3pt}",
            rf"\caption{{{escape(_caption(rows, what, list(stacks), marks))}}}",
            rf"\begin{{tabular}}{{l{'r' * (len(header) - 1)}}}",
            r"\toprule",
            *heads,
            r"\midrule",
            *body,
            r"\bottomrule",
            r"\end{tabular}",
            r"\end{table}",
        ]
    )


def _caption(rows: Sequence[Row], what: Mapping[str, str], stacks: Sequence[str], marks: Marks) -> str:
    first = rows[0]
    devices = ", ".join(dict.fromkeys(row.hardware.name for row in rows if row.hardware.name)) or "an unknown device"
    where = f"{devices}, stack {stacks[0]}" if len(stacks) == 1 else devices
    parts = [
        f"{first.benchmark}: {what[first.workload_id]}; {better(first.benchmark)} is better.",
        f"On {where}.",
        marks.legend(),
    ]
    return " ".join(part for part in parts if part)


def _line(row: Row, marks: Marks, *, alone: bool, width: int) -> str:
    name = escape(row.method if alone else row.name)
    if row.status in COMPUTED:
        name += "".join(map(marks, row.shown_flags))
    if row.headline is None:
        reason = row.reason or row.figure.reason
        why = f"{row.status}: {shortened(reason, REASON_LENGTH)}" if reason else row.status
        return rf"{name} & \multicolumn{{{width - 1}}}{{l}}{{{escape(why)}}}"
    cells = [name, escape(significant(row.headline))]
    cells += [_interval(row, marks), _versus(row, marks)] if row.protocol == "steady" else []
    cells += [escape(error_ratio(row).text), _first_call(row, marks), _peak(row, marks)]
    return " & ".join([*cells, _share(row, marks)])


def _interval(row: Row, marks: Marks) -> str:
    if row.figure.interval is None:
        return escape(MISSING)
    level = f"{int((row.figure.interval_level or LEVEL) * 100)} %"
    what = f"interval at {level}, {counted(row.rounds_ok, 'round')}"
    if row.figure.interval_kind == "within-process":
        what = f"interval at {level} within one process, which does not include how processes differ"
    return escape(between(*row.figure.interval)) + marks(what)


def _versus(row: Row, marks: Marks) -> str:
    if row.versus is None or row.versus.verdict.speedup is None:
        return escape(MISSING)
    cell, reason = against_eager(row), row.versus.verdict.reason
    *interval, outcome = cell.beside
    text = " ".join((cell.text.removesuffix("×"), *interval))  # noqa: RUF001  (times)
    return escape(text) + marks(f"{outcome}: {reason}" if reason else outcome)


def _first_call(row: Row, marks: Marks) -> str:
    call = row.first_call
    text = escape(first_call(row).text)
    if call.seconds is not None and call.cache != "cold":
        text += marks(f"first call {call.cache or 'state of the compile cache unknown'}")
    if call.warm_seconds is not None and call.cache != "warm":
        text += escape(f", {significant(call.warm_seconds, SECONDS_DIGITS)}")
    return text


def _peak(row: Row, marks: Marks) -> str:
    if host_memory(row):
        return escape(gigabytes(row.memory.host_bytes)) + marks("of the host's memory")
    return escape(gigabytes(row.memory.process_bytes))


def _share(row: Row, marks: Marks) -> str:
    cell = share(row)
    return escape(cell.text.removesuffix(" %")) + "".join(marks(f"share of the {b} ceiling") for b in cell.beside)
