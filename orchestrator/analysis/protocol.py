"""How a record's raw samples become a figure: the protocols `note` and `steady`, both from the same samples.

`note` and `steady` reduce one round and never look at another; `combine` makes a row's figure of the rounds.
Everything is computed in seconds here and turned into the benchmark's unit last.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from itertools import chain
from operator import attrgetter
from statistics import fmean, median
from typing import Literal
from typing import Protocol as Structure

from orchestrator.analysis.statistics import LEVEL, interval_across, interval_of_median
from orchestrator.plan.workload import GENERATING, TRAINING, Benchmark
from orchestrator.records.record import Phase, Record

Protocol = Literal["note", "steady"]
Unit = Literal["s", "tokens/s", "ms"]
IntervalKind = Literal["across rounds", "within-process"]
NOTE_BEST_OF = 10
NOTE_FIRST, NOTE_LAST = 5, 49
"""Indices, from 0, of the first and the last sample that the note's training figures take in."""
FEWEST_FOR_INTERVAL = 3
BLOCK_S, BLOCKS = 2.0, 10
"""Samples at the power cap alternate, one against the next: their mean's interval is made of blocks this long."""
TAKE = attrgetter(
    *["index", "phase", "shape", "begin_ns", "end_ns", "device_ns", "first_token_ns", "loss", "taint", "energy_joules"],
)


@dataclass(frozen=True, slots=True)
class Columns:
    """One entry for each sample, in the record's order; durations in seconds, null where they are not known."""

    index: tuple[int, ...]
    shape: tuple[tuple[int, ...], ...]
    wall: tuple[float, ...]
    device: tuple[float | None, ...]
    first_token: tuple[float | None, ...]
    loss: tuple[float | None, ...]
    taint: tuple[str | None, ...]
    energy: tuple[float | None, ...]
    """In joules."""
    places: dict[Phase, list[int]]
    """Where the samples of each phase are."""
    disturbed: bool
    """Whether any sample is tainted."""

    def at(self, *phases: Phase) -> list[int]:
        """Return where the samples of these phases are."""
        found = [self.places[phase] for phase in phases if phase in self.places]
        return sorted(chain(*found)) if len(found) > 1 else found[0] if found else []

    def originals(self) -> list[int]:
        """Return where the samples that repeat no other are, in the order of their indices."""
        return sorted(self.at("first", "warmup", "timed"), key=self.index.__getitem__)

    def valid(self, places: Sequence[int]) -> tuple[Sequence[int], bool]:
        """Return those places whose samples nothing disturbed, or all of them (and True) where each one was."""
        if not self.disturbed:
            return places, False
        valid = [place for place in places if self.taint[place] is None]
        return (valid, False) if valid else (places, bool(places))

    def walls(self, places: Sequence[int]) -> list[float]:
        """Return the wall times at `places`."""
        wall = self.wall
        return [wall[place] for place in places]

    def devices(self, places: Sequence[int]) -> list[float] | None:
        """Return the device times at `places`, or null where one of them is not known."""
        device = self.device
        found = [seconds for place in places if (seconds := device[place]) is not None]
        return found if len(found) == len(places) else None

    def unusable(self, places: Sequence[int]) -> str | None:
        """Return why the samples at `places` give no figure, or null where they do."""
        if not places:
            return "no samples of the kind that the protocol takes"
        if min(self.wall) > 0:
            return None
        bad = next((place for place in places if self.wall[place] <= 0), None)
        return None if bad is None else f"sample {self.index[bad]} ends before it begins"


class HasPhase(Structure):
    """A sample, or what is known of one while its process runs."""

    @property
    def phase(self) -> Phase:
        """Which kind of sample it is."""


def figure_phase(samples: Iterable[HasPhase]) -> Phase:
    """Return which samples the figure is made of: those that were sustained, where there are any."""
    return "sustained" if any(sample.phase == "sustained" for sample in samples) else "timed"


def columns_of(record: Record) -> Columns:
    """Return the columns of the record's samples."""
    if not record.samples:
        return Columns((), (), (), (), (), (), (), (), {}, disturbed=False)
    index, phase, shape, begin, end, device, first, loss, taint, energy = zip(*map(TAKE, record.samples), strict=True)
    places: dict[Phase, list[int]] = {}
    for place, name in enumerate(phase):
        places.setdefault(name, []).append(place)
    return Columns(
        index=index,
        shape=shape,
        wall=tuple([(late - early) / 1e9 for early, late in zip(begin, end, strict=True)]),
        device=tuple([None if ns is None else ns / 1e9 for ns in device]),
        first_token=tuple([None if ns is None else ns / 1e9 for ns in first]),
        loss=loss,
        taint=taint,
        energy=energy,
        places=places,
        disturbed=any(taint),
    )


