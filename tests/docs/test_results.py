"""docs/results/ has a page for each committed run, with the tables that its bundle makes, and results/ little else."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

import pytest
from committed import FOLDERS
from made_results import BEGIN, END, ENGINES, OPERATORS, PAGES, RUNS, WHICH_ENGINE, filled
from places import COMMITTED, RESULTS, ROOT

from orchestrator.records.bundle import pack
from orchestrator.records.store import Run

MOST_RUNS, MOST_FILES = 16, 80


def test_every_committed_run_has_a_page_and_the_other_way_round() -> None:
    named = {name for names in RUNS.values() for name in names}
    assert named == {folder.name for folder in FOLDERS}
    joined = {WHICH_ENGINE} if ENGINES else set()
    assert {page.stem for page in PAGES.glob("*.md")} == named | {"index", OPERATORS} | joined
    assert set(ENGINES) <= named
    assert len(COMMITTED) <= MOST_RUNS


def test_links_among_the_pages_lead_somewhere() -> None:
    for page in PAGES.glob("*.md"):
        for link in re.findall(r"\]\(([a-z0-9-]+\.md)\)", page.read_text(encoding="utf-8")):
            assert (PAGES / link).is_file(), (page.name, link)


def test_what_stands_around_the_tables_stays(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text("# Mine\n\ntext\n")
    page.write_text(filled(page, "old"))
    page.write_text(page.read_text() + "\nbelow\n")
    assert filled(page, "new") == f"# Mine\n\ntext\n\n{BEGIN}\n\nnew\n\n{END}\n\nbelow\n"


def tracked(*words: str) -> list[str]:
    done = subprocess.run(["git", "-C", str(ROOT), *words], capture_output=True, text=True, check=False)
    if done.returncode == 128:
        pytest.skip("not a git checkout")
    return done.stdout.splitlines()


def test_results_holds_few_files_and_a_users_runs_are_ignored() -> None:
    assert len(tracked("ls-files", "results")) <= MOST_FILES
    own = ["results/20261128-120000-smoke/run.json", "results/h100-mine/run.json", "results/mine.tar.gz"]
    assert tracked("check-ignore", *own) == own
    kept = [*COMMITTED, RESULTS / "README.md", RESULTS / f"{OPERATORS}.json"]
    assert tracked("check-ignore", *map(str, kept)) == []


@pytest.mark.parametrize("bundle", COMMITTED, ids=lambda path: path.name)
def test_a_committed_bundle_holds_what_the_command_packs(bundle: Path, tmp_path: Path) -> None:
    folder = next(folder for folder in FOLDERS if bundle.name.startswith(f"{folder.name}."))
    manifest, left_out = pack(Run.open(folder), tmp_path / bundle.name)
    assert not left_out
    # Its compressed bytes are those of one zlib; what is in it is the same with any.
    assert len(list((folder / "stacks").glob("*.lock.json"))) == len(Run.open(folder).header.stacks)
    assert set(manifest.files) == {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}
