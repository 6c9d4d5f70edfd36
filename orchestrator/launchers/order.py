"""What one orchestrator asks another of its kind on a worker's host to do, and its answer: two files in one folder.

So a round is supervised where it runs, by the same code: the host's GPU, its load and its clock are seen at first hand.
`orchestrator on-host FOLDER` reads the order; see runner/on_host.py.
"""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from pydantic import ValidationError

from orchestrator.base.errors import InfrastructureError, UsageError
from orchestrator.base.files import Frozen, read_bytes, write_text
from orchestrator.host.gpu import HostGpu
from orchestrator.launchers import Job, Prepared
from orchestrator.plan.stack import Stack
from orchestrator.plan.workload import RECORD_LIMIT_BYTES
from orchestrator.records.record import Record

ORDER_FILE, ANSWER_FILE, WORK, LOG_FILE = "order.json", "answer.json", "work", "log.txt"
"""In the folder: of a round, `work` is the cell's work folder, and its log and telemetry lie beside that."""


class Order(Frozen):
    """What to do there. Paths are as that host sees them; those of `job` that lie in its own folder are put there."""

    what: Literal["gpus", "prepare", "round"]
    """List the GPUs; make a stack ready and ask it what is installed; run one round of a cell."""
    purpose: str = "a run"
    """A word for whoever waits for the GPU's lock."""
    launcher: Literal["docker", "local"] = "docker"
    gpu: str | None = None
    """The UUID of the one that is used, which is locked meanwhile."""
    bench: Path | None = None
    """The run's copy of bench; None: that of the package there."""
    stack: Stack | None = None
    stack_folder: Path | None = None
    prepared: Prepared | None = None
    job: Job | None = None


class Answer(Frozen):
    """What came of it: the part that was asked for, or why there is none."""

    error: str | None = None
    gpus: tuple[HostGpu, ...] = ()
    prepared: Prepared | None = None
    facts: str = ""
    """What `python -m bench --facts` prints in the stack."""
    record: Record | None = None


def write_order(folder: Path, order: Order) -> None:
    """Write the order into the folder; a work folder for a round's job lies in it, or is made there by hand."""
    write_text(folder / ORDER_FILE, order.model_dump_json() + "\n")


def read_order(folder: Path) -> Order:
    """Return the order in the folder; a bad one is a UsageError."""
    try:
        return Order.model_validate_json(read_bytes(folder / ORDER_FILE))
    except ValidationError as error:
        what = f"not an order ({error.error_count()} wrong values)"
        raise UsageError(what, where=ORDER_FILE, remedy="both sides must be of one version") from error


def write_answer(folder: Path, answer: Answer) -> None:
    """Write the answer into the folder, whole or not at all."""
    write_text(folder / ANSWER_FILE, answer.model_dump_json() + "\n")


def read_answer(folder: Path, host: str) -> Answer:
    """Return the answer in the folder; InfrastructureError where there is none, or the host says why not."""
    try:
        found = Answer.model_validate_json(read_bytes(folder / ANSWER_FILE, limit=RECORD_LIMIT_BYTES))
    except (UsageError, ValidationError) as error:
        raise InfrastructureError("it left no answer that can be read", where=host) from error
    if found.error is not None:
        raise InfrastructureError(found.error, where=host)
    return found
