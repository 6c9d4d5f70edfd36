"""A record's samples as columns: taken out of the record once, reduced in several ways."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import chain
from operator import attrgetter

from orchestrator.records.record import Phase, Record

FIELDS = (
    "index",
    "phase",
    "shape",
    "begin_ns",
    "end_ns",
    "device_ns",
    "first_token_ns",
    "loss",
    "taint",
    "energy_joules",
)
TAKE = attrgetter(*FIELDS)


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
