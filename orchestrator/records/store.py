"""Runs on disk: a folder under `results/` with run.json, records, logs and tables. Files appear whole or not at all."""

from __future__ import annotations

import contextlib
import datetime as dt
import errno
import hashlib
import os
import re
import shutil
import tempfile
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any, Literal, TypeVar

from pydantic import Field, ValidationError

from orchestrator.base.errors import UsageError
from orchestrator.base.files import (
    BESIDE,
    Count,
    Frozen,
    Json,
    make_folder,
    os_errors,
    read_bytes,
    read_json,
    to_disk,
    write_bytes,
)
from orchestrator.base.interrupt import check
from orchestrator.base.invalid import explain_validation
from orchestrator.base.lockfile import Lock, abandoned, try_lock
from orchestrator.base.text import Say, printable, utc
from orchestrator.base.untrusted import take_over
from orchestrator.plan.cell import Plan
from orchestrator.plan.workload import RECORD_LIMIT_BYTES
from orchestrator.records.record import FAILED, Record

T = TypeVar("T", bound=Frozen)
RUN_FILE = "run.json"
HIDDEN = ".making-"
MOST_IN_A_SECOND = 100
CLAIM = ".claim"
"""Locked by the process that goes on with the run."""
RUN_LIMIT_BYTES = 16_000_000
MOST_VALUES, MOST_RECORD_VALUES = 600_000, 400_000
"""In a run.json or a manifest, and in a record. A wrong one takes a thousand times the bytes that stand in the file."""
RUN_NAME = re.compile(r"\d{8}-\d{6}-[a-z0-9_-]+")
CLOCKS_DIFFER = dt.timedelta(days=1)
"""A run named later than that from now was not begun here."""
STEM = re.compile(r"(probe-)?[a-z0-9_]+-[a-z0-9_]+@[a-z0-9_-]+-[0-9a-f]{16}-r\d+")
STRANGERS_SHOWN = 3
LOG_LIMIT_BYTES = 8_000_000
LISTING_FILE = "dispatch.json"
"""What a cell leaves of all that ran in it, in its work folder."""
IDENTITY = (
    *("cell_id", "round", "bench_source", "stack", "method", "device", "workload", "workload_id"),
    *("started_utc", "provenance", "role", "log_sha256", "method_source"),
)
"""What the orchestrator knows of a round, whatever ran in it."""


class Header(Frozen):
    """What run.json says. `host` and `stacks` describe hardware and images, never host names or paths."""

    schema_version: Literal[1]
    run_id: str
    suite: str
    plan_id: str
    bench_source: str
    started_utc: str
    finished_utc: str | None = None
    host: dict[str, Json] = Field(default_factory=dict)
    stacks: dict[str, dict[str, Json]] = Field(default_factory=dict)
    note: str = ""
    launcher: str | None = None
    """Where its cells' processes are started; older runs do not say."""
    imported_utc: str | None = None
    """When `import` put it here; null for a run that was made here, or copied here by hand."""
    at_once: Count | None = None
    """Of a trial by `side-by-side`, the number of GPUs; null for any other run."""
    plan: Plan


