"""One round of a cell, watched from outside: whatever happens to its process, a record comes back."""

from __future__ import annotations

import contextlib
import datetime as dt
import hashlib
import os
import re
import shutil
import signal
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from orchestrator.base import interrupt
from orchestrator.base.errors import InfrastructureError, UsageError
from orchestrator.base.telling import telling
from orchestrator.base.text import printable
from orchestrator.host.folders import FULL_DISK_BYTES, Written
from orchestrator.launchers import Exit, Far, Handle, Job, Launcher, Prepared
from orchestrator.measure.cell_spec import identity, write_spec
from orchestrator.measure.host_load import LoadSampler, watch_host
from orchestrator.measure.telemetry import Recorded, Sampler, Series, watch_gpu
from orchestrator.measure.validity import (
    JUDGED,
    Seen,
    Span,
    at_the_cap,
    gpu_fault,
    judged,
    taints,
    to_repeat,
)
from orchestrator.measure.watch import EVENTS_FILE, UNPRINTABLE, Event, Watch
from orchestrator.plan.cell import Cell
from orchestrator.plan.workload import RECORD_LIMIT_BYTES
from orchestrator.records.record import PhaseTime, Provenance, Record, Refusal
from orchestrator.records.store import read_record

RECORD_FILE = "record.json"
TELEMETRY_FILE = "telemetry.jsonl"
"""Beside the log, where the process cannot write."""
COUNT_EACH = 4
"""What a cell has written is counted at every fourth look at most; what is free on the disk is looked at each time."""
REASON_CHARACTERS = 1500
LOG_READ_BYTES = 16_384
SOAK_S, SUSTAIN_S = 10.0, 20.0
"""What is asked of a cell at the power cap: there samples alternate by some percent, and a few say little."""
MOST_TURNS = 4
"""Of many lengths whole turns are taken: one for the soak, perhaps three times as long, and one or more after it."""
PLACE = re.compile(r"(?<![\w.~])~?/(?:[^\s/'\":,;()<>]+/)+")


def supervise(
    launcher: Launcher, prepared: Prepared, job: Job, on_event: Callable[[Event], None] = lambda _event: None
) -> Record:
    """Run one round of a cell in `job.work` and return its record.

    What was seen of the job's GPU is left in TELEMETRY_FILE beside the log. Whatever goes wrong with the
    process, its words, the engine or the disk is a record too. Only an interruption gets out, and a disk that cannot
    even take the cell's spec (UsageError); the process has ended in every case.
    """
    spec, stack = write_spec(job, launcher.places(job)), prepared.stack
    watch = Watch(job.work / EVENTS_FILE, on_event)
    places = (job.work, job.log, *([job.cache] if job.cache else []))
    written = Written(places, stack.work_bytes, stack.work_files, COUNT_EACH * job.tick_s)
    started_utc, began = dt.datetime.now(dt.timezone.utc).isoformat(), time.monotonic_ns()
    ended, stopped, refusal, load = None, None, None, None
    sampler: Sampler | Recorded | None = None

    def tick(*, last: bool = False) -> Refusal | None:
        """Look at what the process says and has written; return why it must not go on, if it must not."""
        try:
            watch.look(show=not last)
            if not last:
                watch.question.answer(job.work, lambda samples: _wanted(samples, sampler, job.cell))
        except Exception as error:  # noqa: BLE001  (whatever it says ends its round, not the run)
            return unworkable(error)
        trouble = (watch.far and watch.far.trouble()) or written.trouble(last=last)
        return Refusal(*trouble) if trouble else None

    try:
        with (
            job.away(),
            launcher.start(prepared, job) as handle,
            watch_gpu(job.gpu, handle.pids) if job.gpu and not handle.far else contextlib.nullcontext() as sampler,
            contextlib.nullcontext() if handle.far else watch_host(handle.pids) as load,
        ):
            watch.far = handle.far
            ended, stopped = _watch_until(
                handle, tick, began, lambda: spec.deadline_s + watch.question.extra_s, tick_s=job.tick_s
            )
            wall_ns = time.monotonic_ns() - began
            with contextlib.suppress(InfrastructureError, OSError):
                if not job.log.exists():  # which a plain process has written itself
                    handle.collect()
    except InfrastructureError as error:
        wall_ns = time.monotonic_ns() - began
        refusal = Refusal("infrastructure", str(error))
    too_much = stopped if stopped and stopped.status != "timeout" else tick(last=True)
    if too_much:
        # What it has written must not stand in the way of its record.
        written.discard()
        stopped = too_much
    if stopped:
        refusal = Refusal(stopped.status, f"{stopped.reason}, {watch.where()}")
    if watch.far is not None and ended is not None:
        sampler, load = _from_afar(watch.far)
    record, refusal = _believed(job, ended, refusal, watch, sampler=sampler, load=load)
    if record is None:
        assert refusal is not None
        record = blank_record(job, refusal, started_utc=started_utc, phases=tuple(watch.phases))
    added = {
        "provenance": provenance(launcher, prepared, job, wall_ns, exit_code=ended.code if ended else None),
        "reason": scrub(record.reason) if record.reason else None,
        # The orchestrator says what a cell is for, whatever its process wrote.
        "role": spec.role,
    }
    return record.model_copy(update=added)


