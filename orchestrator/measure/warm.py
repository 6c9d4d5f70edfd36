"""The warm start: a second process over the compile cache that a cell has left, for its first call only."""

from __future__ import annotations

import contextlib
import dataclasses
import os
import shutil
from collections.abc import Callable
from pathlib import Path

from orchestrator.base.errors import StackbenchError
from orchestrator.launchers import CACHE_FOLDER, Job, Launcher, Prepared
from orchestrator.launchers.worker import Supervise
from orchestrator.measure.supervise import RECORD_FILE, supervise, unworkable
from orchestrator.measure.watch import EVENTS_FILE, Event
from orchestrator.plan.cell import Cell, may_be_wanted
from orchestrator.records.record import COMPUTED, NOTHING_LEFT, Record, WarmStart

WARM_LOG = "warm.txt"
LOG_HEADING = b"\n--- warm start: a second process over the same compile cache ---\n"
REASON_CHARACTERS = 500


def wanted(cell: Cell, record: Record) -> bool:
    """Whether the cell's record is to say what a warm start takes: of the first round of a row that compiled."""
    compiles = record.compiles
    # A round that was watched on another host has its warm start already.
    compiled = record.status in COMPUTED and compiles is not None and compiles.made > 0 and compiles.warm is None
    return compiled and record.round == 0 and may_be_wanted(cell)


def with_warm_start(
    launcher: Launcher,
    prepared: Prepared,
    job: Job,
    record: Record,
    on_event: Callable[[Event], None],
    *,
    run: Supervise = supervise,
) -> Record:
    """Make the first call again, in a fresh process in the folder of `job`, and return `record` with what it took.

    The cell's process has ended and its cache lies in the folder, which both processes see in the same place: some
    compilers hash paths. Whatever goes wrong is the warm start's reason; the cell's own record stays as it was.
    """
    assert record.compiles is not None
    try:
        if _left_nothing(job.work / CACHE_FOLDER):
            found = WarmStart(first_ns=None, reason=NOTHING_LEFT)
        else:
            found = _measure(launcher, prepared, job, on_event, run)
    except (StackbenchError, OSError) as error:
        found = WarmStart(first_ns=None, reason=str(error)[:REASON_CHARACTERS])
    except Exception as error:  # noqa: BLE001  (whatever the second process wrote)
        found = WarmStart(first_ns=None, reason=unworkable(error).reason[:REASON_CHARACTERS])
    return record.model_copy(update={"compiles": record.compiles.model_copy(update={"warm": found})})


def _left_nothing(cache: Path) -> bool:
    """Whether the first process left no file in its cache; False where that cannot be seen."""
    hidden: list[OSError] = []
    files = any(names for _, _, names in os.walk(cache, onerror=hidden.append))
    return not files and not any(isinstance(error, PermissionError) for error in hidden)


def _measure(
    launcher: Launcher, prepared: Prepared, job: Job, on_event: Callable[[Event], None], run: Supervise
) -> WarmStart:
    # What the first process wrote there must not be mistaken for the second's.
    for name in (RECORD_FILE, EVENTS_FILE):
        (job.work / name).unlink(missing_ok=True)
    again = dataclasses.replace(job, log=job.log.with_name(WARM_LOG), gpu=None, only_first=True)
    try:
        record = run(launcher, prepared, again, on_event)
    finally:
        with contextlib.suppress(OSError), again.log.open("rb") as new, job.log.open("ab") as log:
            log.write(LOG_HEADING)
            shutil.copyfileobj(new, log)
    if record.status != "ok" or not record.samples:
        return WarmStart(first_ns=None, reason=f"{record.status}: {record.reason}"[:REASON_CHARACTERS])
    first, compiles = record.samples[0], record.compiles
    hits, misses = (compiles.cache_hits, compiles.cache_misses) if compiles else (None, None)
    reason = None if "warm" in record.flags else "the first process left an empty cache"
    return WarmStart(first_ns=first.end_ns - first.begin_ns, cache_hits=hits, cache_misses=misses, reason=reason)
