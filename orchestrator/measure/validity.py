"""Which samples something else disturbed, and what; and whether their times agree with what was seen from outside.

Disturbed: by the GPU's telemetry, and by the samples beside each other. A software power cap is not a taint: at full
load it is how a GPU works. What is tainted is measured again where there is time, and stays in the record either way.

bench runs beside the method, which can change its clock or its record. From outside two things are seen while they
happen: when its events appear, and the samples that it reports when it asks which to measure again.
"""

from __future__ import annotations

import functools
import math
import operator
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from statistics import median
from typing import Any, NamedTuple

from orchestrator.analysis.protocol import steady
from orchestrator.host.gpu import REASONS
from orchestrator.measure.telemetry import Reading, Series, strangers, summary
from orchestrator.plan.cell import Device
from orchestrator.plan.workload import Benchmark
from orchestrator.records.checks import CLOCKS, REPORTED, held_to_list
from orchestrator.records.record import Check, CheckStatus, Phase, PhaseTime, Record, Refusal, Status

SLOWDOWNS = {
    "hardware thermal slowdown": "thermal slowdown (hardware)",
    "software thermal slowdown": "thermal slowdown (software)",
    "power brake": "power brake",
    "hardware slowdown": "hardware slowdown",
}
THERMAL_SHARE = 0.01
"""Of a sample's time, by the driver's counter of thermal slowdown."""
CLOCK_SHIFT = 0.05
POWER_CAP = REASONS["software power cap"]
CAPPED = 0.1
"""Of the readings in timed samples, with the power cap: from there on more samples are taken, at the cap."""
FEWEST_READINGS = 3
"""In a sample, for its clock to be judged."""
FEWEST_SAMPLES = 5
OUTLIERS_AMONG = 4
"""One sample in so many may be an outlier; if more of them stand apart, that is how the method behaves."""
STALL_FACTOR, STALL_FACTOR_DYNAMIC = 1.25, 2.5
STALL_SPREADS, FEW_SAMPLES = 5, 12
"""How many times the others' spread (their middle eight tenths) an outlier is away: 5, and for n samples 1 + 12/n times
that, since a spread of few says little. By simulation, with normal, log-normal or uniform noise of a tenth of the time
less than one cell of 7 samples in 20,000 has one by chance."""
STALL_FLOOR_NS: dict[Device, int] = {"cuda": 10_000_000, "cpu": 100_000_000}
"""An ordinary host takes less than this away now and then, and the median does not change."""
NEIGHBOURS = 5
RATE, SLACK_NS = 0.01, 50_000_000
"""How far bench's clock and ours may be apart beyond what is not known of when events appeared: by this share, and by
so much. On one host both are the same clock, and nothing is expected."""
OVER, OVER_NS = 0.001, 20_000
"""By how much a device's duration may be above the wall time around it: the events lie inside. On an H100 and an H200
the wall time was never less than 35 µs above it."""
UNDER, UNDER_NS = 0.05, 5_000_000
"""By how much every sample's wall time may be above the device's: 0.19 ms was the median's most there."""


JUDGED: tuple[Phase, ...] = ("timed", "repeat", "sustained")
"""Samples that a figure may be made of."""
PHASE_OF: dict[str, Phase] = {"samples": "timed", "sustained": "sustained"}
"""Which samples are taken in a phase of the cell's page."""


@dataclass(frozen=True)
class Span:
    """A sample of any phase, as far as its validity goes. `compiled`: the compiler worked in it."""

    index: int
    phase: Phase
    begin_ns: int
    end_ns: int
    device_ns: int | None
    shape: tuple[int, ...]
    compiled: bool = False

    @property
    def judged(self) -> bool:
        """Whether a figure may be made of it."""
        return self.phase in JUDGED

    @property
    def window(self) -> tuple[int, int]:
        """Begin and end."""
        return self.begin_ns, self.end_ns

    @property
    def wall_ns(self) -> int:
        """How long it took; at least 1."""
        return max(1, self.end_ns - self.begin_ns)

    @property
    def tokens(self) -> int:
        """The size of its work, padding included."""
        return max(1, math.prod(self.shape))


