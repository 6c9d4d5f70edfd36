"""The protocols, against figures computed by hand."""

from __future__ import annotations

import math
import random
from collections.abc import Callable
from statistics import median

import pytest
from hypothesis import given
from hypothesis import strategies as st
from record_samples import record, sample, samples, workload

from orchestrator.analysis.protocol import Reduced, columns_of, combine, first_call_seconds, in_unit, note, steady
from orchestrator.analysis.statistics import interval_across, interval_of_median, student_t
from orchestrator.records.record import Record

FORWARD = samples(9000.0, 500.0, 410.0, 430.0, 420.0, 450.0, 440.0, 460.0, 470.0, 480.0)
DURATIONS = st.lists(st.floats(min_value=0.01, max_value=1e5), min_size=12, max_size=60)


def test_note_is_the_best_of_the_first_ten_whatever_their_phase() -> None:
    late = [*FORWARD, sample(10, 100.0)]
    reduced = note(record(samples=late))
    assert reduced.seconds == pytest.approx(0.410)
    assert reduced.device_seconds == pytest.approx(0.4099)
    assert (reduced.basis, reduced.complete, reduced.used) == ("best of 10", True, (2,))


def test_note_counts_the_first_call() -> None:
    reduced = note(record(samples=samples(300.0, 500.0, 410.0)))
    assert reduced.seconds == pytest.approx(0.3)
    assert reduced.basis == "best of 3 (the note takes 10)"
    assert not reduced.complete


def test_note_leaves_repeats_out_and_steady_takes_them_in() -> None:
    again = [*FORWARD, sample(3, 1.0, "repeat"), sample(4, 2.0, "repeat")]
    assert note(record(samples=again)).seconds == pytest.approx(0.410)
    # 1, 2, 410, 420, 430, 440, 450, 460, 470, 480
    assert steady(record(samples=again)).seconds == pytest.approx(0.435)


def test_steady_is_the_median_of_the_timed_samples() -> None:
    reduced = steady(record(samples=FORWARD))
    # 410, 420, 430, 440, 450, 460, 470, 480
    assert reduced.seconds == pytest.approx(0.445)
    assert reduced.basis == "median of 8 timed samples"
    assert first_call_seconds(columns_of(record(samples=FORWARD))) == pytest.approx(9.0)


ALTERNATING = [sample(1 + at % 9, 435.0 + 34.0 * (at % 2), "sustained") for at in range(46)]
"""As compiled rows do at the power cap, for 20.8 s."""


def test_what_was_sustained_is_averaged_with_an_interval_of_blocks_that_alternation_does_not_widen() -> None:
    taken = [*FORWARD, *(sample(1, 700.0, "soak") for _ in range(5)), *ALTERNATING]
    reduced = steady(record(samples=taken))
    assert reduced.seconds == pytest.approx(0.452)
    assert reduced.device_seconds == pytest.approx(0.4519)
    assert reduced.basis == "mean of 46 samples sustained for 20.8 s at the power cap"
    # Blocks of five samples, of 2.2 s each, and what is left over with the last.
    assert len(reduced.blocks) == 9
    assert reduced.blocks[0] == pytest.approx((3 * 0.435 + 2 * 0.469) / 5)
    figure = combine("steady", "forward", None, [reduced])
    assert figure.interval == pytest.approx(interval_across(reduced.blocks))
    assert figure.interval_kind == "within-process"
    low, high = figure.interval or (0.0, 0.0)
    assert 0.44 < low < 0.452 < high < 0.464
    assert note(record(samples=taken)) == note(record(samples=FORWARD))


def test_short_samples_of_which_a_record_holds_two_seconds_have_an_interval_too() -> None:
    short = [sample(1 + at % 9, 0.9 + 0.2 * (at % 2), "sustained") for at in range(2_000)]
    reduced = steady(record(samples=[*FORWARD, *short]))
    assert reduced.basis == "mean of 2000 samples sustained for 2 s at the power cap"
    assert len(reduced.blocks) == 10
    low, high = combine("steady", "forward", None, [reduced]).interval or (0.0, 0.0)
    assert 0.00099 < low <= high < 0.00101


def test_of_what_was_sustained_only_the_undisturbed_counts_where_there_is_any() -> None:
    some = [*ALTERNATING[:44], *[sample(1, 900.0, "sustained") | {"taint": "stalled"}] * 2]
    reduced = steady(record(samples=[*FORWARD, *some]))
    assert reduced.seconds == pytest.approx(0.452)
    assert reduced.basis == "mean of the 44 valid of 46 samples sustained for 19.9 s at the power cap"
    assert not reduced.tainted
    every = [one | {"taint": "another process"} for one in ALTERNATING]
    assert steady(record(samples=[*FORWARD, *every])).tainted


