"""From records to rows: statuses, rounds, memory, order."""

from __future__ import annotations

import random
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from record_samples import (
    COMPILES,
    ENVIRONMENT,
    GPU,
    ceilings,
    compiled_in,
    record,
    sample,
    samples,
    shared_cache,
    small_run,
    workload,
)

from orchestrator.analysis.ceilings import Ceilings, Hardware
from orchestrator.analysis.reduce import Reduction, ceiling, rows
from orchestrator.analysis.rows import Share
from orchestrator.records.record import Record
from orchestrator.report.words import warnings

WORK = {"flops": 281_600_000_000_000, "bytes": None, "tokens": 20480}
TAKEN = samples(9000.0, 500.0, 410.0, 430.0, 420.0, 450.0)


def on(uuid: str) -> dict[str, Any]:
    return {**ENVIRONMENT, "gpu": {**GPU, "uuid": uuid}}


def test_a_row_carries_its_proof() -> None:
    memory = {"process_bytes": 16 * 10**9, "steady_bytes": 15 * 10**9, "host_bytes": 10**9}
    (row,) = rows([ceilings(), record(samples=TAKEN, memory=memory, detail={"graphs": [1, 1, 1, 2, 2, 3]})], "steady")
    assert (row.name, row.title, row.status) == ("inductor@cuda", "forward inductor@cuda", "ok")
    assert row.figure.value == row.headline == pytest.approx(0.425)
    assert row.first_call.seconds == pytest.approx(9.0)
    assert (row.memory.process_bytes, row.memory.steady_bytes) == (16 * 10**9, 15 * 10**9)
    assert (row.graphs, row.recompiled) == (3, 2)
    assert (row.environment.torch, row.environment.kernel_packages) == ("2.13.0+cu130", {"triton": "3.5.0"})
    assert (row.figure.interval_kind, row.figure.interval_level) == ("within-process", 1 - 2 / 16)


def test_a_row_at_the_power_cap_has_its_share_of_the_sustained_rate_and_as_the_note_of_the_burst() -> None:
    product = {"kind": "matrix_product", "size": 16384, "work": 10**12}
    rates = [
        {**product, "durations_ns": [1_250_000] * 3},
        {**product, "durations_ns": [1_430_000] * 3, "sustained": True},
    ]
    work = {"flops": 10**14, "bytes": None, "tokens": 1}
    taken = [*TAKEN, *(sample(1, 440.0 + 20.0 * (at % 2), "sustained") for at in range(46))]
    records = [ceilings(rates=rates), record(samples=taken, work=work)]
    (row,) = rows(records, "steady")
    assert row.figure.value == pytest.approx(0.45)
    assert (row.share.rate, row.share.share) == ("sustained", pytest.approx(0.143 / 0.45))
    # One round of several that was not at the cap, the last one or another, is not what the median is made of.
    for odd in range(3):
        each = [record(samples=TAKEN if at == odd else taken, work=work, round=at) for at in range(3)]
        (row,) = rows([records[0], *each], "steady")
        assert (row.share.rate, row.figure.value) == ("sustained", pytest.approx(0.45))
    (short,) = rows(records, "note")
    assert short.figure.value == pytest.approx(0.41)
    assert (short.share.rate, short.share.share) == ("burst", pytest.approx(0.125 / 0.41))


def test_the_first_call_is_that_of_the_cold_rounds_where_there_are_any() -> None:
    (row,) = rows(shared_cache(39_600.0, 8593.0, 7336.0, 6182.0, 6870.0), "steady")
    assert (row.first_call.seconds, row.first_call.cache) == (pytest.approx(39.6), "cold")
    assert row.first_call.warm_seconds == pytest.approx(7.103)
    assert row.first_call.rounds == pytest.approx((39.6, 8.593, 7.336, 6.182, 6.87))
    (row,) = rows(shared_cache(39_600.0, 41_600.0, 7000.0, cold=2), "steady")
    assert (row.first_call.seconds, row.first_call.warm_seconds) == (pytest.approx(40.6), pytest.approx(7.0))
    (row,) = rows(shared_cache(115_000.0, 117_000.0, cold=0), "steady")
    assert (row.first_call.seconds, row.first_call.cache) == (pytest.approx(116.0), "warm")
    assert row.first_call.warm_seconds == pytest.approx(116.0)
    (row,) = rows(shared_cache(39_600.0, 41_600.0, cold=2), "steady")
    assert (row.first_call.seconds, row.first_call.warm_seconds) == (pytest.approx(40.6), None)


