"""The telemetry over a scripted NVML: what a real driver tells, and what reading it costs, needs a GPU to show."""

from __future__ import annotations

import json
import random
import threading
import time

import pytest
from scripted_nvml import POWER_CAP, UUID, NVMLError, NVMLError_NotSupported, ScriptedNvml
from telemetry_series import MS, series

from orchestrator.host.gpu import Quick, Slow
from orchestrator.measure import telemetry
from orchestrator.measure.telemetry import Reading, Sampler, Series, summary, thinned, watch_gpu


def sampled(monkeypatch: pytest.MonkeyPatch, nvml: ScriptedNvml, seconds: float, pids=lambda: None) -> Series:
    monkeypatch.setattr("orchestrator.host.gpu.pynvml", nvml)
    with watch_gpu(UUID, pids) as sampler:
        assert sampler is not None
        time.sleep(seconds)
    return sampler.series()


def test_a_gpu_is_read_often_and_what_is_slow_seldom(monkeypatch: pytest.MonkeyPatch) -> None:
    nvml = ScriptedNvml(reasons=POWER_CAP)
    found = sampled(monkeypatch, nvml, 1.0)
    assert 5 <= len(found.readings) <= 51
    assert found.readings[0].quick == Quick(found.readings[0].quick.energy_mj, 1980, 2619, POWER_CAP, 0)
    slow = [reading.slow for reading in found.readings if reading.slow]
    assert 1 <= len(slow) <= 5
    assert slow[0] == Slow(500_000, 60, 2**34)
    times = [reading.t_ns for reading in found.readings]
    assert times == sorted(times)
    assert abs(times[-1] - time.monotonic_ns()) < 2e9


def test_without_nvml_and_without_that_gpu_there_is_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    nvml = ScriptedNvml()
    monkeypatch.setattr("orchestrator.host.gpu.pynvml", nvml)
    threads = threading.active_count()
    for uuid in (None, "GPU-9"):
        with watch_gpu(uuid, lambda: None) as sampler:
            assert sampler is None
            assert threading.active_count() == threads

    def no_driver() -> None:
        raise NVMLError

    monkeypatch.setattr(nvml, "nvmlInit", no_driver)
    with watch_gpu(UUID, lambda: None) as sampler:
        assert sampler is None


def test_what_a_driver_does_not_know_is_asked_once_and_what_fails_now_and_then_is_asked_again(monkeypatch) -> None:
    nvml = ScriptedNvml(energy=NVMLError_NotSupported(), thermal=NVMLError_NotSupported(), sm=NVMLError())
    found = sampled(monkeypatch, nvml, 1.5)
    assert {reading.quick for reading in found.readings} == {Quick(None, None, 2619, 0, None)}
    assert (nvml.asked["energy"], nvml.asked["thermal"]) == (1, 1)
    assert nvml.asked["sm"] > 1


def test_a_slow_driver_is_asked_less_often(monkeypatch: pytest.MonkeyPatch) -> None:
    nvml = ScriptedNvml(cost_s=0.005)
    found = sampled(monkeypatch, nvml, 1.0)
    # 5 ms of work and at least 250 ms of rest.
    assert 1 <= len(found.readings) <= 5


