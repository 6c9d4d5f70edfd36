"""Runs on disk: a folder under `results/` with run.json, records, logs and tables. Files appear whole or not at all."""

from __future__ import annotations

import contextlib
import datetime as dt
import fcntl
import hashlib
import os
import re
import shutil
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, Literal, TypeVar

from pydantic import Field, ValidationError

from orchestrator.base.errors import UsageError
from orchestrator.base.files import (
    Frozen,
    explain_validation,
    make_folder,
    os_errors,
    read_bytes,
    read_json,
    write_bytes,
    write_text,
)
from orchestrator.base.text import utc
from orchestrator.base.untrusted import take_over
from orchestrator.plan.cell import Plan
from orchestrator.records.record import FAILED, RECORD_LIMIT_BYTES, Record

T = TypeVar("T", bound=Frozen)
RUN_FILE = "run.json"
RUN_LIMIT_BYTES = 64_000_000
RUN_NAME = re.compile(r"\d{8}-\d{6}-[a-z0-9_-]+")
STEM = re.compile(r"(probe-)?[a-z0-9_]+-[a-z0-9_]+@[a-z0-9_-]+-[0-9a-f]{16}-r\d+")
LOG_LIMIT_BYTES = 8_000_000


class Header(Frozen):
    """What run.json says. `host` and `stacks` describe hardware and images, never host names or paths."""

    schema_version: Literal[1]
    run_id: str
    suite: str
    plan_id: str
    bench_source: str
    started_utc: str
    finished_utc: str | None = None
    host: dict[str, Any] = Field(default_factory=dict)
    stacks: dict[str, dict[str, Any]] = Field(default_factory=dict)
    note: str = ""
    launcher: str | None = None
    """Where its cells' processes are started; older runs do not say."""
    plan: Plan


class Run:
    """One run's folder. The header is read once; `update` replaces it on disk and here."""

    def __init__(self, folder: Path, header: Header) -> None:
        self.folder = folder
        self.header = header
        self._claim: int | None = None

    @classmethod
    def create(cls, results: Path, plan: Plan, bench_source: str, **facts: Any) -> Run:
        """Make the folder of a new run, named by the time and the suite, and return the run.

        `facts` are further keys of its header: `host`, `stacks`, `note`, `launcher`.
        """
        make_folder(results)
        now = dt.datetime.now(dt.timezone.utc)
        folder = _new_folder(results, f"{now:%Y%m%d-%H%M%S}-{plan.suite}")
        for part in ("records", "logs"):
            make_folder(folder / part)
        header = Header(
            schema_version=1,
            run_id=folder.name,
            suite=plan.suite,
            plan_id=plan.plan_id,
            bench_source=bench_source,
            started_utc=utc(now),
            plan=plan,
            **facts,
        )
        run = cls(folder, header)
        try:
            run._write()
        except UsageError:
            shutil.rmtree(folder, ignore_errors=True)  # Half a run is worth nothing.
            raise
        return run

    @classmethod
    def open(cls, folder: Path) -> Run:
        """Return the run in `folder`; one without a good run.json is a UsageError."""
        return cls(folder, _read(Header, folder / RUN_FILE, limit=RUN_LIMIT_BYTES))

    @property
    def plan(self) -> Plan:
        """The plan that the run executes."""
        return self.header.plan

    @property
    def finished(self) -> bool:
        """Whether every cell was run."""
        return self.header.finished_utc is not None

    def update(self, **changes: Any) -> None:
        """Replace keys of run.json."""
        self.header = self.header.model_copy(update=changes)
        self._write()

    def finish(self) -> None:
        """Say that every cell of the plan was run: the run will not go on."""
        self.update(finished_utc=utc())

    def reopen(self) -> None:
        """Take a finished run up again (its rounds are to be run again)."""
        self.update(finished_utc=None)

    def claim(self) -> bool:
        """Return whether this process, alone, may go on with the run; it holds until the process ends or `release`."""
        if self._claim is not None:
            return True
        with os_errors(self.folder):
            descriptor = os.open(self.folder, os.O_RDONLY | os.O_DIRECTORY)
        try:
            # A lock of the kernel's on the folder itself: nothing is left over after kill -9, or in a copy.
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            os.close(descriptor)
            return False
        self._claim = descriptor
        return True

    def release(self) -> None:
        """Give the claim back."""
        if self._claim is not None:
            os.close(self._claim)
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
            record = record.model_copy(update={"detail": {"dropped": "the record was over its size limit"}})
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

    def records(self) -> Iterator[Record]:
        """Yield every stored record, by file name. A bad one is a UsageError that names the file."""
        for path in record_files(self.folder):
            yield read_record(path)

    def _write(self) -> None:
        write_text(self.folder / RUN_FILE, self.header.model_dump_json(indent=1) + "\n")


def finished_keys(records: Iterable[Record]) -> set[tuple[str, int]]:
    """Return (cell_id, round) of every record that need not be run again."""
    return {(record.cell_id, record.round) for record in records if record.status not in FAILED}


