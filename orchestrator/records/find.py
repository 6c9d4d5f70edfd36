"""Finding the records that belong to a cell by its title, its identity, or a file's name."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from orchestrator.base.errors import UsageError
from orchestrator.base.invalid import closest
from orchestrator.base.text import printable
from orchestrator.plan.workload import describe
from orchestrator.records.record import Record
from orchestrator.records.store import read_records, read_stored, record_files

PROBE = "probe-"
SHOWN_CANDIDATES = 12


def candidates(run_folder: Path) -> dict[str, tuple[str, str]]:
    """Return (title, cell_id) of every record of the run by its file's stem; only names are read."""
    found = {}
    for path in record_files(run_folder):
        # [probe-]benchmark-method@stack-cell_id-rN: a stack's name may hold dashes, the rest does not.
        stem = path.stem.removeprefix(PROBE)
        benchmark, _, rest = stem.partition("-")
        name, _, tail = rest.rpartition("-r")[0].rpartition("-")
        of = "probe of " if stem != path.stem else ""
        found[path.stem] = (f"{of}{benchmark} {name}", tail)
    return found


def find_records(run_folder: Path, cell: str, unreadable: list[str]) -> list[Record]:
    """Return the records of the one cell that `cell` names, by round; UsageError where it names none or several.

    A line for each file of it that cannot be read goes to `unreadable`; where that is every one it is an error.
    """
    cell = cell.strip()
    known = candidates(run_folder)
    stem = cell.removesuffix(".json").removesuffix(".log")
    if stem in known:
        matching = [stem]
    else:
        matching = [name for name, (title, cell_id) in known.items() if _names(cell, title, cell_id)] if cell else []
    ids = {known[name][1] for name in matching}
    if len(ids) != 1:
        raise _no_such_cell(run_folder, cell, matching, known)
    paths = [run_folder / "records" / f"{name}.json" for name, (_, cell_id) in known.items() if cell_id in ids]
    found = sorted(read_records(paths, unreadable), key=lambda record: record.round)
    if not found:
        raise UsageError(unreadable[0], where=run_folder.name, remedy="`orchestrator run-all` runs the round again")
    return found


def _names(cell: str, title: str, cell_id: str) -> bool:
    """Whether `cell` is the title, with its stack or without, or how the cell_id begins."""
    words = " ".join(cell.split())
    return words in (title, title.partition("@")[0]) or cell_id.startswith(cell)


def probes_of(run_folder: Path, record: Record, unreadable: list[str]) -> list[Record]:
    """Return the run's records of the probe that a row's method was checked by, none where it was run without."""
    prefix = probe_prefix(record)
    paths = [path for path in record_files(run_folder) if path.name.startswith(prefix)]
    return list(read_records(paths, unreadable))


def probe_prefix(record: Record) -> str:
    """Return how the names of those records' files begin."""
    return f"{PROBE}{record.workload.benchmark}-{record.method}@{record.stack}-"


def _no_such_cell(
    run_folder: Path, cell: str, matching: Sequence[str], known: dict[str, tuple[str, str]]
) -> UsageError:
    where = f'cell "{printable(cell)}"'
    cells = {known[name]: name for name in sorted(matching or known, reverse=True)}
    shown = sorted(cells)[:SHOWN_CANDIDATES]
    more = f" and {len(cells) - len(shown)} more" if len(cells) > len(shown) else ""
    if matching:
        # They differ in what they compute, which is in the records alone.
        listed_ids = [f"{cell_id} ({title}: {_what(run_folder, cells[title, cell_id])})" for title, cell_id in shown]
        remedy = f"give a cell_id: {'; '.join(listed_ids)}{more}"
        return UsageError(f"{len(cells)} cells have that name", where=where, remedy=remedy)
    listed = ", ".join(f"{title} ({cell_id})" for title, cell_id in shown) + more
    near = closest(cell, sorted({title for title, _ in cells}))
    return UsageError(f"no such cell in this run{near}", where=where, remedy=f"known: {listed or 'none yet'}")


def _what(run_folder: Path, stem: str) -> str:
    try:
        return printable(describe(read_stored(run_folder / "records" / f"{stem}.json").workload))
    except UsageError:
        return "its record cannot be read"
