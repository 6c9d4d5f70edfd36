"""Figures over many runs by time: one line for each workload, method, stack and model of device."""

from __future__ import annotations

import datetime as dt
import re
from pathlib import Path
from statistics import median

from orchestrator.analysis.protocol import Unit, in_unit
from orchestrator.analysis.reduced_run import reduce_run
from orchestrator.analysis.rows import Row
from orchestrator.analysis.statistics import Verdict, verdict
from orchestrator.base.errors import UsageError
from orchestrator.base.files import Frozen
from orchestrator.base.text import printable
from orchestrator.plan.workload import describe
from orchestrator.records.runs import copies, runs

WINDOW = re.compile(r"(\d{1,5})([hdw])")
UNITS = {"h": 1, "d": 24, "w": 168}
POINTS_SHOWN = 6


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


def history(results: Path, unreadable: list[str], *, since: str | None = None, cell: str | None = None) -> list[Line]:
    """Return the lines of all rows in `results` with a round that is ok and none that is wrong.

    A line for each file that cannot be read as a record goes to `unreadable`.
    `since`: only from that moment on (`30d`, `12h`, `2w`, `2026-11-01`).
    `cell`: only lines with all of these words in title, workload or device. A bad `since` is a UsageError.
    """
    start = None if since is None else moment(since)
    groups: dict[tuple[str | None, ...], dict[str, list[Row]]] = {}
    found = copies(results)
    if not found and not runs(results):
        raise UsageError("no run here", where=str(results), remedy="name the folder of the runs with --results")
    for folder, *others in found:
        bad: list[str] = []
        reduction = reduce_run(folder, bad)
        for other in others:
            reduction.take_over(reduce_run(other, bad))
        unreadable.extend(f"{folder.name}/{line}" for line in bad)
        for row in reduction.rows("steady"):
            began = _timestamp(row.began_utc or "")
            if (
                row.rounds_ok
                and row.status != "incorrect"
                and row.figure.value is not None
                and (start is None or (began is not None and began >= start))
            ):
                key = (row.benchmark, row.workload_id, row.method, row.stack, row.hardware.name)
                groups.setdefault(key, {}).setdefault(folder.name, []).append(row)
    wanted = (cell or "").lower().split()
    lines = [_line(by_run) for by_run in groups.values()]
    return sorted(
        (line for line in lines if all(word in _text(line) for word in wanted)),
        key=lambda line: (line.benchmark, line.workload, line.workload_id, line.title, line.device or ""),
    )


def moment(text: str, now: dt.datetime | None = None) -> float:
    """Return the moment that `30d`, `12h`, `2w` (ago) or a date says, in seconds since 1970."""
    match = WINDOW.fullmatch(text.strip())
    if match:
        ago = dt.timedelta(hours=int(match[1]) * UNITS[match[2]])
        return ((now or dt.datetime.now(dt.timezone.utc)) - ago).timestamp()
    found = _timestamp(text.strip())
    if found is None:
        raise UsageError(f'"{printable(text)}" is not a time', where="--since", remedy="use 30d, 12h, 2w or 2026-11-01")
    return found


def _line(by_run: dict[str, list[Row]]) -> Line:
    points = []
    for run, rows in by_run.items():
        first, last = rows[0], rows[-1]
        seconds = tuple(s for row in rows for s in row.figure.round_seconds)
        began = [moment for row in rows if (moment := _timestamp(row.began_utc or "")) is not None]
        points.append(
            Point(
                run=run,
                began_utc=_utc(min(began, default=None)),
                figure=in_unit(first.benchmark, median(seconds), first.workload.counted_tokens) or 0.0,
                round_seconds=seconds,
                driver=last.hardware.driver,
                fingerprint=last.fingerprint,
            )
        )
    points.sort(key=lambda point: (point.began_utc or "", point.run))
    newest = points[-2:]
    return Line(
        benchmark=first.benchmark,
        method=first.method,
        stack=first.stack,
        workload_id=first.workload_id,
        workload=describe(first.workload),
        device=first.hardware.name,
        unit=first.figure.unit,
        points=tuple(points),
        verdict=verdict(newest[1].round_seconds, newest[0].round_seconds) if len(newest) > 1 else None,
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
