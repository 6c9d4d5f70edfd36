"""What else kept the host's CPUs busy while a cell ran: a thread reads the kernel's counters beside it.

A tiny model's step on a CPU takes a hundred times as long where others want the same CPUs, and a method that launches
kernels one by one is held up on a GPU too; its samples alone do not show it. Counters are those of Linux' /proc/stat,
for the whole host even inside a container, and of the cell's own processes. Times are CLOCK_MONOTONIC, as the samples'
are.
"""

from __future__ import annotations

import contextlib
import os
import threading
import time
from bisect import bisect_left, bisect_right
from collections.abc import Iterator, Mapping, Sequence
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from orchestrator.host.owner import PROC
from orchestrator.measure.telemetry import Pids

if TYPE_CHECKING:
    from orchestrator.records.record import HostLoad

INTERVAL_S, LONGEST_S = 0.1, 0.5
REST = 100
"""A reading is followed by at least this many times its own duration of rest, up to LONGEST_S."""
FIND_S, FIND_EVERY_S, PIDS_EVERY_S = 3.0, 0.2, 10.0
"""The cell's processes are asked for every 0.2 s until its first one is there, for 3 s at most, and every 10 s from
then on: it costs the engine a `ps`."""
MOST_READINGS = 8_192
"""A quarter of an hour at the shortest interval; from then on every other one goes, and the interval doubles."""
BENCH = (b"-m", b"bench")
"""Arguments of the cell's first process: a number from another process namespace means another process here."""
JOIN_S = 5.0
BUSY, STOLEN = (0, 1, 2, 5, 6), 7
"""Columns of /proc/stat: user, nice, system, interrupts, soft interrupts; and what the hypervisor gave to others."""
OWN = slice(11, 15)
"""Of /proc/PID/stat after the name: user and system time, its own and that of children it has waited for."""
GROUPS, THROTTLED = Path("/sys/fs/cgroup"), "nr_throttled "
LEAST_NS = 300_000_000
"""Counters move in hundredths of a second: over less than this they are too coarse."""


class CpuTimes(NamedTuple):
    """CPU time since some beginning, in clock ticks of all CPUs together. `own` is null where it is not known.

    `throttled` counts the periods in which the cell's quota of CPU time was used up.
    """

    t_ns: int
    busy: int
    stolen: int
    own: int | None
    throttled: int = 0


class Quota(NamedTuple):
    """How many CPUs a control group may use at most, and the file that counts how often it could not go on."""

    cpus: float
    stat: Path


class LoadSampler(threading.Thread):
    """Reads until it is stopped. `pids` returns the cell's processes, or None: not known."""

    def __init__(self, pids: Pids, proc: Path = PROC) -> None:
        super().__init__(name="host load", daemon=True)
        self._pids, self._proc = pids, proc
        self._readings: list[CpuTimes] = []
        self._cpus = 0
        self._known: dict[int, int] = {}
        """The cell's processes, each with the ticks that it had used before it was known."""
        self.quota: Quota | None = None
        """The narrowest that holds for the cell, where it is narrower than the host."""
        self._ending = threading.Event()

    def stop(self) -> None:
        """End the thread."""
        self._ending.set()
        self.join(JOIN_S)

    def load(self, windows: Sequence[tuple[int, int]]) -> HostLoad | None:
        """Return what ran from the first window's begin to the last one's end (ns), or None where that is not known."""
        if not windows or not self._cpus:
            return None
        begin, end = min(begin for begin, _ in windows), max(end for _, end in windows)
        return load_between(list(self._readings), self._cpus, (begin, end))

    def readings(self) -> dict[str, Any]:
        """Return what was read, as JSON can hold it, for `of_readings` in another process."""
        quota = self.quota and self.quota.cpus
        return {"cpus": self._cpus, "quota": quota, "readings": list(self._readings)}

    @classmethod
    def of_readings(cls, said: Mapping[str, Any]) -> LoadSampler:
        """Return a sampler that has read what `said` says; ValueError, TypeError or KeyError where it is nonsense."""
        found = cls(lambda: None)
        found._cpus = int(said["cpus"])
        found.quota = None if said["quota"] is None else Quota(float(said["quota"]), Path())
        rows = [(int(t), int(busy), int(stolen), own, int(held)) for t, busy, stolen, own, held in said["readings"]]
        found._readings = [CpuTimes(t, b, s, None if own is None else int(own), h) for t, b, s, own, h in rows]
        return found

    def throttled(self, window: tuple[int, int]) -> str | None:
        """Return what to say where the quota held the cell up in the window (begin and end, ns), or just beside it."""
        times = [reading.t_ns for reading in self._readings]
        before = self._readings[max(bisect_right(times, window[0]) - 1, 0)]
        after = self._readings[min(bisect_left(times, window[1]), len(times) - 1)]
        if self.quota is None or after.throttled <= before.throttled:
            return None
        return f"throttled by a CPU quota of {self.quota.cpus:g} CPUs"

    def run(self) -> None:
        """Read, in the thread."""
        began = due = time.monotonic()
        interval, pause = INTERVAL_S, 0.0
        while not self._ending.wait(pause):
            if time.monotonic() >= due:
                self._look()
                now = time.monotonic()
                due = now + (PIDS_EVERY_S if self._known or now - began > FIND_S else FIND_EVERY_S)
            begun = time.monotonic()
            reading = self._read()
            if reading is None:
                return
            self._readings.append(reading)
            if len(self._readings) >= MOST_READINGS:
                self._readings = self._readings[::2]
                interval *= 2
            pause = max(interval, min(LONGEST_S, REST * (time.monotonic() - begun)))

    def _read(self) -> CpuTimes | None:
        try:
            lines = (self._proc / "stat").read_text(encoding="ascii").splitlines()
            fields = [int(field) for field in lines[0].split()[1:]]
            busy, stolen = sum(fields[column] for column in BUSY), fields[STOLEN]
        except (OSError, ValueError, IndexError):
            return None
        self._cpus = sum(line.startswith("cpu") for line in lines) - 1
        t_ns = time.monotonic_ns()
        own = [ticks - before for pid, before in self._known.items() if (ticks := self._ticks(pid)) is not None]
        return CpuTimes(t_ns, busy, stolen, sum(own) if own else None, self._throttled())

    def _throttled(self) -> int:
        if self.quota is not None:
            with contextlib.suppress(OSError, ValueError, StopIteration):
                lines = self.quota.stat.read_text(encoding="ascii").splitlines()
                return next(int(line.removeprefix(THROTTLED)) for line in lines if line.startswith(THROTTLED))
        return self._readings[-1].throttled if self._readings else 0

    def _look(self) -> None:
        """See which processes the cell has by now: what a new one did before is not counted for this moment."""
        cells = self._cells(self._pids())
        if not self._known:
            self._known = dict.fromkeys(cells, 0)
            narrow = [quota for pid in cells for quota in quotas(pid, self._proc) if quota.cpus < (os.cpu_count() or 1)]
            self.quota = min(narrow, default=None)
        elif cells:
            known = self._known
            self._known = {pid: known[pid] if pid in known else self._ticks(pid) or 0 for pid in cells}

    def _ticks(self, pid: int) -> int | None:
        with contextlib.suppress(OSError, ValueError):
            # After the name, which may hold anything.
            text = (self._proc / str(pid) / "stat").read_text(encoding="ascii", errors="replace")
            return sum(map(int, text.rpartition(")")[2].split()[OWN]))
        return None

    def _cells(self, pids: frozenset[int] | None) -> frozenset[int]:
        """Return the processes if they are the cell's as seen from here, else none."""
        for pid in pids or ():
            with contextlib.suppress(OSError):
                arguments = (self._proc / str(pid) / "cmdline").read_bytes().split(b"\0")
                if any(pair == BENCH for pair in pairwise(arguments)):
                    return pids or frozenset()
        return frozenset()


