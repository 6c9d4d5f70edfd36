"""What the host sees of a GPU while a cell runs on it: a thread reads NVML, and its readings become a series.

Times are CLOCK_MONOTONIC, which containers share with the host: the series can be laid over a cell's samples.
"""

from __future__ import annotations

import contextlib
import json
import threading
import time
from bisect import bisect_left, bisect_right
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import cached_property
from itertools import pairwise
from statistics import median
from typing import TYPE_CHECKING, Any, NamedTuple

from orchestrator.base.limits import LARGEST
from orchestrator.host.gpu import NAME_CHARACTERS, REASONS, Gauge, Quick, Slow, gauge, process_name

if TYPE_CHECKING:
    from orchestrator.records.record import Range, Telemetry

Pids = Callable[[], frozenset[int] | None]
Window = tuple[int, int]
INTERVAL_S = 0.02
SLOW_INTERVAL_S = 0.25
LONGEST_S = 0.5
REST = 50
"""A reading is followed by at least this many times its own duration of rest, up to LONGEST_S."""
JOIN_S = 5.0
MOST_READINGS = 65_536
"""Twenty minutes at the shortest interval; from then on two readings become one, and the interval doubles."""
SERIES_LIMIT_BYTES = 2_000_000
COLUMNS = ("t_ns", *Quick._fields, *Slow._fields, "foreign")


class Reading(NamedTuple):
    """One look at the GPU. `slow` and `foreign` are None where they were not asked for this time, or not known."""

    t_ns: int
    quick: Quick
    slow: Slow | None = None
    foreign: frozenset[int] | None = None
    """Processes that compute there and are not the cell's."""


Knowing = tuple[Sequence[Reading], Sequence[int]]
"""The readings that have a certain value, and their times, kept: thousands of samples look among tens of thousands."""


class Sampler(threading.Thread):
    """Reads a gauge until it is stopped. `pids` returns the cell's own processes, or None: not known."""

    def __init__(self, gauge: Gauge, pids: Pids) -> None:
        super().__init__(name="telemetry", daemon=True)
        self._gauge, self._pids = gauge, pids
        self._settings = gauge.settings()
        self._readings: list[Reading] = []
        self._interval_s = INTERVAL_S
        self._own: frozenset[int] = frozenset()
        self._own_seen = False
        self._names: dict[int, str] = {}
        self._ending = threading.Event()

    def stop(self) -> None:
        """End the thread. A driver that does not answer is not waited for endlessly."""
        self._ending.set()
        if self.ident is not None:
            self.join(JOIN_S)

    def series(self) -> Series:
        """Return what was read so far; other processes only where the cell's own were among those listed."""
        readings = list(self._readings)
        if not self._own_seen:
            # Numbers of another namespace, or a driver that hides processes: none can be told apart from the cell.
            readings = [reading._replace(foreign=None) for reading in readings]
        return Series(readings, dict(self._names), self._gauge.lost, self._settings)

    def run(self) -> None:
        """Read, in the thread."""
        pause = slow_due = 0.0
        while not self._ending.wait(pause):
            began = time.monotonic()
            reading = Reading(time.monotonic_ns(), self._gauge.quick())
            pause = max(self._interval_s, min(LONGEST_S, REST * (time.monotonic() - began)))
            if began >= slow_due:
                reading = reading._replace(slow=self._gauge.slow(), foreign=self._foreign())
                slow_due = began + max(SLOW_INTERVAL_S, REST * (time.monotonic() - began))
            self._readings.append(reading)
            if len(self._readings) >= MOST_READINGS:
                self._readings = thinned(self._readings)
                self._interval_s *= 2
        self._gauge.quick()  # a GPU that fell off just now says so

    def _foreign(self) -> frozenset[int] | None:
        listed = self._gauge.processes()
        if listed is None:
            return None
        if listed - self._own - self._names.keys():
            # A new process. To find out whose it is costs more than what NVML lists, so it is asked only now; one that
            # has ended by the second look was perhaps the cell's own.
            own, still = self._pids(), self._gauge.processes()
            if own is None or still is None:
                return None
            self._own |= own
            listed &= still
            self._names.update({pid: process_name(pid) for pid in listed - self._own - self._names.keys()})
        self._own_seen = self._own_seen or bool(listed & self._own)
        return listed - self._own