def test_a_first_call_over_a_cache_that_lacked_something_is_partly_warm() -> None:
    (row,) = rows(shared_cache(115_000.0, cold=0, lacking=1, compiles=compiled_in(0)), "steady")
    assert (row.first_call.seconds, row.first_call.cache) == (pytest.approx(115.0), "partly warm")
    assert row.first_call.warm_seconds is None
    half_filled = shared_cache(39_600.0, 20_000.0, lacking=1, compiles={**compiled_in(0), "warm": None})
    (row,) = rows(half_filled, "steady")
    assert (row.first_call.seconds, row.first_call.cache) == (pytest.approx(39.6), "cold")
    assert row.first_call.warm_seconds is None, "no figure of a warm start is made of it"


def test_rounds_over_one_compile_cache_say_so() -> None:
    (row,) = rows(shared_cache(39_600.0, 7000.0, 7000.0, compiles=compiled_in(0)), "steady")
    assert row.one_compile
    (warning,) = warnings(row)
    assert warning.startswith("its rounds share a compile cache")
    (row,) = rows(shared_cache(39_600.0, 39_000.0, cold=2, compiles=compiled_in(0)), "steady")
    assert not row.one_compile
    (row,) = rows(shared_cache(39_600.0, compiles=compiled_in(0)), "steady")
    assert not row.one_compile
    (row,) = rows(shared_cache(39_600.0, 7000.0), "steady")
    assert not row.one_compile, "nothing was compiled"


def test_rounds_on_several_gpus_say_so() -> None:
    rounds = [record(samples=TAKEN, round=n, environment=on(f"GPU-{gpu}")) for n, gpu in enumerate((0, 0, 1))]
    (row,) = rows(rounds, "steady")
    assert row.gpus == ("GPU-0", "GPU-1")
    (warning,) = warnings(row)
    assert warning.startswith("its rounds ran on 2 GPUs")
    (row,) = rows(rounds[:2], "steady")
    assert (row.gpus, warnings(row)) == (("GPU-0",), [])
    failed = record(round=2, status="crashed", reason="exit code 1", samples=[], environment=on("GPU-1"))
    (row,) = rows([*rounds[:2], failed], "steady")
    assert row.gpus == ("GPU-0",), "a round that gave no figure is not in the interval"


def test_a_second_process_tells_the_warm_first_call_before_other_rounds_do() -> None:
    (row,) = rows(shared_cache(39_600.0, 7000.0, compiles=COMPILES), "steady")
    assert row.first_call.warm_seconds == 9.5
    failed = {**COMPILES, "warm": {"first_ns": None, "reason": "timeout"}}
    (row,) = rows(shared_cache(39_600.0, 7000.0, compiles=failed), "steady")
    assert row.first_call.warm_seconds == pytest.approx(7.0)


def test_rounds_that_do_not_say_what_their_cache_held_are_neither_cold_nor_warm() -> None:
    unknown = record(round=1, samples=TAKEN, flags=[])
    (row,) = rows([*shared_cache(115_000.0, cold=0), unknown], "steady")
    assert (row.first_call.seconds, row.first_call.cache) == (pytest.approx(62.0), None)
    (row,) = rows([*shared_cache(115_000.0), unknown], "steady")
    assert (row.first_call.seconds, row.first_call.cache) == (pytest.approx(115.0), "cold")


def test_a_round_that_does_not_count_says_nothing_of_the_first_call() -> None:
    lost = record(round=0, samples=[], status="infrastructure", reason="disk full", flags=["cold"])
    (row,) = rows([lost, *shared_cache(0.0, 7000.0, cold=0)[1:]], "steady")
    assert (row.first_call.seconds, row.first_call.cache) == (pytest.approx(7.0), "warm")


