"""Planted faults on the real engine and the local launcher: `make faults`.

    python tests/faults [--short] [--only WORDS] [--times N] [--seed N] [--list] [--no-page]

Each fault is tried many times at random instants, and after each try the same is looked at: is a finished record lost,
has one been run twice, is a container, a process, a work folder, a mount or a lock left over, was a traceback printed,
is the exit code the documented one, do the tables say what the records say. The long version writes what came out to
docs/reliability.md; the short one (less than a minute) only says it. Exit code 1 where anything was wrong.
"""

from __future__ import annotations

import argparse
import functools
import os
import random
import shutil
import sys
import time
from pathlib import Path

HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE.parents[1]), str(HERE.parent / "support"), str(HERE)]

import cells  # noqa: E402 - found by the line above
import clocks  # noqa: E402
import disks  # noqa: E402
import engines  # noqa: E402
import interruptions  # noqa: E402
from listing import Fault, Result, table, try_fault  # noqa: E402
from reliability import put_section, versions  # noqa: E402
from scene import engine_client  # noqa: E402

DOCKER, LOCAL, BOTH = ("docker",), ("local",), ("docker", "local")
KEPT = "no finished record is lost or run again; the same command finishes the run; nothing is left over"
NAMED = "one line says what; then the same command finishes the run"
NEXT = "its row says what became of it; the cells before and after are as without it; nothing is left over"
CC, ENGINE = frozenset({"cc"}), frozenset({"docker"})
FAULTS = (
    Fault("kill, local", "SIGKILL of the orchestrator at a random instant", KEPT, functools.partial(interruptions.kills, "local"), 100, 4, 3),
    Fault("kill, docker", "SIGKILL of the orchestrator at a random instant", KEPT, functools.partial(interruptions.kills, "docker"), 100, 3, 6, ENGINE),
    Fault("signal, local", "INT, TERM or HUP at a random instant", f"code 130, 143 or 129; {KEPT}", functools.partial(interruptions.signals, "local"), 60, 4, 3),
    Fault("signal, docker", "INT, TERM or HUP at a random instant", f"code 130, 143 or 129; {KEPT}", functools.partial(interruptions.signals, "docker"), 40, 2, 6, ENGINE),
    Fault("signal to a reading command", "INT, TERM or HUP while it starts, imports, writes", "code 130, 143 or 129, no half file", interruptions.signals_to_readers, 60, 4, 1),
    Fault("two or three at once, local", "the same command several times in one checkout", "each finishes a run; nothing is shared", functools.partial(interruptions.several_at_once, "local"), 20, 1, 6),
    Fault("two or three at once, docker", "the same command several times in one checkout", "each finishes a run; nothing is shared", functools.partial(interruptions.several_at_once, "docker"), 10, 0, 12, ENGINE),
    Fault("a write refused", "each write to results, state and locks in turn fails once", NAMED, functools.partial(disks.every_write, "local", "once"), 10**6, 3, 4, CC),
    Fault("disk full from a write on", "each write in turn and all after it fail", NAMED, functools.partial(disks.every_write, "local", "on"), 10**6, 3, 4, CC),
    Fault("small disk, local", "a disk of its own with 0 to 480 KB left", NAMED, functools.partial(disks.less_room, "local"), 40, 1, 4, frozenset({"root"})),
    Fault("small disk, docker", "a disk of its own with 0 to 480 KB left", NAMED, functools.partial(disks.less_room, "docker"), 20, 0, 6, frozenset({"root", "docker"})),
    Fault("engine away", "an engine of its own stopped, killed or frozen at a random instant, and started again", KEPT, engines.engine_goes_away, 30, 0, 15, frozenset({"root", "docker", "dockerd"})),
    Fault("clock jumps, local", "CLOCK_REALTIME jumps by up to 20 years, both ways", KEPT, functools.partial(clocks.clock_jumps, "local"), 20, 1, 4, CC),
    Fault("clock jumps, docker", "CLOCK_REALTIME jumps by up to 20 years, both ways", KEPT, functools.partial(clocks.clock_jumps, "docker"), 10, 0, 6, CC | ENGINE),
    Fault("GPU falls off", "NVML's Nth call fails, and all after it, or for a while", "one line, or the rows without it", clocks.gpu_falls_off, 60, 2, 3, CC),
    Fault("cell fills its disk, local", "files, small files, log, events without end on a disk of 64 MB", NEXT, functools.partial(cells.attacks, cells.DISK, LOCAL), 12, 0, 12, frozenset({"root"})),
    Fault("cell fills its disk, docker", "files, small files, log, events without end on a disk of 64 MB", NEXT, functools.partial(cells.attacks, cells.DISK, DOCKER), 12, 0, 12, frozenset({"root", "docker"})),
    Fault("cell's folders, local", "3,000 nested folders; no rights; odd names, links, pipes", NEXT, functools.partial(cells.attacks, cells.FOLDERS, LOCAL), 12, 1, 4),
    Fault("cell's folders, docker", "3,000 nested folders; no rights; odd names, links, pipes", NEXT, functools.partial(cells.attacks, cells.FOLDERS, DOCKER), 12, 1, 6, ENGINE),
    Fault("cell's processes, local", "daemons, forks without end, one that flees", NEXT, functools.partial(cells.attacks, cells.PROCESSES, LOCAL), 20, 1, 8),
    Fault("cell's processes, docker", "daemons, forks without end, one that flees", NEXT, functools.partial(cells.attacks, cells.PROCESSES, DOCKER), 20, 0, 10, ENGINE),
    Fault("cell's words, local", "events and records with odd values, one run of six cells each", NEXT, functools.partial(cells.attacks, cells.WORDS, LOCAL), 30, 2, 4),
    Fault("cell's words, docker", "events and records with odd values, one run of six cells each", NEXT, functools.partial(cells.attacks, cells.WORDS, DOCKER), 10, 0, 8, ENGINE),
)  # fmt: skip


