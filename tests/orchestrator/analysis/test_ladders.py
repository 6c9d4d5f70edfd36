"""Throughput against latency: which rows make a ladder, and which of them are on the Pareto front."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from ladder_samples import further_ms, ladder_record, ladder_run
from record_samples import record

from orchestrator.analysis.ladders import Ladder, ladders
from orchestrator.analysis.reduce import rows

if TYPE_CHECKING:
    from orchestrator.records.record import Record


def of(records: list[Record]) -> list[Ladder]:
    return ladders((0, row) for row in rows(records, "steady"))


def front(ladder: Ladder) -> list[tuple[str, int]]:
    return [(step.row.method, step.batch) for step in ladder.front()]


def test_rows_that_differ_in_batch_and_method_alone_are_one_ladder() -> None:
    found = of([*ladder_run(), record("generation", cell_id="9" * 16)])
    assert [ladder.what for ladder in found] == [
        "llama_3_1_8b, 128 prompt tokens, 128 new tokens, bfloat16",
        "open_llama_3b, 128 prompt tokens, 128 new tokens, bfloat16",
    ]
    assert {ladder.device for ladder in found} == {"NVIDIA H100 80GB HBM3"}
    assert [len(ladder.steps) for ladder in found] == [16, 16]


def test_figures_are_of_all_sequences_and_times_of_one() -> None:
    (ladder,) = of([ladder_record("wide", 32)])
    (step,) = ladder.steps
    wall = 84.0 + 127 * further_ms("wide", 32)
    assert step.tokens_per_second == pytest.approx(32 * 128 / wall * 1e3, rel=0.01)
    assert step.first_seconds == pytest.approx(0.084)
    assert step.further_seconds == pytest.approx(further_ms("wide", 32) / 1e3, rel=0.01)
    assert step.row.units == 32 * 128
    assert step.row.first_call.startup_seconds == pytest.approx(32 + wall / 1e3)


def test_the_front_is_what_no_proved_row_beats_in_both() -> None:
    ladder = of(ladder_run())[1]
    assert front(ladder) == [("fast", 1), ("wide", 8), ("wide", 32), ("wide", 128)]
    without = of(ladder_run(methods=("eager", "inductor", "fast")))[1]
    assert front(without) == [("fast", 1), ("inductor", 8), ("inductor", 32), ("inductor", 128)]


def test_a_row_that_is_not_proved_is_drawn_and_neither_on_the_front_nor_pushes_another_off() -> None:
    records = [*ladder_run(methods=("eager",)), *ladder_run(methods=("inductor",))]
    ladder = of([one for one in records if one.role == "row" or one.method == "inductor"])[1]
    assert {step.row.method for step in ladder.steps if not step.proved} == {"eager"}
    assert {method for method, _ in front(ladder)} == {"inductor"}
    unproved = ladder_record("fast", 1, flags=["unchecked", "cold"])
    proved = [one for one in ladder_run(methods=("inductor",)) if "llama_3_1" not in str(one.workload.model)]
    (ladder,) = of([unproved, *proved])
    assert ("inductor", 1) in front(ladder)


def test_a_wrong_row_has_no_step() -> None:
    assert of([ladder_record("fast", 8, status="incorrect", reason="rows: row 3")]) == []


def test_an_engine_says_its_own_start_up() -> None:
    told = {"startup": {"startup_ns": 90 * 10**9, "load_ns": 80 * 10**9, "first_call_ns": 10 * 10**9}}
    (ladder,) = of([ladder_record("fast", 8, detail=told)])
    assert ladder.steps[0].row.first_call.startup_seconds == 90.0
    (ladder,) = of([ladder_record("fast", 8, detail={"startup": {"startup_ns": None}})])
    assert ladder.steps[0].row.first_call.startup_seconds is None
