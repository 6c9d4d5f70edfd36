"""The tables for people, like the note's: one for each benchmark and workload, best row first, proof beside it."""

from __future__ import annotations

from collections import Counter
from itertools import groupby
from typing import TYPE_CHECKING

from orchestrator.analysis.growth import growths
from orchestrator.analysis.protocol import higher_is_better, unit_of
from orchestrator.analysis.reduce import place
from orchestrator.analysis.statistics import LEVEL
from orchestrator.base.text import (
    MISSING,
    between,
    code,
    escape,
    gigabytes,
    milliseconds,
    percent,
    shortened,
    significant,
)
from orchestrator.plan.workload import GENERATING, WHAT, describe
from orchestrator.report import cells as proof
from orchestrator.report import notes

if TYPE_CHECKING:
    from collections.abc import Sequence

    from orchestrator.analysis.ceilings import Ceiling
    from orchestrator.analysis.protocol import Protocol
    from orchestrator.analysis.published import PublishedFigure
    from orchestrator.analysis.reduced_run import Pair, Report
    from orchestrator.analysis.rows import Row
    from orchestrator.plan.workload import Workload


REASON_LENGTH = 300


def render(report: Report, protocol: Protocol | None = None) -> str:
    """Return the whole page. Both protocols are shown; rows are in the order of `protocol` (steady where null)."""
    first: Protocol = protocol or "steady"
    ordered = report.pairs if first == "steady" else sorted(report.pairs, key=lambda pair: place(pair.note))
    parts = [f"# Suite {escape(report.header.suite)}: tables", _head(report)]
    parts += [f"**Could not be read, and is not in the tables:** {escape(line)}" for line in report.unreadable]
    parts += [
        f"**No reference could be made:** {escape(shortened(line, REASON_LENGTH))}" for line in report.failed_references
    ]
    for _, group in groupby(ordered, key=lambda pair: (pair.steady.benchmark, pair.steady.workload_id)):
        pairs = list(group)
        parts += [_heading(pairs[0].steady.workload), _table(pairs, report, first), notes.below(pairs, report)]
    if not report.pairs:
        parts.append("No cell has a record yet.")
    parts += [_growth(report), notes.stacks(report), notes.published(report), notes.HOW_TO_READ]
    return "\n\n".join(part for part in parts if part) + "\n"


def columns(header: Sequence[str], lines: Sequence[Sequence[str]], left: Sequence[int] = (0,)) -> str:
    """Return a Markdown table; columns not in `left` (negative counts from the end) are set to the right."""
    at_left = {index % len(header) for index in left}
    rule = [":---" if index in at_left else "---:" for index in range(len(header))]
    return "\n".join("| " + " | ".join(cells) + " |" for cells in (header, rule, *lines))


def _head(report: Report) -> str:
    header = report.header
    unfinished = "" if header.finished_utc else ", **not finished**"
    hardware = sorted(
        {pair.steady.hardware.in_words for pair in report.pairs} | {c.hardware.in_words for c in report.ceilings}
    )
    facts = [
        ("Ran on", "<br>".join(escape(text) for text in hardware if text) or MISSING),
        ("Measured ceilings", "<br>".join(dict.fromkeys(_ceiling(c) for c in report.ceilings)) or "none in this run"),
        ("Run", f"{escape(header.run_id)}, begun {escape(header.started_utc)}"),
        ("Rounds", f"{report.recorded} of {report.planned} recorded{unfinished}"),
        ("Rows", _counts(report)),
    ]
    if header.note:
        facts.append(("Remark", escape(header.note)))
    return columns(("", ""), facts, left=(0, 1))


def _counts(report: Report) -> str:
    found = Counter(pair.steady.status for pair in report.pairs)
    return ", ".join(f"{count} {status}" for status, count in found.most_common()) or "none"


def _ceiling(ceiling: Ceiling) -> str:
    if ceiling.status != "ok":
        return escape(f"{ceiling.status}: {shortened(ceiling.reason or 'no reason given', REASON_LENGTH)}")
    return escape(ceiling.in_words)


def _heading(workload: Workload) -> str:
    better = "higher" if higher_is_better(workload.benchmark) else "lower"
    return f"## {workload.benchmark}: {escape(describe(workload))}\n\n{WHAT[workload.benchmark]}; {better} is better."


