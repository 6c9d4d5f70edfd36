"""Workers: the GPUs of this host and of others, each of which runs one cell at a time, with a launcher of its own."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import Protocol

from orchestrator.base.text import Say
from orchestrator.host.gpu import HostGpu
from orchestrator.launchers import Job, Launcher, Prepared
from orchestrator.plan.cell import Device
from orchestrator.plan.hosts import HostEntry
from orchestrator.plan.stack import Stack
from orchestrator.records.record import Record


class Supervise(Protocol):
    """What runs one round and returns its record whatever happens, as `measure.supervise.supervise` does here."""

    def __call__(self, launcher: Launcher, prepared: Prepared, job: Job, on_event: Callable[..., None], /) -> Record:
        """Leave the log at `job.log`, the telemetry beside it, the cell's files in `job.work`; return the record."""


def lives() -> str | None:
    """Say that nothing is known against the worker."""
    return None


@dataclass(frozen=True)
class Worker:
    """One GPU of a host, or a host without any, on which one cell at a time runs. One thread alone calls its launcher.

    `name` and `host` are for people and never stand in a record.
    """

    name: str
    host: str
    """Workers of one host share its CPUs: what the CPU decides runs there alone."""
    gpu: HostGpu | None
    launcher: Launcher
    supervise: Supervise | None = None
    """Runs its rounds, where they are not supervised from this process."""
    alive: Callable[[], str | None] = lives
    """Returns, within 10 s, why the worker can run no more cells; None where it can."""
    facts: Mapping[str, str] = field(default_factory=lambda: MappingProxyType({}))
    """What its rounds' records say of it: binding, scratch, kind of container. No host names, no paths."""

    @property
    def uuid(self) -> str | None:
        """Its GPU's UUID."""
        return self.gpu.uuid if self.gpu is not None else None

    @property
    def model(self) -> str | None:
        """What a cell's identity says of its GPU."""
        return self.gpu.identity if self.gpu is not None else None


@dataclass(frozen=True)
class Opening:
    """What an opener of hosts is given."""

    run: str
    """A name for labels and jobs, of this orchestrator process alone."""
    bench: Path
    """This run's copy of bench, `…/stackbench/bench`."""
    stacks: Mapping[str, Stack]
    """Those that the plan uses."""
    devices: Mapping[str, Device]
    """Of each of these stacks."""
    checkpoints: Sequence[Path]
    """Folders of weights that cells read."""
    state: Path
    say: Say
    """Shows a line to the person; any thread may call it."""
    purpose: str
    """A word about what runs, for whoever waits for a GPU's lock."""
    longest_s: float
    """The longest deadline of a cell."""
    total_s: float
    """What all rounds together are expected to take on one GPU."""
    allow_busy: bool = False


Opener = Callable[[HostEntry, Opening], AbstractContextManager[Sequence[Worker]]]
"""Reaches a host, checks its GPUs and gives its workers; at the exit nothing of the run's is left there.

UsageError for an entry that cannot be meant, InfrastructureError for a host that cannot be had. It is entered and left
by one thread, which lives as long as the host is used.
"""
