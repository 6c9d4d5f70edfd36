"""`runs` as text and as JSON."""

from __future__ import annotations

from collections.abc import Sequence

from orchestrator.analysis.overview import Overview
from orchestrator.base.text import MISSING, fitted, json_document, shortened

REASON_LENGTH = 120
BELOW = (3, 4)
"""The columns that a narrow terminal has below each row."""


def as_text(runs: Sequence[Overview], width: int | None = None) -> str:
    """Return an aligned table in `width` columns (null: no bound), and a line for each run that could not be read."""
    lines = [("run", "began (UTC)", "suite", "on", "rows", "")]
    for run in runs:
        began = (run.started_utc or MISSING).replace("T", " ")[:16]
        lines.append((run.name, began, run.suite or MISSING, run.device or MISSING, _rows(run), _state(run)))
    problems = [f"{run.name}: {shortened(run.problem, REASON_LENGTH)}" for run in runs if run.problem]
    return "\n".join([*fitted(lines, BELOW, width), *problems])


def _rows(run: Overview) -> str:
    if run.rows is None:
        return MISSING
    return ", ".join(f"{count} {status}" for status, count in run.rows.items()) or "none"


def _state(run: Overview) -> str:
    if run.started_utc is None:
        return "cannot be read"
    words = [] if run.finished_utc else ["not finished"]
    return ", ".join([*words, *(["imported"] if run.imported_utc else [])])


def as_json(runs: Sequence[Overview]) -> str:
    """Return `schema_version` and `runs`, newest first, each with the keys of `Overview`; unknown is null."""
    document = {"schema_version": 1, "runs": [run.model_dump(mode="json") for run in runs]}
    return json_document(document)