@contextlib.contextmanager
def watch_gpu(uuid: str, pids: Pids) -> Iterator[Sampler | None]:
    """Read the GPU `uuid`; None, and nothing is read, where NVML does not answer or knows no such GPU."""
    with gauge(uuid) as found:
        if found is None:
            yield None
            return
        sampler = Sampler(found, pids)
        if found.lost is None:
            sampler.start()
        try:
            yield sampler
        finally:
            sampler.stop()


class Recorded:
    """Stands for a sampler on another host: its series, read back from the side file that it has made."""

    def __init__(self, content: bytes, settings: Mapping[str, Any], lost: str | None) -> None:
        self._content, self._settings, self._lost = content, settings, lost

    def series(self) -> Series:
        """Return the series; ValueError, TypeError or KeyError where the side file is none of ours."""
        head, *lines = self._content.decode("ascii").splitlines()
        names = {int(pid): str(name)[:NAME_CHARACTERS] for pid, name in json.loads(head)["names"].items()}
        return Series([_reading(json.loads(line)) for line in lines], names, self._lost, self._settings)


class Series:
    """Readings in the order of time. A window is (begin, end) in ns. `lost`: what NVML said when the GPU was gone."""

    def __init__(
        self,
        readings: Sequence[Reading],
        names: dict[int, str] | None = None,
        lost: str | None = None,
        settings: Mapping[str, Any] | None = None,
    ) -> None:
        self.readings, self.lost = tuple(readings), lost
        self.names, self.settings = names or {}, settings or {}
        self._times = [reading.t_ns for reading in self.readings]
        # The counter moves in steps that may be longer than the interval: only the moments at which it moved are
        # known.
        moved: list[tuple[int, int]] = []
        for reading in self.readings:
            energy = reading.quick.energy_mj
            if energy is not None and (not moved or energy != moved[-1][1]):
                moved.append((reading.t_ns, energy))
        backwards = any(later < earlier for (_, earlier), (_, later) in pairwise(moved))
        self._energy = [] if backwards else moved
        self._energy_times = [t_ns for t_ns, _ in self._energy]
        steps = [later - earlier for earlier, later in pairwise(self._energy_times)]
        self._energy_step_ns = median(steps) if steps else 0.0

    def inside(self, window: Window) -> tuple[Reading, ...]:
        """Return the readings in the window."""
        return self.readings[bisect_left(self._times, window[0]) : bisect_right(self._times, window[1])]

    def with_reasons(self, window: Window) -> Sequence[Reading]:
        """Return the readings in the window that say what slows the clock; where none does, the nearest two."""
        return _around(*self._knowing_reasons, window)

    def with_foreign(self, window: Window) -> Sequence[Reading]:
        """Return the same of those that say which other processes are on the GPU."""
        return _around(*self._knowing_foreign, window)

    @cached_property
    def _knowing_reasons(self) -> Knowing:
        return _knowing(reading for reading in self.readings if reading.quick.reasons is not None)

    @cached_property
    def _knowing_foreign(self) -> Knowing:
        return _knowing(reading for reading in self.readings if reading.foreign is not None)

    def thermal_ns(self, window: Window) -> int:
        """Return by how much the driver's counter of thermal slowdown grew over the window; 0 where it has none."""
        first, last = bisect_right(self._times, window[0]) - 1, bisect_left(self._times, window[1])
        if first < 0 or last >= len(self.readings):
            return 0
        earlier, later = self.readings[first].quick.thermal_ns, self.readings[last].quick.thermal_ns
        return 0 if earlier is None or later is None else max(0, later - earlier)

    def joules(self, windows: Sequence[Window]) -> float | None:
        """Return the energy that the device took in all windows, interpolated linearly between readings of its counter.

        None where the counter does not cover them, or they are shorter than one of its steps.
        """
        if not windows or sum(end - begin for begin, end in windows) < self._energy_step_ns:
            return None
        ends = [(self._energy_at(begin), self._energy_at(end)) for begin, end in windows]
        taken = [after - before for before, after in ends if before is not None and after is not None]
        return sum(taken) / 1e3 if len(taken) == len(ends) else None

    def _energy_at(self, t_ns: int) -> float | None:
        later = bisect_left(self._energy_times, t_ns)
        if later == len(self._energy) or (later == 0 and self._energy_times[0] != t_ns):
            return None
        if self._energy_times[later] == t_ns:
            return float(self._energy[later][1])
        (t_0, e_0), (t_1, e_1) = self._energy[later - 1], self._energy[later]
        return e_0 + (e_1 - e_0) * (t_ns - t_0) / (t_1 - t_0)

    def content(self) -> bytes:
        """Return the side file: a line that names the columns, then a JSON array for each reading; at most 2 MB."""
        readings = self.readings
        while True:
            names = {str(pid): name for pid, name in self.names.items()}
            lines = [json.dumps({"columns": COLUMNS, "names": names}), *map(_line, readings)]
            content = ("\n".join(lines) + "\n").encode()
            if len(content) <= SERIES_LIMIT_BYTES:
                return content
            readings = tuple(thinned(readings))


