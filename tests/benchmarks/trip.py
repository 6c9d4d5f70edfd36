"""The way of one cell through the code, and what a round costs late in a run.

    python tests/benchmarks/trip.py [--list]

The first part runs the cell of a suite by the fake bench, as a plain process of 1.5 s, under a profiler. It counts the
files of `orchestrator/` that are entered, and the switches between them: on the way from the cell's turn to its stored
record, and then in reduction and tables. A switch is a change of the file whose code runs, at a call and again at the
return from it; what lies between two files of `orchestrator/` (a library, a callback by one) is looked through, and all
threads count. However often one function calls another in a phase, that is two switches: the loop that waits for the
process must not make the figure depend on how long it ran. Before there were packages these were 22 files and 80
switches, and 19 files more and 182 switches; call by call 358 in all.

The second part takes in the records of a long run, one round after the other, as a run does. Nothing may be read, and
round 2,000 must cost what round 20 cost; what writing the tables takes (every 30 s at most) is shown beside it.

Exit code 1 where a bar is missed.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import os
import statistics
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from types import CodeType, FrameType
from typing import Any

REPOSITORY = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(REPOSITORY), str(REPOSITORY / "tests" / "support")]

import record_samples  # noqa: E402 - found by the line above
from fake_run import FAKE_BENCH, write_stack, write_suite  # noqa: E402

from orchestrator.launchers import work_area  # noqa: E402
from orchestrator.plan.cell import Plan  # noqa: E402
from orchestrator.plan.choice import RunOptions  # noqa: E402
from orchestrator.records.store import Run  # noqa: E402
from orchestrator.runner import outcomes, run_all  # noqa: E402

ROOT = str(REPOSITORY / "orchestrator") + os.sep
MOST_FILES, MOST_SWITCHES, MOST_FILES_MORE = 20, 60, 20
EARLY, LATE, NEAR = 20, 2_000, 10
"""Rounds, and how many on either side of them are timed."""
ROUNDS = 40
"""Of each cell of the long run."""
GROWTH = 2.0
"""What is left to chance: a cost that grew with the rounds would have grown a hundredfold."""


@dataclass
class Phase:
    """Files that were entered, and calls from one of them into another."""

    files: set[str] = field(default_factory=set)
    calls: set[tuple[CodeType, CodeType]] = field(default_factory=set)

    @property
    def switches(self) -> int:
        """There and back."""
        return 2 * len(self.calls)


class Meter:
    """A profiler that notes, while a phase is set, which of the orchestrator's functions call which."""

    def __init__(self) -> None:
        self.phase: Phase | None = None

    def __call__(self, frame: FrameType, event: str, _argument: object) -> None:
        file = frame.f_code.co_filename
        if event != "call" or self.phase is None or not file.startswith(ROOT):
            return
        self.phase.files.add(file.removeprefix(ROOT))
        caller = frame.f_back
        while caller is not None and not caller.f_code.co_filename.startswith(ROOT):
            caller = caller.f_back
        if caller is not None and caller.f_code.co_filename != file:
            self.phase.calls.add((caller.f_code, frame.f_code))

    def in_phase(self, phase: Phase, function: Callable[..., Any]) -> Callable[..., Any]:
        """Return the function, noting in `phase` what happens in it."""

        def metered(*arguments: Any, **more: Any) -> Any:
            before, self.phase = self.phase, phase
            threading.setprofile(self)
            sys.setprofile(self)
            try:
                return function(*arguments, **more)
            finally:
                self.phase = before
                if before is None:
                    sys.setprofile(None)
                    threading.setprofile(None)

        return metered


