"""Clocks that disagree: real processes whose clock, device events or record lie, seen from outside.

And clocks that agree, however busy the host is.
"""

from __future__ import annotations

import json
import random
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from fake_rounds import run
from record_samples import record, sample

from orchestrator.measure.validity import Seen, Sighting, Span, checks_of, judged, spans_of
from orchestrator.measure.watch import Watch
from orchestrator.records.record import Check, PhaseTime, Record

S = 10**9


def checks(found: Record) -> dict[str, str]:
    return {check.name: check.status for check in found.proof.checks} if found.proof else {}


@pytest.mark.parametrize("method", ["sound", "good_device", "held_up", "stopped"])
def test_a_sound_round_passes(tmp_path: Path, method: str) -> None:
    found = run(tmp_path, method)
    assert found.status == "ok", found.reason
    assert checks(found) == {"rows": "passed", "clocks": "passed", "as reported": "passed"}


@pytest.mark.parametrize(
    ("method", "check", "words"),
    [
        ("clock_at_half_speed", "clocks", "in at least "),
        ("clock_ahead", "clocks", "in at most "),
        ("device_beyond", "clocks", "ms by device events, within"),
        ("rewrites", "as reported", "sample 0 had end_ns"),
        ("leaves_out", "as reported", "10 samples were reported before the proof, and the record has 9"),
        ("judges_its_clocks", "clocks", "ms by device events, within"),
        ("claims_sustained", "as reported", "sustained samples, and nobody asked for any"),
    ],
)
def test_a_round_whose_clocks_or_record_lie_is_incorrect(tmp_path: Path, method: str, check: str, words: str) -> None:
    found = run(tmp_path, method)
    assert (found.status, checks(found)[check]) == ("incorrect", "failed"), checks(found)
    assert found.reason is not None
    assert found.reason.startswith(f"forward: {check}: ")
    assert words in found.reason
    assert "trust me" not in json.dumps(found.model_dump(mode="json"))


def test_device_events_that_miss_work_leave_a_row_unchecked(tmp_path: Path) -> None:
    """Its figure is the wall time, which has that work, or what other processes took from it."""
    found = run(tmp_path, "device_misses")
    assert (found.status, checks(found)["clocks"]) == ("ok", "unchecked")
    assert "unchecked" in found.flags


def test_samples_that_were_not_reported_before_the_proof_leave_a_row_unchecked(tmp_path: Path) -> None:
    found = run(tmp_path, "adds_repeats")
    assert (found.status, checks(found)["as reported"]) == ("ok", "unchecked")
    assert "unchecked" in found.flags
    (check,) = (check for check in found.proof.checks if check.name == "as reported") if found.proof else ()
    assert check.what == "20 of the samples that the figure is made of were not reported before the proof"


@dataclass
class Host:
    """A clock that `time.monotonic_ns` reads, and a file of events that grows as it advances; at `busy` it halts."""

    chance: random.Random
    file: Path
    busy: bool
    now: int = 5 * S
    pending: list[tuple[int, str]] = field(default_factory=list)

    def monotonic_ns(self) -> int:
        self.advance(1_000 + self.halt())
        read = self.now
        self.advance(self.halt())
        return read

    def halt(self) -> int:
        """How long the orchestrator or bench is kept from running, now and then up to 3 s."""
        return int(self.chance.random() * 3 * S) if self.busy and self.chance.random() < 0.02 else 0

    def advance(self, ns: int) -> None:
        self.now += ns
        while self.pending and self.pending[0][0] <= self.now:
            with self.file.open("a") as file:
                file.write(self.pending.pop(0)[1])

    def write(self, gaps: list[float], clock: Callable[[float], float]) -> None:
        """Plan bench's events, `gaps` seconds from one to the next, and each time by its `clock`."""
        at = self.now
        for place, gap in enumerate(gaps):
            at += round(gap * S)
            name = {0: "environment", 2: "samples", len(gaps) - 3: "memory", len(gaps) - 2: "proof"}.get(place)
            event = {"event": "phase", "name": name} if name else {"event": "sample", "index": place, "of": 99}
            line = json.dumps({"t_ns": round(clock(at / S) * S), **event}) + "\n"
            at += self.halt()
            if self.busy and self.chance.random() < 0.2:  # half of a line is seen before the rest
                self.pending.append((at, line[:20]))
                at, line = at + self.halt(), line[20:]
            self.pending.append((at, line))


