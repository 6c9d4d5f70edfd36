"""The ceilings' loop, with real products on the CPU and a clock by which each call takes a quarter of a second."""

from __future__ import annotations

import json

import pytest

torch = pytest.importorskip("torch")

from bench_specs import workload  # noqa: E402

from bench.observe import ceilings  # noqa: E402
from bench.observe.clock import Timing  # noqa: E402
from bench.record import Events  # noqa: E402
from bench.spec import read_workload  # noqa: E402

QUARTER = 250_000_000


class SlowClock:
    """Runs what it times, and notes in which precision products of float32 then are."""

    def __init__(self) -> None:
        self.now, self.calls, self.seen = 10**9, 0, []

    def time(self, call):
        begin = self.now
        self.seen.append(torch.get_float32_matmul_precision())
        result = call()
        self.now += QUARTER
        return result, Timing(begin, self.now, None, None)


@pytest.fixture
def clock(monkeypatch):
    made = SlowClock()
    monkeypatch.setattr(ceilings, "monotonic_ns", lambda: made.now)
    return made


def measure(tmp_path, clock, **changes):
    few = {"iterations": 2, "warmup": 1, "dtype": "float32", "matrix_sizes": [16, 8], "soak_s": 1.0, "sustained_s": 2.0}
    events = Events(tmp_path)
    rates = ceilings.measure(read_workload(workload("ceilings", **{**few, **changes})), "cpu", clock, events)
    lines = [json.loads(line) for line in (tmp_path / "events.jsonl").read_text(encoding="utf-8").splitlines()]
    return rates, [(line["index"], line["of"]) for line in lines if line["event"] == "sample"]


def test_what_begins_after_the_soak_is_recorded_and_each_second_is_told(tmp_path, clock):
    (*_, lasting, other), told = measure(tmp_path, clock)
    assert (lasting["sustained"], lasting["size"], lasting["work"]) == (True, 16, 2 * 16**3)
    assert lasting["durations_ns"] == [QUARTER] * 8
    assert lasting["end_ns"] - lasting["begin_ns"] == 2 * 10**9
    assert (other["sustained"], other["size"], other["durations_ns"]) == (True, 8, [QUARTER] * 8)
    # The soak serves both.
    assert other["begin_ns"] == lasting["end_ns"]
    assert told == [(0, 3), (1, 3), (2, 3), (0, 2), (1, 2)]


def test_short_calls_are_timed_several_at_once_and_no_more_than_a_record_holds(tmp_path, clock, monkeypatch):
    monkeypatch.setattr(ceilings, "SHORTEST_NS", 3 * QUARTER - 1)
    monkeypatch.setattr(ceilings, "MOST_DURATIONS", 5)
    rates, _ = measure(tmp_path, clock)
    assert [rate["work"] for rate in rates[-2:]] == [3 * 2 * 16**3, 3 * 2 * 8**3]
    assert len(rates[-1]["durations_ns"]) == 5


def test_more_seconds_than_short_durations_have_room_for_are_made_of_longer_ones(tmp_path, clock, monkeypatch):
    monkeypatch.setattr(ceilings, "MOST_DURATIONS", 5)
    rates, _ = measure(tmp_path, clock, sustained_s=10.0)
    assert rates[-1]["work"] == 8 * 2 * 8**3


def test_a_call_longer_than_all_the_seconds_is_recorded_all_the_same(tmp_path, clock):
    rates, _ = measure(tmp_path, clock, soak_s=0.1, sustained_s=0.1)
    assert rates[-1]["durations_ns"] == [QUARTER]


@pytest.mark.parametrize("seconds", [{"sustained_s": None}, {"matrix_sizes": None}])
def test_without_seconds_or_sizes_there_is_a_burst_alone(tmp_path, clock, seconds):
    rates, told = measure(tmp_path, clock, **seconds)
    assert not any(rate.get("sustained") for rate in rates)
    assert told == []


@pytest.mark.parametrize("before", ["highest", "high", "medium"])
def test_products_of_float32_are_what_they_say_whatever_was_set(tmp_path, clock, before):
    usual = torch.get_float32_matmul_precision()
    try:
        torch.set_float32_matmul_precision(before)
        rates, _ = measure(tmp_path, clock, precisions=["tf32"])
        assert torch.get_float32_matmul_precision() == before
    finally:
        torch.set_float32_matmul_precision(usual)
    assert [rate.get("precision") for rate in rates] == ["tf32", "tf32", None, None, None, "tf32", "tf32", None, None]
    bursts, copies, soak, lasting = 2 * 3, 3, 4, 2 * 8
    expected = ["high"] * bursts + ["highest"] * bursts + [before] * copies
    expected += ["high"] * (soak + lasting) + ["highest"] * lasting
    assert clock.seen == expected


def test_the_setting_is_restored_where_a_product_fails(tmp_path, clock):
    usual = torch.get_float32_matmul_precision()
    with pytest.raises(RuntimeError, match="negative dimension"):
        measure(tmp_path, clock, precisions=["tf32"], matrix_sizes=[-1])
    assert torch.get_float32_matmul_precision() == usual
