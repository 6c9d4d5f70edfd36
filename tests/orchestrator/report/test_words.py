"""The glossary stands once, and wherever a table is read it is at hand."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from markdown_it import MarkdownIt
from places import ROOT
from record_samples import record, save_run, small_run, workload

from orchestrator.report.columns import columns
from orchestrator.report.page import render_page
from orchestrator.report.remarks import as_markdown, as_text, coded
from orchestrator.report.tables import render_tables
from orchestrator.report.words import GLOSSARY

if TYPE_CHECKING:
    from collections.abc import Iterator


def words(text: str) -> str:
    """Return the letters and digits of a text: whatever breaks its lines, quotes or marks it up."""
    return re.sub(r"[^a-z0-9]+", " ", text.lower())


def sources() -> Iterator[Path]:
    yield ROOT / "README.md"
    yield from set((ROOT / "docs").rglob("*.md")) - {ROOT / "docs" / "columns.md"}  # which is made of it
    for ending in ("py", "js", "jinja"):
        yield from (ROOT / "orchestrator").rglob(f"*.{ending}")


def test_each_term_is_explained_once() -> None:
    texts = {path: words(path.read_text(encoding="utf-8")) for path in sources()}
    for term, text in GLOSSARY.items():
        begin = words(text[:80])
        assert [path.name for path, content in texts.items() if begin in content] == ["words.py"], term


@pytest.mark.parametrize("form", ["tables", "page"])
def test_it_is_at_hand(tmp_path: Path, form: str) -> None:
    several = record(workload=workload(devices=2, parallel="tensor"), cell_id="9" * 16)
    run = save_run(tmp_path, [*small_run(), several])
    text = MarkdownIt().render(render_tables(run)) if form == "tables" else render_page([run])
    plain = words(re.sub(r"<[^>]+>", " ", text).replace("&#39;", "'").replace("&amp;", "&"))
    for term, meaning in GLOSSARY.items():
        assert words(f"{term} {meaning}").strip() in plain, term


def test_words_that_a_reader_does_not_know_are_explained() -> None:
    assert {"as the note", "reference", "probe", "drift"} <= set(GLOSSARY)
    known = " ".join(GLOSSARY)
    for column in columns("forward", ()):
        assert column.head.split(",")[0].split(":")[0] in known


@pytest.mark.parametrize(
    ("said", "shown"),
    [
        ("raise `warmup` or `--rounds`.", "raise `warmup` or `--rounds`."),
        ("(`nvidia-smi -lgc MHZ`)", "(`nvidia-smi -lgc MHZ`)"),
        ("by `a|b`, a*b", r"by a\|b, a\*b"),  # what would end a table's cell or begin markup is no code
        ("one ` alone", r"one \` alone"),
    ],
)
def test_what_is_to_be_typed_is_code_in_a_remark(said: str, shown: str) -> None:
    assert as_markdown(coded(said)) == shown
    assert as_text(coded(said)) == said
