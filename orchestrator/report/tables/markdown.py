"""The tables for people, like the note's: one for each benchmark and workload, best row first, proof beside it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from itertools import groupby

from orchestrator.analysis.growth import growths
from orchestrator.analysis.protocol import Protocol, unit_of
from orchestrator.analysis.reduce import place
from orchestrator.analysis.reduced_run import Pair, Report
from orchestrator.analysis.rows import Row
from orchestrator.base.text import MISSING, code, escape, shortened, significant
from orchestrator.plan.workload import WHAT
from orchestrator.records.record import Environment
from orchestrator.report.columns import SECONDS_DIGITS, Column, beside_status, columns_of
from orchestrator.report.remarks import about_published, as_markdown, comparisons, figure_caveats, remarks, run_facts
from orchestrator.report.words import better, glossary_in_markdown

REASON_LENGTH = 300
SHORT_HASH = 12
WHERE_EXPLAINED = (
    "Columns and flags, and the words note, reference, probe and drift, are explained [at the end](#how-to-read-this)."
)


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
        parts += [_heading(pairs[0].steady, report), _table(pairs, report, first), _below(pairs, report)]
    if not report.pairs:
        parts.append("No cell has a record yet.")
    several = any(pair.steady.workload.devices > 1 for pair in report.pairs)
    parts += [_growth(report), _stacks(report), _published(report), glossary_in_markdown(several=several)]
    return "\n\n".join(part for part in parts if part) + "\n"


def grid(header: Sequence[str], lines: Sequence[Sequence[str]], left: Sequence[int] = (0,)) -> str:
    """Return a Markdown table; columns not in `left` (negative counts from the end) are set to the right."""
    at_left = {index % len(header) for index in left}
    rule = [":---" if index in at_left else "---:" for index in range(len(header))]
    return "\n".join("| " + " | ".join(cells) + " |" for cells in (header, rule, *lines))


def _head(report: Report) -> str:
    facts = [(name, "<br>".join(map(escape, lines))) for name, lines in run_facts(report)]
    unfinished = [] if report.header.finished_utc else ["**The run was not finished.**"]
    return "\n\n".join([grid(("", ""), facts, left=(0, 1)), *unfinished, WHERE_EXPLAINED])


def _heading(row: Row, report: Report) -> str:
    what = f"{WHAT[row.benchmark]}; {better(row.benchmark)} is better."
    return f"## {row.benchmark}: {escape(report.what[row.workload_id])}\n\n{what}"


def _table(pairs: Sequence[Pair], report: Report, first: Protocol) -> str:
    shown = columns_of(pairs, comparisons([(report, pair) for pair in pairs]))
    unit = unit_of(pairs[0].steady.benchmark)
    heads = [escape(column.head) + (f", {unit}" if column.key == "note" else "") for column in shown]
    alike = {name for name, count in Counter(pair.steady.name for pair in pairs).items() if count > 1}
    lines = [
        [
            _name(pair.steady, alike),
            *(_cell(column, pair, strong=column.key == first) for column in shown),
            _status(pair.steady),
        ]
        for pair in pairs
    ]
    return grid(("method@stack", *heads, "status"), lines, left=(0, -1))


def _cell(column: Column, pair: Pair, *, strong: bool) -> str:
    """Return a row's cell; what the rows are ordered by stands out. Nothing in it comes from a record."""
    line = column.line(pair).replace("*", "\\*")
    if not strong or line == MISSING:
        return line
    figure, _, rest = line.partition(" ")
    return f"**{figure}** {rest}" if rest else f"**{figure}**"


def _growth(report: Report) -> str:
    rows = {pair.steady.cell_id: pair.steady for pair in report.pairs}
    lines, remarks = [], []
    for growth in growths(rows.values()):
        if len(growth.gpus) > 1:
            where = f"{len(growth.gpus)} GPUs, whose hosts may compile at different speeds"
            remarks.append(f"- {code(growth.name)}: measured on {where}.")
        for point in growth.points:
            row = rows[point.cell_id]
            what = f"{row.benchmark}: {report.what[row.workload_id]}"
            first = significant(point.first_call_seconds, SECONDS_DIGITS)
            further = point.further_layer_seconds
            each = MISSING if further is None else significant(further, SECONDS_DIGITS)
            lines.append([code(growth.name), escape(what), str(point.layers), first, each])
    if not lines:
        return ""
    header = ("method@stack", "what", "layers", "first call, s", "each further layer, s")
    about = (
        "From an empty compile cache, compilation included; a further layer: one more than in the line above, where"
        " that ran on the same GPU."
    )
    table = grid(header, lines, left=(0, 1))
    parts = ["## How the first call grows with the layers", about, table, "\n".join(dict.fromkeys(remarks))]
    return "\n\n".join(part for part in parts if part)


def _name(row: Row, alike: set[str]) -> str:
    return f"{code(row.name)} ({escape(row.cell_id[:8])})" if row.name in alike else code(row.name)


def _status(row: Row) -> str:
    text = (row.status if row.status == "ok" else f"**{row.status}**") + beside_status(row)
    if row.status == "ok" and row.figure.value is None and row.figure.reason:
        text += f": {escape(shortened(row.figure.reason, REASON_LENGTH))}"
    return f"{text}: {escape(shortened(row.reason, REASON_LENGTH))}" if row.reason else text


def _below(pairs: Sequence[Pair], report: Report) -> str:
    """Return the remarks on one benchmark's table as a list."""
    found = [(report, pair) for pair in pairs]
    lines = remarks(found)
    for comparison in comparisons(found):
        lines += figure_caveats(comparison, comparison.for_workload(pairs[0].steady.workload))
    return "\n".join(f"- {as_markdown(line)}" for line in lines)


def _stacks(report: Report) -> str:
    """Return the section that says what each stack was made of."""
    rows = {(row.stack, id(row.environment), row.image_id): row for row in (pair.steady for pair in report.pairs)}
    images: dict[str, dict[str, None]] = {}
    for row in sorted(rows.values(), key=lambda row: row.stack):
        if row.environment is not None:
            # A run that went on elsewhere may have had another image of the very same packages.
            found = images.setdefault(f"- {code(row.stack)}: {escape(_versions(row.environment))}", {})
            if row.image_id:
                found[row.image_id.removeprefix("sha256:")[:SHORT_HASH]] = None
    lines = [f"{line}, image {' and '.join(map(escape, found))}" if found else line for line, found in images.items()]
    return "\n".join(["## Stacks", "", *lines]) if lines else ""


def _versions(of: Environment) -> str:
    parts = [
        ("Python", of.python),
        ("torch", of.torch),
        ("torch's commit", of.torch_git and of.torch_git[:SHORT_HASH]),
        ("CUDA", of.cuda),
        ("cuDNN", of.cudnn),
        ("Triton", of.triton),
        ("compiler", of.compiler),
        *((name, version) for name, version in of.kernel_packages.items() if name != "triton"),
        ("fingerprint", of.fingerprint),
    ]
    return ", ".join(f"{name} {value}" for name, value in parts if value)


def _published(report: Report) -> str:
    """Return the section on where the published figures come from, with the caveats that hold for all of them."""
    lines = [
        f"- {as_markdown(line)}"
        for comparison in report.published
        if any(comparison.for_workload(pair.steady.workload) for pair in report.pairs)
        for line in about_published(comparison)
    ]
    return "\n".join(["## Published figures", "", *lines]) if lines else ""