@dataclass(frozen=True)
class Reduced:
    """One round under one protocol. `seconds` is null where `reason` says why."""

    seconds: float | None
    device_seconds: float | None = None
    basis: str = ""
    complete: bool = True
    """False where the run had fewer samples than the protocol asks for; `basis` then says how many."""
    used: tuple[int, ...] = ()
    """Indices of the samples that `seconds` was made of."""
    walls: tuple[float, ...] = ()
    """The seconds that an interval of a median within the process can be made of."""
    blocks: tuple[float, ...] = ()
    """The same of a mean: means of samples back to back, of train_dynamic whole totals."""
    first_token_seconds: float | None = None
    next_token_seconds: float | None = None
    tainted: bool = False
    """Whether tainted samples had to be used, since there was no valid one in their place."""
    reason: str | None = None


@dataclass(frozen=True, slots=True)
class Figure:
    """A row's figure in the benchmark's unit, with the interval that its rounds allow."""

    value: float | None
    unit: Unit
    seconds: float | None
    device_value: float | None = None
    basis: str = ""
    complete: bool = True
    interval: tuple[float, float] | None = None
    interval_kind: IntervalKind | None = None
    interval_level: float | None = None
    round_figures: tuple[float, ...] = ()
    round_seconds: tuple[float, ...] = ()
    """The same in seconds: what verdicts are made of."""
    samples: int = 1
    """So many samples are in `seconds`: one, or where they are a total, all of it."""
    first_token_seconds: float | None = None
    next_token_seconds: float | None = None
    reason: str | None = None


def unit_of(benchmark: Benchmark) -> Unit:
    """Return the unit that the benchmark's figure is given in."""
    if benchmark in GENERATING:
        return "tokens/s"
    return "ms" if benchmark == "train_static" else "s"


def higher_is_better(benchmark: Benchmark) -> bool:
    """Return whether a larger figure is the better one."""
    return benchmark in GENERATING


def in_unit(benchmark: Benchmark, seconds: float, new_tokens: int | None) -> float | None:
    """Return `seconds` in the benchmark's unit. Null where tokens are unknown.

    `new_tokens` are those that the figure counts: of one sequence, of a batch of different prompts all.
    """
    if benchmark in GENERATING:
        return new_tokens / seconds if new_tokens else None
    return seconds * 1e3 if benchmark == "train_static" else seconds


def note(record: Record, samples: Columns | None = None) -> Reduced:
    """Reduce one round as the note did: by index, whatever the phase, first calls and compilation included.

    forward, model_inference, generation: the best of the first ten samples. train_static: mean of samples 6 to 50.
    train_dynamic: total of samples 6 to 50. The note had no repeats: they are left out. `samples` are the record's own.
    """
    samples = samples or columns_of(record)
    places = samples.originals()
    if record.workload.benchmark in TRAINING:
        return _note_training(samples, places, total=record.workload.benchmark == "train_dynamic")
    chosen = [place for place in places if samples.index[place] < NOTE_BEST_OF]
    reason = samples.unusable(chosen)
    if reason:
        return Reduced(None, reason=reason)
    best = [min(chosen, key=samples.wall.__getitem__)]
    full = len(chosen) == NOTE_BEST_OF
    devices = samples.devices(best)
    first, following = _token_times(samples, best, record.workload.new_tokens)
    return Reduced(
        seconds=samples.wall[best[0]],
        device_seconds=devices[0] if devices else None,
        basis=f"best of {len(chosen)}" + ("" if full else f" (the note takes {NOTE_BEST_OF})"),
        complete=full,
        used=(samples.index[best[0]],),
        first_token_seconds=first,
        next_token_seconds=following,
    )


def steady(record: Record, samples: Columns | None = None) -> Reduced:
    """Reduce one round as it runs once warm: the median of its valid timed samples and their repeats.

    Where samples were sustained at the device's power limit it is the mean of those. Where every one is tainted it is
    that of them all. train_dynamic: every iteration has its own shape, so the figure is the total over the timed
    samples (where they were sustained, the mean of such totals); a repeated iteration counts once, with the median of
    its valid durations, or of all of them where none is valid. The basis says what was done. `samples` are the record's
    own.
    """
    samples = samples or columns_of(record)
    if record.workload.benchmark == "train_dynamic":
        return _steady_total(samples)
    sustained = samples.at("sustained")
    timed = sustained or samples.at("timed", "repeat")
    chosen, tainted = samples.valid(timed)
    reason = samples.unusable(chosen)
    if reason:
        return Reduced(None, reason=reason)
    walls, devices = samples.walls(chosen), samples.devices(chosen)
    first, following = _token_times(samples, chosen, record.workload.new_tokens)
    average: Callable[[Sequence[float]], float] = fmean if sustained else median
    kind = f"samples sustained for {math.fsum(walls):.3g} s at the power cap" if sustained else "timed samples"
    return Reduced(
        seconds=average(walls),
        device_seconds=average(devices) if devices else None,
        basis=f"{'mean' if sustained else 'median'} of {_counted(len(timed), len(chosen), kind, tainted=tainted)}",
        used=tuple(sorted({samples.index[place] for place in chosen})),
        walls=() if sustained else tuple(walls),
        blocks=blocks_of(walls) if sustained else (),
        first_token_seconds=first,
        next_token_seconds=following,
        tainted=tainted,
    )