def quotas(pid: int, proc: Path = PROC, groups: Path = GROUPS) -> Iterator[Quota]:
    """Yield the quotas of the process's control groups, of either version, and of those that they lie in."""
    with contextlib.suppress(OSError, ValueError):
        for line in (proc / str(pid) / "cgroup").read_text(encoding="utf-8").splitlines():
            _, controllers, path = line.split(":", 2)
            for top in (groups, groups / (controllers or "unified")):
                inner = top / path.lstrip("/")
                for place in (inner, *inner.parents):
                    with contextlib.suppress(OSError, ValueError, ArithmeticError):
                        if (place / "cpu.max").exists():
                            most, period = (place / "cpu.max").read_text(encoding="ascii").split()
                        else:
                            most, period = ((place / f"cpu.cfs_{what}_us").read_text() for what in ("quota", "period"))
                        if int(most) > 0:  # else it says "max" or -1
                            yield Quota(int(most) / int(period), place / "cpu.stat")


def load_between(readings: Sequence[CpuTimes], cpus: int, window: tuple[int, int]) -> HostLoad | None:
    """Return who used the CPUs in the window, from the readings that enclose it; None where they do not say.

    Where they are too near to one another, more of what is around them is taken. A process that ends right after its
    last sample leaves no reading behind it: the last one before its end is used.
    """
    known = [reading for reading in readings if reading.own is not None]
    times = [reading.t_ns for reading in known]
    low, high = bisect_right(times, window[0]) - 1, min(bisect_left(times, window[1]), len(known) - 1)
    while low >= 0 and times[high] - times[low] < LEAST_NS and (low > 0 or high < len(known) - 1):
        low, high = max(low - 1, 0), min(high + 1, len(known) - 1)
    if low < 0 or times[high] - times[low] < LEAST_NS:
        return None
    first, last = known[low], known[high]
    assert first.own is not None
    assert last.own is not None
    seconds = (last.t_ns - first.t_ns) / 1e9
    per_cpu = seconds * os.sysconf("SC_CLK_TCK")
    grown = (last.busy - first.busy, last.stolen - first.stolen, last.own - first.own)
    busy, stolen, own = (ticks / per_cpu for ticks in grown)
    if own < 0 or stolen < 0 or busy <= 0 or busy > cpus * 1.5:
        return None  # a process of the cell's is gone, or these are no counters
    from orchestrator.records.record import HostLoad  # The keeper on another host has no pydantic.

    return HostLoad(cpus=cpus, seconds=seconds, own=own, others=max(0.0, busy - own), stolen=stolen)


@contextlib.contextmanager
def watch_host(pids: Pids) -> Iterator[LoadSampler]:
    """Read the host's counters; where there are none (not Linux) nothing is read, and no load is known."""
    sampler = LoadSampler(pids)
    sampler.start()
    try:
        yield sampler
    finally:
        sampler.stop()