def test_compiles_in_the_warm_up_are_paid_up_front() -> None:
    def upfront(*compiled: int, benchmark: str = "train_dynamic", **changes: object) -> float | None:
        taken = samples(60_000.0, 200.0, 51_000.0, 77_000.0, *[100.0, 300.0] * 3, warmup=4)
        changes = {"compiles": compiled_in(*compiled), "samples": taken, **changes}
        return rows([record(benchmark, **changes)], "steady")[0].first_call.upfront_seconds

    # Less a step of 0.22 s each: five timed steps took 1.1 s.
    assert upfront(0, 2, 3) == pytest.approx(60.0 + 51.0 + 77.0 - 2 * 0.22)
    assert upfront(0, 2) == pytest.approx(60.0 + 51.0 - 0.22)
    assert upfront(0) == pytest.approx(60.0)
    assert upfront(0, 5, 6) == pytest.approx(60.0), "timed samples are in the speed already"
    assert upfront(0, 1) == pytest.approx(60.0), "no less than nothing"
    assert upfront(0, 2, benchmark="generation") == pytest.approx(60.0 + 51.0 - 0.3), "a sample, not a token"
    older = {"compiles": None, "detail": {"graphs": [1, 1, 2, 3, 3, 3, 4, 4, 4, 4]}}
    assert upfront(**older) == pytest.approx(60.0 + 51.0 + 77.0 - 2 * 0.22)
    assert upfront(compiles=None) == pytest.approx(60.0)
    assert upfront(0, 2, samples=samples(60_000.0, 200.0, 51_000.0, warmup=2)) is None, "no speed to subtract"


def test_an_incorrect_round_takes_the_headline_and_keeps_the_figure() -> None:
    (row,) = rows([record(samples=TAKEN), record(round=1, samples=TAKEN, status="incorrect", reason="NaN")], "note")
    assert (row.status, row.headline, row.rounds, row.rounds_ok) == ("incorrect", None, 2, 1)
    assert row.figure.value == pytest.approx(0.41)
    assert row.reason == "round 1 incorrect: NaN"


def test_a_crashed_round_makes_the_row_crashed() -> None:
    (row,) = rows([record(samples=TAKEN), record(round=1, status="crashed", reason="signal 9")], "steady")
    assert (row.status, row.headline) == ("crashed", None)
    assert row.figure.value == pytest.approx(0.425)


def test_a_lost_node_says_nothing_about_the_stack() -> None:
    (row,) = rows([record(samples=TAKEN), record(round=1, status="infrastructure", reason="disk full")], "steady")
    assert (row.status, row.rounds_ok) == ("ok", 1)
    assert row.headline is not None
    assert row.reason == "round 1 infrastructure: disk full"


def test_a_refused_row_has_a_reason_and_no_figure() -> None:
    (row,) = rows([record(status="unsupported", reason="no compiler", environment=None)], "steady")
    assert (row.reason, row.figure.value, row.figure.reason) == ("no compiler", None, "no round is ok (unsupported)")
    assert row.share.share is None


def test_of_two_records_of_a_key_the_later_counts() -> None:
    crashed = record(status="crashed", reason="signal 9", started_utc="2026-11-23T09:00:00Z")
    for order in ([crashed, record(samples=TAKEN)], [record(samples=TAKEN), crashed]):
        (row,) = rows(order, "steady")
        assert (row.status, row.rounds) == ("ok", 1)


def test_peaks_are_the_largest_of_the_rounds_and_unknown_stays_unknown() -> None:
    def peak(number: int, count: int) -> Record:
        memory = {"process_bytes": count, "steady_bytes": None, "host_bytes": None}
        return record(round=number, samples=TAKEN, memory=memory)

    (row,) = rows([peak(0, 5), peak(1, 7)], "steady")
    assert (row.memory.process_bytes, row.memory.steady_bytes) == (7, None)


def test_best_first_and_broken_last() -> None:
    run = small_run()
    assert [(r.benchmark, r.name) for r in rows(run, "steady")] == [
        ("forward", "inductor@cuda"),
        ("forward", "eager@cuda"),
        ("forward", "thunder@cuda"),
        ("forward", "tinyllama@cuda"),
        ("generation", "inductor@cuda"),
        ("generation", "thunder@cuda"),
    ]


