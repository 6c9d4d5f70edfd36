"""Which samples are tainted, and why: over scripted readings, and over the samples of real GPU runs."""

# ruff: noqa: S311 - noise is no secret

from __future__ import annotations

import random
from dataclasses import replace
from pathlib import Path

import pytest
from committed import FOLDERS
from record_samples import record, sample, samples
from scripted_nvml import HARDWARE, HARDWARE_THERMAL, POWER_BRAKE, POWER_CAP, SOFTWARE_THERMAL
from telemetry_series import MS, series

from orchestrator.analysis.protocol import steady
from orchestrator.measure.telemetry import Series
from orchestrator.measure.validity import Span, judged, spans_of, taints, to_repeat
from orchestrator.records.store import read_record

PUBLISHED = sorted(path for run in FOLDERS for path in run.glob("records/*.json"))


def spans(count: int = 10, taken_ms: float = 180.0, every_ms: int = 200, **changes) -> list[Span]:
    """A first call, a warm-up, and timed samples, one every 200 ms."""
    phases = ["first", "warmup", *["timed"] * (count - 2)]
    return [
        Span(at, phase, at * every_ms * MS, round((at * every_ms + taken_ms) * MS), None, (2, 64), **changes)
        for at, phase in enumerate(phases)
    ]


def within(place: int, value: int, otherwise: int):
    """A field that has `value` while the sample at `place` runs."""
    return lambda at: value if place * 200 <= at <= place * 200 + 180 else otherwise


def found(told: Series | None, some: list[Span] | None = None, benchmark: str = "forward") -> dict[int, str]:
    return taints(some or spans(), told, benchmark, "cuda")  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("bit", "reason"),
    [
        (HARDWARE_THERMAL, "thermal slowdown (hardware)"),
        (SOFTWARE_THERMAL, "thermal slowdown (software)"),
        (HARDWARE, "hardware slowdown"),
        (POWER_BRAKE, "power brake"),
        (POWER_BRAKE | HARDWARE, "power brake; hardware slowdown"),
        (POWER_BRAKE | POWER_CAP, "power brake"),
    ],
)
def test_a_slowdown_in_one_sample_taints_that_one(bit: int, reason: str) -> None:
    assert found(series(reasons=within(5, bit, POWER_CAP), sm_mhz=1500)) == {5: reason}


@pytest.mark.parametrize("reasons", [0x1, 0x2, POWER_CAP, 0x10, 0x100, None])
def test_what_is_normal_taints_nothing(reasons: int | None) -> None:
    assert found(series(reasons=reasons, sm_mhz=1980, memory_mhz=2619, thermal_ns=10**12)) == {}


def test_first_calls_and_warm_ups_are_not_judged() -> None:
    assert found(series(reasons=lambda at: HARDWARE if at < 400 else 0)) == {}


def test_a_slowdown_too_short_for_the_readings_shows_in_the_drivers_counter() -> None:
    told = series(thermal_ns=lambda at: 0 if at < 1090 else 5 * MS, reasons=0)
    assert found(told) == {5: "thermal slowdown (the driver's counter)"}
    assert found(series(thermal_ns=lambda at: 0 if at < 1090 else 1 * MS, reasons=0)) == {}


def test_a_sample_between_two_readings_is_judged_by_both() -> None:
    short = [replace(span, begin_ns=span.begin_ns + 3 * MS, end_ns=span.begin_ns + 9 * MS) for span in spans()]
    assert found(series(reasons=lambda at: HARDWARE if at == 1000 else 0), short) == {5: "hardware slowdown"}


