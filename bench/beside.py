"""A probe in a second precision: the same cell once more, in a process of its own, and one record of both.

On a GPU at the same time, and before torch is imported, since most of a probe's time is a process that starts and a
compiler; on a CPU, which they would have to share, one after the other.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import bench
from bench import children
from bench.spec import Spec

CACHE_FLAGS = ("cold", "warm")


@dataclass
class Other:
    """One of them: its precision, its folder, and its process once that runs."""

    dtype: str
    folder: Path
    process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Start it, unless it was started before."""
        if self.process is None:
            paths = [str(Path(bench.__file__).parents[1]), *filter(None, [os.environ.get("PYTHONPATH")])]
            command = [sys.executable, "-m", "bench", str(self.folder / "spec.json")]
            self.process = children.start(command, {**os.environ, "PYTHONPATH": os.pathsep.join(paths)})

    def record(self) -> dict[str, Any]:
        """Its record, as soon as it has ended; one of a crash where it left none."""
        self.start()
        assert self.process is not None
        code = self.process.wait()
        try:
            found: dict[str, Any] = json.loads((self.folder / "record.json").read_text(encoding="utf-8"))
        except (OSError, ValueError):
            return {"status": "crashed", "reason": f"its process ended with exit code {code} and left no record"}
        return found


@contextmanager
def others(spec: Spec) -> Iterator[list[Other]]:
    """Those that `spec` wants beside it, none for a first call alone; whatever happens, none outlives this."""
    found = [] if spec.only_first or spec.rank else [write_spec(spec, own) for own in spec.beside]
    try:
        for other in found if spec.device == "cuda" else ():
            other.start()
        yield found
    finally:
        for other in found:
            if other.process is not None and other.process.poll() is None:
                other.process.kill()
                other.process.wait()


def write_spec(spec: Spec, own: dict[str, Any]) -> Other:
    """Write the spec of one of them, in a folder inside the cell's."""
    dtype = own["workload"]["dtype"]
    other = Other(dtype, spec.folder / f"beside-{dtype}")
    other.folder.mkdir()
    content = json.loads((spec.folder / "spec.json").read_text(encoding="utf-8"))
    cache = None if spec.cache_folder is None else str(spec.folder / spec.cache_folder)
    content = {**content, **own, "cache_folder": cache, "beside": [], "repeats": False}
    (other.folder / "spec.json").write_text(json.dumps(content), encoding="utf-8")
    return other


def take_in(record: dict[str, Any], other: Other) -> None:
    """Put the other's checks and flags into `record`; raise where it came to no result."""
    from bench.status import exception_for

    found = other.record()
    said, own = found.get("proof") or {}, record["proof"]
    if found["status"] not in ("ok", "incorrect") or not said.get("checks"):
        raise exception_for(found["status"])(f"in {other.dtype}: {found['reason']}")
    own["checks"] += [{**check, "name": f"{other.dtype}: {check['name']}"} for check in said["checks"]]
    own["resembles"] = own["resembles"] or said["resembles"]
    new = [flag for flag in found["flags"] if flag not in (*CACHE_FLAGS, *record["flags"])]
    record["flags"] += new
    facts = {key: said.get(key) for key in ("reference", "inputs_checksum", "weights_checksum", "seconds")}
    record["detail"].setdefault("beside", {})[other.dtype] = facts