def main() -> int:
    """Try the faults that were asked for; return 1 where anything was wrong."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--short", action="store_true")
    parser.add_argument("--list", action="store_true")
    parser.add_argument("--no-page", action="store_true", help="do not write docs/reliability.md")
    parser.add_argument("--only", metavar="WORDS", default="", help="only faults whose names have these words")
    parser.add_argument("--times", type=int, help="how often each is tried")
    parser.add_argument("--seed", type=int, default=random.SystemRandom().randrange(10**6))
    given = parser.parse_args()
    chosen = [fault for fault in FAULTS if given.only in fault.name]
    planned = [(fault, given.times or (fault.short if given.short else fault.long)) for fault in chosen]
    planned = [(fault, times) for fault, times in planned if times]
    if given.list:
        print(*(f"{fault.name}: {fault.planted} ({times} times)" for fault, times in planned), sep="\n")
        return 0
    began, here = time.monotonic(), what_is_here()
    print(f"seed {given.seed}", flush=True)
    results = list[Result]()
    for number, (fault, times) in enumerate(planned):
        left = sum(each.seconds * min(count, 150) for each, count in planned[number:])
        print(f"[{number + 1}/{len(planned)}] {fault.name}; about {left / 60:.0f} min left", flush=True)
        lacking = fault.needs - here
        if lacking:
            results.append(Result(fault, lacking=f"no {', '.join(sorted(lacking))} here"))
        else:
            results.append(try_fault(fault, times, given.seed, lambda line: print(f"  {line}", flush=True)))
    made = table(results)
    print(made)
    minutes = (time.monotonic() - began) / 60
    if not (given.short or given.only or given.no_page):
        seed = f'{minutes:.0f} minutes; again with `make faults ARGS="--seed {given.seed}"`'
        put_section("faults", f"{versions()}; {seed}.\n\n{made}")
    return 1 if any(result.problems for result in results) else 0


def what_is_here() -> frozenset[str]:
    """Return what of a fault's needs this host has."""
    found = {name for name in ("cc", "dockerd") if shutil.which(name)} | ({"root"} if os.getuid() == 0 else set())
    try:
        engine_client(None).ping()
    except Exception:  # noqa: BLE001 - whatever keeps it from answering
        return frozenset(found)
    return frozenset(found | {"docker"})


if __name__ == "__main__":
    sys.exit(main())
