"""The runs of a results folder, a line each: when, which suite, on what, and how their rows came out."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any, get_args

from orchestrator.analysis.reduced_run import make_report
from orchestrator.base.errors import UsageError
from orchestrator.base.files import Frozen, read_bytes
from orchestrator.records.record import Status
from orchestrator.records.runs import listed
from orchestrator.records.store import Run

TABLES, TABLES_LIMIT_BYTES = "tables.json", 64_000_000
STATUSES: tuple[Status, ...] = get_args(Status)


class Overview(Frozen):
    """One run; of one that cannot be read only its name, and why, is known."""

    name: str
    suite: str | None = None
    started_utc: str | None = None
    finished_utc: str | None = None
    imported_utc: str | None = None
    device: str | None = None
    """The model of the GPU; `CPU` of a run without."""
    stacks: tuple[str, ...] = ()
    rows: dict[Status, int] | None = None
    """How many rows have which status; a status without rows is left out."""
    problem: str | None = None
    """Which of its files cannot be read, and why."""


def overview(results: Path) -> list[Overview]:
    """Return every run in `results`, newest first; no run at all is a UsageError."""
    found = [_overview(name, run) for name, run in listed(results)]
    if not found:
        raise UsageError("no run here", where=str(results), remedy="start one with `orchestrator run-all`")
    return sorted(found, key=lambda one: one.started_utc or "", reverse=True)


def _overview(name: str, run: Run | UsageError) -> Overview:
    if isinstance(run, UsageError):
        return Overview(name=name, problem=str(run))
    header, rows, problem = run.header, None, None
    try:
        rows, problem = _counts(run)
    except UsageError as error:
        problem = str(error)
    return Overview(
        name=name,
        suite=header.suite,
        started_utc=header.started_utc,
        finished_utc=header.finished_utc,
        imported_utc=header.imported_utc,
        device=_device(header.host),
        stacks=tuple(header.stacks),
        rows=rows,
        problem=problem,
    )


def _device(host: dict[str, Any]) -> str:
    gpu = host.get("gpu")
    return str(gpu.get("name") or "GPU") if isinstance(gpu, dict) else "CPU"


def _counts(run: Run) -> tuple[dict[Status, int], str | None]:
    """Return how many of the run's rows have which status, and which of its files cannot be read.

    Taken from its tables.json where no record is newer: reading the records takes ten times as long.
    """
    found = _from_tables(run.folder)
    if found is None:
        report = make_report(run.folder)
        found = [pair.steady.status for pair in report.pairs], report.unreadable
    counts, unreadable = Counter(found[0]), found[1]
    more = f" (and {len(unreadable) - 1} more)" if unreadable[1:] else ""
    bad = f"cannot be read: {unreadable[0]}{more}" if unreadable else None
    return {status: counts[status] for status in STATUSES if counts[status]}, bad


def _from_tables(folder: Path) -> tuple[list[Status], Sequence[str]] | None:
    """Return what the run's tables say: each row's status, and what could not be read.

    None where they are older than a record, or were not written by this tool.
    """
    try:
        # A record comes by a rename, which its folder's time shows.
        if (folder / TABLES).stat().st_mtime_ns < (folder / "records").stat().st_mtime_ns:
            return None
        document = json.loads(read_bytes(folder / TABLES, limit=TABLES_LIMIT_BYTES))
        found = [row["status"] for row in document["rows"] if row["protocol"] == "steady"]
        unreadable = list(map(str, document["run"]["unreadable"]))
    except (OSError, UsageError, ValueError, LookupError, TypeError, RecursionError):
        return None
    return (found, unreadable) if all(status in STATUSES for status in found) else None
