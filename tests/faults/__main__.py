"""Planted faults on the real engine and the local launcher: `make faults`.

    python tests/faults [--short] [--only WORDS] [--times N] [--jobs N] [--seed N] [--list] [--no-page]

Each fault is tried many times at random instants, and after each try the same is looked at: is a finished record lost,
has one been run twice, is a container, a process, a work folder, a mount or a lock left over, was a traceback printed,
is the exit code the documented one, do the tables say what the records say. The long version writes what came out to
docs/reliability.md; the short one (less than a minute) only says it. Exit code 1 where anything was wrong.
"""

from __future__ import annotations

import argparse
import random
import signal
import sys
import time
from concurrent.futures import ProcessPoolExecutor, as_completed
from multiprocessing import active_children, get_context
from pathlib import Path

HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE.parents[1]), str(HERE.parent / "support"), str(HERE)]

from arguments import positive  # noqa: E402 - found by the line above
from catalogue import FAULTS, tried, what_is_here  # noqa: E402
from listing import Fault, Result, table  # noqa: E402
from reliability import put_section, versions  # noqa: E402


def main() -> int:
    """Try the faults that were asked for; return 1 where anything was wrong."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--short", action="store_true")
    parser.add_argument("--list", action="store_true")
    parser.add_argument("--no-page", action="store_true", help="do not write docs/reliability.md")
    parser.add_argument("--only", metavar="WORDS", default="", help="only faults whose names have these words")
    parser.add_argument("--times", type=int, help="how often each is tried")
    parser.add_argument("--jobs", type=positive, default=1, help="how many faults are tried side by side")
    parser.add_argument("--seed", type=int, default=random.SystemRandom().randrange(10**6))
    given = parser.parse_args()
    chosen = [fault for fault in FAULTS if given.only in fault.name]
    planned = [(fault, given.times or (fault.short if given.short else fault.long)) for fault in chosen]
    planned = [(fault, times) for fault, times in planned if times]
    if given.list:
        print(*(f"{fault.name}: {fault.planted} ({times} times)" for fault, times in planned), sep="\n")
        return 0
    signal.signal(signal.SIGTERM, end)
    began, here = time.monotonic(), what_is_here()
    print(f"seed {given.seed}", flush=True)
    results = {fault.name: lacking(fault, here) for fault, _ in planned if fault.needs - here}
    todo = [(fault, times) for fault, times in planned if fault.name not in results]
    left = {fault.name: fault.seconds * min(times, 250) for fault, times in todo}
    with ProcessPoolExecutor(given.jobs, get_context("spawn")) as pool:
        # The longest first, so that none is left running alone at the end.
        order = sorted(todo, key=lambda one: -left[one[0].name])
        running = {pool.submit(tried, fault.name, times, given.seed): fault for fault, times in order}
        for number, done in enumerate(as_completed(running), 1):
            fault = running[done]
            results[fault.name] = Result(fault, *done.result())
            del left[fault.name]
            minutes = sum(left.values()) / given.jobs / 60
            print(f"[{number}/{len(todo)}] {fault.name}: done; about {minutes:.0f} min left", flush=True)
    made = table([results[fault.name] for fault, _ in planned])
    print(made)
    minutes = (time.monotonic() - began) / 60
    if not (given.short or given.only or given.no_page):
        again = f"--seed {given.seed} --jobs {given.jobs}"
        seed = f'{minutes:.0f} minutes; again with `make faults ARGS="{again}"`'
        put_section("faults", f"{versions()}; {seed}.\n\n{made}")
    return 1 if any(result.problems for result in results.values()) else 0


def end(number: int, _frame: object) -> None:
    """End, and have those that try faults end too: they remove their scenes."""
    for process in active_children():
        process.terminate()
    sys.exit(128 + number)


def lacking(fault: Fault, here: frozenset[str]) -> Result:
    """Return the result of a fault that cannot be tried on this host."""
    return Result(fault, lacking=f"no {', '.join(sorted(fault.needs - here))} here")


if __name__ == "__main__":
    sys.exit(main())
