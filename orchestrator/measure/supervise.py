"""One round of a cell, watched from outside: whatever happens to its process, a record comes back."""

from __future__ import annotations

import contextlib
import datetime as dt
import hashlib
import json
import os
import re
import shutil
import signal
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any, Literal, get_args

from orchestrator.base import interrupt
from orchestrator.base.errors import InfrastructureError, UsageError
from orchestrator.base.files import Frozen, os_errors
from orchestrator.base.limits import LARGEST
from orchestrator.base.telling import telling
from orchestrator.base.text import printable
from orchestrator.base.untrusted import open_plain, place_file
from orchestrator.host.folders import FULL_DISK_BYTES, Written
from orchestrator.launchers import Exit, Far, Handle, Job, Launcher, Places, Prepared
from orchestrator.measure.host_load import LoadSampler, watch_host
from orchestrator.measure.telemetry import Recorded, Sampler, Series, watch_gpu
from orchestrator.measure.validity import (
    JUDGED,
    Seen,
    Sighting,
    Span,
    at_the_cap,
    gpu_fault,
    judged,
    taints,
    to_repeat,
)
from orchestrator.plan.cell import Cache, Cell, Device
from orchestrator.plan.workload import MEASURED, RECORD_LIMIT_BYTES, Kind, Role, Workload
from orchestrator.records.record import Phase, PhaseTime, Provenance, Record, Refusal
from orchestrator.records.references import ENDING as REFERENCE_ENDING
from orchestrator.records.store import read_record

SPEC_FILE, RECORD_FILE, EVENTS_FILE = "spec.json", "record.json", "events.jsonl"
TELEMETRY_FILE = "telemetry.jsonl"
"""Beside the log, where the process cannot write."""
EVENTS_READ_BYTES = 65_536
COUNT_EACH = 4
"""What a cell has written is counted at every fourth look at most; what is free on the disk is looked at each time."""
PHASES_KEPT, SIGHTINGS_KEPT = 32, 4096
REASON_CHARACTERS = 1500
LOG_READ_BYTES = 16_384
SOAK_S, SUSTAIN_S = 10.0, 20.0
"""What is asked of a cell at the power cap: there samples alternate by some percent, and a few say little."""
MOST_ASKS, MOST_ROWS, MOST_SIZES = 4, 4_608, 8
"""Limits of a question: how often one is answered, and its size; bench sustains fewer samples, and times fewer."""
UNPRINTABLE = re.compile(r"[^\x20-\x7e]+")
PLACE = re.compile(r"(?<![\w.~])~?/(?:[^\s/'\":,;()<>]+/)+")


class Beside(Frozen):
    """What the spec of a workload that is run beside another says that is not in the other's."""

    workload: Workload
    checkpoint: str | None
    reference: str | None
    reference_sha256: str | None


class Spec(Frozen):
    """What `spec.json` says. Folders and files are where the cell's process sees them."""

    schema_version: Literal[1] = 1
    cell_id: str
    workload_id: str
    round: int
    stack: str
    method: str
    device: Device
    bench_source: str
    method_source: str | None
    """SHA-256 of the method's file, where it is a user's own."""
    workload: Workload
    threads: int | None
    """CPU threads; None: torch's own choice."""
    cache: Cache
    cache_folder: str | None
    """None: an empty one in the work folder."""
    checkpoint: str | None
    deadline_s: float
    role: Role
    kind: Kind
    reference: str | None
    """The file to check against."""
    reference_sha256: str | None
    subject_ids: tuple[str, ...]
    beside: tuple[Beside, ...]
    """What is run beside it."""
    repeats: bool
    """The orchestrator answers which samples are to be measured again."""
    only_first: bool
    """Only the first call is wanted."""


def identity(job: Job) -> dict[str, Any]:
    """Return what the spec and the record say of a job with the same keys and values."""
    of_job = {name: getattr(job, name) for name in ("cell_id", "round", "bench_source")}
    of_cell = {
        name: getattr(job.cell, name) for name in ("stack", "method", "device", "workload", "method_source", "kind")
    }
    return {**of_job, **of_cell, "workload_id": job.cell.workload.workload_id}