def first_call_seconds(samples: Columns) -> float | None:
    """Return how long the first call took, compilation included, or null where there was none."""
    first = samples.at("first")[:1]
    return None if samples.unusable(first) else samples.wall[first[0]]


def combine(protocol: Protocol, benchmark: Benchmark, new_tokens: int | None, rounds: Sequence[Reduced]) -> Figure:
    """Return the row's figure: the median over the rounds, the same way under both protocols.

    Only `steady` has an interval: across rounds from two rounds on, else within the process (labelled so, because
    it knows nothing of what differs from process to process).
    """
    unit = unit_of(benchmark)
    good = [r for r in rounds if r.seconds is not None]
    seconds = [r.seconds for r in good if r.seconds is not None]
    if not good:
        return Figure(None, unit, None, reason=next((r.reason for r in rounds if r.reason), "no round has samples"))
    if benchmark in GENERATING and not new_tokens:
        return Figure(None, unit, None, reason="the workload does not say how many tokens are made")
    if benchmark == "train_dynamic" and len({r.used for r in good}) > 1:
        return Figure(None, unit, None, reason="the rounds' totals are over different iterations")

    def convert(value: float) -> float:
        result = in_unit(benchmark, value, new_tokens)
        assert result is not None
        return result

    interval, kind, level = _interval(good, seconds) if protocol == "steady" else (None, None, None)
    bases = sorted({r.basis for r in good})
    basis = " / ".join(bases) if len(good) == 1 else f"median of {len(good)} rounds, each the {' / '.join(bases)}"
    device = _all_or_none(median, (r.device_seconds for r in good))
    return Figure(
        value=convert(median(seconds)),
        unit=unit,
        seconds=median(seconds),
        device_value=None if device is None else convert(device),
        basis=basis,
        complete=all(r.complete for r in good),
        interval=None if interval is None else _ordered(convert(interval[0]), convert(interval[1])),
        interval_kind=kind,
        interval_level=level,
        round_figures=tuple(convert(s) for s in seconds),
        round_seconds=tuple(seconds),
        samples=samples_in(benchmark, good[0]),
        first_token_seconds=_all_or_none(median, (r.first_token_seconds for r in good)),
        next_token_seconds=_all_or_none(median, (r.next_token_seconds for r in good)),
    )


def samples_in(benchmark: Benchmark, round_: Reduced) -> int:
    """Return how many samples' time a round's figure is: of train_dynamic the total of all that it used."""
    return len(round_.used) if benchmark == "train_dynamic" else 1


def _interval(
    good: Sequence[Reduced], seconds: Sequence[float]
) -> tuple[tuple[float, float] | None, IntervalKind | None, float | None]:
    if len(seconds) > 1:
        return interval_across(seconds), "across rounds", LEVEL
    walls, blocks = good[0].walls, good[0].blocks
    if len(blocks) >= FEWEST_FOR_INTERVAL:
        return interval_across(blocks), "within-process", LEVEL
    if len(walls) < FEWEST_FOR_INTERVAL:
        return None, None, None
    low, high, level = interval_of_median(walls)
    return (low, high), "within-process", level


def _note_training(samples: Columns, places: Sequence[int], *, total: bool) -> Reduced:
    chosen = [place for place in places if NOTE_FIRST <= samples.index[place] <= NOTE_LAST]
    if places and not chosen:
        return Reduced(None, reason=f"{len(places)} samples: the note leaves out the first {NOTE_FIRST}")
    reason = samples.unusable(chosen)
    if reason:
        return Reduced(None, reason=reason)
    full = len(chosen) == NOTE_LAST - NOTE_FIRST + 1
    what = "total" if total else "mean"
    used = tuple([samples.index[place] for place in chosen])
    basis = f"{what} of samples {NOTE_FIRST + 1} to {used[-1] + 1}"
    if not full:
        basis = f"{what} of the {len(chosen)} samples after the first {NOTE_FIRST} (the note goes to {NOTE_LAST + 1})"
    reduce: Callable[[Iterable[float]], float] = math.fsum if total else fmean
    devices = samples.devices(chosen)
    return Reduced(
        seconds=reduce(samples.walls(chosen)),
        device_seconds=reduce(devices) if devices else None,
        basis=basis,
        complete=full,
        used=used,
    )