def test_totals_that_were_sustained_are_averaged_over_whole_turns() -> None:
    timed = [sample(at, 100.0 * at, "timed") for at in range(5, 10)]
    turns = [sample(at, 100.0 * at + 10.0 * turn, "sustained") for turn in range(4) for at in range(5, 10)]
    reduced = steady(record("train_dynamic", samples=[*timed, *turns, sample(5, 1.0, "sustained")]))
    # Totals of 3.5, 3.55, 3.6 and 3.65 s; what is no whole turn does not count.
    assert reduced.seconds == pytest.approx(3.575)
    assert reduced.blocks == pytest.approx((3.5, 3.55, 3.6, 3.65))
    assert reduced.basis == "mean of 4 totals of 5 samples sustained at the power cap"
    assert reduced.used == (5, 6, 7, 8, 9)
    disturbed = [*turns[:7], turns[7] | {"taint": "stalled"}, *turns[8:]]
    reduced = steady(record("train_dynamic", samples=[*timed, *disturbed]))
    assert reduced.seconds == pytest.approx((3.5 + 3.6 + 3.65) / 3)
    assert reduced.basis == "mean of the 3 valid of 4 totals of 5 samples sustained at the power cap"
    assert steady(record("train_dynamic", samples=[*timed, *turns[:7], *turns[8:]])).seconds is None


def test_note_of_train_static_is_the_mean_of_samples_6_to_50() -> None:
    taken = samples(60_000.0, *(100.0 + i for i in range(1, 60)), warmup=4)
    figure = combine("note", "train_static", None, [note(record("train_static", samples=taken))])
    # Indices 5 to 49: the mean of 105 to 149.
    assert figure.value == pytest.approx(127.0)
    assert (figure.unit, figure.basis, figure.complete) == ("ms", "mean of samples 6 to 50", True)


def test_note_of_train_dynamic_is_the_total_of_samples_6_to_50() -> None:
    taken = samples(60_000.0, *(100.0 + i for i in range(1, 50)), warmup=4)
    figure = combine("note", "train_dynamic", None, [note(record("train_dynamic", samples=taken))])
    assert figure.value == pytest.approx(45 * 0.127)
    assert (figure.unit, figure.basis) == ("s", "total of samples 6 to 50")


def test_note_of_short_training_says_so() -> None:
    reduced = note(record("train_static", samples=samples(900.0, 1.0, 2.0, 3.0, 4.0, 10.0, 20.0)))
    assert reduced.seconds == pytest.approx(0.015)
    assert reduced.basis == "mean of the 2 samples after the first 5 (the note goes to 50)"
    assert not reduced.complete
    none = note(record("train_static", samples=samples(900.0, 1.0, 2.0)))
    assert none.seconds is None
    assert none.reason == "3 samples: the note leaves out the first 5"


def test_steady_of_train_dynamic_is_a_total_that_counts_each_iteration_once() -> None:
    taken = [*samples(900.0, 50.0, 100.0, 200.0, 300.0), sample(2, 140.0, "repeat"), sample(99, 7.0, "repeat")]
    reduced = steady(record("train_dynamic", samples=taken))
    # Iteration 2 took 100 and 140 ms: 120. The repeat of an iteration that was never timed counts for nothing.
    assert reduced.seconds == pytest.approx(0.120 + 0.2 + 0.3)
    assert reduced.used == (2, 3, 4)


def test_tokens_per_second_and_token_times() -> None:
    made = [sample(i, 1000.0 + 100 * i, "timed" if i else "first", first_token_ns=50_000_000) for i in range(4)]
    got = record("generation", workload=workload("generation", new_tokens=101), samples=made)
    best = combine("note", "generation", 101, [note(got)])
    assert best.value == pytest.approx(101.0)
    assert best.next_token_seconds == pytest.approx((1.0 - 0.05) / 100)
    typical = combine("steady", "generation", 101, [steady(got)])
    assert typical.value == pytest.approx(101 / 1.2)
    assert typical.first_token_seconds == pytest.approx(0.05)
    assert typical.next_token_seconds == pytest.approx(1.15 / 100)
    assert typical.interval == pytest.approx((101 / 1.3, 101 / 1.1))


def test_unknown_device_time_stays_unknown() -> None:
    half = [sample(0, 5.0, "first"), sample(1, 4.0), sample(2, 4.0, device_ns=None), sample(3, 4.0)]
    assert steady(record(samples=half)).device_seconds is None
    assert note(record(samples=half)).device_seconds == pytest.approx(3.9e-3)