def write_spec(job: Job, places: Places) -> Spec:
    """Write `spec.json` into the job's work folder; return what it says."""
    cell, same = job.cell, identity(job)
    own_id, *beside_ids = job.part_ids or (same["workload_id"],)
    beside = zip(cell.workload.beside or (), beside_ids, job.beside_sha256, strict=True)
    spec = Spec(
        **same,
        threads=job.threads,
        cache=cell.cache,
        cache_folder=places.cache,
        checkpoint=places.checkpoint,
        deadline_s=cell.timeout_s,
        role=cell.role,
        **_reference(places, own_id, job.reference_sha256),
        subject_ids=tuple(subject.workload_id for subject in cell.workload.subjects or ()),
        beside=tuple(
            Beside(workload=one, checkpoint=_weights(job, places, number), **_reference(places, name, sha256))
            for number, (one, name, sha256) in enumerate(beside, 1)
        ),
        repeats=cell.role == "row" and cell.workload.benchmark in MEASURED and not job.only_first,
        only_first=job.only_first,
    )
    path = job.work / SPEC_FILE
    with os_errors(path):  # read before anything could be lost: nothing waits for the disk
        path.write_text(spec.model_dump_json(indent=1) + "\n", encoding="utf-8")
    return spec


def _weights(job: Job, places: Places, number: int) -> str | None:
    """Return the folder of weights of a part of the workload: an engine's parts have one each."""
    if places.checkpoint is None or not job.weights_ids:
        return places.checkpoint
    return str(PurePosixPath(places.checkpoint).with_name(job.weights_ids[number]))


def _reference(places: Places, workload_id: str, sha256: str | None) -> dict[str, Any]:
    """Return what a spec says of the reference that a workload is checked against."""
    there = sha256 is not None and places.references is not None
    path = f"{places.references}/{workload_id}{REFERENCE_ENDING}" if there else None
    return {"reference": path, "reference_sha256": sha256}


@dataclass(frozen=True)
class Event:
    """What the process said last: a phase began, or (`index` of `of`) a sample is done."""

    phase: str
    index: int | None = None
    of: int | None = None


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
    wanted = {"repeat": to_repeat(samples, taints(samples, series, cell.benchmark, cell.device))}
    return wanted | ({"soak_s": SOAK_S, "sustain_s": SUSTAIN_S} if series and at_the_cap(samples, series) else {})


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
            return Refusal("infrastructure", f"the disk is full; {how}, {watch.where()}")
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