def watched(host: Host, gaps: list[float], clock: Callable[[float], float]) -> Check:
    """What comes of bench's events, looked at every tenth of a second."""
    watch = Watch(host.file, lambda _: None)
    host.write(gaps, clock)
    while host.pending:
        watch.look()
        host.advance(S // 10)
    for _ in range(30):
        watch.look()
    [found] = checks_of(record(samples=[]), Seen(watch.phases, watch.sightings, ()))
    return found


@pytest.fixture
def hosts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[bool, int], Iterator[Host]]:
    def many(busy: bool, count: int) -> Iterator[Host]:
        for seed in range(count):
            host = Host(random.Random(seed), tmp_path / f"{seed}.jsonl", busy)  # noqa: S311
            with monkeypatch.context() as patch:
                patch.setattr(time, "monotonic_ns", host.monotonic_ns)
                yield host

    return many


def gaps(host: Host, most_s: float) -> list[float]:
    """Between a dozen to 60 events."""
    return [host.chance.random() ** 2 * most_s for _ in range(host.chance.randrange(12, 60))]


@pytest.mark.parametrize("most_s", [0.01, 1.0, 5.0])
def test_a_right_clock_passes_however_busy_the_host_is(
    hosts: Callable[[bool, int], Iterator[Host]], monkeypatch: pytest.MonkeyPatch, most_s: float
) -> None:
    """Not even the slack is needed: the bounds are strict, and where not all that is new is read in one look too."""
    monkeypatch.setattr("orchestrator.measure.watch.EVENTS_READ_BYTES", 300)
    monkeypatch.setattr("orchestrator.measure.validity.SLACK_NS", 0)
    monkeypatch.setattr("orchestrator.measure.validity.RATE", 0)
    for host in hosts(True, 200):
        ahead = host.chance.choice([0, 0, 1000.5])
        found = watched(host, gaps(host, most_s), lambda now, ahead=ahead: now + ahead)  # type: ignore[misc]
        assert found.status == "passed", found.what


@pytest.mark.parametrize("rate", [0.0, 0.5, 0.9, 1.1, 3.0])
def test_a_clock_at_another_rate_is_found(hosts: Callable[[bool, int], Iterator[Host]], rate: float) -> None:
    for host in hosts(False, 50):
        found = watched(host, [0.2] * 60, lambda now: now * rate)
        assert found.status == "failed", found.what


@pytest.mark.parametrize("by_s", [-1.0, -0.5, 0.5, 1.0])
def test_a_clock_that_jumps_is_found(hosts: Callable[[bool, int], Iterator[Host]], by_s: float) -> None:
    for host in hosts(False, 50):
        found = watched(host, [0.1] * 60, lambda now: now + by_s * (now > 8))
        assert found.status == "failed", found.what


