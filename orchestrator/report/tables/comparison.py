"""A comparison as text for a terminal, as Markdown, or as JSON. What came from records is escaped."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from orchestrator.analysis.compare import PUBLISHED, CellComparison, Comparison, Entry
from orchestrator.analysis.conditions import Difference
from orchestrator.analysis.statistics import Verdict
from orchestrator.base.grouping import grouped
from orchestrator.base.text import (
    MISSING,
    between,
    counted,
    escape,
    fitted,
    json_document,
    one_line,
    shortened,
    significant,
    wrapped,
)
from orchestrator.plan.workload import describe
from orchestrator.report.tables.markdown import grid

SCHEMA_VERSION = 1
REASON_LENGTH = 200
DIFFERENCES_SHOWN = 12
NAMES_SHOWN = 2
RATIO_DIGITS = 4
HEADER = ("cell", "workload", "A", "B", "B as fast as A", "verdict", "remarks")
BELOW = (1, 2, 3, 6)
"""The columns that a narrow terminal has below each row."""
QUIET_FLAGS = ("cold", "warm")


def render(comparison: Comparison, form: str, width: int | None = None) -> str:
    """Return the comparison as `text` (in `width` columns; null: no bound), `markdown` or `json`."""
    return (
        as_text(comparison, width) if form == "text" else {"markdown": as_markdown, "json": as_json}[form](comparison)
    )


def as_text(comparison: Comparison, width: int | None = None) -> str:
    """Return an aligned table, then what differs and what it comes to."""
    lines = fitted([HEADER, *map(_line, comparison.cells)], BELOW, width)
    head = f"A: {one_line(comparison.a)}\nB: {one_line(comparison.b)}"
    below = (piece for line in _below(comparison) for piece in wrapped(one_line(line), width, indent=2))
    return "\n".join([head, "", *lines, "", *below]) + "\n"


def as_markdown(comparison: Comparison) -> str:
    """Return a Markdown page, to be pasted into a pull request."""
    parts = [f"**{escape(comparison.b)}** (B) against **{escape(comparison.a)}** (A)"]
    if comparison.cells:
        lines = [[escape(text) for text in _line(cell)] for cell in comparison.cells]
        for line, cell in zip(lines, comparison.cells, strict=True):
            line[5] = line[5] if cell.result in ("same", "unmeasured", "only in B") else f"**{line[5]}**"
        parts.append(grid(HEADER, lines, left=(0, 1, -1, -2)))
    parts.append("\n".join(f"- {escape(line)}" for line in _below(comparison)))
    return "\n\n".join(parts) + "\n"


def as_json(comparison: Comparison) -> str:
    """Return everything, unrounded; `time_ratio` is B's time over A's, `speedup` its inverse; unknown is null.

    `a`, `b` (the sides' names), `protocol`, `exit_code`, `cells` (each with `result` and `reason`, both sides' figures
    and rounds, and the `differences` of their conditions), `geometric_mean`, and `unreadable`.
    """
    document = {
        "schema_version": SCHEMA_VERSION,
        **comparison.model_dump(include={"a", "b", "protocol"}),
        "exit_code": comparison.exit_code,
        "cells": [
            {
                "workload_id": cell.workload_id,
                "benchmark": cell.workload.benchmark,
                "workload": describe(cell.workload),
                "result": cell.result,
                "reason": cell.reason,
                "remark": cell.remark,
                **_ratio_facts(cell.verdict),
                "differences": [difference.model_dump() for difference in cell.differences],
                "a": _side_facts(cell.a),
                "b": _side_facts(cell.b),
            }
            for cell in comparison.cells
        ],
        "geometric_mean": None
        if comparison.mean is None
        else {
            "cells": comparison.mean.cells,
            "result": comparison.mean.verdict.outcome,
            **_ratio_facts(comparison.mean.verdict),
        },
        "unreadable": comparison.unreadable,
    }
    return json_document(document) + "\n"


def difference_lines(groups: Sequence[tuple[str, Sequence[Difference]]]) -> list[str]:
    """Return a line for each list of differences: `whose: driver 1 / 2, torch 2.1 / 2.2`."""
    lines = []
    for whose, found in groups:
        shown = ", ".join(str(difference) for difference in found[:DIFFERENCES_SHOWN])
        more = f", and {len(found) - DIFFERENCES_SHOWN} more" if len(found) > DIFFERENCES_SHOWN else ""
        lines.append(f"{whose}: {shown}{more}")
    return lines


def speedup(verdict: Verdict | None) -> str:
    """Return the ratio of speeds with its interval."""
    if verdict is None or verdict.speedup is None:
        return MISSING
    text = f"{significant(verdict.speedup, RATIO_DIGITS)}×"  # noqa: RUF001  (times)
    return text if verdict.speedup_interval is None else f"{text} {between(*verdict.speedup_interval, RATIO_DIGITS)}"


def _line(cell: CellComparison) -> tuple[str, ...]:
    remarks = [cell.reason, cell.remark, _flags(cell)]
    return (
        f"{cell.workload.benchmark} {_names(cell)}",
        describe(cell.workload),
        _figure(cell.a),
        _figure(cell.b),
        speedup(cell.verdict),
        cell.result,
        "; ".join(shortened(remark, REASON_LENGTH) for remark in remarks if remark),
    )


def _figure(entry: Entry | None) -> str:
    if entry is None or entry.figure is None:
        return MISSING
    rounds = PUBLISHED if entry.stack == PUBLISHED else counted(len(entry.round_seconds), "round")
    return f"{significant(entry.figure)} {entry.unit} ({rounds})"


def _flags(cell: CellComparison) -> str:
    # Where nothing was computed there was nothing to check.
    computed = [(side, entry) for side, entry in (("A", cell.a), ("B", cell.b)) if entry and entry.figure is not None]
    flags = grouped((flag, side) for side, entry in computed for flag in entry.flags if flag not in QUIET_FLAGS)
    return "; ".join(f"{' and '.join(sides)} {flag}" for flag, sides in flags.items())


def _below(comparison: Comparison) -> list[str]:
    lines = [f"could not be read, and is not compared: {line}" for line in comparison.unreadable]
    both = [cell for cell in comparison.cells if cell.a is not None and cell.b is not None]
    places = grouped((difference, index) for index, cell in enumerate(both) for difference in cell.differences)
    groups = grouped((where, difference) for difference, where in places.items())
    lines += difference_lines([(f"A / B differ in {_where(at, both)}", found) for at, found in groups.items()])
    if comparison.mean is not None:
        mean = comparison.mean.verdict
        lines.append(
            f"geometric mean of {comparison.mean.cells} cells: B is {speedup(mean)} as fast as A: {mean.outcome}"
        )
    counts = Counter(cell.result for cell in comparison.cells)
    found = ", ".join(f"{count} {result}" for result, count in counts.most_common())
    lines.append(f"{counted(len(comparison.cells), 'cell')}: {found}" if found else "nothing in common")
    if not both and (stacks := _stacks_apart(comparison)):
        mine, others = stacks
        lines.append(f"the stacks' names differ, the work and the methods do not: compare A:@{mine} B:@{others}")
    if comparison.protocol == "note":
        lines.append(
            "figures of both sides are computed as in the note; published ones have no rounds, so there is no verdict"
        )
    return lines


def _stacks_apart(comparison: Comparison) -> tuple[str, str] | None:
    """Return the two stacks under which most of the same work by the same methods stands, A's and B's."""
    mine = grouped(((a.workload_id, a.method), a.stack) for cell in comparison.cells if (a := cell.a))
    pairs = Counter(
        (stack, b.stack)
        for cell in comparison.cells
        if (b := cell.b)
        for stack in mine.get((b.workload_id, b.method), ())
    )
    return next((pair for pair, _ in pairs.most_common(1)), None)


def _where(indices: Sequence[int], cells: Sequence[CellComparison]) -> str:
    if len(indices) == len(cells):
        return "the cell" if len(cells) == 1 else f"all {len(cells)} cells"
    names = dict.fromkeys(f"{cells[i].workload.benchmark} {_names(cells[i])}" for i in indices)
    return ", ".join(names) if len(names) <= NAMES_SHOWN else f"{len(indices)} of {len(cells)} cells"


def _names(cell: CellComparison) -> str:
    return " / ".join(dict.fromkeys(entry.name for entry in (cell.a, cell.b) if entry is not None))


def _ratio_facts(verdict: Verdict | None) -> dict[str, object]:
    return {
        "time_ratio": verdict.ratio if verdict else None,
        "time_ratio_interval": verdict.interval if verdict else None,
        "speedup": verdict.speedup if verdict else None,
        "speedup_interval": verdict.speedup_interval if verdict else None,
        "interval_level": verdict.level if verdict and verdict.interval else None,
    }


def _side_facts(entry: Entry | None) -> dict[str, object] | None:
    if entry is None:
        return None
    keep = {"cell_id", "method", "stack", "status", "reason", "flags", "figure", "unit", "round_seconds"}
    facts = entry.model_dump(mode="json", include=keep)
    return {**facts, "device": entry.ground.hardware.name, "driver": entry.ground.hardware.driver}