def _table(pairs: Sequence[Pair], report: Report, first: Protocol) -> str:
    benchmark = pairs[0].steady.benchmark
    unit, generating = unit_of(benchmark), benchmark in GENERATING
    published = notes.comparisons(pairs, report)
    header = ["method@stack", f"steady, {unit}", "against eager", "checks", "error ÷ eager's", f"as the note, {unit}"]
    header += ["first, further token, ms"] if generating else []
    header += ["first call, s", "pays off after", "peak GB: process, steady, reserved", "of the ceiling"]
    header += [f"{escape(comparison.short)}, {unit}" for comparison in published]
    header += ["status"]
    alike = {name for name, count in Counter(pair.steady.name for pair in pairs).items() if count > 1}
    lines = []
    for pair in pairs:
        row = pair.steady
        speed, as_the_note = _speeds(pair, first)
        line = [_name(row, alike), speed, proof.against_eager(row), proof.checks(row), proof.error_ratio(row)]
        line += [as_the_note, *([_tokens(row)] if generating else [])]
        line += [proof.first_call(row), proof.break_even(row), _peaks(row), _share(row)]
        line += [_published(pair.published, comparison.figures) for comparison in published]
        lines.append([*line, _status(row)])
    return columns(header, lines, left=(0, -1))


def _growth(report: Report) -> str:
    rows = {pair.steady.cell_id: pair.steady for pair in report.pairs}
    lines, remarks = [], []
    for growth in growths(rows.values()):
        if len(growth.gpus) > 1:
            where = f"{len(growth.gpus)} GPUs, whose hosts may compile at different speeds"
            remarks.append(f"- {code(growth.name)}: measured on {where}.")
        for point in growth.points:
            row = rows[point.cell_id]
            what = f"{row.benchmark}: {describe(row.workload)}"
            first = significant(point.first_call_seconds, proof.SECONDS_DIGITS)
            further = point.further_layer_seconds
            each = MISSING if further is None else significant(further, proof.SECONDS_DIGITS)
            lines.append([code(growth.name), escape(what), str(point.layers), first, each])
    if not lines:
        return ""
    header = ("method@stack", "what", "layers", "first call, s", "each further layer, s")
    about = (
        "From an empty compile cache, compilation included; a further layer: one more than in the line above, where"
        " that ran on the same GPU."
    )
    table = columns(header, lines, left=(0, 1))
    parts = ["## How the first call grows with the layers", about, table, "\n".join(dict.fromkeys(remarks))]
    return "\n\n".join(part for part in parts if part)


def _name(row: Row, alike: set[str]) -> str:
    return f"{code(row.name)} ({escape(row.cell_id[:8])})" if row.name in alike else code(row.name)


def _speeds(pair: Pair, first: Protocol) -> tuple[str, str]:
    steady, note = _speed(pair.steady, first), _speed(pair.note, first)
    if pair.steady.headline is not None and pair.steady.figure.interval is not None:
        steady += f" {between(*pair.steady.figure.interval)}"
        level = pair.steady.figure.interval_level or LEVEL
        steady += "" if level >= LEVEL else f" at {int(level * 100)} %"
    if pair.note.headline is not None and not pair.note.figure.complete:
        note += " \\*"
    return steady, note


def _speed(row: Row, first: Protocol) -> str:
    if row.headline is None:
        return MISSING
    return f"**{significant(row.headline)}**" if row.protocol == first else significant(row.headline)


def _tokens(row: Row) -> str:
    if row.status != "ok" or row.figure.first_token_seconds is None:
        return MISSING
    return f"{milliseconds(row.figure.first_token_seconds)}, {milliseconds(row.figure.next_token_seconds)}"


def _peaks(row: Row) -> str:
    peaks = (row.memory.process_bytes, row.memory.steady_bytes, row.memory.reserved_bytes)
    if any(count is not None for count in peaks):
        return ", ".join(map(gigabytes, peaks))
    return MISSING if row.memory.host_bytes is None else f"{gigabytes(row.memory.host_bytes)} (host)"


def _share(row: Row) -> str:
    if row.share.share is None or row.status != "ok":
        return MISSING
    return f"{percent(row.share.share)} {row.share.bound}"


def _published(figure: PublishedFigure | None, of: Sequence[PublishedFigure]) -> str:
    if figure is None or figure not in of:
        return MISSING
    return notes.published_text(figure)


def _status(row: Row) -> str:
    flags = ", ".join(row.shown_flags)
    status = row.status if row.status == "ok" else f"**{row.status}**"
    text = f"{status}{f' ({flags})' if flags else ''}"
    if row.rounds > 1 and row.rounds_ok < row.rounds:
        text += f", {row.rounds_ok} of {row.rounds} rounds ok"
    if row.status == "ok" and row.figure.value is None and row.figure.reason:
        text += f": {escape(shortened(row.figure.reason, REASON_LENGTH))}"
    return f"{text}: {escape(shortened(row.reason, REASON_LENGTH))}" if row.reason else text
