"""A run read and reduced: what every table is made from."""

from __future__ import annotations

import contextlib
import gc
import os
import signal
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from functools import cached_property
from multiprocessing import get_context
from pathlib import Path

from orchestrator.analysis.ceilings import Ceiling
from orchestrator.analysis.published import Published, PublishedFigure, find_figure, read_published
from orchestrator.analysis.reduce import Reduction
from orchestrator.analysis.rows import Row
from orchestrator.base.interrupt import SIGNALS, check
from orchestrator.host.owner import ending_with_us
from orchestrator.plan.workload import told_apart
from orchestrator.records.record import Record
from orchestrator.records.store import Header, Run, read_records, record_files

SHARE = 500
"""So many records a process reads and reduces before it hands over what they came to."""


@dataclass(frozen=True)
class Pair:
    """A cell's two rows, and what others published for the same workload and method."""

    steady: Row
    note: Row
    published: PublishedFigure | None


@dataclass(frozen=True)
class Report:
    """What a run's tables say. `pairs` is in the order of the tables, ok rows first, the best of them first."""

    header: Header
    recorded: int
    """Records read, those of ceilings, references and probes included."""
    pairs: tuple[Pair, ...]
    ceilings: tuple[Ceiling, ...]
    published: tuple[Published, ...]
    failed_references: tuple[str, ...]
    """A line for each reference cell that made none: its rows are unchecked."""
    unreadable: tuple[str, ...]
    """A line for each file that cannot be read as a record: it is left out, and every table says so."""

    @property
    def planned(self) -> int:
        """Rounds that the plan asks for, those of ceilings, references and probes included."""
        return sum(cell.rounds for cell in self.header.plan.cells)

    @cached_property
    def what(self) -> dict[str, str]:
        """What the rows of each table compute, in words, by workload id: no two tables of a run have one heading."""
        return told_apart({pair.steady.workload_id: pair.steady.workload for pair in self.pairs})

    @cached_property
    def own_methods(self) -> tuple[tuple[str, str], ...]:
        """The plan's methods that are somebody's own, each with the SHA-256 of its file; every table asks for them."""
        cells = self.header.plan.cells
        return tuple(sorted({(cell.method, cell.method_source) for cell in cells if cell.method_source}))


def make_report(
    run_folder: Path, records: Iterable[Record] | None = None, published: tuple[Published, ...] | None = None
) -> Report:
    """Read the run's records (or take those given) and reduce them under both protocols.

    A folder without a run is a UsageError; so is a bad file of published figures.
    """
    header = Run.open(run_folder).header
    comparisons = read_published() if published is None else published
    unreadable: list[str] = []
    return report_of(header, reduce_run(run_folder, unreadable, records), comparisons, unreadable)


def report_of(
    header: Header, reduction: Reduction, published: tuple[Published, ...], unreadable: Sequence[str] = ()
) -> Report:
    """Return what the tables say of records that are reduced already."""
    with _no_search_for_cycles():
        pairs = tuple(
            Pair(row, reduction.as_note(row), find_figure(published, row.workload, row.method))
            for row in reduction.rows("steady")
        )
    failed = tuple(reduction.failed_references)
    return Report(header, reduction.recorded, pairs, reduction.ceilings, published, failed, tuple(unreadable))


def standing(reports: Sequence[Report]) -> list[tuple[int, Pair]]:
    """Return the pair that stands for each method on a stack, workload and model of device, with its report's number.

    One with a speed goes before another, then one beside eager, one of more rounds, and one of a later report (the
    page's matrix.js chooses so too).
    """
    found: dict[tuple[str, str, str | None], tuple[int, Pair]] = {}
    for number, report in enumerate(reports):
        for pair in report.pairs:
            key = pair.steady.workload_id, pair.steady.name, pair.steady.hardware.name
            if key not in found or _worth(number, pair.steady) > _worth(found[key][0], found[key][1].steady):
                found[key] = number, pair
    return list(found.values())


def _worth(number: int, row: Row) -> tuple[bool, bool, int, int]:
    return row.headline is not None, row.versus is not None, row.rounds_ok, number


def reduce_run(run_folder: Path, unreadable: list[str], records: Iterable[Record] | None = None) -> Reduction:
    """Return the reduction of the run's records (or of those given); a line for each bad file goes to `unreadable`.

    Many files are read by as many processes as there are CPUs.
    """
    if records is not None:
        return _reduced(records)
    paths = record_files(run_folder, unreadable)
    shares = [paths[first : first + SHARE] for first in range(0, len(paths), SHARE)]
    workers = min(len(os.sched_getaffinity(0)), len(shares))
    # A process that was copied from one with several threads may wait for ever for what another of them held.
    if workers < 2 or threading.active_count() > 1:  # noqa: PLR2004 - one process needs no other
        return _reduced(read_records(paths, unreadable))
    reduction = Reduction()
    pool = ProcessPoolExecutor(workers, get_context("fork"), _become_worker, (ending_with_us(),))
    with _no_search_for_cycles(), pool:
        for part, bad in pool.map(_reduce_share, shares):
            check()
            reduction.take_over(part)
            unreadable += bad
    return reduction


def _become_worker(end_with_us: Callable[[], None]) -> None:
    """Leave signals to the process that waits for this one, and end with it."""
    for number in SIGNALS:
        signal.signal(number, signal.SIG_IGN)
    end_with_us()


def _reduce_share(paths: Sequence[Path]) -> tuple[Reduction, list[str]]:
    unreadable: list[str] = []
    return _reduced(read_records(paths, unreadable)), unreadable


def _reduced(records: Iterable[Record]) -> Reduction:
    reduction = Reduction()
    with _no_search_for_cycles():
        for record in records:
            reduction.add(record)
    return reduction


@contextlib.contextmanager
def _no_search_for_cycles() -> Iterator[None]:
    """Switch the garbage collector's search off: records hold no cycles, and it would take a fifth of the time.

    What was made meanwhile is left out of later searches too.
    """
    was_on = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        gc.freeze()
        if was_on:
            gc.enable()
