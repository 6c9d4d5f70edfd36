"""The tables for a paper: one LaTeX table for each benchmark and workload; they need the package booktabs alone."""

from __future__ import annotations

import unicodedata
from itertools import groupby
from typing import TYPE_CHECKING

from orchestrator.numbers import MISSING, between, counted, gigabytes, percent, significant
from orchestrator.protocol import LEVEL, higher_is_better, unit_of
from orchestrator.reduce import place
from orchestrator.tables import proof
from orchestrator.tables.markdown import describe
from orchestrator.tables.text import shortened

if TYPE_CHECKING:
    from collections.abc import Sequence

    from orchestrator.protocol import Protocol
    from orchestrator.report import Pair, Report
    from orchestrator.rows import Row

STATUS_LENGTH = 60
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
    rows = [pair.note if protocol == "note" else pair.steady for pair in _ordered(report, protocol)]
    head = f"% run {report.header.run_id}, suite {report.header.suite}, begun {report.header.started_utc}"
    parts = [_comment(head), "% needs \\usepackage{booktabs} and \\usepackage[T1]{fontenc}, \\usepackage{textcomp}"]
    for _, group in groupby(rows, key=lambda row: row.workload_id):
        parts.append(_table(list(group)))
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


def _ordered(report: Report, protocol: Protocol | None) -> Sequence[Pair]:
    return sorted(report.pairs, key=lambda pair: place(pair.note)) if protocol == "note" else report.pairs


def _table(rows: Sequence[Row]) -> str:
    first = rows[0]
    unit = unit_of(first.benchmark)
    better = "higher" if higher_is_better(first.benchmark) else "lower"
    header = ["method@stack", unit]
    header += [f"{LEVEL:.0%} interval", "against eager"] if first.protocol == "steady" else []
    header += ["error ÷ eager's", "first call, s", "peak, GB", "of the ceiling", "status"]
    devices = dict.fromkeys(row.hardware.name for row in rows if row.hardware.name)
    caption = f"{first.benchmark}: {describe(first.workload)}; {better} is better."
    caption += f" On {', '.join(devices) or 'an unknown device'}."
    body = [" & ".join(escape(text) for text in _line(row)) + r" \\" for row in rows]
    return "\n".join(
        [
            r"\begin{table}",
            rf"\caption{{{escape(caption)}}}",
            rf"\begin{{tabular}}{{l{'r' * (len(header) - 2)}l}}",
            r"\toprule",
            " & ".join(escape(text) for text in header) + r" \\",
            r"\midrule",
            *body,
            r"\bottomrule",
            r"\end{tabular}",
            r"\end{table}",
        ]
    )


def _line(row: Row) -> list[str]:
    line = [row.name, MISSING if row.headline is None else significant(row.headline)]
    if row.protocol == "steady":
        line += [_interval(row), proof.against_eager(row)]
    ok = row.status == "ok"
    share = f"{percent(row.share.share)} {row.share.bound}" if ok and row.share.share is not None else MISSING
    return [*line, proof.error_ratio(row), proof.first_call(row), gigabytes(row.process_bytes), share, _status(row)]


def _interval(row: Row) -> str:
    if row.headline is None or row.interval is None:
        return MISSING
    text = between(*row.interval)
    if row.interval_kind == "within-process":
        level = row.interval_level or LEVEL
        return f"{text} in one process" + ("" if level >= LEVEL else f" at {level:.0%}")
    return f"{text}, {counted(row.rounds_ok, 'round')}"


def _status(row: Row) -> str:
    flags = [flag for flag in row.flags if flag not in ("cold", "warm") and row.status in ("ok", "incorrect")]
    text = f"{row.status} ({', '.join(flags)})" if flags else row.status
    return f"{text}: {shortened(row.reason, STATUS_LENGTH)}" if row.reason else text
