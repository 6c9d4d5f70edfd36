"""The commands that run a record's cell again."""

from __future__ import annotations

import shlex
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from orchestrator.records.record import Record


def command(suite: str, record: Record, rounds: int = 1) -> str:
    """Return the command line that runs the record's cell as it was run, as often as `rounds` says.

    A checkpoint's place is not in the record: the words FOLDER stand for it.
    """
    provenance = record.provenance
    words = ["orchestrator", "run-all", "--suite", suite, "--stack", record.stack]
    if record.workload.benchmark != "ceilings":
        words += ["--method", record.method, "--benchmark", record.workload.benchmark]
    if record.workload.weights is not None and record.workload.weights.source == "checkpoint":
        words += ["--checkpoint", "FOLDER"]
    if provenance is not None and provenance.launcher in ("docker", "local"):
        words += ["--launcher", provenance.launcher]
    if provenance is not None and provenance.cache == "shared":
        words += ["--cache", "shared"]
    if rounds > 1:
        words += ["--rounds", str(rounds)]
    return " ".join(shlex.quote(word) for word in (*words, "--fresh"))


def reproduction(run_id: str, record: Record, rounds: int = 1) -> str:
    """Return the command line that runs a row's cell again from its record and says whether its figure came out."""
    words = ["orchestrator", "reproduce", record.cell_id, "--run", run_id]
    return " ".join(shlex.quote(word) for word in (*words, *(["--rounds", str(rounds)] if rounds > 1 else [])))