class Run:
    """One run's folder. The header is read once; `update` replaces it on disk and here."""

    def __init__(self, folder: Path, header: Header) -> None:
        self.folder = folder
        self.header = header
        self.bundle: Path | None = None
        """The file that the folder was unpacked from, where the run is read out of a bundle."""
        self._claim: Lock | None = None

    @classmethod
    def create(cls, results: Path, plan: Plan, bench_source: str, **facts: Any) -> Run:
        """Make the folder of a new run, named by the time and the suite, and return the run.

        `facts` are further keys of its header: `host`, `stacks`, `note`, `launcher`, `at_once`.
        """
        now = dt.datetime.now(dt.timezone.utc)
        name = f"{now:%Y%m%d-%H%M%S}-{plan.suite}"
        header = Header(
            schema_version=1,
            run_id=name,
            suite=plan.suite,
            plan_id=plan.plan_id,
            bench_source=bench_source,
            started_utc=utc(now),
            plan=plan,
            **facts,
        )
        with being_made(results) as folder:
            for part in ("records", "logs"):
                make_folder(folder / part)
            for number in range(1, MOST_IN_A_SECOND):
                run = cls(folder, header)
                run.update(run_id=name if number == 1 else f"{name}-{number}")
                run.folder = results / run.header.run_id
                if appear(folder, run.folder):
                    return run
        raise UsageError("too many runs in one second", where=str(results), remedy="try again")

    @classmethod
    def open(cls, folder: Path) -> Run:
        """Return the run in `folder`; without a good run.json, or a list of its records, it is a UsageError."""
        with os_errors(folder / "records"), contextlib.suppress(FileNotFoundError):
            os.scandir(folder / "records").close()
        return cls(folder, _read(Header, folder / RUN_FILE, limit=RUN_LIMIT_BYTES, most_values=MOST_VALUES))

    @property
    def plan(self) -> Plan:
        """The plan that the run executes."""
        return self.header.plan

    @property
    def finished(self) -> bool:
        """Whether every cell was run."""
        return self.header.finished_utc is not None

    @property
    def own(self) -> bool:
        """Whether it was begun here: not imported, no bundle, and in the folder that it was given."""
        here = not self.imported and self.bundle is None
        return here and self.folder.name == self.header.run_id and named_in_order(self.folder)

    @property
    def imported(self) -> bool:
        """Whether it came in a bundle: nothing goes on with it unasked."""
        return self.header.imported_utc is not None

    @property
    def trial(self) -> bool:
        """Whether `side-by-side` made it: nothing goes on with it, as other commands give rounds another meaning."""
        return self.header.at_once is not None

    def update(self, **changes: Any) -> None:
        """Replace keys of run.json."""
        self.header = self.header.model_copy(update=changes)
        self._write()

    def finish(self, before: Callable[[], None] = lambda: None) -> None:
        """Say that every cell of the plan was run: the run will not go on.

        `before` is called with the header as it will be: tables say so too, and run.json must not before they do.
        """
        self.header = self.header.model_copy(update={"finished_utc": utc()})
        before()
        self._write()

    def reopen(self) -> None:
        """Take a finished run up again (its rounds are to be run again)."""
        self.update(finished_utc=None)

    def claim(self, say: Say = print) -> bool:
        """Return whether this process, alone, may go on with the run; it holds until the process ends or `release`.

        `say` is told where that cannot be known.
        """
        if self._claim is not None:
            return True
        with os_errors(self.folder / CLAIM):
            self._claim = try_lock(self.folder / CLAIM, say, remedy="start no other run there, or name other --results")
        return self._claim is not None

    def remove_half_written(self) -> None:
        """Remove what processes that were killed left beside the files that they wrote. For whoever has the claim."""
        with os_errors(self.folder):
            for path in self.folder.rglob(BESIDE):
                path.unlink(missing_ok=True)

    def release(self) -> None:
        """Give the claim back."""
        if self._claim is not None:
            self._claim.release()
            self._claim = None

    def save(self, record: Record, log: Path | None = None) -> Record:
        """Store a record, replacing an earlier one of the same key, and its log; return it as stored."""
        stem = stem_of(record)
        if log is not None:
            content = _log_bytes(log)
            write_bytes(self.folder / "logs" / f"{stem}.log", content, parent=True)
            record = record.model_copy(update={"log_sha256": hashlib.sha256(content).hexdigest()})
        text = record.model_dump_json().encode()
        if len(text) > RECORD_LIMIT_BYTES:
            # What no reader would take must not be written: the row says so instead.
            record = without_content(
                record, f"its record has {len(text)} bytes, more than the limit of {RECORD_LIMIT_BYTES}"
            )
            text = record.model_dump_json().encode()
        write_bytes(self.folder / "records" / f"{stem}.json", text, parent=True)
        return record

    def forget(self, record: Record) -> None:
        """Remove a record and its log."""
        for part, ending in (("records", "json"), ("logs", "log")):
            (self.folder / part / f"{stem_of(record)}.{ending}").unlink(missing_ok=True)

    def keep(self, part: Literal["dispatch", "telemetry"], stem: str, source: Path) -> str:
        """Take over a side file of the record `stem` as `part/stem` with the source's ending; return its SHA-256.

        The source may be a container's: no link is followed. Anything but a plain file of a sane size is a UsageError.
        """
        return take_over(source, self.folder / part / f"{stem}{source.suffix}")

    def records(self, unreadable: list[str]) -> Iterator[Record]:
        """Yield every stored record, by file name. One that cannot be read is none: its line goes to `unreadable`."""
        return read_records(record_files(self.folder, unreadable), unreadable)

    def _write(self) -> None:
        content = f"{self.header.model_dump_json(indent=1)}\n".encode()
        if len(content) > RUN_LIMIT_BYTES:
            what = f"{len(content)} bytes for {len(self.plan.cells)} cells, more than the limit of {RUN_LIMIT_BYTES}"
            raise UsageError(what, where=str(self.folder / RUN_FILE), remedy="split the suite")
        write_bytes(self.folder / RUN_FILE, content)