class Watch:
    """Follows `events.jsonl` while it grows. The process can write anything there, so nothing in it is trusted."""

    def __init__(self, path: Path, on_event: Callable[[Event], None]) -> None:
        self._path, self._on_event = path, on_event
        self._offset, self._rest = 0, b""
        self.phases: list[PhaseTime] = []
        self.sightings: list[Sighting] = []
        """Of its events."""
        self.question = Question()
        self._earliest_ns = self._drained_ns = self._read_ns = time.monotonic_ns()
        self._sample: tuple[int, int] | None = None
        self.far: Far | None = None
        """Who sees the events, where the process runs on another host."""

    def where(self) -> str:
        """Return in words how far the process got."""
        if not self.phases:
            return "before its first phase"
        done = f" ({self._sample[0] + 1} of {self._sample[1]} samples done)" if self._sample else ""
        return f'in the phase "{self.phases[-1].name}"{done}'

    def look(self, *, show: bool = True) -> None:
        """Read what is new, up to a limit, and report the last event in it."""
        last: Event | None = None
        while new := self._read():
            *lines, self._rest = (self._rest + new).split(b"\n")
            self._rest = self._rest[-EVENTS_READ_BYTES:]
            for line in lines:
                try:
                    last = self._take(json.loads(line)) or last
                except (ValueError, KeyError, TypeError, RecursionError):  # noqa: PERF203
                    continue  # only shown, never believed
            if self.far is None:
                break  # what is left comes at the next look
        if last is not None and show:
            self._on_event(last)

    def _read(self) -> bytes:
        if self.far is not None:
            new, self._earliest_ns, self._read_ns = self.far.events()
            return new
        before = time.monotonic_ns()
        with contextlib.suppress(OSError):
            if os.lstat(self._path).st_size <= self._offset:  # mostly so: of many cells no file is opened for nothing
                self._drained_ns = before
                return b""
        with contextlib.suppress(OSError, UsageError), open_plain(self._path) as file:
            file.seek(self._offset)
            new = file.read(EVENTS_READ_BYTES)
            self._offset += len(new)
            self._earliest_ns, self._read_ns = self._drained_ns, time.monotonic_ns()
            if len(new) < EVENTS_READ_BYTES:
                self._drained_ns = before
            return new
        return b""

    def _take(self, said: dict[str, Any]) -> Event | None:
        now = _number(said["t_ns"])
        if len(self.sightings) < SIGHTINGS_KEPT:
            self.sightings.append(Sighting(now, self._earliest_ns, self._read_ns))
        if said["event"] == "phase":
            if self.phases:
                self.phases[-1] = self.phases[-1].model_copy(update={"end_ns": now})
            if len(self.phases) < PHASES_KEPT:
                name = UNPRINTABLE.sub("", str(said["name"]))[:40]
                self.phases.append(PhaseTime(name=name, begin_ns=now, end_ns=now))
                return Event(name)
        elif said["event"] == "sample":
            self._sample = (_number(said["index"]), _number(said["of"]))
            return Event(self.phases[-1].name if self.phases else "", *self._sample)
        elif said["event"] == "samples":
            self.question.take(said)
        return None


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


class Question:
    """Which samples to take more of: what bench asked last and was not answered yet. It may come in several lines.

    What the process says is checked before it is used, and no link that it left in the folder is followed.
    """

    def __init__(self) -> None:
        self._ask, self._answered = 0, 0
        self._rows: list[Span] = []
        self._whole = False
        self.reported: list[Span] = []
        """The samples of the last question that was answered."""
        self.extra_s = 0.0
        """Seconds of soak and sustained samples that were asked for: the cell's deadline is later by them."""

    def take(self, said: dict[str, Any]) -> None:
        """Take in one event `samples`; ValueError, TypeError or KeyError where bench would not have written it."""
        ask = _number(said["ask"])
        if not self._answered < ask <= MOST_ASKS:
            raise ValueError(ask)
        if ask != self._ask:
            self._ask, self._rows = ask, []
        self._whole = False
        rows = [_span(row) for row in said["rows"]]
        if len(self._rows) + len(rows) > MOST_ROWS:
            self._answered = MOST_ASKS  # not bench: it gets no answer
            raise ValueError(len(rows))
        self._rows += rows
        self._whole = said["more"] is False

    def answer(self, folder: Path, choose: Callable[[Sequence[Span]], dict[str, Any]]) -> None:
        """Where a question is open, write what `choose` answers to its samples into `folder`."""
        if self._whole:
            self._whole, self._answered = False, self._ask
            wanted = choose(self._rows)
            self.extra_s = max(self.extra_s, wanted.get("soak_s", 0.0) + wanted.get("sustain_s", 0.0))
            place_file(folder, f"repeat-{self._ask}.json", json.dumps(wanted))
            self.reported, self._rows = self._rows, []


def _span(row: Any) -> Span:
    index, phase, begin_ns, end_ns, device_ns, shape, compiled = row
    if phase not in get_args(Phase) or not isinstance(compiled, bool) or not 0 < len(shape) <= MOST_SIZES:
        raise ValueError(phase)
    for number in (index, begin_ns, end_ns, 0 if device_ns is None else device_ns, *shape):
        _number(number)
    return Span(index, phase, begin_ns, end_ns, device_ns, tuple(shape), compiled)


def _number(value: Any) -> int:
    """Return a count or a time as bench writes it; ValueError for any other value, also for one of over 64 bits."""
    if type(value) is not int or not 0 <= value <= LARGEST:
        raise ValueError("not a count")
    return value