def provenance(
    launcher: Launcher, prepared: Prepared, job: Job, wall_ns: int, *, exit_code: int | None = None
) -> Provenance:
    """Return by what and from what a round was run."""
    return Provenance(
        launcher=launcher.name,
        image=prepared.image,
        image_id=prepared.image_id,
        lock=prepared.lock,
        gpu=job.gpu,
        cache=job.cell.cache,
        weights=job.weights_sha256,
        orchestrator=job.orchestrator,
        exit_code=exit_code,
        wall_ns=wall_ns,
        worker=None if job.worker is None else dict(job.worker),
    )


def _from_afar(far: Far) -> tuple[Recorded | None, LoadSampler | None]:
    """Return what the other host has read of its GPU and its CPUs; None where it read nothing, or nonsense came."""
    said, load = far.readings(), None
    with contextlib.suppress(KeyError, TypeError, ValueError):
        load = LoadSampler.of_readings(said["load"])
    if not said.get("series"):
        return None, load
    recorded = Recorded(said["series"], said.get("settings") or {}, said.get("lost"))
    try:
        recorded.series()
    except (KeyError, TypeError, ValueError):
        return None, load
    return recorded, load


def _believed(
    job: Job,
    ended: Exit | None,
    refusal: Refusal | None,
    watch: Watch,
    *,
    sampler: Sampler | Recorded | None,
    load: LoadSampler | None,
) -> tuple[Record | None, Refusal | None]:
    """Return the record that the process wrote, with what was seen from outside, and what is to be said against it."""
    try:
        # A complete record counts even if the process then hung until its deadline.
        record, complaint = believe(job.work / RECORD_FILE, identity(job))
        refusal = refusal or judge(ended, record, complaint, job, watch)
        series = sampler.series() if sampler else None
        if record is None:
            assert refusal is not None
            return None, gpu_fault(refusal.status, refusal.reason, series) or refusal
        if refusal is not None and refusal.status == "crashed":
            # The samples are complete, but a process that crashes at its end is not fine.
            record = record.model_copy(update={"status": "crashed", "reason": refusal.reason})
        throttled = load.throttled if load and load.quota else None
        seen = Seen(watch.phases, watch.sightings, watch.question.reported, watch.question.extra_s > 0)
        record = _leave_series(judged(record, series, throttled, seen), series, job)
        return record.model_copy(update={"host_load": load.load(_timed(record)) if load else None}), refusal
    except Exception as error:  # noqa: BLE001  (whatever it wrote ends its round, not the run)
        return None, unworkable(error)


def _timed(record: Record) -> list[tuple[int, int]]:
    """Return when something was timed: samples, or a ceiling's calls."""
    calls = [(rate.begin_ns, rate.end_ns) for rate in record.rates]
    samples = [(sample.begin_ns, sample.end_ns) for sample in record.samples if sample.phase in JUDGED]
    return samples + [(begin, end) for begin, end in calls if begin is not None and end is not None]


def unworkable(error: Exception) -> Refusal:
    """Return what to say of a cell that wrote something which nothing can be made of."""
    what = f"{type(error).__name__}: {error}".strip()[:REASON_CHARACTERS]
    return Refusal("crashed", f"what it wrote cannot be worked with ({UNPRINTABLE.sub(' ', what)})")


def _wanted(samples: Sequence[Span], sampler: Sampler | Recorded | None, cell: Cell) -> dict[str, Any]:
    """Return which samples to measure again, and, at the power cap, for how long to go on back to back."""
    series = sampler.series() if sampler else None
    wanted: dict[str, Any] = {"repeat": to_repeat(samples, taints(samples, series, cell.benchmark, cell.device))}
    if series and at_the_cap(samples, series):
        turn_s = sum(sample.end_ns - sample.begin_ns for sample in samples if sample.phase == "timed") / 1e9
        turns_s = MOST_TURNS * turn_s if cell.benchmark == "train_dynamic" else 0.0
        wanted |= {"soak_s": SOAK_S, "sustain_s": SUSTAIN_S, "turns_s": min(turns_s, cell.timeout_s)}
    return wanted