class Sighting(NamedTuple):
    """An event: its time by bench's clock (ns), and by ours the times between which it appeared."""

    bench_ns: int
    earliest_ns: int
    latest_ns: int


class Seen(NamedTuple):
    """What was seen of a process while it ran: its phases, every event, and the samples that it reported last."""

    phases: Sequence[PhaseTime]
    sightings: Sequence[Sighting]
    reported: Sequence[Span]
    lasting: bool = False
    """Whether it was asked to sustain samples."""


Throttled = Callable[[tuple[int, int]], str | None]
"""Returns what to say where a quota of CPU time held the cell up in a window."""


def taints(
    samples: Sequence[Span],
    series: Series | None,
    benchmark: Benchmark,
    device: Device,
    throttled: Throttled | None = None,
) -> dict[int, str]:
    """Return the reason for every sample (by its place in `samples`) that was disturbed; none for a good cell."""
    found = [_stalled(samples, benchmark, device)]
    if throttled is not None:
        said = {place: throttled(sample.window) for place, sample in enumerate(samples) if sample.judged}
        found.insert(0, {place: reason for place, reason in said.items() if reason})
    if series is not None:
        found = [_slowed(samples, series), *_clocks(samples, series), *found]
    places = sorted({place for reasons in found for place in reasons})
    return {place: "; ".join(reasons[place] for reasons in found if place in reasons) for place in places}


def to_repeat(samples: Sequence[Span], tainted: Iterable[int]) -> list[int]:
    """Return the indices of the timed samples that are tainted, and of which no repeat is valid either."""
    bad = set(tainted)
    valid = {sample.index for place, sample in enumerate(samples) if sample.judged and place not in bad}
    return sorted({sample.index for sample in samples if sample.phase == "timed"} - valid)


def at_the_cap(samples: Sequence[Span], series: Series) -> bool:
    """Whether the device's power limit held the timed samples up; False where it is not known."""
    windows = [sample.window for sample in samples if sample.phase == "timed"]
    found = [reading.quick.reasons for window in windows for reading in series.inside(window)]
    known = [reasons for reasons in found if reasons is not None]
    return sum(bool(reasons & POWER_CAP) for reasons in known) > CAPPED * len(known)


def gpu_fault(status: Status, reason: str | None, series: Series | None) -> Refusal | None:
    """Return what to say of a cell that failed while its GPU fell off: nothing about its stack."""
    if series and series.lost and status in ("crashed", "timeout", "unsupported"):
        return Refusal("infrastructure", f"the GPU fell off meanwhile (NVML: {series.lost}); {reason}")
    return None


def judged(
    record: Record, series: Series | None, throttled: Throttled | None = None, seen: Seen | None = None
) -> Record:
    """Return the record with its samples' taints and energies, the telemetry, and the flag where the figure suffers.

    Its checks are held to their list, beside those that are made of what was `seen` from outside.
    """
    if fault := gpu_fault(record.status, record.reason, series):
        record = record.model_copy(update={"status": fault.status, "reason": fault.reason})
    record = held_to_list(record, checks_of(record, seen) if seen else ())
    spans = spans_of(record)
    reasons = taints(spans, series, record.workload.benchmark, record.device, throttled)
    samples = tuple(
        sample.model_copy(
            update={"taint": reasons.get(place), "energy_joules": series.joules([span.window]) if series else None}
        )
        if span.judged
        else sample
        for place, (sample, span) in enumerate(zip(record.samples, spans, strict=True))
    )
    sustained, timed = ([span.window for span in spans if span.phase == phase] for phase in ("sustained", "timed"))
    telemetry = summary(series, sustained or timed) if series else None
    rates = tuple(
        rate.model_copy(update={"energy_joules": series.joules([(rate.begin_ns, rate.end_ns)])})
        if series and rate.begin_ns is not None and rate.end_ns is not None
        else rate
        for rate in record.rates
    )
    seen_there = {"samples": samples, "telemetry": telemetry, "rates": rates}
    record = record.model_copy(update=seen_there | _environment(record, series))
    if steady(record).tainted:
        record = record.model_copy(update={"flags": tuple(dict.fromkeys((*record.flags, "tainted")))})
    return record


