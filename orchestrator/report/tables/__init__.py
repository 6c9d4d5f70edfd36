"""A run's tables, one exporter per file: each has `render(report, protocol) -> str`."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from pathlib import Path

from orchestrator.analysis.protocol import Protocol
from orchestrator.analysis.reduced_run import Report, make_report
from orchestrator.base.files import write_text
from orchestrator.records.record import Record
from orchestrator.report.tables import csv, json, latex, markdown

EXPORTERS = {"markdown": markdown.render, "json": json.render, "csv": csv.render, "latex": latex.render}
FILES: dict[str, Callable[[Report], str | list[str]]] = {
    "tables.md": markdown.render,
    "tables.json": json.pieces,
    "tables.csv": csv.render,
}


def write_tables(run_folder: Path, report: Report | None = None) -> Report:
    """Write tables.md, tables.json and tables.csv of a run, each whole or not at all; return what they were made from.

    Without `report` the run's records are read.
    """
    report = report or make_report(run_folder)
    for name, content in FILES.items():
        write_text(run_folder / name, content(report))
    return report


def render_tables(
    run_folder: Path,
    records: Iterable[Record] | None = None,
    *,
    protocol: Protocol | None = None,
    form: str = "markdown",
) -> str:
    """Return a run's tables as text, in one of the forms in `EXPORTERS`.

    `protocol` orders the rows of the Markdown tables, which show both, and chooses the rows of JSON, CSV and LaTeX.
    """
    return EXPORTERS[form](make_report(run_folder, records), protocol)
