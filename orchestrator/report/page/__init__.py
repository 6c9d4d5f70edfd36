"""One self-contained HTML page over one or more runs: no network, nothing in it that a record could run."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from orchestrator.base.files import write_text
from orchestrator.report.page.embed import render
from orchestrator.report.page.index import make_index
from orchestrator.report.proof import prove
from orchestrator.report.sections import Environment
from orchestrator.report.source import read_source

PAGE_FILE = "report.html"


def write_page(folders: Sequence[Path], output: Path) -> int:
    """Write the page of the runs in `folders` to `output`, whole or not at all; return its size in bytes.

    A folder that is not a run is a UsageError; a file that is not a record is left out, and the page says so.
    """
    text = render_page(folders)
    write_text(output, text)
    return len(text.encode())


def render_page(folders: Sequence[Path]) -> str:
    """Return the page of the runs in `folders` as text."""
    sources = [read_source(folder) for folder in folders]
    index = make_index(sources)
    environments: dict[Environment, int] = {}
    proofs = (prove(source, source.records[pair.steady.cell_id], pair) for source, pair in index.pairs)
    drawers = [proof.as_json(environments) for proof in proofs]
    return render(index.content([vars(found) for found in environments]), drawers)
