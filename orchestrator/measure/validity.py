"""Which samples something else disturbed, and what: by the GPU's telemetry, and by the samples beside each other.

A software power cap is not a taint: at full load it is how a GPU works. What is tainted is measured again where there
is time, and stays in the record either way.
"""

from __future__ import annotations

import functools
import math
import operator
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from statistics import median

from orchestrator.analysis.protocol import steady
from orchestrator.host.gpu import REASONS
from orchestrator.measure.telemetry import Reading, Series, strangers, summary
from orchestrator.plan.cell import Device
from orchestrator.plan.workload import Benchmark
from orchestrator.records.record import Phase, Record, Refusal, Status

SLOWDOWNS = {
    "hardware thermal slowdown": "thermal slowdown (hardware)",
    "software thermal slowdown": "thermal slowdown (software)",
    "power brake": "power brake",
    "hardware slowdown": "hardware slowdown",
}
THERMAL_SHARE = 0.01
"""Of a sample's time, by the driver's counter of thermal slowdown."""
CLOCK_SHIFT = 0.05
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
        return self.phase in ("timed", "repeat")

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


def gpu_fault(status: Status, reason: str | None, series: Series | None) -> Refusal | None:
    """Return what to say of a cell that failed while its GPU fell off: nothing about its stack."""
    if series and series.lost and status in ("crashed", "timeout", "unsupported"):
        return Refusal("infrastructure", f"the GPU fell off meanwhile (NVML: {series.lost}); {reason}")
    return None


def judged(record: Record, series: Series | None, throttled: Throttled | None = None) -> Record:
    """Return the record with its samples' taints and energies, the telemetry, and the flag where the figure suffers."""
    if fault := gpu_fault(record.status, record.reason, series):
        record = record.model_copy(update={"status": fault.status, "reason": fault.reason})
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
    seen = summary(series, [span.window for span in spans if span.phase == "timed"]) if series else None
    rates = tuple(
        rate.model_copy(update={"energy_joules": series.joules([(rate.begin_ns, rate.end_ns)])})
        if series and rate.begin_ns is not None and rate.end_ns is not None
        else rate
        for rate in record.rates
    )
    record = record.model_copy(update={"samples": samples, "telemetry": seen, "rates": rates})
    if steady(record).tainted:
        record = record.model_copy(update={"flags": tuple(dict.fromkeys((*record.flags, "tainted")))})
    return record


def spans_of(record: Record) -> list[Span]:
    """Return the record's samples, in their order."""
    counts = [count for count in map(record.detail.get, ("graphs", "kernels")) if isinstance(count, list)]
    grew = {place for count in counts for place in range(1, len(count)) if count[place] != count[place - 1]}
    return [
        Span(s.index, s.phase, s.begin_ns, s.end_ns, s.device_ns, s.shape, place in grew)
        for place, s in enumerate(record.samples)
    ]


def _slowed(samples: Sequence[Span], series: Series) -> dict[int, str]:
    """Slowdowns that the GPU reports, and other processes on it."""
    found = {}
    for place, sample in enumerate(samples):
        if not sample.judged:
            continue
        readings = series.around(sample.window, lambda reading: reading.quick.reasons is not None)
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
    cap = REASONS["software power cap"]
    inside = [series.inside(sample.window) if sample.judged else () for sample in samples]
    reasons = [reading.quick.reasons for readings in inside for reading in readings]
    # While the cap is at work in a cell it moves the SM clock as it must, and that explains every value. Whether it
    # is at work has to be known.
    judgeable = reasons and not any(reason is None or reason & cap for reason in reasons)
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
    if sample.device_ns is not None and devices and sample.device_ns < STALL_FACTOR * max(devices):
        return f"{text}, and the GPU's part did not: the host stalled"
    return text