def read_record(path: Path) -> Record:
    """Return the record in `path`: a plain file, no link, at most 50 KB, every key known; else a UsageError."""
    return _read(Record, path, limit=RECORD_LIMIT_BYTES, follow_links=False)


def _read(kind: type[T], path: Path, *, limit: int, follow_links: bool = True) -> T:
    content = read_bytes(path, limit=limit, follow_links=follow_links)
    try:
        return kind.model_validate_json(content)
    except ValidationError as error:
        what = "no valid JSON"
        # The key's name needs the raw content; read it again only now, when it is bad anyway.
        with contextlib.suppress(UsageError):
            what = explain_validation(error, read_json(path), kind)
        raise UsageError(what, where=str(path), remedy="repair it or move it away") from error


def record_files(folder: Path) -> list[Path]:
    """Return the paths of a run's records, sorted by name."""
    records, names = folder / "records", list[str]()
    with os_errors(records), contextlib.suppress(FileNotFoundError):
        names = os.listdir(records)  # noqa: PTH208 - names are sorted faster than paths
    return [records / name for name in sorted(names) if name.endswith(".json") and not name.startswith(".")]


def run_of(path: Path, record: Record) -> Path | None:
    """Return the folder of the run that the record's file lies in, by the name that the run gave it; else None."""
    records = path.parent.resolve()
    kept = records.name == "records" and (records.parent / RUN_FILE).is_file()
    return records.parent if kept and path.stem == stem_of(record) else None


def stem_of(record: Record) -> str:
    """Return the name, without ending, of the record's files: `forward-inductor@cpu-0123456789abcdef-r0`."""
    prefix = "probe-" if record.role == "probe" else ""
    stem = f"{prefix}{record.workload.benchmark}-{record.method}@{record.stack}-{record.cell_id}-r{record.round}"
    if not STEM.fullmatch(stem):
        raise UsageError(f"{stem!r} cannot be a file's name", where="record", remedy="use a-z, 0-9, - and _ in names")
    return stem


def runs(results: Path) -> list[Path]:
    """Return the folders in `results` that hold a run, oldest first by name; renamed ones come first."""
    found = list[Path]()
    with os_errors(results), contextlib.suppress(FileNotFoundError):
        found = [place for place in results.iterdir() if (place / RUN_FILE).is_file()]
    return sorted(found, key=lambda place: (bool(RUN_NAME.fullmatch(place.name)), place.name))


def newest_run(results: Path) -> Run:
    """Return the newest run; none at all is a UsageError.

    Where all have been renamed their names say no age: the one that was begun last, by its own account.
    """
    found = runs(results)
    if not found:
        raise UsageError("no run here", where=str(results), remedy="start one with `orchestrator run-all`")
    if RUN_NAME.fullmatch(found[-1].name):
        return Run.open(found[-1])
    renamed = []
    for folder in found:
        with contextlib.suppress(UsageError):
            renamed.append(Run.open(folder))
    return max(renamed, key=lambda run: run.header.started_utc) if renamed else Run.open(found[-1])


def find_run(results: Path, name: str | None) -> Run:
    """Return the run called `name` in `results`, or in the folder `name`; without a name the newest."""
    if name is None:
        return newest_run(results)
    for folder in (results / name, Path(name)):
        with contextlib.suppress(ValueError, OSError):
            if (folder / RUN_FILE).is_file():
                return Run.open(folder)
    known = ", ".join(folder.name for folder in runs(results)) or "none"
    raise UsageError(f'no run "{name}"', where=str(results), remedy=f"known: {known}")


def newest_unfinished(results: Path) -> Run | None:
    """Return the newest run that was not finished; a finished one that is newer does not hide it."""
    for folder in reversed(runs(results)):
        run = Run.open(folder)
        if not run.finished and RUN_NAME.fullmatch(folder.name):
            return run
    return None


def resumable(results: Path, plan: Plan, bench_source: str, launcher: str) -> tuple[Run | None, str]:
    """Return the newest unfinished run if it can go on, else None and why it cannot (empty: no such run)."""
    run = newest_unfinished(results)
    why = why_another(run.header, plan, bench_source, launcher) if run else ""
    return (None, f"the unfinished run {run.folder.name} {why}") if run and why else (run, "")


def why_another(header: Header, plan: Plan, bench_source: str, launcher: str) -> str:
    """Return what keeps a run with this header from going on with the plan; empty where nothing does."""
    if header.plan_id != plan.plan_id:
        what = f"suite {header.suite}" if header.suite != plan.suite else "other cells, rounds or deadlines"
        return f"has another plan ({what})"
    if header.bench_source != bench_source:
        return "was measured by another version of bench"
    if header.launcher not in (None, launcher):
        return f"has its cells run by the launcher {header.launcher}"
    return ""


def _new_folder(results: Path, wanted: str) -> Path:
    for number in range(1, 100):
        folder = results / (wanted if number == 1 else f"{wanted}-{number}")
        # Where it is there, another run began in the same second.
        with os_errors(results), contextlib.suppress(FileExistsError):
            folder.mkdir()
            return folder
    raise UsageError("too many runs in one second", where=str(results), remedy="try again")


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
