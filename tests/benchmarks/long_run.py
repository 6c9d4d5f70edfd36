"""A long run: 1,000 cells in containers, and what the orchestrator needs while it runs them.

    python tests/benchmarks/long_run.py [--cells N] [--launcher local] [--page]

The cells are the fake bench's: a container with a Python that ends at once, so that the time is the orchestrator's and
the engine's. From outside, once a second: its memory and its descriptors; from the records: the time between one cell
and the next. Bars, from the second tenth of the cells (after the first tables) to the last: time a cell and memory grow
by less than a tenth, descriptors not at all. `--page` writes the figures into docs/reliability.md. Exit code 1 where a
bar is missed.
"""

from __future__ import annotations

import argparse
import itertools
import statistics
import sys
import threading
import time
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple, TypeVar

REPOSITORY = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(REPOSITORY), str(REPOSITORY / "tests" / "support"), str(REPOSITORY / "tests" / "faults")]

from reliability import put_section, versions  # noqa: E402 - found by the line above
from scene import Problem, Scene, scene, wait_for  # noqa: E402

T = TypeVar("T")
LAUNCHERS = ("docker", "local")
EVERY_S = 1.0
MOST_GROWTH = 1.10
FEWEST_CELLS = 20
"""So few have a second tenth."""


class Seen(NamedTuple):
    """What a process has at one moment. `cells`: how many of its cells have a record."""

    cells: int
    bytes: int
    descriptors: int
    threads: int


def main() -> int:
    """Run the cells, print how time, memory and descriptors went; return 1 where a bar is missed."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--cells", type=int, default=1000)
    parser.add_argument("--launcher", choices=LAUNCHERS, default="docker")
    parser.add_argument("--page", action="store_true")
    given = parser.parse_args()
    if given.cells < FEWEST_CELLS:
        parser.error(f"--cells {given.cells}: a tenth of them is compared with another: at least {FEWEST_CELLS}")
    shapes = max(1, given.cells // 10)  # ten rounds of each: rows and records both grow
    with scene(given.launcher, ("brief",), rounds=given.cells // shapes, shapes=shapes) as there:
        seen, ends, problems = watched(there)
    for problem in problems:
        print(f"long run: {problem.kind}: {problem.what}", file=sys.stderr)
    took = [after - before for before, after in itertools.pairwise(ends)]
    first, last = (statistics.median(part) for part in tenths(took))
    early, late = tenths(seen)
    rows = [
        ("time a cell, median", f"{first:.3f} s", f"{last:.3f} s", last <= MOST_GROWTH * first),
        ("memory, most", *(f"{most(part, 'bytes') / 1e6:.1f} MB" for part in (early, late)),
         most(late, "bytes") <= MOST_GROWTH * most(early, "bytes")),
        ("descriptors, most", *(str(most(part, "descriptors")) for part in (early, late)),
         most(late, "descriptors") <= most(early, "descriptors")),
        ("threads, most", *(str(most(part, "threads")) for part in (early, late)), True),
    ]  # fmt: skip
    lines = ["| of the orchestrator | second tenth | last tenth |", "| :--- | ---: | ---: |"]
    lines += [f"| {name} | {early} | {late} |" for name, early, late, _ in rows]
    head = f"{versions()}; `make long-run`: {given.cells:,} cells by the launcher {given.launcher}."
    print(head, *lines, sep="\n")
    if given.page:
        put_section("long run", f"{head}\n\n" + "\n".join(lines))
    missed = [name for name, *_, kept in rows if not kept]
    for name in missed:
        print(f"long run: bar missed: {name}", file=sys.stderr)
    return 1 if missed or problems else 0


def watched(there: Scene) -> tuple[list[Seen], list[float], list[Problem]]:
    """Run the scene's command; return what was seen of it, when each record was stored, and what is wrong after it."""
    seen, over = list[Seen](), threading.Event()
    process, log, began = *there.start(), time.monotonic()
    watcher = threading.Thread(target=watch, args=(there, process.pid, seen, over))
    watcher.start()
    ended = wait_for(process, log, began, limit_s=7200)
    over.set()
    watcher.join()
    ends = sorted(path.stat().st_mtime for folder in there.runs for path in (folder / "records").glob("*.json"))
    return seen, ends, there.finished(ended, {})


def watch(there: Scene, pid: int, seen: list[Seen], over: threading.Event) -> None:
    """Look at the process once a second, as soon as it has a run."""
    place = Path("/proc") / str(pid)
    while not over.wait(EVERY_S):
        try:
            status = dict(line.split(":", 1) for line in (place / "status").read_text().splitlines())
            descriptors = len(list((place / "fd").iterdir()))
        except OSError:
            return
        if "VmRSS" in status and (cells := sum(len(list((run / "records").glob("*.json"))) for run in there.runs)):
            seen.append(Seen(cells, int(status["VmRSS"].split()[0]) * 1024, descriptors, int(status["Threads"])))
            if len(seen) % 30 == 1:
                print(f"{cells} cells, {seen[-1].bytes / 1e6:.0f} MB, {descriptors} descriptors", flush=True)


def tenths(values: Sequence[T]) -> tuple[Sequence[T], Sequence[T]]:
    """Return the second tenth and the last."""
    count = max(len(values) // 10, 1)
    return values[count : 2 * count] or values, values[-count:]


def most(part: Sequence[Seen], what: str) -> int:
    return max(getattr(each, what) for each in part)


if __name__ == "__main__":
    sys.exit(main())
