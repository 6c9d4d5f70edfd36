"""A run read and reduced: what every table is made from."""

from __future__ import annotations

import contextlib
import gc
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from orchestrator.analysis.ceilings import Ceiling
from orchestrator.analysis.published import Published, PublishedFigure, find_figure, read_published
from orchestrator.analysis.reduce import Reduction
from orchestrator.analysis.rows import Row
from orchestrator.base.errors import UsageError
from orchestrator.base.interrupt import check
from orchestrator.records.record import Record
from orchestrator.records.store import Header, Run, read_stored, record_files, strangers


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
    pairs = tuple(
        Pair(row, reduction.as_note(row), find_figure(published, row.workload, row.method))
        for row in reduction.rows("steady")
    )
    failed = tuple(reduction.failed_references)
    return Report(header, reduction.recorded, pairs, tuple(reduction.ceilings), published, failed, tuple(unreadable))


def reduce_run(run_folder: Path, unreadable: list[str], records: Iterable[Record] | None = None) -> Reduction:
    """Return the reduction of the run's records (or of those given); a line for each bad file goes to `unreadable`."""
    reduction = Reduction()
    with _no_search_for_cycles():
        for record in read_all(run_folder, unreadable) if records is None else records:
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


def read_all(run_folder: Path, unreadable: list[str]) -> Iterator[Record]:
    """Yield the run's records; a line for each file that cannot be read goes to `unreadable`."""
    for path in record_files(run_folder):
        try:
            check()
            yield read_stored(path)
        except UsageError as error:  # noqa: PERF203 - the rest of the run is as good as before
            # Without the folder's place, which is nobody's business.
            unreadable.append(f"records/{path.name}: {error.what}")
    if line := strangers(run_folder):
        unreadable.append(line)
