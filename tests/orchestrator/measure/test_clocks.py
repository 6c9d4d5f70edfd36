"""Clocks that disagree: real processes whose clock, device events or record lie, seen from outside."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from fake_rounds import run
from record_samples import record, sample

from orchestrator.measure.clocks import Sighting, clocks, vetted
from orchestrator.measure.supervise import Watch
from orchestrator.records.record import PhaseTime, Record


def checks(found: Record) -> dict[str, str]:
    return {check.name: check.status for check in found.proof.checks} if found.proof else {}


@pytest.mark.parametrize("method", ["sound", "good_device"])
def test_a_sound_round_passes(tmp_path: Path, method: str) -> None:
    found = run(tmp_path, method)
    assert found.status == "ok", found.reason
    assert checks(found) == {"rows": "passed", "clocks": "passed", "as told": "passed"}


@pytest.mark.parametrize(
    ("method", "check", "words"),
    [
        ("clock_at_half_speed", "clocks", "too short"),
        ("clock_ahead", "clocks", "too long"),
        ("device_beyond", "clocks", "ms by device events, within"),
        ("device_misses", "clocks", "they miss work"),
        ("rewrites", "as told", "sample 0 had end_ns"),
        ("leaves_out", "as told", "10 samples were told before the proof, and the record has 9"),
        ("judges_its_clocks", "clocks", "ms by device events, within"),
    ],
)
def test_a_round_whose_clocks_or_record_lie_is_incorrect(tmp_path: Path, method: str, check: str, words: str) -> None:
    found = run(tmp_path, method)
    assert (found.status, checks(found)[check]) == ("incorrect", "failed"), checks(found)
    assert found.reason is not None
    assert found.reason.startswith(f"forward: {check}: ")
    assert words in found.reason
    assert "trust me" not in json.dumps(found.model_dump(mode="json"))


S = 10**9
PHASES = tuple(PhaseTime(name=name, begin_ns=0, end_ns=0) for name in ("environment", "samples", "memory"))


def seen(told_s: float, real_s: float, tick_s: float = 0.1) -> list[Sighting]:
    """An environment of a second, then samples: so long by bench's clock, and by ours within a tick."""
    moments = [(0.0, 0.0), (1.0, 1.0), (1 + told_s, 1 + real_s)]
    return [Sighting(round(t * S), round((r - tick_s) * S), round((r + 1e-3) * S)) for t, r in moments]


@pytest.mark.parametrize(
    ("told_s", "real_s", "tick_s", "passes"),
    [
        (10, 10, 0.1, True), (10, 10.14, 0.1, True), (10, 10.5, 0.1, False), (10, 9.5, 0.1, False),
        (10, 20, 0.1, False), (0.01, 0.01, 0.1, True), (0.01, 0.5, 0.1, False),
        (10, 12, 2.5, True),  # an orchestrator that was kept from looking says nothing
    ],
)  # fmt: skip
def test_a_stretch_is_bounded_by_what_was_seen(told_s: float, real_s: float, tick_s: float, passes: bool) -> None:
    found = clocks(record(samples=[]), PHASES, seen(told_s, real_s, tick_s))
    assert found is not None
    assert found.status == ("passed" if passes else "failed"), found.what


def test_a_sample_outside_of_its_phase_is_found() -> None:
    late = record(samples=[sample(3, 10.0, begin_ns=50 * S, end_ns=51 * S, device_ns=None)])
    found = clocks(late, PHASES, seen(10, 10))
    assert found is not None
    assert found.what == "sample 3 was not timed in the phase of the timed samples"


def test_without_a_second_clock_nothing_is_said() -> None:
    bare = record(samples=[], proof={"checks": [{"name": "rows", "status": "passed"}]})
    assert checks(vetted(bare, (), (), ())) == {"rows": "passed"}


def test_an_event_is_seen_between_the_look_that_missed_it_and_the_one_that_found_it(tmp_path: Path) -> None:
    path, shown = tmp_path / "events.jsonl", []
    watch = Watch(path, shown.append)
    watch.look()
    path.write_text(json.dumps({"t_ns": 1, "event": "phase", "name": "samples"}) + "\n")
    watch.look()
    watch.look()
    with path.open("a") as file:
        file.write(json.dumps({"t_ns": 2, "event": "phase", "name": "memory"}) + "\n")
    watch.look()
    first, second = watch.sightings
    assert (first.told_ns, second.told_ns) == (1, 2)
    assert first.earliest_ns <= first.latest_ns <= second.earliest_ns <= second.latest_ns