def _environment(record: Record, series: Series | None) -> dict[str, Any]:
    """Return the environment with what NVML says of the GPU: bench cannot ask it in every image, nor is it believed."""
    environment = record.environment
    if series is None or environment is None or environment.gpu is None:
        return {}
    gpu = environment.gpu.model_copy(update=dict(series.settings))
    return {"environment": environment.model_copy(update={"gpu": gpu})}


def spans_of(record: Record) -> list[Span]:
    """Return the record's samples, in their order."""
    counts = [count for count in map(record.detail.get, ("graphs", "kernels")) if isinstance(count, list)]
    grew = {place for count in counts for place in range(1, len(count)) if count[place] != count[place - 1]}
    return [
        Span(s.index, s.phase, s.begin_ns, s.end_ns, s.device_ns, s.shape, place in grew)
        for place, s in enumerate(record.samples)
    ]


def checks_of(record: Record, seen: Seen) -> tuple[Check, ...]:
    """Return the checks that only the orchestrator can make: none where nothing was seen that they could be made of."""
    return tuple(check for check in (_clocks_agree(record, seen), _as_reported(record, seen)) if check)


def _clocks_agree(record: Record, seen: Seen) -> Check | None:
    agree, differ, open_ = _by_device(record)
    whole = {PHASE_OF[phase.name]: phase for phase in reversed(seen.phases[:-1]) if phase.name in PHASE_OF}
    if "timed" in whole:
        text, good = _by_events(seen.sightings)
        (agree if good else differ).append(text)
        for s in record.samples:
            within = whole.get(s.phase)
            if within is not None and not within.begin_ns <= s.begin_ns <= s.end_ns <= within.end_ns:
                differ.append(f"sample {s.index} was not timed in the phase of the {s.phase} samples")
                break
    if not (agree or differ or open_):
        return None
    status: CheckStatus = "failed" if differ else "unchecked" if open_ else "passed"
    return Check(name=CLOCKS, status=status, what="; ".join(differ or open_ or agree))


def _by_events(sightings: Sequence[Sighting]) -> tuple[str, bool]:
    """Return in words whether one number can be what bench's clock is ahead of ours, all the time, and whether it can.

    It is at least what any event's time was ahead when the event was seen, for bench reads the clock before it writes.
    It is at most what the next event's time was ahead when the one before was not there yet, for bench goes on only
    when an event is written. So neither a busy host nor a stopped process nor a slow disk makes clocks disagree.
    """
    ahead = max(sightings, key=lambda one: one.bench_ns - one.latest_ns)
    missed, after = min(pairwise(sightings), key=lambda pair: pair[1].bench_ns - pair[0].earliest_ns)
    apart = (ahead.bench_ns - ahead.latest_ns) - (after.bench_ns - missed.earliest_ns)
    ours = ahead.latest_ns - missed.earliest_ns
    if apart <= SLACK_NS + RATE * abs(ours):
        whole = (sightings[-1].bench_ns - sightings[0].bench_ns) / 1e9
        return f"bench's clock and ours agree within {max(-apart, 0) / 1e9:.3g} s over {whole:.4g} s", True
    by_bench, bound = (ahead.bench_ns - after.bench_ns) / 1e9, "at most" if ours > 0 else "at least"
    return f"bench's clock advanced by {abs(by_bench):.4g} s in {bound} {abs(ours) / 1e9:.4g} s by ours", False