def test_a_clock_that_stands_still_in_long_calls_is_found(hosts: Callable[[bool, int], Iterator[Host]]) -> None:
    """Three samples of 5 s, 0.1 s each by bench's clock."""
    for host in hosts(False, 5):
        found = watched(host, [0.1, 0.1, 0.1, 5, 5, 5, 0.1, 0.1, 0.1], lambda now: now - 4.9 * ((now - 5.3) // 5))
        assert found.status == "failed", found.what


PHASES = tuple(PhaseTime(name=name, begin_ns=0, end_ns=2 * S) for name in ("environment", "samples", "memory"))
QUIET = tuple(Sighting(t, t, t) for t in (0, S, 2 * S))


def seen(*reported: Span) -> Seen:
    return Seen(PHASES, QUIET, reported)


def test_a_sample_outside_of_its_phase_is_found() -> None:
    [found] = checks_of(record(samples=[sample(3, 10.0, begin_ns=50 * S, end_ns=51 * S, device_ns=None)]), seen())
    assert found.what == "sample 3 was not timed in the phase of the timed samples"


def by_device(*walls_and_devices: tuple[int, int]) -> str:
    """What is said of samples of so many milliseconds."""
    samples = [
        sample(place, 0, begin_ns=0, end_ns=wall * 10**6, device_ns=device * 10**6)
        for place, (wall, device) in enumerate(walls_and_devices)
    ]
    return checks_of(record(samples=samples), seen())[0].status


def test_one_sample_may_be_disturbed_whatever_its_clocks_say() -> None:
    # A virtual machine that was paused, or a process that was stopped.
    assert by_device((10, 9), (10, 3000), (11, 9)) == "passed"
    assert by_device((10, 3000)) == "passed"
    assert by_device((10, 3000), (1900, 9), (1800, 9)) == "unchecked"
    assert by_device((10, 9), (1900, 9), (10, 9)) == "passed"
    assert by_device((1900, 9), (1800, 9), (10, 9)) == "passed"
    assert by_device((10, 12), (10, 9), (10, 12)) == "failed"
    assert by_device((20, 9), (1900, 9)) == "unchecked"


def test_without_a_second_clock_nothing_is_said() -> None:
    bare = record(samples=[], proof={"checks": [{"name": "rows", "status": "passed"}]})
    assert checks(judged(bare, None, seen=Seen((), (), ()))) == {"rows": "passed"}


def test_repeats_after_the_last_answer_are_no_difference_but_not_proven() -> None:
    """bench, which reports all of them, was not answered in time; or somebody added them afterwards."""
    found = record(samples=[sample(0, 1.0, "first"), sample(1, 1.0), sample(1, 1.0, "repeat")])
    reported = spans_of(found)
    for known, status in ((reported, "passed"), (reported[:2], "unchecked")):
        assert [check.status for check in checks_of(found, Seen((), (), known))][-1] == status
    swapped = [reported[1], reported[0]]
    assert [check.status for check in checks_of(found, Seen((), (), swapped))][-1] == "failed"


def test_an_event_is_seen_between_the_look_that_missed_it_and_the_one_that_found_it(tmp_path: Path) -> None:
    path = tmp_path / "events.jsonl"
    watch = Watch(path, lambda _: None)
    watch.look()
    path.write_text(json.dumps({"t_ns": 1, "event": "phase", "name": "samples"}) + "\n")
    watch.look()
    watch.look()
    with path.open("a") as file:
        file.write(json.dumps({"t_ns": 2, "event": "phase", "name": "memory"}) + "\n")
    watch.look()
    first, second = watch.sightings
    assert (first.bench_ns, second.bench_ns) == (1, 2)
    assert first.earliest_ns <= first.latest_ns <= second.earliest_ns <= second.latest_ns


def test_a_look_that_could_not_be_had_missed_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An event that was there all the time must not count as one that appeared after the look that failed."""
    path = tmp_path / "events.jsonl"
    watch = Watch(path, lambda _: None)
    written_ns = time.monotonic_ns()
    path.write_text(json.dumps({"t_ns": written_ns, "event": "phase", "name": "samples"}) + "\n")
    with monkeypatch.context() as patch:
        patch.setattr("orchestrator.measure.watch.open_plain", lambda _: (_ for _ in ()).throw(OSError(24, "many")))
        watch.look()
    watch.look()
    assert watch.sightings[0].earliest_ns <= written_ns <= watch.sightings[0].latest_ns
