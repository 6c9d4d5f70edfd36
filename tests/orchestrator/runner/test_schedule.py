"""The schedule: what is compared stays on one GPU, the longest goes first, what the CPU decides runs alone."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from record_samples import workload

from orchestrator.plan.cell import Cell, Plan
from orchestrator.plan.choice import RunOptions
from orchestrator.plan.proof_cells import probe_cells, reference_cells
from orchestrator.runner import many
from orchestrator.runner.estimate import Earlier, bound_by_cpu
from orchestrator.runner.order import in_turn
from orchestrator.runner.schedule import Piece, Policy, Schedule, Seat, comparable, forecast


def row(method: str = "eager", benchmark: str = "forward", rounds: int = 1, **changes: Any) -> Cell:
    work = workload(benchmark, **changes)
    return Cell(stack="s", method=method, device="cuda", workload=work, timeout_s=60.0, rounds=rounds)


def plan_of(rows: Sequence[Cell], *, proving: bool = True) -> Plan:
    ceilings = rows[0].model_copy(update={"role": "ceilings", "method": "torch", "workload": workload("ceilings")})
    if not proving:
        return Plan(suite="t", cells=tuple(rows))
    probes = probe_cells(rows)
    return Plan(suite="t", cells=(ceilings, *reference_cells((*probes, *rows), ceilings), *probes, *rows))


def seconds(cell: Cell) -> float:
    return float(cell.workload.seed + 1)


def drained(schedule: Schedule, seats: int) -> dict[int, list[Piece]]:
    """Every round that each worker is given, where all take the same time."""
    given = defaultdict[int, list[Piece]](list)
    while True:
        taken = {number: schedule.take(number) for number in range(seats)}
        running = [number for number, piece in taken.items() if isinstance(piece, Piece)]
        if not running:
            return given
        for number in running:
            piece = taken[number]
            assert isinstance(piece, Piece)
            given[number].append(piece)
            schedule.ended(number)


def both_at_work(schedule: Schedule, seats: int) -> list[list[Piece]]:
    """What runs at once, from the start of any round to the next: each takes one step longer than the one before it."""
    seen, running = [], dict[int, tuple[Piece, int]]()
    for step in range(1000):
        for number in range(seats):
            if number not in running and isinstance(piece := schedule.take(number), Piece):
                running[number] = piece, step + 1 + (step + number) % 3
        if not running:
            return seen
        seen.append([piece for piece, _ in running.values()])
        for number in [number for number, (_, end) in running.items() if end <= step]:
            del running[number]
            schedule.ended(number)
    raise AssertionError("it does not end")


def seats(hosts: int, gpus: int) -> list[Seat]:
    return [Seat(f"h{n // gpus}", f"GPU-{n}", n) for n in range(hosts * gpus)]


ROWS = [row(method, seed=seed, rounds=3) for seed in range(6) for method in ("eager", "inductor", "thunder")]


def test_compared_cells_stay_on_one_gpu_with_proof_of_its_own() -> None:
    plan = plan_of(ROWS)
    given = drained(Schedule(plan, seats(2, 2), Policy(seconds)), 4)
    on = defaultdict[str, set[int]](set)
    for number, pieces in given.items():
        for piece in pieces:
            if piece.cell.role == "row":
                on[piece.cell.workload.workload_id].add(number)
    assert len(on) == 6
    assert all(len(where) == 1 for where in on.values())
    rounds = [(id(p.cell), p.round) for pieces in given.values() for p in pieces if p.cell.role in ("row", "probe")]
    assert len(rounds) == len(set(rounds)) == 18 * 3 + 3, "each once"
    for number, pieces in given.items():
        before = [p for p in pieces if p.cell.role in ("ceilings", "reference")]
        assert {p.round for p in before} == {number}
        assert pieces[0].cell.role == "ceilings"
        wanted = {part.workload_id for p in pieces for part in p.cell.workload.parts if p.cell.role in ("row", "probe")}
        made: set[str] = set()
        for piece in pieces:
            made |= {subject.workload_id for subject in piece.cell.workload.subjects or ()}
            if piece.cell.role in ("row", "probe"):
                assert {part.workload_id for part in piece.cell.workload.parts} <= made, "its reference goes before it"
        assert wanted <= made


def test_rounds_of_a_group_are_interleaved_as_on_one_gpu() -> None:
    given = drained(Schedule(plan_of(ROWS, proving=False), seats(1, 2), Policy(seconds)), 2)
    of_one = [p for p in given[0] if p.cell.workload == given[0][0].cell.workload]
    cells = [row.method for row in ROWS[:3]]
    assert [p.cell.method for p in of_one] == [*in_turn(cells, 0), *in_turn(cells, 1), *in_turn(cells, 2)]
    assert [p.round for p in of_one] == [0, 0, 0, 1, 1, 1, 2, 2, 2]


def test_the_longest_goes_first_and_the_makespan_is_near_the_least() -> None:
    plan = plan_of([row(seed=seed) for seed in (1, 9, 3, 7, 5, 8)], proving=False)
    first = Schedule(plan, seats(1, 2), Policy(seconds))
    taken = [first.take(0), first.take(1)]
    assert [piece.cell.workload.seed for piece in taken if isinstance(piece, Piece)] == [9, 8]
    found = forecast(plan, seats(1, 2), Policy(seconds))
    assert found.busy_s == 39
    assert found.makespan_s == 20
    assert found.until_last_wave > 0.95
    assert found.by_host == {"h0": 39}


def test_what_the_cpu_decides_comes_last_and_alone() -> None:
    slow = {0, 1}
    policy = Policy(lambda _cell: 1.0, alone=lambda cell: cell.workload.seed in slow)
    schedule = Schedule(plan_of([row(seed=seed) for seed in range(5)], proving=False), seats(1, 2), policy)
    assert isinstance(schedule.take(0), Piece)
    assert isinstance(schedule.take(1), Piece)
    assert schedule.left_s == 3
    schedule.ended(0)
    third = schedule.take(0)
    assert isinstance(third, Piece)
    assert not third.alone
    schedule.ended(1)
    assert schedule.take(1) == "wait", "the other one's still runs"
    schedule.ended(0)
    alone = schedule.take(1)
    assert isinstance(alone, Piece)
    assert alone.alone
    assert schedule.take(0) == "wait"
    schedule.ended(1)
    assert isinstance(schedule.take(1), Piece)
    schedule.ended(1)
    assert schedule.take(0) == schedule.take(1) == "over"
    assert (
        forecast(plan_of(ROWS, proving=False), seats(2, 2), Policy(lambda _c: 1.0, exclusive=True)).makespan_s == 27
    ), "54 rounds on two hosts, one at a time on each"


def test_a_lost_worker_gives_back_what_it_had_not_begun() -> None:
    rows = [row(method, seed=seed) for seed in range(3) for method in ("eager", "inductor")]
    for spread, stay in ((False, 1), (True, 0)):
        schedule = Schedule(plan_of(rows, proving=False), seats(2, 1), Policy(seconds, spread=spread))
        assert isinstance(schedule.take(0), Piece)
        schedule.ended(0)
        assert schedule.lose(0) == stay
        rest = drained(schedule, 2)
        assert 0 not in rest
        assert len(rest[1]) == 5 - stay
        assert schedule.left_behind == stay
        assert schedule.take(1) == "over"
    schedule = Schedule(plan_of(rows, proving=False), seats(1, 1), Policy(seconds))
    assert schedule.lose(0) == 6, "no worker is left"


def test_what_is_done_is_not_run_again_and_goes_on_where_it_began() -> None:
    plan = plan_of([row(method, seed=seed) for seed in range(3) for method in ("eager", "inductor")], proving=False)
    key = (plan.cells[0].workload.workload_id, "cuda")
    done = {(id(plan.cells[0]), 0)}
    policy = Policy(seconds, done=lambda _n, cell, number: (id(cell), number) in done, homes={key: 1})
    given = drained(Schedule(plan, seats(1, 2), policy), 2)
    assert sum(map(len, given.values())) == 5
    assert any(p.cell is plan.cells[1] for p in given[1])


def test_a_group_goes_to_a_worker_that_can_run_it() -> None:
    plan = plan_of([row(seed=seed) for seed in range(4)], proving=False)
    policy = Policy(seconds, able=lambda number, cell: number == 1 or cell.workload.seed != 3)
    given = drained(Schedule(plan, seats(1, 2), policy), 2)
    assert 3 in [piece.cell.workload.seed for piece in given[1]]
    none = Policy(seconds, able=lambda _number, _cell: False)
    assert sum(map(len, drained(Schedule(plan, seats(1, 2), none), 2).values())) == 4, "their rows say why not"


@pytest.mark.parametrize(("power", "bound"), [(0.27, True), (0.97, False), (None, False)])
def test_a_gpu_that_takes_little_power_waits_for_the_cpu(power: float | None, bound: bool) -> None:
    cell = row()
    known = {(cell.workload.workload_id, cell.method, cell.device): Earlier(1.0, None, power)}
    assert bound_by_cpu(cell, known) is bound
    assert bound_by_cpu(cell.model_copy(update={"device": "cpu"}), {})
    assert not bound_by_cpu(cell, {})


@pytest.mark.parametrize("share", [1, 2])
@pytest.mark.parametrize("several_first", [True, False])
def test_a_cell_of_several_gpus_has_its_host_alone_and_stays_with_those_of_one(
    share: int, *, several_first: bool
) -> None:
    several = row(seed=1, devices=2, parallel="ddp", batch=4)
    pair = [row(seed=1, batch=4 // share), several]
    plan = plan_of([*(pair[::-1] if several_first else pair), row(seed=2)], proving=False)
    policy = many.policy_of(RunOptions(results=Path("nowhere")), {})
    assert [cell for cell in plan.cells if policy.alone(cell)] == [several]
    given = drained(Schedule(plan, seats(1, 2), policy), 2)
    (mine,) = [pieces for pieces in given.values() if any(piece.cell is several for piece in pieces)]
    assert any(piece.cell is pair[0] for piece in mine), "efficiency is against one GPU's row"
    assert all(piece.alone for piece in mine if piece.cell.workload.seed == 1)


def proving_several() -> Plan:
    rows = [row(seed=seed) for seed in range(3)]
    several = row(seed=1, devices=2, parallel="ddp", batch=4)
    plan = plan_of([*rows, several])
    links = rows[0].model_copy(
        update={"role": "ceilings", "method": "torch", "workload": workload("ceilings", devices=2)}
    )
    return plan.model_copy(update={"cells": (links, *plan.cells)})


def test_nothing_runs_beside_a_cell_of_several_gpus_whatever_its_role() -> None:
    plan = proving_several()
    policy = replace(many.policy_of(RunOptions(results=Path("nowhere")), {}), seconds=seconds)
    for count in (2, 3):
        seen = both_at_work(Schedule(plan, seats(1, count), policy), count)
        wide = [at_once for at_once in seen if any(piece.cell.workload.devices > 1 for piece in at_once)]
        assert {piece.cell.role for (piece,) in wide} == {"ceilings", "probe", "row"}
        assert max(map(len, seen)) == count


def test_links_are_measured_for_the_gpu_whose_rows_use_them() -> None:
    plan = proving_several()
    policy = replace(many.policy_of(RunOptions(results=Path("nowhere")), {}), seconds=seconds)
    given = drained(Schedule(plan, seats(1, 3), policy), 3)
    measured = [sum(piece.cell is plan.cells[0] for piece in pieces) for pieces in given.values()]
    rows = [any(piece.cell.workload.devices > 1 and piece.cell.role == "row" for piece in p) for p in given.values()]
    assert measured == [int(has) for has in rows]
    assert sum(measured) == 1


def test_a_cell_of_several_gpus_keeps_them_all_busy() -> None:
    several = row(seed=9, devices=4, parallel="ddp", batch=4)
    for gpus, busy in ((4, 40.0), (2, 20.0)):
        found = forecast(plan_of([several], proving=False), seats(1, gpus), Policy(seconds))
        assert (found.makespan_s, found.busy_s, found.until_last_wave) == (10.0, busy, 1.0)


def test_ways_over_several_gpus_stay_together_also_without_a_row_of_one() -> None:
    ways = [row(benchmark="train_static", devices=2, parallel=way, batch=4) for way in ("ddp", "fsdp2")]
    assert list(map(list, comparable(plan_of(ways, proving=False)).values())) == [ways]