def test_higher_is_better_for_tokens() -> None:
    quick = record("generation", cell_id="d" * 16, samples=samples(*[500.0] * 9))
    slow = record("generation", cell_id="e" * 16, samples=samples(*[600.0] * 9))
    assert [row.cell_id[0] for row in rows([slow, quick], "steady")] == ["d", "e"]


def test_dynamic_work_is_that_of_the_timed_samples() -> None:
    work = {"flops": 781 * 10**12, "bytes": None, "tokens": None}

    def shares(warmup: int) -> list[Share]:
        taken = samples(*[50.0] * 50, warmup=warmup)
        got = record("train_dynamic", samples=taken, work=work)
        return [rows([ceilings(), got], protocol)[0].share for protocol in ("steady", "note")]

    steady, note = shares(4)
    # 781 TFLOP at 781 TFLOP/s: one second of 45 times 50 ms.
    assert steady.share == note.share == pytest.approx(1 / 2.25, rel=1e-6)
    steady, note = shares(9)
    assert steady.share == pytest.approx(1 / 2.0, rel=1e-6)
    assert (note.share, note.reason) == (None, "the work is counted over the timed samples, the note's are others")


def test_ceilings_are_the_best_median_over_the_sizes() -> None:
    found = ceiling(ceilings())
    assert found.flops_per_second == pytest.approx(781e12, rel=1e-4)
    assert found.bytes_per_second == pytest.approx(3.02e12, rel=1e-4)
    assert found.matrix_size == 8192
    nothing = ceiling(ceilings(rates=[]))
    assert (nothing.flops_per_second, nothing.copy_size) == (None, None)


def test_workloads_under_one_wrong_id_are_not_mixed_up() -> None:
    other = workload(batch=3)
    got = rows(
        [record(samples=TAKEN), record(cell_id="9" * 16, workload=other, workload_id=workload().workload_id)], "note"
    )
    assert sorted(row.workload.batch or 0 for row in got) == [3, 10]


@settings(max_examples=25, deadline=None)
@given(st.randoms(use_true_random=False))
def test_the_order_of_records_does_not_matter(shuffler: random.Random) -> None:
    run = small_run()
    expected = {protocol: rows(run, protocol) for protocol in ("note", "steady")}
    shuffler.shuffle(run)
    assert rows(run, "note") == expected["note"]
    assert rows(run, "steady") == expected["steady"]


def test_a_reduction_can_be_read_while_it_grows() -> None:
    reduction = Reduction()
    reduction.add(record(samples=TAKEN))
    assert reduction.rows("steady")[0].share.reason == "the work of a sample is not known"
    reduction.add(ceilings())
    assert len(reduction.ceilings) == 1
    assert len(reduction.rows("steady")) == 1
    reduction.forget(reduction.ceilings[0].cell_id, 0)
    assert reduction.ceilings == ()


def test_ceilings_are_looked_up_once_for_each_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of 800 GPUs, each with ceilings of its own, every row went through all of them, several times."""
    looks: list[str | None] = []
    look = Ceilings._look

    def counted(self: Ceilings, hardware: Hardware, *rest: Any) -> Any:
        looks.append(hardware.uuid)
        return look(self, hardware, *rest)

    monkeypatch.setattr(Ceilings, "_look", counted)
    reduction = Reduction()
    for number in range(3):
        reduction.add(ceilings(round=number, environment=on(f"GPU-{number}")))
    for number in range(12):
        uuid = f"GPU-{number % 3}"
        reduction.add(record(samples=TAKEN, cell_id=f"{number:016x}", environment=on(uuid), work=WORK))
    found = reduction.rows("steady") + reduction.rows("note")
    assert {row.share.ceiling_of for row in found} == {"this device"}
    assert sorted(looks, key=str) == ["GPU-0", "GPU-1", "GPU-2"]


def test_what_is_kept_once_for_many_rows_is_the_same_host_too() -> None:
    elsewhere = {**ENVIRONMENT, "cpu": "another", "cores": 2, "settings": {"A": "1"}}
    found = rows([record(), record(method="eager", cell_id="e" * 16, environment=elsewhere)], "steady")
    by_method = {row.method: row.environment for row in found}
    assert (by_method["eager"].cpu, by_method["eager"].settings) == ("another", {"A": "1"})
    assert by_method["inductor"].cpu != "another"
