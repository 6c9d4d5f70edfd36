"""README and docs/: what they promise of themselves, links that lead somewhere, names that exist, pictures as made."""

from __future__ import annotations

import itertools
import re
from pathlib import Path

import pytest
from documents import DOCS, PAGES, README, anchors, inline_code, links
from made_docs import layers, made
from made_results import RUNS
from places import RESULTS, ROOT

from orchestrator.plan.planner import make_plan
from orchestrator.plan.stack import find_stacks
from orchestrator.plan.suite import load_suite
from orchestrator.records.runs import find_run
from orchestrator.report.tables import render_tables
from orchestrator.runner.estimate import estimate

MADE = made()
NAV = (ROOT / "mkdocs.yml").read_text(encoding="utf-8")
VARIABLE = re.compile(r"\bSTACKBENCH_[A-Z_]*[A-Z]\b")
SOURCE = re.compile(r"(bench|orchestrator|images|tests|docs|\.ci)/[\w./-]*")
PLACEHOLDER = re.compile(r"\b[A-Z]{3,}\b")


def of_page(page: Path) -> str:
    return str(page.relative_to(ROOT))


every_page = pytest.mark.parametrize("page", PAGES, ids=of_page)


@every_page
def test_links_lead_somewhere(page: Path) -> None:
    for link in links(page):
        if link.startswith("https://"):
            continue
        path, _, anchor = link.partition("#")
        target = (page.parent / path).resolve() if path else page
        assert target.is_file(), link
        if page != README:
            assert target.is_relative_to(DOCS), f"{link} is not in the site"
        if anchor:
            assert anchor in anchors(target), link


def test_how_long_the_smoke_suite_takes_is_said_once() -> None:
    said = [
        re.search(pattern, (ROOT / path).read_text(encoding="utf-8"))
        for path, pattern in (
            ("README.md", r"the suite `smoke`[^|]*\| (\d+) on two cores \|"),
            ("docs/start.md", r"the suite `smoke` took (\d+) minutes and \d+ seconds on two cores"),
            ("orchestrator/plan/suites/smoke.toml", r"two CPU cores do it in (\d+) minutes"),
        )
    ]
    assert [found and found[1] for found in said] == ["3", "3", "3"]


def test_a_link_to_nowhere_is_found(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text("# A `b`: c, d\n\n[x](page.md#a-b-c-d) ![y](z.svg)\n\n## 2\n\n## 2\n")
    assert list(links(page)) == ["page.md#a-b-c-d", "z.svg"]
    assert anchors(page) == {"a-b-c-d", "2", "2-1"}


@every_page
def test_files_and_variables_that_are_named_exist(page: Path) -> None:
    for code in inline_code(page):
        if SOURCE.fullmatch(code) and not PLACEHOLDER.search(code):
            assert (ROOT / code).exists(), code
    known = "".join(
        path.read_text(encoding="utf-8")
        for pattern in ("orchestrator/**/*.py", "images/**/*.py", "docker-compose.yml")
        for path in ROOT.glob(pattern)
    )
    for variable in VARIABLE.findall(page.read_text(encoding="utf-8")):
        # `STACKBENCH_BASE_CPU`: a stack's own is made of the stack's name.
        assert variable in known or variable.rpartition("_")[0] + "_" in known, variable


@pytest.mark.parametrize("page", [page for page in PAGES if page != README], ids=of_page)
def test_the_site_has_every_page(page: Path) -> None:
    assert re.search(rf": {re.escape(str(page.relative_to(DOCS)))}$", NAV, re.MULTILINE) or (
        "results/" in str(page) and "results/" in NAV
    )


def test_the_site_loads_nothing_from_a_network() -> None:
    """Of a site that `make docs` has built here: `make docs-check` does so first."""
    pages = list((ROOT / "build" / "site").rglob("*.html"))
    if not pages:
        pytest.skip("no site here: make docs")
    loads = re.compile(r'<(?:script|img|link|iframe)[^>]* (?:src|href)="?(?:https?:)?//')
    assert [page for page in pages if loads.search(page.read_text(encoding="utf-8"))] == []


@pytest.mark.parametrize("path", MADE, ids=lambda path: str(path.relative_to(DOCS)))
def test_what_is_made_is_as_made(path: Path) -> None:
    assert path.read_text(encoding="utf-8") == MADE[path], "make docs-generate"


def test_the_picture_of_the_rooms_has_all_of_them() -> None:
    picture = (DOCS / "rooms.svg").read_text(encoding="utf-8")
    for package, rows in layers().items():
        folder = ROOT / package
        there = {
            path.stem
            for path in folder.iterdir()
            if path.suffix == ".py" or (path.is_dir() and (path / "__init__.py").is_file())
        }
        shown = {name for row in rows for name in row}
        assert there - {"__init__", "__main__"} == shown - {"__main__"}
        assert all(f">{name}</text>" in picture for name in shown)


def test_the_first_screen() -> None:
    lines = README.read_text(encoding="utf-8").splitlines()
    assert len(lines) <= 100
    assert any(line.startswith("make run") for line in lines[:40])


def table(text: str) -> list[dict[str, str]]:
    """The rows of the first table in a text, each cell under its head."""
    lines = itertools.takewhile(lambda line: line[:1] == "|", text[text.index("| method@stack") :].splitlines())
    head, _, *rows = ([cell.strip() for cell in line.strip("|").split("|")] for line in lines)
    return [dict(zip(head, row, strict=True)) for row in rows]


def test_the_first_table_is_of_the_committed_runs() -> None:
    shown = table(README.read_text(encoding="utf-8"))
    assert len(shown) >= 3
    assert len(shown[0]) <= 6
    known = {}
    for name in reversed([name for names in RUNS.values() for name in names]):
        text = render_tables(find_run(RESULTS, name).folder, form="markdown")
        if "## forward: open_llama_7b, batch 10, sequence 2048, bfloat16" in text:
            known.update({row["method@stack"]: row for row in table(text[text.index("## forward: open_llama_7b") :])})
    for row in shown:
        assert row == {head: known[row["method@stack"]][head] for head in row}


def test_what_a_run_costs_is_what_the_plan_says() -> None:
    text = README.read_text(encoding="utf-8")
    found = find_stacks([ROOT / "images"]).items()
    stacks = {name: stack for name, stack in found if name != "cpu" and not stack.by_name}
    for names, line in ((tuple(stacks), "four stacks"), (("fused-next",), "--stack fused-next")):
        chosen = {name: stacks[name] for name in names}
        cost = estimate(make_plan(load_suite("note"), chosen, device="cuda"), chosen, {})
        row = next(row for row in text.splitlines() if line in row)
        assert cost.download_bytes is not None
        assert cost.disk_bytes is not None
        assert f"{cost.disk_bytes / 1e9:.0f} GB, {cost.download_bytes / 1e9:.0f} of them downloaded" in row
        said = re.search(r"some (\d+) (hours|minutes)", row)
        assert said
        assert int(said[1]) * (3600 if said[2] == "hours" else 60) == pytest.approx(cost.seconds, rel=0.05)
