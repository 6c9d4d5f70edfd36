"""Which run is meant: one's own goes before imported ones, a copy's name decides nothing, a bad run hides no other."""

from __future__ import annotations

import json
import os
import shutil
import signal
from pathlib import Path
from typing import Any

import pytest
from plan_samples import record, stack

from orchestrator.base import interrupt
from orchestrator.base.errors import UsageError
from orchestrator.cli import run as command
from orchestrator.plan.planner import make_plan
from orchestrator.plan.suite import load_suite
from orchestrator.records.runs import copies, find_run, newest_run, readable, resumable, unfinished
from orchestrator.records.store import Run, record_files, stem_of

PLAN = make_plan(load_suite("smoke"), {"cpu": stack()}, device="cpu")
OTHER = make_plan(load_suite("smoke"), {"cpu": stack()}, device="cpu", rounds=2)
SOURCE = "5" * 16


def named(results: Path, name: str, **changes: Any) -> Path:
    """A run whose name and header say so."""
    run = Run.create(results / "new", PLAN, SOURCE)
    run.save(record())
    run.update(run_id=name, **changes)
    return run.folder.rename(results / name)


@pytest.fixture
def mine(tmp_path: Path) -> Run:
    return Run.create(tmp_path, PLAN, SOURCE)


@pytest.mark.parametrize("name", ["29991231-235959-smoke", "{}-later"])
def test_an_imported_run_of_a_later_name_hides_nothing(mine: Run, tmp_path: Path, name: str) -> None:
    named(tmp_path, name.format(mine.folder.name), imported_utc="2026-11-28T00:00:00Z")
    found, why = resumable(tmp_path, PLAN, SOURCE, "docker")
    assert found
    assert (found.folder, why) == (mine.folder, "")
    assert newest_run(tmp_path).folder == mine.folder


def test_a_run_that_a_wrong_clock_named_hides_nothing(mine: Run, tmp_path: Path) -> None:
    named(tmp_path, "29991231-235959-smoke")
    found, _ = resumable(tmp_path, PLAN, SOURCE, "docker")
    assert found
    assert found.folder == newest_run(tmp_path).folder == mine.folder


@pytest.mark.parametrize("name", ["29991231-235959-smoke", "20261231-235959-smoke-0", "99999999-999999-x"])
def test_an_imported_run_is_not_gone_on_with_and_the_line_says_how_it_could_be(tmp_path: Path, name: str) -> None:
    named(tmp_path, name, imported_utc="2026-11-28T00:00:00Z")
    assert resumable(tmp_path, PLAN, SOURCE, "docker") == (
        None,
        f"the unfinished run {name} was imported (--resume {name} goes on with it)",
    )


def test_the_run_that_fits_is_found_behind_those_that_do_not(mine: Run, tmp_path: Path) -> None:
    others = [Run.create(tmp_path, OTHER, SOURCE), Run.create(tmp_path, PLAN, "6" * 16)]
    assert all(other.folder.name > mine.folder.name for other in others)
    found, _ = resumable(tmp_path, PLAN, SOURCE, "docker")
    assert found
    assert found.folder == mine.folder


def test_a_run_that_another_process_has_hides_none_that_is_free(mine: Run, tmp_path: Path) -> None:
    newer = Run.create(tmp_path, PLAN, SOURCE)
    assert newer.claim()
    found, _ = resumable(tmp_path, PLAN, SOURCE, "docker", take=Run.claim)
    assert found
    assert found.folder == mine.folder
    assert resumable(tmp_path, PLAN, SOURCE, "docker", take=Run.claim) == (
        None,
        f"the unfinished run {newer.folder.name} is being run by another process",
    )
    newer.release()
    found.release()


@pytest.mark.parametrize("name", ["{} (1)", "{}-copy", "{}-2", "29991231-235959-smoke", "old"])
def test_a_copy_is_not_gone_on_with_in_the_place_of_the_run(mine: Run, tmp_path: Path, name: str) -> None:
    shutil.copytree(mine.folder, tmp_path / name.format(mine.folder.name))
    assert [run.folder for run in unfinished(tmp_path)] == [mine.folder]
    assert newest_run(tmp_path).folder == mine.folder


