"""What is written for a step on a node, and what it answers: files on a file system that both sides see."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Literal, TypeVar

from pydantic import BaseModel, ValidationError

from orchestrator.base.errors import InfrastructureError
from orchestrator.base.files import Frozen, os_errors, write_text
from orchestrator.host.gpu import HostGpu
from orchestrator.launchers import Job, Prepared
from orchestrator.plan.cell import Device
from orchestrator.plan.stack import GpuAccess, Stack
from orchestrator.records.record import Record

M = TypeVar("M", bound=BaseModel)
Container = Literal["docker", "pyxis", "local"]
ORDER, ANSWER = "order.json", "answer.json"
FIRST = "first.json"
"""A cell's record before the warm start: what is left where the node fails during that."""
BEGUN, EVENT, OUTPUT, SCRIPT = "begun", "event.json", "step.txt", "step.sh"
AT_WORK = "at-work"
"""Is there while a step may have something on its node: its node's name, and on the next line its process's owner."""


class LookOrder(Frozen):
    """Look at a node before its first cell."""

    container: Container
    gpus: int
    """How many GPUs it must have; 0: the plan's cells use none."""
    allow_busy: bool


class LookAnswer(Frozen):
    """What a node is. `trouble`: why it can run no cells."""

    gpus: tuple[HostGpu, ...] = ()
    trouble: str | None = None
    remarks: tuple[str, ...] = ()


class StackOrder(Frozen):
    """Make a stack ready on a node: its image is found, brought from another node, built or pulled."""

    stack: Stack
    folder: Path
    """The stack's; a file of a stack does not say it."""
    device: Device
    gpus: tuple[HostGpu, ...]
    container: Container
    bench: Path
    images: Path
    """A folder that all nodes see: an image that one of them has built lies there for the others."""
    keep: bool
    """Whether other nodes need it."""

    def with_folder(self) -> Stack:
        """Return the stack with its folder."""
        return self.stack.model_copy(update={"folder": self.folder})


class StackAnswer(Frozen):
    """A stack that is ready on a node."""

    prepared: Prepared | None = None
    facts: str = ""
    access: GpuAccess = "auto"
    trouble: str | None = None
    unfit: Mapping[str, str] = {}
    """GPUs, by UUID, that no container sees, with the reason."""
    said: tuple[str, ...] = ()


class CellOrder(Frozen):
    """Run a round of a cell."""

    job: Job
    prepared: Prepared
    folder: Path
    """The stack's."""
    gpu: HostGpu | None
    peers: tuple[HostGpu, ...] = ()
    """Further GPUs, of a cell of several."""
    any_gpu: bool = False
    """Whichever of this model Slurm gives the job, in place of the one with this UUID."""
    access: GpuAccess
    container: Container
    bench: Path
    images: Path
    keep: bool
    """As of a stack's order: in an array the node may be one that has seen none."""
    purpose: str


class CellAnswer(Frozen):
    """What came of it."""

    record: Record | None = None
    trouble: str | None = None
    """Why there is no record: the node's doing."""


class StepEvent(Frozen):
    """What the cell's process said last, for whoever watches."""

    phase: str
    index: int | None = None
    of: int | None = None


def write(path: Path, said: BaseModel) -> None:
    """Write it whole or not at all."""
    write_text(path, said.model_dump_json() + "\n")


def read(path: Path, model: type[M]) -> M:
    """Return what stands in the file; InfrastructureError where it is not what the other side writes."""
    with os_errors(path.name):
        content = path.read_bytes()
    try:
        return model.model_validate_json(content)
    except ValidationError as error:
        what = "what the node wrote cannot be read: is it another version of this package?"
        raise InfrastructureError(what, where=path.name) from error


def at_work(steps: Path) -> Iterator[tuple[Path, str, str]]:
    """Yield each mark of a step at work below `steps`: its file, its node's name, its process's owner."""
    for path in steps.glob(f"*/{AT_WORK}"):
        with contextlib.suppress(OSError):
            node, _, owner = path.read_text(encoding="utf-8").partition("\n")
            yield path, node, owner
