"""Figures over many runs by time: one line for each workload, method, stack and model of device.

Made from a small index over the records below the results folder, kept in `.stackbench`: a record is read once, and
again only where its file has changed. The index may be deleted at any time.
"""

from __future__ import annotations

import contextlib
import datetime as dt
import hashlib
import re
import sqlite3
from statistics import median
from typing import TYPE_CHECKING, Any

from orchestrator.analysis.ceilings import hardware_of
from orchestrator.analysis.evidence import check_counts
from orchestrator.analysis.protocol import Unit, in_unit, steady, unit_of
from orchestrator.analysis.statistics import Verdict, verdict
from orchestrator.base.errors import StackbenchError, UsageError
from orchestrator.base.files import Frozen, make_folder
from orchestrator.base.paths import STATE
from orchestrator.base.text import printable
from orchestrator.plan.proof_cells import with_its_packages
from orchestrator.plan.workload import describe
from orchestrator.records.record import is_row
from orchestrator.records.store import read_record, record_files, runs

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

    from orchestrator.plan.workload import Benchmark


INDEX_VERSION = 2
"""Raised whenever the index holds something else, or the same reckoned otherwise: an older one is made anew."""
COLUMNS = (
    "path TEXT PRIMARY KEY, mtime_ns INTEGER, size INTEGER, run TEXT, role TEXT, began REAL, status TEXT,"
    " benchmark TEXT, workload_id TEXT, workload TEXT, method TEXT, stack TEXT, device TEXT, driver TEXT,"
    " fingerprint TEXT, seconds REAL, new_tokens INTEGER"
)
WINDOW = re.compile(r"(\d{1,5})([hdw])")
UNITS = {"h": 1, "d": 24, "w": 168}
POINTS_SHOWN = 6
WAIT_S = 30.0


class Point(Frozen):
    """A line's figure in one run: the median of its rounds."""

    run: str
    began_utc: str | None
    figure: float
    round_seconds: tuple[float, ...]
    driver: str | None
    fingerprint: str | None


class Line(Frozen):
    """One workload by one method on one stack and model of device, over all runs, oldest first."""

    benchmark: str
    method: str
    stack: str
    workload_id: str
    workload: str
    device: str | None
    unit: Unit
    points: tuple[Point, ...]
    verdict: Verdict | None
    """Of the newest run against the one before; null where there is one run."""

    @property
    def title(self) -> str:
        """How a person names the cell."""
        return f"{self.benchmark} {self.method}@{self.stack}"


def history(
    results: Path, *, since: str | None = None, cell: str | None = None, state: Path | None = None
) -> list[Line]:
    """Return the lines of all rows that are ok in `results`, since a moment (`30d`, `12h`, `2w`, `2026-11-01`).

    `cell`: only lines with all of these words in title, workload or device. A bad `since` is a UsageError.
    """
    start = None if since is None else moment(since)
    with _index(results, state or STATE) as index:
        _refresh(index, results)
        found = index.execute(
            "SELECT * FROM records WHERE role = 'row' AND status = 'ok' AND seconds > 0 AND (? IS NULL OR began >= ?)"
            " ORDER BY run, path",
            (start, start),
        ).fetchall()
        probes: dict[tuple[Any, ...], list[sqlite3.Row]] = {}
        for probe in index.execute("SELECT * FROM records WHERE role = 'probe'"):
            probes.setdefault(_place(probe), []).append(probe)
    groups: dict[tuple[Any, ...], list[sqlite3.Row]] = {}
    for row in found:
        beside = with_its_packages(probes.get(_place(row), ()), row["fingerprint"], lambda probe: probe["fingerprint"])
        if any(probe["status"] == "incorrect" for probe in beside):
            continue
        key = (row["benchmark"], row["workload_id"], row["method"], row["stack"], row["device"])
        groups.setdefault(key, []).append(row)
    lines = [_line(group) for group in groups.values()]
    wanted = (cell or "").lower().split()
    chosen = [line for line in lines if all(word in _text(line) for word in wanted)]
    return sorted(
        chosen, key=lambda line: (line.benchmark, line.workload, line.workload_id, line.title, line.device or "")
    )


def moment(text: str, now: dt.datetime | None = None) -> float:
    """Return the moment that `30d`, `12h`, `2w` (ago) or a date says, in seconds since 1970."""
    match = WINDOW.fullmatch(text.strip())
    if match:
        ago = dt.timedelta(hours=int(match[1]) * UNITS[match[2]])
        return ((now or dt.datetime.now(dt.timezone.utc)) - ago).timestamp()
    found = _timestamp(text.strip())
    if found is None:
        raise UsageError(f'"{printable(text)}" is no time', where="--since", remedy="use 30d, 12h, 2w or 2026-11-01")
    return found


