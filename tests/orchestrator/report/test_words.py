"""The glossary stands once, and wherever a table is read it is at hand."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from markdown_it import MarkdownIt
from places import ROOT
from record_samples import record, sample, samples, save_run, small_run, workload

from orchestrator.analysis.reduce import rows
from orchestrator.analysis.reduced_run import make_report
from orchestrator.base.text import counted
from orchestrator.report.columns import columns
from orchestrator.report.page import render_page
from orchestrator.report.remarks import as_markdown, as_text, coded
from orchestrator.report.tables import render_tables
from orchestrator.report.tables.terminal import render
from orchestrator.report.words import GLOSSARY, taint_note, warnings

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


STALLS = ("stalled: 7.83 times what the others took", "stalled: 26.45 times what the others took")


@pytest.mark.parametrize(
    ("taints", "said"),
    [
        (STALLS[:1], STALLS[0]),
        ((*STALLS, "stalled: 7.19 times what the others took"), "stalled: 7.19 to 26.45 times what the others took"),
        (
            (f"{STALLS[0]}; another process on the GPU: python3", STALLS[1], "another process on the GPU: python2"),
            (
                "stalled: 7.83 to 26.45 times what the others took; another process on the GPU: python3; "
                "another process on the GPU: python2"
            ),
        ),
        (
            tuple(f"the SM clock moved: {mhz} MHz, 1980 MHz in the others" for mhz in (1700, 900, 1755)),
            "the SM clock moved: 900 to 1755 MHz, 1980 MHz in the others",
        ),
    ],
)
def test_each_cause_of_taints_is_said_once_with_its_range(taints: tuple[str, ...], said: str) -> None:
    good = samples(900.0, *[450.0] * 9)
    bad = [sample(20 + number, 9e3, taint=taint) for number, taint in enumerate(taints)]
    (row,) = rows([record(samples=[*good, *bad])], "steady")
    assert taint_note(row) == f"{counted(len(taints), 'sample')} tainted and left out of the figure ({said})"
    (row,) = rows([record(samples=[*good[:2], *bad])], "steady")
    warned = f"{counted(len(taints), 'timed sample')} tainted ({said}): run the cell again with the GPU"
    assert any(line.startswith(warned) for line in warnings(row))


def test_what_disturbed_a_flagged_row_is_said_in_every_form_whatever_its_status(tmp_path: Path) -> None:
    load = {"cpus": 2, "seconds": 5.0, "own": 0.8, "others": 1.2, "stolen": 0.0}
    beside = {"device": "cpu", "samples": samples(9e3, *[500.0] * 8), "host_load": load}
    rows = (("eager", "1", "ok"), ("inductor", "2", "incorrect"))
    run = save_run(tmp_path, [record(method=m, cell_id=n * 16, status=status, **beside) for m, n, status in rows])
    line = (
        "while it was timed, other processes took 1.2 of this host's 2 CPUs: close what else runs here, and run the "
        "cell again"
    )
    report = make_report(run)
    terminal = " ".join(render(report, "RUN").split())
    for name in ("eager@cuda", "inductor@cuda"):
        assert f"tainted {name}: {line} " in terminal
        assert f"\n- `{name}`: {line}.\n" in render_tables(run)


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
