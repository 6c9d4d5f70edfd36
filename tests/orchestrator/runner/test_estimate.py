from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
from plan_samples import record, smoke_cell, stack
from record_samples import sample

from orchestrator.base.text import in_words, size_in_words
from orchestrator.plan.planner import make_plan
from orchestrator.plan.suite import load_suite
from orchestrator.records.record import NOTHING_LEFT, Compiles, PhaseTime, Provenance, WarmStart
from orchestrator.records.store import Run
from orchestrator.runner.estimate import (
    Earlier,
    estimate,
    expected,
    guess_second_start,
    guess_seconds,
    history,
    second_start_seconds,
    wall_seconds,
)

if TYPE_CHECKING:
    from pathlib import Path

STACKS = {"cpu": stack(build={"download_bytes": 300_000_000, "disk_bytes": 2_000_000_000})}
PLAN = make_plan(load_suite("smoke"), STACKS, device="cpu")


def took(seconds: float) -> Provenance:
    return Provenance(launcher="local", wall_ns=int(seconds * 1e9))


def test_earlier_records_beat_the_guess(tmp_path: Path) -> None:
    run = Run.create(tmp_path, PLAN, "s" * 16)
    for number, seconds in enumerate([10.0, 30.0, 20.0]):
        run.save(record(number=number, provenance=took(seconds)))
    run.save(record(number=9, status="timeout", provenance=took(9999)))
    cell = smoke_cell()
    known = history(tmp_path)
    assert known == {(cell.workload.workload_id, "eager", "cpu"): Earlier(20.0, 0.0)}
    assert expected(cell, known).seconds == 20.0
    assert expected(cell, known).source == "measured"
    assert expected(smoke_cell(method="inductor"), known).source == "guess"
    assert expected(smoke_cell(timeout_s=5.0), known).seconds == 5.0


def test_the_guess_knows_the_seconds_of_sustained_ceilings() -> None:
    cells = make_plan(load_suite("note"), {"a": stack()}, device="cuda", benchmarks=["ceilings"]).cells
    (cell,) = [cell for cell in cells if cell.role == "ceilings"]

    def guess(**changes: object) -> float:
        return guess_seconds(cell.model_copy(update={"workload": cell.workload.model_copy(update=changes)}))

    burst = guess(soak_s=None, sustained_s=None)
    assert guess_seconds(cell) == pytest.approx(burst + 45)
    assert guess(precisions=("tf32",)) > burst + 85


def test_no_results_and_damaged_ones_are_no_history(tmp_path: Path) -> None:
    assert history(tmp_path / "nowhere") == {}
    run = Run.create(tmp_path, PLAN, "s" * 16)
    (run.folder / "records" / "x.json").write_text("{")
    assert history(tmp_path) == {}


def test_phases_stand_in_for_a_missing_wall_time() -> None:
    phases = (PhaseTime(name="model", begin_ns=10**9, end_ns=2 * 10**9), PhaseTime(name="x", begin_ns=2, end_ns=10))
    assert wall_seconds(record(phases=phases)) == pytest.approx(2.0)
    assert wall_seconds(record()) is None


S = 10**9
PHASES = tuple(
    PhaseTime(name=name, begin_ns=begin * S, end_ns=end * S)
    for name, begin, end in [("environment", 0, 1), ("model", 1, 4), ("first call", 4, 34), ("samples", 34, 40)]
)


def compiled(graphs: int = 1, warm: WarmStart | None = None) -> Compiles:
    return Compiles(graphs=graphs, recompiles=0, ledger=(), breaks=(), cache_hits=0, cache_misses=1, warm=warm)


@pytest.mark.parametrize(
    ("compiles", "seconds"),
    [
        (None, 0.0),
        (compiled(graphs=0), 0.0),
        (compiled(), None),
        (compiled(warm=WarmStart(first_ns=7 * S)), 11.0),  # what comes before the first call, and that call
        (compiled(warm=WarmStart(first_ns=None, reason=NOTHING_LEFT)), 0.0),
        (compiled(warm=WarmStart(first_ns=None, reason="it crashed")), None),
    ],
)
def test_what_a_record_says_of_a_second_start(compiles: Compiles | None, seconds: float | None) -> None:
    first = sample(0, 30_000, "first", begin_ns=4 * S, end_ns=34 * S)
    assert second_start_seconds(record(compiles=compiles, phases=PHASES, samples=(first,))) == seconds


def test_a_second_start_costs_what_it_took_and_nothing_where_nothing_was_compiled() -> None:
    cell = smoke_cell(method="inductor")
    key = (cell.workload.workload_id, "inductor", "cpu")

    def takes(second_start: float | None, **changes: Any) -> float:
        return expected(smoke_cell(method="inductor", **changes), {key: Earlier(10.0, second_start)}).seconds

    assert takes(0.0) == 10.0
    assert takes(4.0) == 14.0
    assert takes(4.0, rounds=2) == 12.0
    assert takes(4.0, warm=False) == takes(4.0, cache="shared") == 10.0
    assert takes(None) == 10.0 + guess_second_start(cell) > 10.0
    assert expected(cell, {}).seconds == guess_seconds(cell) + guess_second_start(cell)
    assert guess_second_start(smoke_cell()) == guess_second_start(smoke_cell(method="tinyllama")) == 0.0


def test_the_guess_knows_what_compiles_nothing_and_what_compiles_long() -> None:
    eager, tinyllama, fused, unknown, thunder = (
        guess_seconds(smoke_cell(method=method)) for method in ("eager", "tinyllama", "fused", "mine", "thunder")
    )
    assert eager == tinyllama < fused < unknown < thunder


def test_a_plan_costs_what_its_cells_cost() -> None:
    cost = estimate(PLAN, STACKS, {})
    assert cost.guessed == cost.cells == len(PLAN.cells)
    assert cost.seconds == pytest.approx(sum(expected(cell, {}).seconds for cell in PLAN.cells))
    assert (cost.download_bytes, cost.disk_bytes) == (300_000_000, 2_000_000_000)
    assert estimate(PLAN, {"cpu": stack()}, {}).download_bytes is None
    pulled = {"cpu": stack(build=None, ready={"name": "theirs:1"})}
    assert estimate(PLAN, pulled, {}).download_bytes is None
    there = estimate(PLAN, STACKS, {}, made={"cpu"})
    assert (there.seconds, there.download_bytes, there.disk_bytes) == (cost.seconds, 0, 0)


def test_the_guess_for_the_note_suite_is_of_the_right_size() -> None:
    plan = make_plan(load_suite("note"), {"gpu": stack("gpu")}, device="cuda")
    total = sum(guess_seconds(cell) for cell in plan.cells)
    # On an H100: about ten minutes of compiling and ten of measuring, and as much for the probes.
    assert 600 < total < 3000
    assert all(guess_seconds(cell) < cell.timeout_s for cell in plan.cells)


def test_the_guess_for_the_smoke_suite_is_minutes() -> None:
    assert sum(guess_seconds(cell) for cell in PLAN.cells) < 300


@pytest.mark.parametrize(("seconds", "words"), [(4.4, "4 s"), (89, "89 s"), (120, "2 min"), (7200, "2.0 h")])
def test_times_in_words(seconds: float, words: str) -> None:
    assert in_words(seconds) == words


@pytest.mark.parametrize(("size", "words"), [(None, "unknown"), (37_000_000, "37 MB"), (8_100_000_000, "8.1 GB")])
def test_sizes_in_words(size: int | None, words: str) -> None:
    assert size_in_words(size) == words