def _steady_total(samples: Columns) -> Reduced:
    if samples.at("sustained"):
        return _sustained_total(samples)
    by_index = {samples.index[place]: [place] for place in samples.at("timed")}
    for place in samples.at("repeat"):
        # A repeat of an iteration that was not timed has nothing to repeat: a total must not count it.
        if samples.index[place] in by_index:
            by_index[samples.index[place]].append(place)
    groups = [samples.valid(group) for group in by_index.values()]
    chosen = [place for group, _ in groups for place in group]
    reason = samples.unusable([place for group in by_index.values() for place in group])
    if reason:
        return Reduced(None, reason=reason)
    bad = sum(tainted for _, tainted in groups)
    walls, devices = samples.walls(chosen), samples.devices(chosen)
    if len(chosen) > len(groups):
        walls = [median(samples.walls(group)) for group, _ in groups]
        devices = devices and [median(samples.devices(group) or ()) for group, _ in groups]
    return Reduced(
        seconds=math.fsum(walls),
        device_seconds=math.fsum(devices) if devices else None,
        basis=f"total of {len(by_index)} timed samples" + (f", {bad} of them tainted" if bad else ""),
        used=tuple(sorted(by_index)),
        tainted=bad > 0,
    )


def _sustained_total(samples: Columns) -> Reduced:
    """Return the mean of the totals over whole turns of the timed iterations; those nothing disturbed, if there are."""
    places, iterations = samples.at("sustained"), sorted({samples.index[place] for place in samples.at("timed")})
    each = len(iterations) or 1
    turns = [turn for at in range(0, len(places), each) if len(turn := places[at : at + each]) == each]
    if not iterations or any(sorted(samples.index[place] for place in turn) != iterations for turn in turns):
        return Reduced(None, reason="what was sustained is not the timed iterations in turn")
    if reason := samples.unusable([place for turn in turns for place in turn]):
        return Reduced(None, reason=reason)
    good = [turn for turn in turns if all(samples.taint[place] is None for place in turn)]
    chosen = good or turns
    totals = tuple(math.fsum(samples.walls(turn)) for turn in chosen)
    devices = [samples.devices(turn) for turn in chosen]
    known = [math.fsum(turn) for turn in devices if turn is not None]
    kind = f"totals of {each} samples sustained at the power cap"
    return Reduced(
        seconds=fmean(totals),
        device_seconds=fmean(known) if len(known) == len(chosen) else None,
        basis=f"mean of {_counted(len(turns), len(chosen), kind, tainted=not good)}",
        used=tuple(iterations),
        blocks=totals,
        tainted=not good,
    )


def blocks_of(walls: Sequence[float]) -> tuple[float, ...]:
    """Return the means of successive samples that took BLOCK_S together; what is left over is with the last.

    Of samples so short that all together took less than the blocks would, a block is a tenth of all.
    """
    least_s = min(BLOCK_S, math.fsum(walls) / BLOCKS)
    blocks: list[list[float]] = [[]]
    for wall in walls:
        if math.fsum(blocks[-1]) >= least_s:
            blocks.append([])
        blocks[-1].append(wall)
    if len(blocks) > 1 and math.fsum(blocks[-1]) < least_s:
        last = blocks.pop()
        blocks[-1] += last
    return tuple(fmean(block) for block in blocks)


def _counted(timed: int, used: int, kind: str, *, tainted: bool) -> str:
    if tainted:
        return f"{timed} {kind}, all tainted"
    return f"{used} {kind}" if used == timed else f"the {used} valid of {timed} {kind}"


def _token_times(samples: Columns, places: Sequence[int], new_tokens: int | None) -> tuple[float | None, float | None]:
    """Return the medians of the seconds to the first token and of the seconds for each further one."""
    first = [seconds for place in places if (seconds := samples.first_token[place]) is not None]
    if len(first) < len(places):
        return None, None
    if not new_tokens or new_tokens < 2:  # noqa: PLR2004 - there is no further token
        return median(first), None
    walls = samples.walls(places)
    following = [(wall - seconds) / (new_tokens - 1) for wall, seconds in zip(walls, first, strict=True)]
    return median(first), median(following)


def _all_or_none(reduce: Callable[[Iterable[float]], float], values: Iterable[float | None]) -> float | None:
    """Return the values reduced, or null where one is unknown: a part must not pass for the whole."""
    known: list[float] = []
    for value in values:
        if value is None:
            return None
        known.append(value)
    return reduce(known) if known else None


def _ordered(one: float, other: float) -> tuple[float, float]:
    return (one, other) if one <= other else (other, one)