def test_another_process_is_named() -> None:
    told = series(200, 10, reasons=0)
    readings = [
        r._replace(foreign=frozenset({77} if 1000 <= r.t_ns // MS <= 1100 else ())) if r.t_ns % (50 * MS) == 0 else r
        for r in told.readings
    ]
    assert found(Series(readings, {77: "python3"})) == {5: "another process on the GPU: python3"}
    unknown = [r._replace(foreign=None) for r in readings]
    assert found(Series(unknown, {77: "python3"})) == {}


def test_a_clock_that_moved() -> None:
    told = series(sm_mhz=within(5, 1410, 1980), reasons=0)
    assert found(told) == {5: "the SM clock moved: 1410 MHz, 1980 MHz in the others"}
    told = series(sm_mhz=1980, memory_mhz=within(7, 1593, 2619), reasons=POWER_CAP)
    assert found(told) == {7: "the memory clock moved: 1593 MHz, 2619 MHz in the others"}
    both = series(sm_mhz=within(5, 1410, 1980), memory_mhz=within(5, 1593, 2619), reasons=0)
    assert found(both)[5].count("moved") == 2


def test_a_clock_that_the_power_cap_moves_or_that_nothing_explains_is_left_alone() -> None:
    assert found(series(sm_mhz=within(5, 1410, 1980), reasons=within(5, POWER_CAP, 0))) == {}
    assert found(series(sm_mhz=within(5, 1410, 1980), reasons=within(8, POWER_CAP, 0))) == {}
    assert found(series(sm_mhz=within(5, 1410, 1980), reasons=None)) == {}
    assert found(series(sm_mhz=within(5, 1900, 1980), reasons=0)) == {}  # a few steps of the clock
    # Idle between the samples, the GPU lowers its clock: that is not in them.
    assert found(series(sm_mhz=lambda at: 345 if at % 200 > 180 else 1980, reasons=0)) == {}
    # One or two readings say too little.
    short = [replace(span, end_ns=span.begin_ns + 25 * MS) for span in spans()]
    assert found(series(sm_mhz=within(5, 1410, 1980), reasons=0), short) == {}


def slept(some: list[Span], place: int, ms: float, *, device: bool = True) -> list[Span]:
    changed = list(some)
    span = some[place]
    known = None if span.device_ns is None else span.device_ns + round(ms * MS) * device
    changed[place] = replace(span, end_ns=span.end_ns + round(ms * MS), device_ns=known)
    return changed


def noisy(count: int, seed: int, noise: float = 0.02, device_ns: int | None = None) -> list[Span]:
    draw = random.Random(seed)
    times = [180 * (1 + draw.gauss(0, noise)) for _ in range(count)]
    made = [replace(span, end_ns=span.begin_ns + round(t * MS)) for span, t in zip(spans(count), times, strict=True)]
    return [replace(span, device_ns=device_ns) for span in made]


@pytest.mark.parametrize("count", [9, 12, 50])
def test_a_sleep_in_one_sample_is_found_without_any_telemetry(count: int) -> None:
    for seed in range(20):
        place = 2 + seed % (count - 2)
        told = found(None, slept(noisy(count, seed), place, 360))
        assert list(told) == [place]
        assert told[place].startswith("stalled: 3.0") or told[place].startswith("stalled: 2.9")


def test_who_stalled_is_said_where_it_is_known() -> None:
    some = noisy(20, 1, device_ns=179 * MS)
    assert found(None, slept(some, 5, 360, device=False))[5].endswith("and the GPU's part did not: the host stalled")
    waited = slept(some, 5, 70)
    assert found(None, waited)[5].endswith("what the others took")
    assert found(None, slept(some, 5, 360))[5].endswith("what the others took")


def test_no_sleep_is_seen_in_noise_or_in_what_a_method_does_often() -> None:
    alarms = sum(bool(found(None, noisy(count, seed, 0.1))) for count in (9, 22, 52) for seed in range(400))
    assert alarms == 0
    often = spans(42)
    for place in range(2, 42, 3):
        often = slept(often, place, 500)
    assert found(None, often) == {}
    drifting = [replace(span, end_ns=span.end_ns + at * at * MS) for at, span in enumerate(spans(20))]
    assert found(None, drifting) == {}


def test_a_stall_has_to_be_long_on_the_clock_too() -> None:
    quick = [replace(span, end_ns=span.begin_ns + MS) for span in spans(20)]
    assert found(None, slept(quick, 5, 9)) == {}
    assert list(found(None, slept(quick, 5, 15))) == [5]
    assert taints(slept(quick, 5, 90), None, "forward", "cpu") == {}
    assert list(taints(slept(quick, 5, 110), None, "forward", "cpu")) == [5]


def test_a_recompile_is_the_methods_own_and_few_samples_say_nothing() -> None:
    some = slept(noisy(12, 3), 5, 900)
    some[5] = replace(some[5], compiled=True)
    assert found(None, some) == {}
    assert found(None, slept(spans(6), 4, 900)) == {}


def test_a_kernel_that_triton_compiled_in_a_sample_is_the_methods_own() -> None:
    kernels = [7, 7, 7, 7, 7, 9, *[9] * 6]
    detail: dict[str, object] = {"graphs": [0] * 12, "kernels": kernels}
    taken = samples(9000.0, *[450.0] * 4, 1900.0, *[450.0] * 6)
    assert [span.compiled for span in spans_of(record(samples=taken, detail=detail))] == [
        *[False] * 5,
        True,
        *[False] * 6,
    ]
    assert steady(judged(record(samples=taken, detail=detail), None)).tainted == 0
    unknown = judged(record(samples=taken, detail={"graphs": [0] * 12}), None)
    assert [s.index for s in unknown.samples if s.taint] == [5]


def dynamic(seed: int = 0, count: int = 50, new_ms: float = 0.0) -> list[Span]:
    """Steps over batches of any length; each token costs the same beyond a fixed part, a new shape `new_ms` more."""
    draw, made, before = random.Random(seed), [], set()
    for span in spans(count, every_ms=4000):
        shape = (2, draw.randint(16, 60) * 32)
        taken = (15 + shape[1] * 0.12) * (1 + draw.gauss(0, 0.02)) + (0 if shape in before else new_ms)
        before.add(shape)
        made.append(replace(span, shape=shape, end_ns=span.begin_ns + round(taken * MS)))
    return made


@pytest.mark.parametrize("new_ms", [0.0, 1500.0])
def test_shapes_that_change_are_compared_by_their_size_and_by_whether_they_are_new(new_ms: float) -> None:
    for seed in range(10):
        some = dynamic(seed, new_ms=new_ms)
        assert found(None, some, "train_dynamic") == {}
        assert list(found(None, slept(some, 20, 6000), "train_dynamic")) == [20]


COLLECTED = {0: [22], 1: [22], 2: [11, 22]}
"""Samples of one row's rounds in which Python's collector walked through everything: bench kept it from that later."""


@pytest.mark.parametrize("path", PUBLISHED, ids=lambda path: path.stem)
def test_no_sample_of_the_kept_gpu_runs_is_called_stalled_but_those_that_were(path: Path) -> None:
    kept = read_record(path)
    stalled = COLLECTED.get(kept.round, []) if path.stem.startswith("train_static-tinyllama@tinyllama") else []
    assert list(taints(spans_of(kept), None, kept.workload.benchmark, kept.device)) == stalled


def test_there_are_kept_gpu_runs() -> None:
    assert PUBLISHED


def test_what_is_tainted_is_repeated_until_a_repeat_is_valid() -> None:
    some = spans(6)
    assert to_repeat(some, []) == []
    assert to_repeat(some, [2, 4]) == [2, 4]
    again = [*some, replace(some[2], phase="repeat"), replace(some[4], phase="repeat")]
    assert to_repeat(again, [2, 4, 6]) == [2]
    assert to_repeat(again, [2, 4]) == []


FORWARD = samples(9000.0, 500.0, *[410.0] * 8)


def over(index: int, value: int):
    """A field that has `value` while sample `index` of FORWARD runs; samples begin ten seconds apart."""
    begin = 10**12 // MS
    return lambda at: value if begin + index * 10_000 <= at <= begin + index * 10_000 + 410 else 0


def far_series(**fields) -> Series:
    told = series(5_000, 20, **{name: (lambda at, f=field: f(at + 10**6)) for name, field in fields.items()})
    return Series([reading._replace(t_ns=reading.t_ns + 10**12) for reading in told.readings])


def test_the_record_gets_taints_energies_and_telemetry_and_its_figure_leaves_the_tainted_out() -> None:
    told = far_series(reasons=over(4, HARDWARE), energy_mj=lambda at: 500 * at)
    slow = [s if s["index"] != 4 else sample(4, 900.0) for s in FORWARD]
    got = judged(record(samples=slow), told)
    reasons = [s.taint for s in got.samples]
    assert [place for place, reason in enumerate(reasons) if reason] == [4]
    assert reasons[4] == "hardware slowdown; stalled: 2.20 times what the others took"
    assert got.samples[3].energy_joules == pytest.approx(205.0)
    assert got.samples[0].energy_joules is None
    assert got.telemetry is not None
    assert got.telemetry.energy_joules == pytest.approx(205.0 * 7 + 450.0)
    assert got.flags == ("unchecked", "cold")
    reduced = steady(got)
    assert (reduced.seconds, reduced.tainted) == (0.41, False)
    assert reduced.basis == "median of the 7 valid of 8 timed samples"
    assert 4 not in reduced.used


def test_a_valid_repeat_takes_the_place_and_is_judged_too() -> None:
    again = [*FORWARD, sample(4, 410.0, "repeat", begin_ns=10**12 + 95 * 10**9, end_ns=10**12 + 95 * 10**9 + 410 * MS)]
    got = judged(record(samples=again), far_series(reasons=over(4, HARDWARE)))
    assert [s.index for s in got.samples if s.taint] == [4]
    assert steady(got).used == (2, 3, 4, 5, 6, 7, 8, 9)
    got = judged(record(samples=again), far_series(reasons=lambda at: HARDWARE if at > 10**6 + 90_000 else 0))
    assert [(s.index, s.phase) for s in got.samples if s.taint] == [(9, "timed"), (4, "repeat")]


def test_where_nothing_is_valid_the_figure_is_of_all_and_says_so() -> None:
    got = judged(record(samples=FORWARD), far_series(reasons=lambda _: SOFTWARE_THERMAL))
    assert all(s.taint for s in got.samples[2:])
    assert got.flags == ("unchecked", "cold", "tainted")
    reduced = steady(got)
    assert (reduced.seconds, reduced.basis, reduced.tainted) == (0.41, "median of 8 timed samples, all tainted", True)


def test_a_total_counts_a_tainted_iteration_that_has_no_valid_repeat_and_says_so() -> None:
    taken = samples(900.0, 50.0, 100.0, 200.0, 300.0)
    taken[2]["taint"] = taken[3]["taint"] = "hardware slowdown"
    got = record("train_dynamic", samples=[*taken, sample(2, 80.0, "repeat")])
    reduced = steady(got)
    assert reduced.seconds == pytest.approx(0.08 + 0.2 + 0.3)
    assert (reduced.tainted, reduced.basis) == (True, "total of 3 timed samples, 1 of them tainted")


def test_without_telemetry_or_samples_a_record_stays_as_it_is() -> None:
    for whole in (record(), record("ceilings"), record(samples=FORWARD)):
        assert judged(whole, None) == whole
    got = judged(record(), far_series(reasons=lambda _: 0))
    assert got.telemetry is None
