"""Rounds chosen by a time budget: as many as fit, at least one, said before anything starts, and kept to."""

from __future__ import annotations

import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from fake_run import FAKE_BENCH, write_stack, write_suite
from hypothesis import given, settings
from hypothesis import strategies as st
from plan_samples import stack

from orchestrator.base.errors import UsageError
from orchestrator.cli import run
from orchestrator.launchers import work_area as workfolders
from orchestrator.plan.choice import Choice, RunOptions
from orchestrator.plan.planner import make_plan
from orchestrator.plan.suite import load_suite
from orchestrator.records.store import Run
from orchestrator.runner import estimate as budget
from orchestrator.runner import run_all as pipeline
from orchestrator.runner.estimate import MOST_BUDGETED, Earlier, estimate, fitted, seconds_in, used_up, with_rounds

if TYPE_CHECKING:
    from orchestrator.runner.estimate import Key

SUITE = load_suite("smoke")
STACKS = {"cpu": stack()}
PLAN = make_plan(SUITE, STACKS, device="cpu", benchmarks=("forward",))
CHOICE = Choice("suite smoke", PLAN, SUITE, STACKS, "local", {})
ROWS = [cell for cell in PLAN.cells if cell.role == "row"]
OTHERS = [cell for cell in PLAN.cells if cell.role != "row"]


def taking(seconds: float) -> dict[Key, Earlier]:
    return {(cell.workload.workload_id, cell.method, cell.device): Earlier(seconds, 0.0) for cell in PLAN.cells}


def chosen(budget_s: float, known: dict[Key, Earlier], results: Path = Path("nowhere")) -> tuple[int, Choice]:
    choice = fitted(CHOICE, RunOptions(budget_s=budget_s, results=results), known)
    (rounds,) = {cell.rounds for cell in choice.plan.cells if cell.role == "row"}
    return rounds, choice


@settings(max_examples=60, deadline=None)
@given(budget_s=st.floats(1, 50_000), seconds=st.floats(0.1, 500))
def test_as_many_as_fit_and_never_more(budget_s: float, seconds: float) -> None:
    known = taking(seconds)
    rounds, choice = chosen(budget_s, known)
    takes = estimate(choice.plan, STACKS, known).seconds
    assert 1 <= rounds <= MOST_BUDGETED
    assert rounds == 1 or takes <= budget_s
    if rounds < MOST_BUDGETED and takes <= budget_s:
        assert estimate(with_rounds(PLAN, rounds + 1), STACKS, known).seconds > budget_s
    assert {cell.rounds for cell in choice.plan.cells if cell.role != "row"} == {1}


def test_what_is_said() -> None:
    _, choice = chosen(600.0, taking(10.0))
    assert "budget 10 min: " in choice.line
    assert "rounds of each row, expected " in choice.line
    assert "would take" in choice.line
    rounds, small = chosen(1.0, taking(10.0))
    assert rounds == 1
    assert "more than the budget: one round is the least; a verdict needs 5 rounds" in small.line
    assert fitted(CHOICE, RunOptions(), {}) is CHOICE


def test_an_unfinished_run_keeps_its_rounds(tmp_path: Path) -> None:
    Run.create(tmp_path, with_rounds(PLAN, 3), "b" * 16)
    rounds, choice = chosen(1e6, taking(1.0), tmp_path)
    assert rounds == 3
    assert "as the unfinished run began" in choice.line
    options = RunOptions(budget_s=1e6, results=tmp_path, fresh=True)
    assert fitted(CHOICE, options, taking(1.0)).plan.cells[-1].rounds == MOST_BUDGETED


def test_a_round_that_would_end_too_late_is_not_started() -> None:
    now, known, options = time.monotonic(), taking(60.0), RunOptions(budget_s=100.0)
    assert not used_up(options, now, ROWS[0], 1, known)
    assert used_up(options, now - 90, ROWS[0], 1, known)
    assert not used_up(options, now - 90, ROWS[0], 0, known)
    assert not used_up(RunOptions(), now - 1e6, ROWS[0], 1, known)
    assert not any(used_up(options, now - 90, cell, 1, known) for cell in OTHERS), "another GPU's first"


@pytest.mark.parametrize(("text", "seconds"), [("45m", 2700), ("1h30m", 5400), ("90s", 90), ("1.5h", 5400)])
def test_times(text: str, seconds: float) -> None:
    assert seconds_in(text) == seconds


@pytest.mark.parametrize("text", ["", "45", "0m", "-3m", "m", "3d", "1m1h"])
def test_what_is_not_a_duration(text: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(UsageError, match="is not a duration"):
        seconds_in(text)
    assert run(["plan", "--launcher", "local", "--budget", text]) == 4
    assert capsys.readouterr().err.count("\n") == 1


def test_the_commands(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any) -> None:
    for module in (workfolders, pipeline):
        monkeypatch.setattr(module, "STATE", tmp_path / "state")
    monkeypatch.setattr(workfolders, "BENCH", FAKE_BENCH)
    write_suite(tmp_path)
    write_stack(tmp_path, ["good"])
    words = ["--suite", str(tmp_path / "mine.toml"), "--stacks", str(tmp_path / "stacks"), "--stack", "fake"]
    words += ["--launcher", "local", "--results", str(tmp_path / "results")]
    assert run(["plan", *words, "--budget", "1s"]) == 0
    assert "budget 1 s: 1 round of each row" in capsys.readouterr().out
    assert run(["plan", *words, "--budget", "1m", "--rounds", "2"]) == 4
    assert "exclude each other" in capsys.readouterr().err
    monkeypatch.setattr(budget, "MOST_BUDGETED", 3)
    assert run(["run-all", *words, "--budget", "5h"]) == 0
    first = capsys.readouterr().err.splitlines()[0]
    assert "budget 5.0 h: 3 rounds of each row" in first
    (folder,) = (tmp_path / "results").iterdir()
    assert len(list((folder / "records").glob("forward-*"))) == 3
