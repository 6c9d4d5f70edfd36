"""Whether a record's clocks agree with one another, with the orchestrator's own, and with what was told meanwhile.

bench runs beside the method, which can change its clock or its record. From outside two things are seen while they
happen: when its events appear, and the samples that it tells of when it asks which to measure again.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from statistics import median

from orchestrator.measure.validity import Span, spans_of
from orchestrator.records.checks import held_to_list, with_checks
from orchestrator.records.record import COMPUTED, Check, PhaseTime, Record

CLOCKS, AS_TOLD = "clocks", "as told"
"""Names of the orchestrator's own checks."""
TOLD = ("index", "phase", "begin_ns", "end_ns", "device_ns", "shape")
TIMED = "samples"
"""The phase of the timed samples."""
RATE, SLACK_NS = 0.01, 50_000_000
"""How far two clocks may be apart: beyond what is not known of when an event appeared, by this share and so much."""
OVER, OVER_NS = 0.001, 20_000
"""By how much a device's duration may be above the wall time around it: the events lie inside. On an H100 and an H200
the wall time was never less than 35 µs above it."""
UNDER, UNDER_NS = 0.05, 5_000_000
"""By how much the median sample's wall time may be above the device's: 0.19 ms was the most there."""


@dataclass(frozen=True)
class Sighting:
    """An event: its time by bench's clock, and by the orchestrator's the times between which it appeared."""

    told_ns: int
    earliest_ns: int
    latest_ns: int


def vetted(record: Record, phases: Sequence[PhaseTime], sightings: Sequence[Sighting], told: Sequence[Span]) -> Record:
    """Return the record held to the list of checks, with the checks that only the orchestrator can make.

    `phases` and their `sightings` are what the events said; `told` the samples of the last question, if there was one.
    """
    if record.proof is None or record.status not in COMPUTED:
        return record
    record = held_to_list(record)
    assert record.proof is not None
    own = [check for check in (clocks(record, phases, sightings), as_told(record, told)) if check is not None]
    names = {CLOCKS, AS_TOLD}
    return with_checks(record, (*(check for check in record.proof.checks if check.name not in names), *own))


def clocks(record: Record, phases: Sequence[PhaseTime], sightings: Sequence[Sighting]) -> Check | None:
    """Return whether the clocks agree; None where there is no second one."""
    place = next((i for i, phase in enumerate(phases[:-1]) if phase.name == TIMED), None)
    agree: list[str] = []
    differ = list(_by_device(record, agree))
    if place is not None:
        differ += _stretch("the timed samples", sightings[place], sightings[place + 1], agree)
        differ += _stretch("all phases", sightings[0], sightings[-1], agree)
        begin, end = sightings[place].told_ns, sightings[place + 1].told_ns
        outside = [s.index for s in record.samples if s.phase == "timed" and not begin <= s.begin_ns <= s.end_ns <= end]
        if outside:
            differ.append(f"sample {outside[0]} was not timed in the phase of the timed samples")
    if not differ and not agree:
        return None
    return Check(name=CLOCKS, status="failed" if differ else "passed", what="; ".join(differ or agree))


def _stretch(name: str, first: Sighting, last: Sighting, agree: list[str]) -> Iterator[str]:
    """Yield how a stretch's time by bench's clock is off the orchestrator's; add to `agree` where it is not."""
    told = last.told_ns - first.told_ns
    least, most = last.earliest_ns - first.latest_ns, last.latest_ns - first.earliest_ns
    text = f"{name} took {told / 1e9:.4g} s by bench's clock, {max(least, 0) / 1e9:.4g} to {most / 1e9:.4g} s by ours"
    if least - RATE * least - SLACK_NS <= told <= most + RATE * most + SLACK_NS:
        agree.append(text)
    else:
        off = told - (most if told > most else least)
        yield f"{text}: {abs(off) / 1e9:.3g} s {'too long' if off > 0 else 'too short'}"


def _by_device(record: Record, agree: list[str]) -> Iterator[str]:
    """Yield how the device's durations disagree with the wall times around them."""
    timed = [
        (s.index, s.end_ns - s.begin_ns, s.device_ns)
        for s in record.samples
        if s.phase in ("timed", "repeat") and s.device_ns is not None
    ]
    if not timed:
        return
    index, wall, device = max(timed, key=lambda sample: sample[2] - sample[1])
    if device - wall > OVER * wall + OVER_NS:
        yield f"sample {index} took {device / 1e6:.4g} ms by device events, within {wall / 1e6:.4g} ms of wall time"
    above, usual = median(wall - device for _, wall, device in timed), median(wall for _, wall, _ in timed)
    text = f"the wall time of a sample is {above / 1e6:.3g} ms above its device events"
    if above > UNDER * usual + UNDER_NS:
        yield f"{text}, of {usual / 1e6:.4g} ms: they miss work, or not all of it was on the stream that was timed"
    else:
        agree.append(text)


def as_told(record: Record, told: Sequence[Span]) -> Check | None:
    """Return whether the record's samples are those that bench told while it ran; None where it told none."""
    if not told:
        return None
    if len(record.samples) < len(told):
        what = f"{len(told)} samples were told before the proof, and the record has {len(record.samples)}"
        return Check(name=AS_TOLD, status="failed", what=what)
    for was, now in zip(told, spans_of(record), strict=False):
        for key in TOLD:
            one, other = getattr(was, key), getattr(now, key)
            if one != other:
                what = f"sample {was.index} had {key} {one} when it was told, and has {other} in the record"
                return Check(name=AS_TOLD, status="failed", what=what)
    return Check(name=AS_TOLD, status="passed", what=f"{len(told)} samples are those that were told before the proof")