def test_the_thread_ends_with_the_cell_whatever_happens(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("orchestrator.host.gpu.pynvml", ScriptedNvml())
    before = threading.active_count()
    with pytest.raises(KeyboardInterrupt), watch_gpu(UUID, lambda: None):
        raise KeyboardInterrupt
    assert threading.active_count() == before


def processes(monkeypatch: pytest.MonkeyPatch, listed: list[list[int]], own: list[frozenset[int] | None]):
    """Readings of `Sampler._foreign` over listings of NVML, one after the other (the last stays)."""
    script = iter(listed)
    last = [listed[-1]]
    nvml = ScriptedNvml(pids=lambda _: next(script, last[0]))
    monkeypatch.setattr("orchestrator.host.gpu.pynvml", nvml)
    asked = []

    def pids() -> frozenset[int] | None:
        asked.append(None)
        return own[min(len(asked), len(own)) - 1]

    with telemetry.gauge(UUID) as gauge:
        sampler = Sampler(gauge, pids)
        found = []
        for at in range(len(listed)):
            found.append(sampler._foreign())
            sampler._readings.append(Reading(at, Quick(), None, found[-1]))
    return found, sampler, len(asked)


def test_processes_are_the_cells_or_foreign_and_whose_is_asked_for_newcomers_alone(monkeypatch) -> None:
    mine = frozenset({10, 11})
    # A listing with a newcomer is followed by a second look.
    listed = [[], [10], [10], [10], [10, 77], [10, 77], [10, 77], [10]]
    found, sampler, asked = processes(monkeypatch, listed, [mine])
    empty = frozenset()
    assert found[:4] == [empty, empty, empty, frozenset({77})]
    assert found[4:6] == [frozenset({77}), empty]
    assert asked == 2
    assert sampler.series().readings[3].foreign == frozenset({77})
    # The name alone: no folder of somebody's, no arguments.
    assert sampler.series().names == {77: "job77"}


def test_who_has_ended_by_the_second_look_is_not_called_foreign(monkeypatch: pytest.MonkeyPatch) -> None:
    found, _, _ = processes(monkeypatch, [[10, 12], [10]], [frozenset({10})])
    assert found == [frozenset(), frozenset()]


def test_nothing_is_claimed_where_the_cells_own_processes_are_unknown(monkeypatch: pytest.MonkeyPatch) -> None:
    found, _, _ = processes(monkeypatch, [[5], [5]], [None])
    assert found == [None, None]
    # Numbers of another namespace: the cell computes, and is not among those listed.
    found, sampler, _ = processes(monkeypatch, [[5], [5], [5]], [frozenset({10})])
    assert found[0] == frozenset({5})
    assert {reading.foreign for reading in sampler.series().readings} == {None}


def test_energy_is_exact_on_a_counter_that_grows_evenly() -> None:
    # 500 W: half a joule in a millisecond.
    found = series(energy_mj=lambda at: 10**9 + 500 * at)
    assert found.joules([(105 * MS, 303 * MS)]) == pytest.approx(99.0, rel=1e-12)
    assert found.joules([(100 * MS, 140 * MS), (200 * MS, 207 * MS)]) == pytest.approx(23.5, rel=1e-12)
    assert found.joules([(0, 1980 * MS)]) == pytest.approx(990.0, rel=1e-12)


def test_energy_of_a_counter_that_moves_in_steps_is_reckoned_between_its_moves() -> None:
    found = series(energy_mj=lambda at: at // 100 * 100 * 500)
    assert found.joules([(250 * MS, 850 * MS)]) == pytest.approx(300.0)
    assert found.joules([(250 * MS, 320 * MS)]) is None  # shorter than a step: nothing is known of it
    assert found.joules([(250 * MS, 320 * MS), (330 * MS, 400 * MS)]) == pytest.approx(70.0)


def test_energy_is_null_where_the_counter_does_not_tell() -> None:
    found = series(energy_mj=lambda at: 500 * at)
    assert found.joules([(1900 * MS, 1990 * MS)]) is None  # no reading after its end
    assert found.joules([]) is None
    assert series(energy_mj=None).joules([(100 * MS, 300 * MS)]) is None
    assert series(energy_mj=7).joules([(100 * MS, 300 * MS)]) is None
    backwards = series(energy_mj=lambda at: 500 * (at if at < 1000 else at - 1000))
    assert backwards.joules([(100 * MS, 300 * MS)]) is None


def test_the_summary_is_over_the_timed_samples_alone() -> None:
    found = series(
        sm_mhz=lambda at: 1980 if at < 500 else 1400,
        reasons=lambda at: POWER_CAP if at >= 800 else 0x1,
        energy_mj=lambda at: 500 * at,
    )
    slow = [
        r._replace(slow=Slow(700_000, 70, 2**30), foreign=frozenset({4})) if r.t_ns == 900 * MS else r
        for r in found.readings
    ]
    found = Series(slow, {4: "job4"})
    told = summary(found, [(600 * MS, 790 * MS), (810 * MS, 990 * MS)])
    assert told is not None
    assert told.readings == 19
    assert told.interval_ms == 20.0
    assert told.sm_clock_mhz is not None
    assert (told.sm_clock_mhz.low, told.sm_clock_mhz.median, told.sm_clock_mhz.high) == (1400, 1400, 1400)
    assert told.throttled == {"idle": pytest.approx(10 / 19), "software power cap": pytest.approx(9 / 19)}
    assert told.power_watts is not None
    assert told.power_watts.median == 700.0
    assert told.memory_clock_mhz is None
    assert told.foreign == ("job4",)
    assert told.energy_joules == pytest.approx(185.0)
    assert summary(found, []) is None
    assert summary(Series([]), [(0, 1)]) is None


def test_the_series_is_a_readable_file_of_at_most_two_megabytes() -> None:
    short = series(3, sm_mhz=1980, reasons=POWER_CAP)
    header, *lines = short.content().decode().splitlines()
    assert json.loads(header)["columns"][:3] == ["t_ns", "energy_mj", "sm_mhz"]
    assert json.loads(lines[1]) == [20 * MS, None, 1980, None, POWER_CAP, None, None, None, None, None]
    thermal = {2 * 12_345}
    long = series(60_000, 2, energy_mj=lambda at: 10**12 + at, reasons=lambda at: 0x40 if at in thermal else 0)
    content = long.content()
    assert 500_000 < len(content) <= 2_000_000
    assert sum(json.loads(line)[4] == 0x40 for line in content.decode().splitlines()[1:]) == 1


def test_thinned_readings_hide_nothing() -> None:
    found = series(5, reasons=lambda at: 0x40 if at == 20 else 0x4)
    found = Series([found.readings[0]._replace(foreign=frozenset({1}), slow=Slow(1)), *found.readings[1:]])
    half = thinned(found.readings)
    assert [reading.t_ns for reading in half] == [20 * MS, 60 * MS, 80 * MS]
    assert [reading.quick.reasons for reading in half] == [0x44, 0x4, 0x4]
    assert (half[0].foreign, half[0].slow) == (frozenset({1}), Slow(1))


def test_a_long_cell_is_read_less_and_less_often(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(telemetry, "MOST_READINGS", 8)
    for name in ("INTERVAL_S", "LONGEST_S"):
        monkeypatch.setattr(telemetry, name, 0.002)
    found = sampled(monkeypatch, ScriptedNvml(), 1.0)
    assert len(found.readings) < 8
    assert found.readings[-1].t_ns - found.readings[0].t_ns > 100 * MS


def test_a_window_has_the_readings_in_it_that_know_or_the_nearest_ones_before_and_after_it() -> None:
    chance = random.Random(7)  # noqa: S311
    for _ in range(300):
        times = sorted(chance.sample(range(60), chance.randrange(12)))
        known = {at: chance.choice([None, at + 1]) for at in times}
        seen = Series([Reading(at, Quick(reasons=known[at])) for at in times])
        begin, end = sorted(chance.choices(range(60), k=2))
        said = [at for at in times if known[at] is not None]
        inside = [at for at in said if begin <= at <= end]
        nearest = [*[at for at in said if at < begin][-1:], *[at for at in said if at > end][:1]]
        assert [reading.t_ns for reading in seen.with_reasons((begin, end))] == (inside or nearest)
        assert list(seen.with_foreign((begin, end))) == []
