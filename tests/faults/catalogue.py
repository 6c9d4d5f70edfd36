"""All faults that are planted, how often, and what each of them needs."""

from __future__ import annotations

import os
import shutil
import signal
import sys
from collections import Counter
from collections.abc import Callable, Iterator
from functools import cache, partial
from random import Random

import cells
import clocks
import disks
import engine_away
import interruptions
from listing import Fault, try_fault
from scene import Outcome, Problem, engine_client

KEPT = "no finished record is lost or run again; the same command finishes the run; nothing is left over"
CODES = f"code 130, 143 or 129; {KEPT}"
NAMED = "one line says what; then the same command finishes the run"
NEXT = "its row says what became of it; the cells before and after are as without it; nothing is left over"
KILL = "SIGKILL of the orchestrator at a random instant, then the same command, until the run is finished"
SIGNAL = "INT, TERM or HUP at a random instant"
READING = "INT, TERM or HUP to table, report, history, plan, bundle, compare, import"
SEVERAL = "the same command two or three times at once in one checkout; one of them killed in every other try"
ROOM = "a disk of its own with 0 to 480 KB left"
AWAY = "an engine of its own stopped, killed or frozen at a random instant, and started again, or only after the run"
JUMPS = "CLOCK_REALTIME jumps by up to 20 years, both ways, ten times a second"
GPU = "NVML's Nth call fails, and all after it, or for a while"
FILLS = "files, small files, log, events without end on a disk of 64 MB, with the results on it"
FOLDERS = "3,000 nested folders; rights taken away; odd names, links, pipes, a sparse file of 1 GB"
PROCESSES = "daemons, forks without end, a process that flees, closed descriptors"
WORDS = "odd numbers, text and nesting in events and records, six such cells a run"

Tries = Callable[[Random], Iterator[Outcome]]
Pair = tuple[int, int]
"""Something for plain processes, and for containers."""


def both(  # noqa: PLR0917 - the columns of a table
    name: str,
    planted: str,
    must: str,
    tries: Callable[[str], Tries],
    long: Pair,
    short: Pair,
    seconds: Pair,
    *needs: str,
) -> Iterator[Fault]:
    """Return a fault for each launcher."""
    for number, launcher in enumerate(("local", "docker")):
        needed = frozenset(needs) | ({"docker"} if number else frozenset())
        title = f"{name}, {launcher}"
        yield Fault(title, planted, must, tries(launcher), long[number], short[number], seconds[number], needed)


def by(function: Callable[[str, Random], Iterator[Outcome]]) -> Callable[[str], Tries]:
    return lambda launcher: partial(function, launcher)


def attacked(kinds: tuple[cells.Attack, ...]) -> Callable[[str], Tries]:
    return lambda launcher: partial(cells.attacks, kinds, launcher)


def once(name: str, planted: str, must: str, tries: Tries, *counts: int, needs: str) -> Fault:
    long, short, seconds = counts
    return Fault(name, planted, must, tries, long, short, seconds, frozenset(needs.split()))


ALL = 10**6
WRITES = partial(disks.every_write, "once"), partial(disks.every_write, "on")
FAULTS = (
    *both("kill", KILL, KEPT, by(interruptions.kills), (100, 100), (3, 1), (3, 6)),
    *both("signal", SIGNAL, CODES, by(interruptions.signals), (60, 40), (3, 0), (3, 6)),
    once("signal to a reader", READING, CODES, interruptions.signals_to_readers, 60, 2, 1, needs=""),
    *both("several at once", SEVERAL, KEPT, by(interruptions.several_at_once), (20, 10), (1, 0), (6, 12)),
    once("a write refused", "each write to state, results and locks in turn", NAMED, WRITES[0], ALL, 2, 4, needs="cc"),
    once("writes refused", "each such write and all after it", NAMED, WRITES[1], ALL, 2, 4, needs="cc"),
    *both("small disk", ROOM, NAMED, by(disks.less_room), (40, 20), (1, 0), (4, 6), "root"),
    once("engine away", AWAY, KEPT, engine_away.engine_goes_away, 20, 0, 40, needs="root docker dockerd"),
    *both("clock jumps", JUMPS, KEPT, by(clocks.clock_jumps), (20, 10), (1, 0), (4, 6), "cc"),
    once("GPU falls off", GPU, "one line, or the rows without it", clocks.gpu_falls_off, 60, 1, 3, needs="cc"),
    *both("a cell fills its disk", FILLS, NEXT, attacked(cells.DISK), (12, 12), (0, 0), (12, 12), "root"),
    *both("a cell's folders", FOLDERS, NEXT, attacked(cells.FOLDERS), (12, 12), (1, 1), (4, 6)),
    *both("a cell's processes", PROCESSES, NEXT, attacked(cells.PROCESSES), (20, 20), (1, 0), (8, 10)),
    *both("a cell's words", WORDS, NEXT, attacked(cells.WORDS), (30, 10), (1, 0), (4, 8)),
)


def tried(name: str, times: int, seed: int) -> tuple[Counter[str], list[Problem], float]:
    """Try a fault, in a process that does nothing else; return what its Result says."""
    signal.signal(signal.SIGTERM, lambda number, _frame: sys.exit(128 + number))  # so that its scene is removed
    fault = next(fault for fault in FAULTS if fault.name == name)
    result = try_fault(fault, times, seed, lambda line: print(f"  {line}", flush=True))
    return result.hows, result.problems, result.seconds


@cache
def what_is_here() -> frozenset[str]:
    """Return what of a fault's needs this host has."""
    found = {name for name in ("cc", "dockerd") if shutil.which(name)} | ({"root"} if os.getuid() == 0 else set())
    try:
        engine_client(None).ping()
    except Exception:  # noqa: BLE001 - whatever keeps it from answering
        return frozenset(found)
    return frozenset(found | {"docker"})