def _by_device(record: Record) -> tuple[list[str], list[str], list[str]]:
    """Return how the device's durations agree with the wall times around them, how they do not, and what is open."""
    timed = [
        (s.end_ns - s.begin_ns, s.device_ns, s.index)
        for s in record.samples
        if s.phase in JUDGED and s.device_ns is not None
    ]
    beyond = [one for one in timed if one[1] - one[0] > OVER * one[0] + OVER_NS]
    # One may be: while a virtual machine is paused its clock stands still, and its GPU works on.
    if len(beyond) > 1:
        wall, device, index = max(beyond, key=lambda one: one[1] - one[0])
        what = f"sample {index} took {device / 1e6:.4g} ms by device events, within {wall / 1e6:.4g} ms of wall time"
        return [], [what], []
    rest = [(wall, wall - device) for wall, device, index in timed if (wall, device, index) not in beyond]
    if not rest:
        return [], [], []
    text = f"samples' wall times are at least {min(above for _, above in rest) / 1e6:.3g} ms above their device events"
    text += f", but for sample {beyond[0][2]}" if beyond else ""
    if all(above > UNDER * wall + UNDER_NS for wall, above in rest):
        # The figure is the wall time, which has all of it: nothing is wrong with the row.
        return [], [], [f"{text}: they miss work, or other processes held this one up"]
    return [text], [], []


def _as_reported(record: Record, seen: Seen) -> Check | None:
    """Return whether the record's samples are those that bench reported while it ran, and that it was asked for."""
    reported = seen.reported
    if not seen.lasting and any(sample.phase == "sustained" for sample in record.samples):
        what = "the record has sustained samples, and nobody asked for any: the power limit was not seen to hold it up"
        return Check(name=REPORTED, status="failed", what=what)
    if not reported:
        return None
    if len(record.samples) < len(reported):
        what = f"{len(reported)} samples were reported before the proof, and the record has {len(record.samples)}"
        return Check(name=REPORTED, status="failed", what=what)
    for was, now in zip(reported, record.samples, strict=False):
        for key in ("index", "phase", "begin_ns", "end_ns", "device_ns", "shape"):
            one, other = getattr(was, key), getattr(now, key)
            if one != other:
                what = f"sample {was.index} had {key} {one} when it was reported, and has {other} in the record"
                return Check(name=REPORTED, status="failed", what=what)
    beyond = sum(sample.phase in JUDGED for sample in record.samples[len(reported) :])
    if beyond:
        what = f"{beyond} of the samples that the figure is made of were not reported before the proof"
        return Check(name=REPORTED, status="unchecked", what=what)
    what = f"{len(reported)} samples are those that were reported before the proof"
    return Check(name=REPORTED, status="passed", what=what)


def _slowed(samples: Sequence[Span], series: Series) -> dict[int, str]:
    """Slowdowns that the GPU reports, and other processes on it."""
    found = {}
    for place, sample in enumerate(samples):
        if not sample.judged:
            continue
        readings = series.with_reasons(sample.window)
        seen = functools.reduce(operator.or_, (reading.quick.reasons or 0 for reading in readings), 0)
        why = [words for name, words in SLOWDOWNS.items() if seen & REASONS[name]]
        if not why and series.thermal_ns(sample.window) > THERMAL_SHARE * sample.wall_ns:
            why.append("thermal slowdown (the driver's counter)")
        others = sorted({series.names.get(pid, "unknown") for pid in strangers(series, sample.window)})
        if others:
            why.append(f"another process on the GPU: {', '.join(others)}")
        if why:
            found[place] = "; ".join(why)
    return found


def _clocks(samples: Sequence[Span], series: Series) -> list[dict[int, str]]:
    """Samples in which a clock differed from that in the others."""
    inside = [series.inside(sample.window) if sample.judged else () for sample in samples]
    reasons = [reading.quick.reasons for readings in inside for reading in readings]
    # While the cap is at work in a cell it moves the SM clock as it must, and that explains every value. Whether it
    # is at work has to be known.
    judgeable = reasons and not any(reason is None or reason & POWER_CAP for reason in reasons)
    of_sm = _moved("SM", lambda reading: reading.quick.sm_mhz, inside) if judgeable else {}
    return [of_sm, _moved("memory", lambda reading: reading.quick.memory_mhz, inside)]


