"""Planted faults on the real engine and the local launcher: `make faults`.

    python tests/faults [--short] [--only WORDS] [--times N] [--seed N] [--list] [--no-page]

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
from pathlib import Path

HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE.parents[1]), str(HERE.parent / "support"), str(HERE)]

from catalogue import FAULTS, what_is_here  # noqa: E402 - found by the line above
from listing import Result, table, try_fault  # noqa: E402
from reliability import put_section, versions  # noqa: E402


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
    signal.signal(signal.SIGTERM, lambda number, _frame: sys.exit(128 + number))  # so that scenes are removed
    began, here = time.monotonic(), what_is_here()
    print(f"seed {given.seed}", flush=True)
    results = list[Result]()
    for number, (fault, times) in enumerate(planned):
        left = sum(each.seconds * min(count, 250) for each, count in planned[number:])
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


if __name__ == "__main__":
    sys.exit(main())
