"""What a cell's process says while it runs, in `events.jsonl`, and what it asks: nothing of it is trusted."""

from __future__ import annotations

import contextlib
import json
import os
import re
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, get_args

from orchestrator.base.errors import UsageError
from orchestrator.base.limits import LARGEST
from orchestrator.base.text import significant
from orchestrator.base.untrusted import open_plain, place_file
from orchestrator.launchers import Far
from orchestrator.measure.validity import Sighting, Span
from orchestrator.records.record import Phase, PhaseTime

EVENTS_FILE = "events.jsonl"
EVENTS_READ_BYTES = 65_536
LONG_NS = 10**9
"""From here on it is said how long a sample took."""
PHASES_KEPT, SIGHTINGS_KEPT = 32, 4096
MOST_ASKS, MOST_ROWS, MOST_SIZES = 4, 4_608, 8
"""Limits of a question: how often one is answered, and its size; bench sustains fewer samples, and times fewer."""
UNPRINTABLE = re.compile(r"[^\x20-\x7e]+")


@dataclass(frozen=True)
class Event:
    """What the process said last: a phase began, or (`index` of `of`) a sample is done."""

    phase: str
    index: int | None = None
    of: int | None = None


class Watch:
    """Follows `events.jsonl` while it grows. The process can write anything there, so nothing in it is trusted."""

    def __init__(self, path: Path, on_event: Callable[[Event], None]) -> None:
        self._path, self._on_event = path, on_event
        self._offset, self._rest = 0, b""
        self.phases: list[PhaseTime] = []
        self.sightings: list[Sighting] = []
        """Of its events."""
        self.question = Question()
        self._earliest_ns = self._drained_ns = self._read_ns = time.monotonic_ns()
        self._sample: tuple[int, int] | None = None
        self._since_ns = self._last_ns = 0
        self.far: Far | None = None
        """Who sees the events, where the process runs on another host."""

    def where(self) -> str:
        """Return in words how far the process got."""
        if not self.phases:
            return "before its first phase"
        # How long one takes says why so few are done: some compilers begin again for each shape. Roughly, so that the
        # reasons of rounds that ended alike are one.
        seconds = significant(float(f"{self._last_ns / 1e9:.0e}"), 1)
        last = f", the last in some {seconds} s" if self._last_ns >= LONG_NS else ""
        done = f" ({self._sample[0] + 1} of {self._sample[1]} samples done{last})" if self._sample else ""
        return f'in the phase "{self.phases[-1].name}"{done}'

    def look(self, *, show: bool = True) -> None:
        """Read what is new, up to a limit, and report the last event in it."""
        last: Event | None = None
        while new := self._read():
            *lines, self._rest = (self._rest + new).split(b"\n")
            self._rest = self._rest[-EVENTS_READ_BYTES:]
            for line in lines:
                try:
                    last = self._take(json.loads(line)) or last
                except (ValueError, KeyError, TypeError, RecursionError):  # noqa: PERF203
                    continue  # only shown, never believed
            if self.far is None:
                break  # what is left comes at the next look
        if last is not None and show:
            self._on_event(last)

    def _read(self) -> bytes:
        if self.far is not None:
            new, self._earliest_ns, self._read_ns = self.far.events()
            return new
        before = time.monotonic_ns()
        with contextlib.suppress(OSError):
            if os.lstat(self._path).st_size <= self._offset:  # mostly so: of many cells no file is opened for nothing
                self._drained_ns = before
                return b""
        with contextlib.suppress(OSError, UsageError), open_plain(self._path) as file:
            file.seek(self._offset)
            new = file.read(EVENTS_READ_BYTES)
            self._offset += len(new)
            self._earliest_ns, self._read_ns = self._drained_ns, time.monotonic_ns()
            if len(new) < EVENTS_READ_BYTES:
                self._drained_ns = before
            return new
        return b""

    def _take(self, said: dict[str, Any]) -> Event | None:
        now = _number(said["t_ns"])
        if len(self.sightings) < SIGHTINGS_KEPT:
            self.sightings.append(Sighting(now, self._earliest_ns, self._read_ns))
        if said["event"] == "phase":
            if self.phases:
                self.phases[-1] = self.phases[-1].model_copy(update={"end_ns": now})
            self._since_ns = now
            if len(self.phases) < PHASES_KEPT:
                name = UNPRINTABLE.sub("", str(said["name"]))[:40]
                self.phases.append(PhaseTime(name=name, begin_ns=now, end_ns=now))
                return Event(name)
        elif said["event"] == "sample":
            self._sample = (_number(said["index"]), _number(said["of"]))
            self._last_ns, self._since_ns = now - self._since_ns, now
            return Event(self.phases[-1].name if self.phases else "", *self._sample)
        elif said["event"] == "samples":
            self.question.take(said)
        return None


class Question:
    """Which samples to take more of: what bench asked last and was not answered yet. It may come in several lines.

    What the process says is checked before it is used, and no link that it left in the folder is followed.
    """

    def __init__(self) -> None:
        self._ask, self._answered = 0, 0
        self._rows: list[Span] = []
        self._whole = False
        self.reported: list[Span] = []
        """The samples of the last question that was answered."""
        self.extra_s = 0.0
        """Seconds of soak and sustained samples that were asked for: the cell's deadline is later by them."""

    def take(self, said: dict[str, Any]) -> None:
        """Take in one event `samples`; ValueError, TypeError or KeyError where bench would not have written it."""
        ask = _number(said["ask"])
        if not self._answered < ask <= MOST_ASKS:
            raise ValueError(ask)
        if ask != self._ask:
            self._ask, self._rows = ask, []
        self._whole = False
        rows = [_span(row) for row in said["rows"]]
        if len(self._rows) + len(rows) > MOST_ROWS:
            self._answered = MOST_ASKS  # not bench: it gets no answer
            raise ValueError(len(rows))
        self._rows += rows
        self._whole = said["more"] is False

    def answer(self, folder: Path, choose: Callable[[Sequence[Span]], dict[str, Any]]) -> None:
        """Where a question is open, write what `choose` answers to its samples into `folder`."""
        if self._whole:
            self._whole, self._answered = False, self._ask
            wanted = choose(self._rows)
            self.extra_s = max(self.extra_s, sum(wanted.get(part, 0.0) for part in ("soak_s", "sustain_s", "turns_s")))
            place_file(folder, f"repeat-{self._ask}.json", json.dumps(wanted))
            self.reported, self._rows = self._rows, []


def _span(row: Any) -> Span:
    index, phase, begin_ns, end_ns, device_ns, shape, compiled = row
    if phase not in get_args(Phase) or not isinstance(compiled, bool) or not 0 < len(shape) <= MOST_SIZES:
        raise ValueError(phase)
    for number in (index, begin_ns, end_ns, 0 if device_ns is None else device_ns, *shape):
        _number(number)
    return Span(index, phase, begin_ns, end_ns, device_ns, tuple(shape), compiled)


def _number(value: Any) -> int:
    """Return a count or a time as bench writes it; ValueError for any other value, also for one of over 64 bits."""
    if type(value) is not int or not 0 <= value <= LARGEST:
        raise ValueError("not a count")
    return value