def _moved(name: str, clock: Callable[[Reading], int | None], inside: Sequence[Sequence[Reading]]) -> dict[int, str]:
    values = [[mhz for mhz in map(clock, readings) if mhz] for readings in inside]
    medians = {place: median(mhz) for place, mhz in enumerate(values) if len(mhz) >= FEWEST_READINGS}
    if len(medians) < FEWEST_SAMPLES:
        return {}
    usual = median(medians.values())
    moved = {place: own for place, own in medians.items() if abs(own - usual) > CLOCK_SHIFT * usual}
    said = f"{usual:g} MHz in the others"
    return {place: f"the {name} clock moved: {own:g} MHz, {said}" for place, own in moved.items()}


def _stalled(samples: Sequence[Span], benchmark: Benchmark, device: Device) -> dict[int, str]:
    """Samples far beyond the others that do the same work. One in which the compiler worked is not among them."""
    places = [place for place, sample in enumerate(samples) if sample.judged and not sample.compiled]
    if benchmark != "train_dynamic":
        usual = median(samples[place].wall_ns for place in places) if places else 0.0
        return _apart(samples, places, [usual] * len(places), STALL_FACTOR, device)
    # The first sample of a shape also makes what libraries keep for a shape (ten times the step, on a CPU).
    firsts = {sample.shape: place for place, sample in reversed(list(enumerate(samples)))}
    found: dict[int, str] = {}
    for first in (True, False):
        alike = [place for place in places if (firsts[samples[place].shape] == place) is first]
        expected = _by_neighbours([samples[place] for place in alike])
        found |= _apart(samples, alike, expected, STALL_FACTOR_DYNAMIC, device)
    return found


def _apart(
    samples: Sequence[Span], places: Sequence[int], expected: Sequence[float], factor: float, device: Device
) -> dict[int, str]:
    """Return the few of `places` whose time stands apart from all others', each relative to what was expected of it."""
    count = len(places)
    if count < FEWEST_SAMPLES:
        return {}
    usual_ns = dict(zip(places, expected, strict=True))
    ratios = {place: samples[place].wall_ns / usual for place, usual in usual_ns.items()}
    order = sorted(places, key=ratios.__getitem__)
    for few in range(count // OUTLIERS_AMONG, 0, -1):
        rest, apart = order[:-few], order[-few:]
        middle, last = median(ratios[place] for place in rest), len(rest) - 1
        spread = ratios[rest[math.ceil(0.9 * last)]] - ratios[rest[math.floor(0.1 * last)]]
        least = max(factor * middle, middle + STALL_SPREADS * (1 + FEW_SAMPLES / count) * spread)
        if all(
            ratios[place] > least and samples[place].wall_ns - middle * usual_ns[place] > STALL_FLOOR_NS[device]
            for place in apart
        ):
            devices = [ns for ns in (samples[place].device_ns for place in rest) if ns is not None]
            return {place: _stall(samples[place], ratios[place] / middle, devices) for place in apart}
    return {}


def _by_neighbours(samples: Sequence[Span]) -> list[float]:
    """Return what each sample should take, judged by those nearest in size: as long as they, or longer by its size."""
    expected = []
    for place, sample in enumerate(samples):
        others = [other for at, other in enumerate(samples) if at != place] or [sample]
        others.sort(key=lambda other: abs(other.tokens - sample.tokens))
        expected.append(median(other.wall_ns * max(1.0, sample.tokens / other.tokens) for other in others[:NEIGHBOURS]))
    return expected


def _stall(sample: Span, ratio: float, devices: Sequence[int]) -> str:
    text = f"stalled: {ratio:.2f} times what the others took"
    if sample.device_ns is not None and devices and sample.device_ns / median(devices) - 1 < (ratio - 1) / 2:
        return f"{text}, and the GPU's part did not: the host stalled"
    return text