@contextlib.contextmanager
def _index(results: Path, state: Path) -> Iterator[sqlite3.Connection]:
    """Open the index of a results folder; one that is of another version or broken is made anew."""
    make_folder(state)
    name = hashlib.sha256(str(results.resolve()).encode()).hexdigest()[:16]
    path = state / f"history-{name}.sqlite"
    connection = _opened(path)
    if connection is None:
        path.unlink(missing_ok=True)
        connection = _opened(path)
    if connection is None:
        raise UsageError("no index can be made here", where=str(path), remedy="check who may write there")
    try:
        with connection:
            yield connection
    except sqlite3.Error as error:
        raise UsageError(f"the index failed: {error}", where=str(path), remedy="delete it and try again") from error
    finally:
        connection.close()


def _opened(path: Path) -> sqlite3.Connection | None:
    connection = None
    try:
        connection = sqlite3.connect(path, timeout=WAIT_S)
        connection.row_factory = sqlite3.Row
        (version,) = connection.execute("PRAGMA user_version").fetchone()
        if version != INDEX_VERSION:
            connection.execute("DROP TABLE IF EXISTS records")
            connection.execute(f"PRAGMA user_version = {INDEX_VERSION}")
        connection.execute(f"CREATE TABLE IF NOT EXISTS records ({COLUMNS})")
        connection.commit()
    except sqlite3.Error:
        if connection is not None:
            connection.close()
        return None
    return connection


def _refresh(index: sqlite3.Connection, results: Path) -> None:
    """Read the records that are new or changed, and forget those that are gone."""
    known = {
        row["path"]: (row["mtime_ns"], row["size"]) for row in index.execute("SELECT path, mtime_ns, size FROM records")
    }
    seen = set()
    for folder in runs(results):
        for path in record_files(folder):
            name = f"{folder.name}/{path.name}"
            try:
                status = path.lstat()
            except OSError:
                continue  # It went away just now.
            seen.add(name)
            stamp = (status.st_mtime_ns, status.st_size)
            if known.get(name) != stamp:
                values = (name, *stamp, folder.name, *_facts(path))
                marks = ", ".join("?" * len(values))
                index.execute(f"INSERT OR REPLACE INTO records VALUES ({marks})", values)  # noqa: S608  (marks alone)
    index.executemany("DELETE FROM records WHERE path = ?", [(name,) for name in known if name not in seen])


def _facts(path: Path) -> tuple[Any, ...]:
    """Return role to new_tokens of COLUMNS; of what is neither row nor probe, or no record at all, nothing but that."""
    nothing = (None,) * 12
    try:
        record = read_record(path)
    except StackbenchError:
        return ("unreadable", *nothing)
    if record.role != "probe" and not is_row(record):
        return (record.role, *nothing)
    checks, hardware = check_counts(record), hardware_of(record)
    right = record.status == "ok" and not (checks and checks.failed)
    return (
        record.role,
        _timestamp(record.started_utc or ""),
        "ok" if right else record.status if record.status != "ok" else "incorrect",
        record.workload.benchmark,
        record.workload_id,
        describe(record.workload),
        record.method,
        record.stack,
        hardware.name,
        hardware.driver,
        record.environment.fingerprint if record.environment else None,
        steady(record).seconds if right else None,
        record.workload.new_tokens,
    )


def _place(row: sqlite3.Row) -> tuple[Any, ...]:
    """Return what a row and the probe of its method share."""
    return tuple(row[name] for name in ("run", "benchmark", "method", "stack", "device"))


def _line(group: Sequence[sqlite3.Row]) -> Line:
    by_run: dict[str, list[sqlite3.Row]] = {}
    for row in group:
        by_run.setdefault(row["run"], []).append(row)
    benchmark: Benchmark = group[0]["benchmark"]
    points = [
        Point(
            run=run,
            began_utc=_utc(min((row["began"] for row in rows if row["began"] is not None), default=None)),
            figure=in_unit(benchmark, median(row["seconds"] for row in rows), rows[0]["new_tokens"]) or 0.0,
            round_seconds=tuple(row["seconds"] for row in rows),
            driver=rows[-1]["driver"],
            fingerprint=rows[-1]["fingerprint"],
        )
        for run, rows in by_run.items()
    ]
    points.sort(key=lambda point: (point.began_utc or "", point.run))
    last = points[-2:]
    first = group[0]
    return Line(
        benchmark=benchmark,
        method=first["method"],
        stack=first["stack"],
        workload_id=first["workload_id"],
        workload=first["workload"],
        device=first["device"],
        unit=unit_of(benchmark),
        points=tuple(points),
        verdict=verdict(last[1].round_seconds, last[0].round_seconds) if len(last) > 1 else None,
    )


def _text(line: Line) -> str:
    return f"{line.title} {line.workload} {line.workload_id} {line.device or ''}".lower()


def _timestamp(text: str) -> float | None:
    try:
        found = dt.datetime.fromisoformat(text.replace("Z", "+00:00"))
        return (found if found.tzinfo else found.replace(tzinfo=dt.timezone.utc)).timestamp()
    except (ValueError, OverflowError):
        return None


def _utc(began: float | None) -> str | None:
    if began is None:
        return None
    return f"{dt.datetime.fromtimestamp(began, dt.timezone.utc):%Y-%m-%dT%H:%M:%SZ}"
