"""What a run keeps of its records: each is taken in once, nothing is read again, tables are written now and then."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from fake_run import FAKE_BENCH, SOURCE, write_stack, write_suite
from record_samples import record

from orchestrator.analysis.reduced_run import make_report
from orchestrator.base.errors import UsageError
from orchestrator.base.interrupt import Interrupted
from orchestrator.cli import run
from orchestrator.launchers import work_area as workfolders
from orchestrator.plan.cell import Plan
from orchestrator.records import store
from orchestrator.records.store import Run
from orchestrator.report.tables import EXPORTERS
from orchestrator.runner import outcomes, run_all
from orchestrator.runner.crew import SharedOutcomes
from orchestrator.runner.outcomes import Outcomes


@pytest.fixture
def go(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., int]:
    for module in (workfolders, run_all):
        monkeypatch.setattr(module, "STATE", tmp_path / "state")
    monkeypatch.setattr(workfolders, "BENCH", FAKE_BENCH)
    suite, stacks = write_suite(tmp_path, rounds=3), write_stack(tmp_path, ["good"])
    words = ["run-all", "--suite", str(suite), "--stacks", str(stacks), "--stack", "fake", "--launcher", "local"]
    return lambda *more: run([*words, "--results", str(tmp_path / "results"), *more])


def counting(monkeypatch: pytest.MonkeyPatch, module: Any, name: str, counted: Callable[..., bool]) -> list[Any]:
    calls: list[Any] = []
    real = getattr(module, name)

    def count(*arguments: Any, **more: Any) -> Any:
        if counted(*arguments):
            calls.append(arguments[0] if arguments else None)
        return real(*arguments, **more)

    monkeypatch.setattr(module, name, count)
    return calls


def in_results(path: Path, *_: Any) -> bool:
    return "results" in path.parts


def test_a_run_reads_no_file_of_its_own_and_hashes_its_sources_once(
    go: Callable[..., int], monkeypatch: pytest.MonkeyPatch
) -> None:
    read = counting(monkeypatch, store, "read_bytes", in_results)
    hashed = counting(monkeypatch, run_all, "bench_source", lambda *_: True)
    published = counting(monkeypatch, outcomes, "read_published", lambda *_: True)
    assert go() == 0
    assert read == []
    assert [path.name for path in hashed] == ["bench", "orchestrator"]
    assert len(published) == 1


def test_a_run_that_goes_on_reads_each_record_once(
    go: Callable[..., int], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(run_all, "run_round", failing_at(3))
    assert go() == 130
    (folder,) = (tmp_path / "results").iterdir()
    kept = sorted(path.name for path in (folder / "records").iterdir())
    assert len(kept) == 2
    assert "good@fake" in (folder / "tables.md").read_text()
    monkeypatch.undo()
    for module in (workfolders, run_all):
        monkeypatch.setattr(module, "STATE", tmp_path / "state")
    monkeypatch.setattr(workfolders, "BENCH", FAKE_BENCH)
    monkeypatch.setattr(run_all, "history", lambda _: {})  # what a plan costs is learnt from records of all runs
    read = counting(monkeypatch, store, "read_bytes", in_results)
    assert go() == 0
    assert sorted(path.name for path in read if path.parent.name == "records") == kept
    assert len(list((folder / "records").iterdir())) == 4


def failing_at(number: int) -> Callable[..., Any]:
    real, rounds = run_all.run_round, [0]

    def run_round(*arguments: Any) -> Any:
        rounds[0] += 1
        if rounds[0] == number:
            raise Interrupted(2)
        return real(*arguments)

    return run_round


@pytest.mark.parametrize(("every_s", "written"), [(3600.0, 2), (0.0, 5)])
def test_tables_are_written_now_and_then_and_at_the_end(
    go: Callable[..., int], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, every_s: float, written: int
) -> None:
    monkeypatch.setattr(outcomes, "EVERY_S", every_s)
    calls = counting(monkeypatch, outcomes, "write_tables", lambda *_: True)
    assert go() == 0
    assert len(calls) == written
    (folder,) = (tmp_path / "results").iterdir()
    assert json.loads((folder / "tables.json").read_text())["run"]["finished_utc"] is not None


@pytest.mark.parametrize("kind", [Outcomes, SharedOutcomes])
def test_a_disk_that_is_full_is_tried_as_seldom_as_another_and_said_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: type[Outcomes]
) -> None:
    now, tried, said, full = [0.0], list[float](), list[str](), [True]

    def write(*_: Any) -> None:
        tried.append(now[0])
        if full[0]:
            raise UsageError("no space left on device")

    monkeypatch.setattr(outcomes, "write_tables", write)
    monkeypatch.setattr(time, "monotonic", lambda: now[0])
    kept = kind(Run.create(tmp_path, Plan(suite="x", cells=()), SOURCE))
    for second in range(180):
        now[0], full[0] = float(second), not 90 <= second < 120
        kept.update_tables(said.append)
    assert tried == [0.0, 30.0, 60.0, 90.0, 120.0, 150.0]
    assert said == ["the tables could not be brought up to date: no space left on device"] * 2


def test_the_kept_reduction_says_what_the_records_say(tmp_path: Path) -> None:
    kept = Run.create(tmp_path, Plan(suite="x", cells=()), SOURCE)
    outcomes_so_far = Outcomes(kept)
    for number in (0, 1, 2):
        outcomes_so_far.add(kept.save(record(round=number, status="crashed", reason="at first")))
        outcomes_so_far.add(kept.save(record(round=number)))
    outcomes_so_far.write_tables()
    assert outcomes_so_far.counts == {"ok": 3}
    for name, form in (("tables.md", "markdown"), ("tables.json", "json"), ("tables.csv", "csv")):
        assert (kept.folder / name).read_text() == EXPORTERS[form](make_report(kept.folder))


def test_a_round_that_fits_now_no_longer_keeps_larger_ones_away(tmp_path: Path) -> None:
    outcomes = Outcomes(Run.create(tmp_path, Plan(suite="x", cells=()), SOURCE), [record(status="out_of_memory")])
    assert len(outcomes.exhausted) == 1
    outcomes.add(record())
    assert outcomes.exhausted == []
