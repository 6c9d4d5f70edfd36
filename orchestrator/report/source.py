"""What a page is made from: a run's report, the records behind its rows, and the logs beside them."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from orchestrator.analysis.reduced_run import Report, make_report
from orchestrator.base.errors import UsageError
from orchestrator.base.files import read_bytes
from orchestrator.base.grouping import grouped
from orchestrator.base.untrusted import sha256_of
from orchestrator.plan.workload import Benchmark
from orchestrator.records.asked import Asked, read_asked
from orchestrator.records.record import Record, is_row
from orchestrator.records.store import LOG_LIMIT_BYTES, Run, stem_of

LOG_LINES = 60
LOG_CHARACTERS = 6_000
LOG_SLACK_BYTES = 4_096
"""Room for the line that the store puts where it left out the middle of a long log."""


@dataclass(frozen=True)
class Source:
    """One run. `records` has every round of every row by cell_id, in the order of the rounds."""

    folder: Path
    report: Report
    records: dict[str, tuple[Record, ...]]
    probes: dict[tuple[Benchmark, str, str], tuple[Record, ...]]
    """By benchmark, method and stack."""
    unreadable: tuple[str, ...]
    asked: Asked
    """What its command line named on this host."""

    @property
    def name(self) -> str:
        """The run's folder: how a person calls it on the command line."""
        return self.folder.resolve().name


def read_source(folder: Path, records: Sequence[Record] | None = None) -> Source:
    """Read a run, or take those of its records that are given.

    A folder that is not a run is a UsageError; a file that is not a record is named in `unreadable`.
    """
    unreadable: list[str] = []
    records = list(Run.open(folder).records(unreadable)) if records is None else records
    rounds = grouped((r.cell_id, r) for r in sorted(records, key=lambda r: r.round) if is_row(r))
    probes = grouped(((r.workload.benchmark, r.method, r.stack), r) for r in records if r.role == "probe")
    return Source(folder, make_report(folder, records), rounds, probes, tuple(unreadable), read_asked(folder))


@dataclass(frozen=True)
class Log:
    """The end of a round's log. `remark` says where it is not what the record names."""

    name: str
    text: str
    left_out: int
    """Lines before those shown."""
    remark: str | None = None


def file_text(source: Source, name: str, sha256: str | None) -> str | None:
    """Return a file's name and the SHA-256 that a record names, and where it is not what lies there; None without."""
    if sha256 is None:
        return None
    found = sha256_of(source.folder / name)
    differs = "" if found == sha256 else f" (the file here has another: {found})"
    return f"{name}, SHA-256 {sha256}{' (it is not here)' if found is None else differs}"


def read_log(source: Source, record: Record) -> Log | None:
    """Return the end of the record's log, or nothing where it has none."""
    if record.log_sha256 is None:
        return None
    name = f"logs/{stem_of(record)}.log"
    try:
        content = read_bytes(source.folder / name, limit=LOG_LIMIT_BYTES + LOG_SLACK_BYTES, follow_links=False)
    except UsageError as error:
        return Log(name, "", 0, f"it cannot be shown: {error.what}")
    same = hashlib.sha256(content).hexdigest() == record.log_sha256
    remark = None if same else "this is not the log that the record names: its SHA-256 is another"
    text, left_out = _end(content.decode("utf-8", errors="replace").splitlines())
    return Log(name, text, left_out, remark)


def _end(lines: Sequence[str]) -> tuple[str, int]:
    kept: list[str] = []
    room = LOG_CHARACTERS
    for line in reversed(lines[-LOG_LINES:]):
        if kept and len(line) > room:
            break
        kept.insert(0, line if len(line) <= LOG_CHARACTERS else line[:LOG_CHARACTERS] + " …")
        room -= len(line) + 1
    return "\n".join(kept), len(lines) - len(kept)