@pytest.mark.parametrize("reduce", [note, steady])
def test_no_samples_and_backward_clocks_have_a_reason(reduce: Callable[[Record], Reduced]) -> None:
    assert reduce(record()).reason == "no samples of the kind that the protocol takes"
    backward = [sample(0, 5.0, "first"), sample(1, 4.0), sample(2, -4.0)]
    reduced = reduce(record(samples=backward))
    assert reduced.seconds is None
    assert reduced.reason == "sample 2 ends before it begins"


def test_rounds_are_combined_by_the_median_of_medians_with_a_t_interval() -> None:
    rounds = [steady(record(samples=samples(9.0, 1.0, *[taken] * 3))) for taken in (100.0, 110.0, 150.0)]
    figure = combine("steady", "forward", None, rounds)
    assert figure.value == pytest.approx(0.110)
    assert figure.interval_kind == "across rounds"
    logs = [math.log(x) for x in (0.1, 0.11, 0.15)]
    centre = sum(logs) / 3
    spread = math.sqrt(sum((x - centre) ** 2 for x in logs) / 2 / 3)
    # 9.9248: Student's t at 0.995 with 2 degrees of freedom.
    assert figure.interval == pytest.approx(
        (math.exp(centre - 9.9248 * spread), math.exp(centre + 9.9248 * spread)), rel=1e-4
    )
    assert figure.round_figures == pytest.approx((0.1, 0.11, 0.15))
    assert combine("note", "forward", None, rounds).interval is None


def test_totals_over_different_iterations_are_not_combined() -> None:
    rounds = [steady(record("train_dynamic", samples=samples(9.0, 1.0, *[5.0] * n))) for n in (3, 4)]
    figure = combine("steady", "train_dynamic", None, rounds)
    assert figure.value is None
    assert figure.reason == "the rounds' totals are over different iterations"


def test_student_t_against_tables() -> None:
    assert student_t(1) == pytest.approx(63.657, abs=1e-3)
    assert student_t(9) == pytest.approx(3.2498, abs=1e-4)


def test_interval_of_the_median_against_binomial_tables() -> None:
    # n = 8: min and max cover 1 - 2/256; n = 20 at 99 %: the 4th and 17th, 1 - 2 * 1351 / 2**20.
    assert interval_of_median(range(8)) == pytest.approx((0, 7, 1 - 2 / 256))
    assert interval_of_median(range(20)) == pytest.approx((3, 16, 1 - 2 * 1351 / 2**20))
    assert interval_of_median(range(5)) == pytest.approx((0, 4, 1 - 2 / 32))


def test_too_few_samples_have_no_interval() -> None:
    assert combine("steady", "forward", None, [steady(record(samples=samples(9.0, 1.0, 5.0, 6.0)))]).interval is None


@given(DURATIONS, st.randoms(use_true_random=False))
def test_the_order_of_samples_does_not_matter(durations: list[float], shuffler: random.Random) -> None:
    for benchmark in ("forward", "train_static", "train_dynamic"):
        taken = samples(*durations)
        shuffled = list(taken)
        shuffler.shuffle(shuffled)
        one, other = record(benchmark, samples=taken), record(benchmark, samples=shuffled)
        assert note(one).seconds == note(other).seconds
        assert steady(one).seconds == pytest.approx(steady(other).seconds, rel=1e-12)


@given(DURATIONS)
def test_note_goes_by_index_and_steady_by_phase(durations: list[float]) -> None:
    first, *rest = durations
    warm = samples(first, *rest, warmup=1)
    cautious = samples(first, *rest, warmup=3)
    assert note(record(samples=warm)).seconds == note(record(samples=cautious)).seconds
    walls = [(s["end_ns"] - s["begin_ns"]) / 1e9 for s in warm]
    assert note(record(samples=warm)).seconds == min(walls[:10])
    assert steady(record(samples=warm)).seconds == median(walls[2:])
    assert steady(record(samples=cautious)).seconds == median(walls[4:])


@given(st.lists(st.floats(min_value=1e-6, max_value=1e6), min_size=1, max_size=40))
def test_intervals_are_ordered_and_hold_their_centre(values: list[float]) -> None:
    low, high, level = interval_of_median(values)
    assert low <= median(values) <= high
    assert 0 <= level < 1
    if len(values) > 1:
        low, high = interval_across(values)
        mean = math.exp(math.fsum(map(math.log, values)) / len(values))
        assert low <= mean * (1 + 1e-9)
        assert high >= mean * (1 - 1e-9)


@given(st.floats(min_value=1e-6, max_value=1e6))
def test_units(seconds: float) -> None:
    assert in_unit("forward", seconds, None) == seconds
    assert in_unit("train_static", seconds, None) == seconds * 1000
    assert in_unit("generation", seconds, 200) == 200 / seconds
    assert in_unit("generation", seconds, None) is None
