"""The time that is left, of cells without an earlier record: it follows what the run itself shows of its guesses."""

from __future__ import annotations

from typing import Any

import pytest
from record_samples import record, workload

from orchestrator.plan.cell import Cell, Plan
from orchestrator.plan.choice import RunOptions
from orchestrator.plan.proof_cells import probe_workload
from orchestrator.plan.workload import Role
from orchestrator.records.record import Provenance, Record
from orchestrator.runner.estimate import Earlier, guess_seconds, key_of
from orchestrator.runner.order import Agenda, turns
from orchestrator.runner.pace import Pace
from orchestrator.runner.schedule import Piece, Policy, Schedule, Seat
from orchestrator.runner.side_by_side import Trials


def cell(method: str, role: Role = "row", benchmark: str = "forward", **changes: Any) -> Cell:
    work = probe_workload(workload(benchmark)) if role == "probe" else workload(benchmark)
    return Cell(
        stack="s", method=method, device="cuda", workload=work, timeout_s=900.0, role=role, warm=False, **changes
    )


def took(one: Cell, seconds: float, **changes: Any) -> Record:
    provenance = Provenance(launcher="local", wall_ns=int(seconds * 1e9))
    made = record(workload=one.workload, method=one.method, role=one.role, **changes)
    return made.model_copy(update={"provenance": provenance})


def agenda_of(cells: list[Cell], known: dict[Any, Earlier] | None = None) -> Agenda:
    order = turns(Plan(suite="t", cells=tuple(cells)), lambda one: f"{id(one):016x}")
    return Agenda(order, RunOptions(), known or {}, 0.0)


def ended(agenda: Agenda, times: float, *, number: int, **changes: Any) -> None:
    for turn in [turn for turn in agenda.todo if turn.cell.role != "ceilings"][:number]:
        agenda.done(turn, took(turn.cell, times * guess_seconds(turn.cell), **changes))


ROWS = [cell(f"own{n}") for n in range(8)]


@pytest.mark.parametrize("times", [0.1, 3.0])
def test_cells_that_are_guessed_follow_those_of_their_kind_once_there_are_a_few(times: float) -> None:
    guess = guess_seconds(ROWS[0])
    for number, factor in ((2, 1.0), (3, times), (7, times)):
        agenda = agenda_of(ROWS)
        ended(agenda, times, number=number)
        assert agenda.left_s == pytest.approx((8 - number) * guess * factor)


def test_rows_follow_the_probes_until_a_few_rows_have_ended_and_other_benchmarks_their_role() -> None:
    probes = [cell(f"own{n}", "probe") for n in range(4)]
    others = [cell(f"own{n}", benchmark="train_static") for n in range(4)]
    agenda = agenda_of([*probes, *ROWS, *others])
    ended(agenda, 0.25, number=4)
    guesses = sum(map(guess_seconds, (*ROWS, *others)))
    assert agenda.left_s == pytest.approx(guesses / 4)
    for turn in agenda.todo[4:7]:
        agenda.done(turn, took(turn.cell, guess_seconds(turn.cell) / 2))
    assert agenda.left_s == pytest.approx((guesses - 3 * guess_seconds(ROWS[0])) / 2)
    for turn in agenda.todo[-4:-1]:
        agenda.done(turn, took(turn.cell, 2 * guess_seconds(turn.cell)))
    assert agenda.left_s == pytest.approx(5 * guess_seconds(ROWS[0]) / 2 + 2 * guess_seconds(others[0]))


def test_what_is_measured_ceilings_and_failures_stay_out_of_it() -> None:
    ceilings = [cell("torch", "ceilings", "ceilings")]
    known = {key_of(ROWS[7]): Earlier(7.0, 0.0)}
    agenda = agenda_of([*ROWS, *ceilings], dict(known))
    ended(agenda, 0.1, number=4)
    guess = guess_seconds(ROWS[0])
    assert agenda.left_s == pytest.approx(3 * guess / 10 + 7.0 + guess_seconds(ceilings[0]))
    failed = agenda_of(ROWS)
    ended(failed, 0.01, number=4, status="crashed", reason="signal 9")
    assert failed.left_s == pytest.approx(4 * guess)


def test_so_does_what_is_left_of_a_run_on_several_gpus() -> None:
    pace = Pace([])
    guess = guess_seconds(ROWS[0])
    plan = Plan(suite="t", cells=tuple(ROWS))
    schedule = Schedule(plan, [Seat("h", "GPU-0")], Policy(guess_seconds, kind=pace.kind, pace=pace.factor))
    trials = Trials(
        Plan(suite="t", cells=tuple(ROWS[:1])), 2, 2, guess_seconds, lambda one: pace.factor(pace.kind(one))
    )
    assert (schedule.left_s, trials.left_s) == pytest.approx((8 * guess, 12 * guess))
    for _ in range(3):
        piece = schedule.take(0)
        assert isinstance(piece, Piece)
        pace.add(piece.cell, took(piece.cell, guess / 5))
        schedule.ended(0)
    assert (schedule.left_s, trials.left_s) == pytest.approx((guess, 12 * guess / 5))
