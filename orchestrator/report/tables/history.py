"""`history` as text and as JSON."""

from __future__ import annotations

from collections.abc import Sequence

from orchestrator.analysis.history import POINTS_SHOWN, Line
from orchestrator.base.text import MISSING, counted, fitted, json_document, significant

BELOW = (1, 2, 6)
"""The columns that a narrow terminal has below each row."""


def as_text(lines: Sequence[Line], width: int | None = None) -> str:
    """Return an aligned table: each line's newest figures by day, and the newest against the one before.

    `width`: of the terminal, in columns; null: no bound.
    """
    if not lines:
        return "no row is ok"
    rows = [("cell", "workload", "device", "runs", "newest", "against the one before", "by day (rounds)")]
    for line in lines:
        verdict = line.verdict
        ratio = MISSING
        if verdict is not None and verdict.speedup is not None:
            ratio = f"{significant(verdict.speedup)}× {verdict.outcome}"  # noqa: RUF001
        shown = line.points[-POINTS_SHOWN:]
        days = ", ".join(f"{(p.began_utc or '?')[:10]} {significant(p.figure)} ({len(p.round_seconds)})" for p in shown)
        more = "… " if len(shown) < len(line.points) else ""
        newest = f"{significant(line.points[-1].figure)} {line.unit}"
        device = line.device or "not known"
        rows.append((line.title, line.workload, device, str(len(line.points)), newest, ratio, more + days))
    return "\n".join([*fitted(rows, BELOW, width), "", counted(len(lines), "line")])


def as_json(lines: Sequence[Line]) -> str:
    """Return `schema_version` and `lines`, each with the keys of `Line`, unrounded; unknown is null."""
    document = {"schema_version": 1, "lines": [line.model_dump(mode="json") for line in lines]}
    return json_document(document)
