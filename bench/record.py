"""Writes a cell's record and events: the record beside its place and then renamed, so it is whole or absent."""

from __future__ import annotations

import datetime as dt
import json
from pathlib import Path
from time import monotonic_ns
from typing import Any, TextIO

from bench.spec import Spec

FROM_SPEC = ("cell_id", "workload_id", "round", "stack", "method", "device", "bench_source", "method_source", "kind")


class Events:
    """`events.jsonl`: one line for each phase and sample, for whoever watches from outside."""

    def __init__(self, folder: Path) -> None:
        self.phases: list[dict[str, Any]] = []
        self._file: TextIO = (folder / "events.jsonl").open("a", encoding="utf-8")

    def phase(self, name: str) -> None:
        """Close the phase that ran and open the next."""
        now = self.close()
        self.phases.append({"name": name, "begin_ns": now, "end_ns": now})
        self._write({"t_ns": now, "event": "phase", "name": name})

    def close(self) -> int:
        """End the running phase now; return the time."""
        now = monotonic_ns()
        if self.phases:
            self.phases[-1]["end_ns"] = now
        return now

    def sample(self, index: int, of: int) -> None:
        """Say that sample `index` is done."""
        self._write({"t_ns": monotonic_ns(), "event": "sample", "index": index, "of": of})

    def samples(self, ask: int, rows: list[list[Any]], *, more: bool) -> None:
        """Ask, for the `ask`th time, which of these samples to measure again; `more` rows follow."""
        self._write({"t_ns": monotonic_ns(), "event": "samples", "ask": ask, "rows": rows, "more": more})

    def _write(self, line: dict[str, Any]) -> None:
        self._file.write(json.dumps(line) + "\n")
        self._file.flush()


def write_json(path: Path, content: dict[str, Any]) -> None:
    """Write canonical JSON (NaN is refused: unknown is null) and rename it into place."""
    beside = path.with_name(path.name + ".part")
    beside.write_text(json.dumps(content, allow_nan=False, sort_keys=True) + "\n", encoding="utf-8")
    beside.replace(path)


def blank(spec: Spec) -> dict[str, Any]:
    """The record before anything was done."""
    now = dt.datetime.now(tz=dt.timezone.utc)
    return {
        "schema_version": 1,
        "written_by": "bench",
        **{name: getattr(spec, name) for name in FROM_SPEC},
        "workload": spec.raw,
        "status": "crashed",
        "reason": None,
        "flags": [],
        "started_utc": now.isoformat(),
        "samples": [],
        "rates": [],
        "detail": {},
    }