def _knowing(readings: Iterable[Reading]) -> Knowing:
    found = list(readings)
    return found, [reading.t_ns for reading in found]


def _around(readings: Sequence[Reading], times: Sequence[int], window: Window) -> Sequence[Reading]:
    """Return the readings in the window, or, where there are none, the last before it and the first after it."""
    first, last = bisect_left(times, window[0]), bisect_right(times, window[1])
    return readings[first:last] or [*readings[max(0, first - 1) : first], *readings[last : last + 1]]


def summary(series: Series, windows: Sequence[Window]) -> Telemetry | None:
    """Return what the record says of the GPU in the windows, the timed samples'; None where nothing was timed."""
    from orchestrator.records.record import (
        Telemetry,  # Only where it is made: the keeper on another host has no pydantic.
    )

    if not windows or not series.readings:
        return None
    found = [reading for window in windows for reading in series.inside(window)]
    quick = [reading.quick for reading in found]
    slow = [reading.slow for reading in found if reading.slow is not None]
    reasons = [q.reasons for q in quick if q.reasons is not None]
    throttled = {name: sum(1 for r in reasons if r & bit) / len(reasons) for name, bit in REASONS.items() if reasons}
    foreign = {pid for window in windows for pid in strangers(series, window)}
    spacing = [later.t_ns - earlier.t_ns for earlier, later in pairwise(series.readings)]
    return Telemetry(
        readings=len(found),
        interval_ms=median(spacing) / 1e6 if spacing else None,
        sm_clock_mhz=_range([q.sm_mhz for q in quick]),
        memory_clock_mhz=_range([q.memory_mhz for q in quick]),
        power_watts=_range([s.power_mw for s in slow], 1e3),
        temperature_celsius=_range([s.celsius for s in slow]),
        memory_bytes=_range([s.used_bytes for s in slow]),
        throttled={name: share for name, share in throttled.items() if share},
        foreign=tuple(sorted(series.names.get(pid, "unknown") for pid in foreign)),
        energy_joules=series.joules(windows),
    )


def strangers(series: Series, window: Window) -> frozenset[int]:
    """Return the processes, not the cell's, that were seen on the GPU in the window, or right before or after it."""
    return frozenset(pid for reading in series.with_foreign(window) for pid in reading.foreign or ())


def thinned(readings: Sequence[Reading]) -> list[Reading]:
    """Return half as many readings: each has the later time of two, and keeps what the earlier one saw."""
    merged = [_merge(earlier, later) for earlier, later in zip(readings[::2], readings[1::2], strict=False)]
    return merged + list(readings[-1:] if len(readings) % 2 else [])


def _merge(earlier: Reading, later: Reading) -> Reading:
    reasons = [r for r in (earlier.quick.reasons, later.quick.reasons) if r is not None]
    foreign = [f for f in (earlier.foreign, later.foreign) if f is not None]
    return Reading(
        later.t_ns,
        later.quick._replace(reasons=(reasons[0] | reasons[-1]) if reasons else None),
        later.slow or earlier.slow,
        foreign[0] | foreign[-1] if foreign else None,
    )


def _line(reading: Reading) -> str:
    slow = reading.slow or Slow()
    foreign = None if reading.foreign is None else sorted(reading.foreign)
    return json.dumps([reading.t_ns, *reading.quick, *slow, foreign], separators=(",", ":"))


def _reading(row: Sequence[Any]) -> Reading:
    t_ns, *known, foreign = row
    if len(row) != len(COLUMNS) or not all(n is None or (type(n) is int and 0 <= n <= LARGEST) for n in known):
        raise ValueError("not a reading")
    quick, slow = Quick(*known[: len(Quick._fields)]), Slow(*known[len(Quick._fields) :])
    others = None if foreign is None else frozenset(int(pid) for pid in foreign)
    return Reading(int(t_ns), quick, None if slow == Slow() else slow, others)


def _range(values: Sequence[int | None], unit: float = 1.0) -> Range | None:
    from orchestrator.records.record import Range

    known = [value / unit for value in values if value is not None]
    return Range(low=min(known), median=median(known), high=max(known)) if known else None
