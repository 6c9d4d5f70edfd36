"""The run's references: files of the truth that its rows are checked against, made once by cells of their own."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from orchestrator.base.errors import UsageError
from orchestrator.base.files import make_folder
from orchestrator.base.untrusted import sha256_of, take_over
from orchestrator.plan.cell import Cell
from orchestrator.records.record import Record

FOLDER = "references"
DETAIL = "references"
"""Key of a reference record's `detail`: {workload_id: {"sha256": …}} of the files that it left."""
ENDING = ".safetensors"
LIMIT_BYTES = 2_000_000_000
READABLE_FOLDER = 0o755
SHA256 = re.compile("[0-9a-f]{64}")


@dataclass
class References:
    """Which references of a run are there, by workload: their SHA-256. `folder` is in the run's own."""

    folder: Path
    known: dict[str, str] = field(default_factory=dict)

    @classmethod
    def of_run(cls, run_folder: Path, records: Iterable[Record], ordinal: int = 0) -> References:
        """Return those that the records name and that lie in the folder with the very content (not in every copy).

        Where a run has several GPUs, each but the first (by its `ordinal`) has its own in a folder of that name.
        """
        found = cls(run_folder / FOLDER / (str(ordinal) if ordinal else ""))
        for record in records:
            for workload_id, sha256 in recorded(record).items():
                if sha256_of(found.path(workload_id)) == sha256:
                    found.known[workload_id] = sha256
        return found

    def path(self, workload_id: str) -> Path:
        """Return the file of a workload's reference."""
        return self.folder / f"{workload_id}{ENDING}"

    def complete(self, record: Record) -> bool:
        """Whether everything that a reference record names is here."""
        return all(self.known.get(workload_id) == sha256 for workload_id, sha256 in recorded(record).items())

    def collect(self, work: Path, cell: Cell, record: Record, say: Callable[[str], None]) -> Record:
        """Take over what a reference cell's process left in `work` and return the record with the files' hashes."""
        left = record.detail.get(DETAIL)
        detail: dict[str, Any] = {}
        for subject in cell.workload.subjects or ():
            workload_id = subject.workload_id
            facts = left.get(workload_id) if isinstance(left, dict) else None
            kept = dict(facts) if isinstance(facts, dict) else {}
            kept.pop("sha256", None)
            self.known.pop(workload_id, None)
            try:
                make_folder(self.folder)
                self.folder.chmod(READABLE_FOLDER)  # the containers' user is another than the one whose mask made it
                source = work / f"reference-{workload_id}{ENDING}"
                # One that a power cut takes does not fit its hash, and is computed again.
                kept["sha256"] = take_over(source, self.path(workload_id), limit=LIMIT_BYTES, lasting=False)
                kept["bytes"] = self.path(workload_id).stat().st_size
                self.known[workload_id] = kept["sha256"]
            except (UsageError, OSError) as error:
                why = error.what if isinstance(error, UsageError) else str(error.strerror)
                kept["reason"] = kept.get("reason") or f"no file was taken over: {why}"
                say(f"no reference for {subject.benchmark}: {kept['reason']}")
            detail[workload_id] = kept
        return record.model_copy(update={"detail": {**record.detail, DETAIL: detail}})


def recorded(record: Record) -> Mapping[str, str]:
    """Return the SHA-256 by workload that a reference record names; nothing for any other record."""
    left = record.detail.get(DETAIL)
    if record.role != "reference" or not isinstance(left, dict):
        return {}
    return {
        workload_id: facts["sha256"]
        for workload_id, facts in left.items()
        if isinstance(facts, dict) and isinstance(facts.get("sha256"), str) and SHA256.fullmatch(facts["sha256"])
    }
