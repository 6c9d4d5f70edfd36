"""The run's folders of weights for engines: made once by cells of their own, in the work area, and gone with it."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from orchestrator.base.errors import UsageError
from orchestrator.base.files import make_folder, os_errors
from orchestrator.base.untrusted import READ_ONLY, open_plain, sha256_of
from orchestrator.plan.cell import Cell
from orchestrator.records.record import Record

FOLDER = DETAIL = "weights"
"""In the work area; and the key of a weights record's `detail`: {workload_id: {"files": …, "sha256": …}}."""
READABLE_FOLDER = 0o755
MOST_FILES = 1_000


@dataclass
class WeightFolders:
    """Which folders are there, by the workload_id of `weights_workload`: a hash over their files."""

    folder: Path
    known: dict[str, str] = field(default_factory=dict)

    def path(self, workload_id: str) -> Path:
        """Return the place of a folder."""
        return self.folder / workload_id

    def collect(self, work: Path, cell: Cell, record: Record, say: Callable[[str], None]) -> Record:
        """Take over what a weights cell's process left in `work`; return the record with the folders' own hashes."""
        detail: dict[str, Any] = {}
        for subject in cell.workload.subjects or ():
            name = subject.workload_id
            try:
                files = self._take(work / f"weights-{name}", self.path(name))
                self.known[name] = hashlib.sha256(json.dumps(files, sort_keys=True).encode()).hexdigest()
                detail[name] = {"files": files, "sha256": self.known[name]}
            except (UsageError, OSError) as error:
                why = error.what if isinstance(error, UsageError) else str(error.strerror)
                detail[name] = {"files": None, "sha256": None, "reason": f"no folder was taken over: {why}"}
                say(f"no weights for engines: {detail[name]['reason']}")
        return record.model_copy(update={"detail": {**record.detail, DETAIL: detail}})

    def _take(self, source: Path, target: Path) -> dict[str, str]:
        """Move a folder of plain files, whose process has ended, out of its reach; return {name: SHA-256}."""
        with os_errors(source.name):
            if source.is_symlink() or not source.is_dir():
                raise UsageError("it left none", where=source.name)
            names = sorted(os.listdir(source))  # noqa: PTH208  (the names alone)
            if len(names) > MOST_FILES:
                raise UsageError(f"more than {MOST_FILES} files", where=source.name)
            make_folder(self.folder)
            self.folder.chmod(READABLE_FOLDER)  # the containers' user is another than the one whose mask made it
            for name in names:
                with open_plain(source / name) as file:
                    os.fchmod(file.fileno(), READ_ONLY)
            source.chmod(READABLE_FOLDER)
            source.rename(target)
        found = {name: sha256_of(target / name) for name in names}
        if None in found.values() or not found:
            with contextlib.suppress(OSError):
                target.rename(source)
            raise UsageError("a file of it cannot be read", where=source.name)
        return {name: sha256 for name, sha256 in found.items() if sha256 is not None}