def _leave_series(record: Record, series: Series | None, job: Job) -> Record:
    """Write the series that the record's telemetry was made from to a file; return the record with its hash."""
    if series is not None and record.telemetry is not None:
        content = series.content()
        with contextlib.suppress(OSError):
            job.log.with_name(TELEMETRY_FILE).write_bytes(content)
            telemetry = record.telemetry.model_copy(update={"series_sha256": hashlib.sha256(content).hexdigest()})
            return record.model_copy(update={"telemetry": telemetry})
    return record


def _watch_until(
    handle: Handle, tick: Callable[[], Refusal | None], began: int, deadline: Callable[[], float], *, tick_s: float
) -> tuple[Exit | None, Refusal | None]:
    """Return how the process ended, and why it was killed where it was.

    `deadline` is how many seconds it may take by now: extra samples that it was asked for make it later.
    """
    while True:
        deadline_s = deadline()
        left = deadline_s - (time.monotonic_ns() - began) / 1e9
        if left > 0:
            ended = handle.wait(min(left, tick_s))
            if ended is not None:
                return ended, None
        why = tick() if left > 0 else Refusal("timeout", f"not done after {deadline_s:g} s")
        if why is not None:
            handle.cancel()
            return handle.poll(), why
        if interrupt.pending:
            interrupt.check()


def judge(ended: Exit | None, record: Record | None, complaint: str, job: Job, watch: Watch) -> Refusal | None:
    """Return what to say about a process that ended by itself; None where its own record says everything."""
    assert ended is not None
    if record is not None and ended.code == 0:
        return None
    if ended.error is not None:
        return Refusal("infrastructure", ended.error)
    how = _how(ended)
    if record is not None:
        return Refusal("crashed", _with_log(f"{how} after it had written its record", job))
    if ended.oom:
        return Refusal("out_of_memory", f"the host's memory was not enough: {how}, {watch.where()}")
    with contextlib.suppress(OSError):
        free = watch.far.readings().get("free") if watch.far else None
        if (shutil.disk_usage(job.work).free if free is None else free) < FULL_DISK_BYTES:
            room = "its host's disk is full; make room there" if watch.far else "the disk is full; make room"
            return Refusal("infrastructure", f"{room}: {how}, {watch.where()}")
    what = complaint or "no record was written"
    return Refusal("crashed", _with_log(f"{how}, {watch.where()}; {what}", job))


def believe(path: Path, same: dict[str, Any]) -> tuple[Record | None, str]:
    """Return the record that the process wrote if it is valid and this round's, else None and what is wrong."""
    if not os.path.lexists(path):
        return None, ""
    try:
        record = read_record(path, limit=RECORD_LIMIT_BYTES // 2)
    except UsageError as error:
        return None, f"what was written as its record cannot be believed: {error.what}"
    if any(getattr(record, name) != value for name, value in same.items()):
        return None, "what was written as its record is another cell's"
    claimed: list[object] = [record.provenance, record.log_sha256, record.telemetry, record.host_load]
    claimed += [rate.energy_joules for rate in record.rates]
    claimed += [claim for sample in record.samples for claim in (sample.taint, sample.energy_joules)]
    if record.written_by != "bench" or any(claim is not None for claim in claimed):
        return None, "what was written as its record claims what only the orchestrator says"
    return record, ""


def blank_record(
    job: Job, refusal: Refusal, *, started_utc: str | None = None, phases: tuple[PhaseTime, ...] = ()
) -> Record:
    """Return the orchestrator's own record for a round for which bench wrote none."""
    return Record(
        **identity(job),
        schema_version=1,
        written_by="orchestrator",
        status=refusal.status,
        reason=scrub(refusal.reason),
        flags=(),
        started_utc=started_utc,
        phases=phases,
        role=job.cell.role,
    )


def scrub(text: str) -> str:
    """Return `text` without the folders in it (a record holds no paths): the file's own name is enough."""
    return PLACE.sub(".../", text)


def _how(ended: Exit) -> str:
    if ended.signal is None:
        return f"exit code {ended.code}"
    names = {number.value: f" ({number.name})" for number in signal.Signals}
    return f"ended by signal {ended.signal}{names.get(ended.signal, '')}"


def _with_log(what: str, job: Job) -> str:
    """Return a crash's reason: first what the log says of why, for many read no further, then `what` and its end."""
    with contextlib.suppress(OSError), job.log.open("rb") as file:
        size = file.seek(0, os.SEEK_END)
        file.seek(max(size - LOG_READ_BYTES, 0))
        text = scrub(file.read().decode("utf-8", "replace"))
        lines = [printable(line).rstrip() for line in text.splitlines()]
        if end := "\n".join(line for line in lines if line)[-REASON_CHARACTERS:]:
            return f"{telling(text)}; {what}; end of the log:\n{end}"
    return f"{what}; the log is empty"