def read_records(paths: Iterable[Path], unreadable: list[str]) -> Iterator[Record]:
    """Yield the records in `paths`; a line for each file that cannot be read goes to `unreadable`."""
    for path in paths:
        check()
        try:
            yield read_stored(path)
        except UsageError as error:
            # Without the folder's place, which is nobody's business.
            unreadable.append(f"records/{path.name}: {error.what}")


def without_content(record: Record, reason: str) -> Record:
    """Return the record of a round whose own says too much to be kept: whose it is, what ran it, and why it crashed."""
    kept: dict[str, Any] = {name: getattr(record, name) for name in IDENTITY}
    return Record(**kept, schema_version=1, written_by="orchestrator", flags=(), status="crashed", reason=reason)


def named_in_order(folder: Path) -> bool:
    """Whether the folder has a name that `create` may have given it: not a renamed one, and not one of the future."""
    latest = dt.datetime.now(dt.timezone.utc) + CLOCKS_DIFFER
    return bool(RUN_NAME.fullmatch(folder.name)) and folder.name <= f"{latest:%Y%m%d-%H%M%S}"


def finished_keys(records: Iterable[Record]) -> set[tuple[str, int]]:
    """Return (cell_id, round) of every record that need not be run again."""
    return {(record.cell_id, record.round) for record in records if record.status not in FAILED}


def read_record(path: Path, *, limit: int = RECORD_LIMIT_BYTES) -> Record:
    """Return the record in `path`: a plain file of at most `limit` bytes and of known keys; else a UsageError."""
    return _read(Record, path, limit=limit, most_values=MOST_RECORD_VALUES, follow_links=False)


def read_stored(path: Path) -> Record:
    """Return the record of a run's file; also a UsageError where the name is not the record's own."""
    record = read_record(path)
    if path.stem != _stem(record):
        raise UsageError("the record of another cell or round has this name", where=str(path), remedy="move it away")
    return record


def _read(kind: type[T], path: Path, *, limit: int, most_values: int | None = None, follow_links: bool = True) -> T:
    content = read_bytes(path, limit=limit, follow_links=follow_links)
    if most_values is not None and len(content) > most_values and content.count(b",") > most_values:
        raise UsageError(f"more than {most_values} values", where=str(path), remedy="is it the right file?")
    try:
        return kind.model_validate_json(content)
    except ValidationError as error:
        what, raw = "not valid JSON", None
        if error.error_count() > 1 or error.errors()[0]["type"] != "json_invalid":
            # The key's name needs the raw content; read it again only now, when it is bad anyway.
            with contextlib.suppress(UsageError):
                raw = read_json(path)
            what = explain_validation(error, raw, kind)
        raise UsageError(what, where=str(path), remedy="repair it or move it away") from error