@pytest.mark.parametrize("content", ["", "{", '{"schema_version": 1}', "[]", "null", "\0" * 100])
def test_a_bad_run_is_named_once_and_hides_no_other(mine: Run, tmp_path: Path, content: str) -> None:
    bad = tmp_path / "29990101-000000-tiny"
    bad.mkdir()
    (bad / "run.json").write_text(content)
    said: list[str] = []
    found, _ = resumable(tmp_path, PLAN, SOURCE, "docker", say=said.append)
    assert found
    assert found.folder == mine.folder
    (tmp_path / "20260101-000000-tiny").mkdir()
    (tmp_path / "20260101-000000-tiny" / "run.json").write_text(content)
    said.clear()
    assert resumable(tmp_path, OTHER, SOURCE, "docker", say=said.append)[0] is None
    assert len(said) == 2
    assert all("run.json: " in line and "\n" not in line for line in said)
    assert newest_run(tmp_path).folder == mine.folder


@pytest.mark.parametrize("records", ["a file", "a link that leads nowhere else"])
def test_a_run_whose_records_cannot_be_listed_hides_no_other(mine: Run, tmp_path: Path, records: str) -> None:
    bad = tmp_path / "29990101-000000-tiny"
    shutil.copytree(mine.folder, bad)
    shutil.rmtree(bad / "records", ignore_errors=True)
    if records == "a file":
        (bad / "records").write_text("x")
    else:
        (bad / "records").symlink_to("records")
    said: list[str] = []
    assert [run.folder for run in readable(tmp_path, said.append)] == [mine.folder]
    (line,) = said
    assert line.startswith(f"left out: {bad}/records: ")
    assert copies(tmp_path) == [[mine.folder]]
    assert newest_run(tmp_path).folder == mine.folder
    with pytest.raises(UsageError, match="records: "):
        find_run(tmp_path, bad.name)


@pytest.mark.parametrize(
    "name",
    ["{}.sync-conflict-20261128-101010-ABCDEFG.json", "{} (1).json", "{}~.json", "copy of {}.json", "{}.conflict.json"],
)
def test_a_sync_tools_copies_are_no_records_and_are_named(
    mine: Run, tmp_path: Path, name: str, capsys: pytest.CaptureFixture[str]
) -> None:
    stem = stem_of(mine.save(record(number=1)))
    slower = json.loads((mine.folder / "records" / f"{stem}.json").read_text())
    (mine.folder / "records" / name.format(stem)).write_text(json.dumps({**slower, "status": "crashed"}))
    assert [path.stem for path in record_files(mine.folder)] == [stem]
    unreadable: list[str] = []
    assert [one.status for one in mine.records(unreadable)] == ["ok"]
    assert unreadable == [f"records/: not named as a record, and left out: {name.format(stem)}"]
    assert command(["table", "--results", str(tmp_path)]) == 0
    assert "crashed" not in capsys.readouterr().out.partition("How to read")[0]


def test_a_record_under_another_rounds_name_is_not_that_round(mine: Run, capsys: pytest.CaptureFixture[str]) -> None:
    stem = stem_of(mine.save(record(number=1)))
    copy = mine.folder / "records" / f"{stem.removesuffix('0')}1.json"
    shutil.copy(mine.folder / "records" / f"{stem}.json", copy)
    assert command(["explain", f"{1:016x}", "--run", str(mine.folder)]) == 0
    assert f"left out: records/{copy.name}: the record of another cell or round" in capsys.readouterr().out


@pytest.mark.parametrize("what", ["records", "runs"])
def test_a_signal_ends_the_reading(mine: Run, tmp_path: Path, what: str) -> None:
    for number in (1, 2):
        mine.save(record(number=number))
        Run.create(tmp_path, OTHER, SOURCE)
    reading = {"records": lambda: mine.records([]), "runs": lambda: readable(tmp_path)}[what]()
    with interrupt.interruptible():
        next(reading)
        os.kill(os.getpid(), signal.SIGTERM)
        with pytest.raises(interrupt.Interrupted):
            next(reading)