def main() -> int:
    """Print both parts; return 1 where a bar is missed."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--list", action="store_true", help="name the files and the calls between them")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="stackbench-trip-") as folder:
        stored, tables = one_cell(Path(folder))
    more = tables.files - stored.files
    print(f"from spec to stored record: {len(stored.files)} files, {stored.switches} switches between files")
    print(f"reduction and tables: {len(more)} files more, {tables.switches} switches between files")
    if given.list:
        for phase in (stored, tables):
            print(*sorted(phase.files), "", sep="\n")
            print(*sorted(f"{_named(a)} -> {_named(b)}" for a, b in phase.calls), "", sep="\n")
    with tempfile.TemporaryDirectory(prefix="stackbench-trip-") as folder:
        costs, opened = long_run(Path(folder))
    for number in (EARLY, LATE):
        taken, written = costs[number]
        print(
            f"after round {number:,}: taking in the record {taken * 1e3:.2f} ms (CPU, median of {2 * NEAR}), "
            f"writing the tables, at most every {outcomes.EVERY_S:g} s, {written * 1e3:.0f} ms"
        )
    print(f"record files opened to read after a round: {opened}")
    bars = {
        f"at most {MOST_FILES} files to the stored record": len(stored.files) <= MOST_FILES,
        f"at most {MOST_SWITCHES} switches to the stored record": stored.switches <= MOST_SWITCHES,
        f"at most {MOST_FILES_MORE} files more for reduction and tables": len(more) <= MOST_FILES_MORE,
        "no record is read after a round": opened == 0,
        f"round {LATE:,} costs what round {EARLY} costs": costs[LATE][0] <= GROWTH * costs[EARLY][0],
    }
    missed = [bar for bar, kept in bars.items() if not kept]
    for bar in missed:
        print(f"trip: bar missed: {bar}", file=sys.stderr)
    return 1 if missed else 0


def one_cell(folder: Path) -> tuple[Phase, Phase]:
    """Run the suite's cell; return its way to the stored record, and that through reduction and tables."""
    work_area.STATE = run_all.STATE = folder / "state"
    work_area.BENCH = FAKE_BENCH
    stored, tables, meter = Phase(), Phase(), Meter()
    options = RunOptions(
        suite=str(write_suite(folder)),
        stacks=("fake",),
        stack_folders=(write_stack(folder, ["slow"]),),
        launcher="local",
        results=folder / "results",
    )
    own = outcomes.Outcomes
    run_round, add, write = run_all.run_round, own.add, own.write_tables

    def metered_round(session: Any, turn: Any) -> Any:
        # The run's ceilings go first, unmetered: what is cached at its first use is no part of the way.
        return (meter.in_phase(stored, run_round) if turn.cell.role == "row" else run_round)(session, turn)

    with (
        put(run_all, "run_round", metered_round),
        put(own, "add", meter.in_phase(tables, add)),
        put(own, "write_tables", meter.in_phase(tables, write)),
        put(outcomes, "EVERY_S", 0.0),
        contextlib.redirect_stdout(io.StringIO()),
        contextlib.redirect_stderr(io.StringIO()),
    ):
        code = run_all.run_all(options)
    assert code == 0, "the cell did not run"
    return stored, tables


@contextlib.contextmanager
def put(where: Any, name: str, value: Any) -> Iterator[None]:
    """Have another value there meanwhile."""
    before = getattr(where, name)
    setattr(where, name, value)
    try:
        yield
    finally:
        setattr(where, name, before)


def long_run(folder: Path) -> tuple[dict[int, tuple[float, float]], int]:
    """Return seconds to take in a record and to write the tables, by round, and how many record files were opened."""
    run = Run.create(folder, Plan(suite="trip", cells=()), "b" * 16)
    kept, opened = outcomes.Outcomes(run), 0

    def watch(event: str, arguments: tuple[Any, ...]) -> None:
        nonlocal opened
        if event == "open" and isinstance(arguments[0], str | Path):
            path, flags = str(arguments[0]), arguments[2]
            opened += Path(path).match("records/*.json") and flags & os.O_ACCMODE == os.O_RDONLY

    sys.addaudithook(watch)
    template = record_samples.record("forward", samples=[record_samples.sample(i, 400.0 + i % 7) for i in range(10)])
    taken: dict[int, float] = {}
    costs: dict[int, tuple[float, float]] = {}
    for number in range(1, LATE + NEAR + 1):
        place, cell = divmod(number - 1, LATE // ROUNDS)
        record = template.model_copy(update={"cell_id": f"{cell:016x}", "round": place})
        stored = run.save(record)
        began = time.process_time()
        kept.add(stored)
        kept.write_tables()
        taken[number] = time.process_time() - began
        if number - NEAR in (EARLY, LATE):
            seconds = statistics.median(taken[near] for near in range(number - 2 * NEAR + 1, number + 1))
            began = time.process_time()
            kept.write_tables(now=True)
            costs[number - NEAR] = seconds, time.process_time() - began
    return costs, opened


def _named(code: CodeType) -> str:
    return f"{code.co_filename.removeprefix(ROOT)} {code.co_name}"


if __name__ == "__main__":
    sys.exit(main())