def record_files(folder: Path, unreadable: list[str] | None = None) -> list[Path]:
    """Return the paths of a run's records, sorted by name: of files that are named as a record is, and no others.

    A line that names the other JSON files among them (a sync tool's copies) goes to `unreadable`.
    """
    records, names = folder / "records", list[str]()
    with os_errors(records), contextlib.suppress(FileNotFoundError):
        names = os.listdir(records)  # noqa: PTH208 - names are sorted faster than paths
    known, others = list[Path](), list[str]()
    for name in sorted(name for name in names if name.endswith(".json") and not name.startswith(".")):
        if STEM.fullmatch(name[: -len(".json")]):
            known.append(records / name)
        else:
            others.append(printable(name))
    if others and unreadable is not None:
        more = f" and {len(others) - STRANGERS_SHOWN} more" if len(others) > STRANGERS_SHOWN else ""
        shown = f"{', '.join(others[:STRANGERS_SHOWN])}{more}"
        unreadable.append(f"records/: not named as a record, and left out: {shown}")
    return known


def run_of(path: Path, record: Record) -> Path | None:
    """Return the folder of the run that the record's file lies in, by the name that the run gave it; else None."""
    records = path.parent.resolve()
    kept = records.name == "records" and (records.parent / RUN_FILE).is_file()
    return records.parent if kept and path.stem == stem_of(record) else None


def stem_of(record: Record) -> str:
    """Return the name, without ending, of the record's files: `forward-inductor@cpu-0123456789abcdef-r0`."""
    stem = _stem(record)
    if not STEM.fullmatch(stem):
        raise UsageError(f"{stem!r} cannot be a file's name", where="record", remedy="use a-z, 0-9, - and _ in names")
    return stem


def _stem(record: Record) -> str:
    prefix = "probe-" if record.role == "probe" else ""
    return f"{prefix}{record.workload.benchmark}-{record.method}@{record.stack}-{record.cell_id}-r{record.round}"


@contextlib.contextmanager
def being_made(results: Path) -> Iterator[Path]:
    """Hand out a hidden folder in `results` for a run that `appear` lets be seen when it is whole; else it is removed.

    What killed processes left of theirs is removed too.
    """
    make_folder(results)
    with os_errors(results):
        for left in results.glob(f"{HIDDEN}*"):
            if abandoned(left, CLAIM):
                shutil.rmtree(left, ignore_errors=True)
        place = results / Path(tempfile.mkdtemp(prefix=HIDDEN, dir=results)).name
    lock = None
    try:
        with os_errors(place):
            lock = try_lock(place / CLAIM, None)  # a run says so itself when it is claimed
        content = place / "run"
        make_folder(content)
        yield content
    finally:
        shutil.rmtree(place, ignore_errors=True)
        if lock is not None:
            lock.release()


def appear(folder: Path, target: Path) -> bool:
    """Give a run that was made its place; False where another is there already."""
    with os_errors(target):
        try:
            folder.rename(target)
            with contextlib.suppress(OSError):  # not every file system can do this for a folder
                to_disk(target.parent)
        except OSError as error:
            if error.errno in (errno.EEXIST, errno.ENOTEMPTY, errno.ENOTDIR):
                return False
            raise
    return True


def _log_bytes(path: Path) -> bytes:
    """Return the log; of a very long one the beginning and the end."""
    with os_errors(path), contextlib.suppress(FileNotFoundError):
        descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW)
        with os.fdopen(descriptor, "rb") as file:
            size = os.fstat(descriptor).st_size
            if size <= LOG_LIMIT_BYTES:
                return file.read(LOG_LIMIT_BYTES)
            head = file.read(LOG_LIMIT_BYTES // 2)
            file.seek(size - LOG_LIMIT_BYTES // 2)
            left_out = f"\n[... {size - LOG_LIMIT_BYTES} bytes left out ...]\n".encode()
            return head + left_out + file.read(LOG_LIMIT_BYTES // 2)
    return b""
