"""What this host has, as far as a plan depends on it: a GPU, and a Docker Engine that answers."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from orchestrator.errors import StackbenchError
from orchestrator.gpu import HostGpu, choose_gpu, gpus

if TYPE_CHECKING:
    from orchestrator.options import RunOptions


@dataclass(frozen=True)
class Host:
    """The GPU that would be used and the engine that answers, in words; None where there is none."""

    gpu: str | None
    engine: str | None
    found: tuple[HostGpu, ...] = ()


def look(options: RunOptions) -> Host:
    """Look at the host without touching anything. A busy GPU is no error here: a plan runs nothing."""
    found = gpus()
    gpu = choose_gpu(found, options.gpu, allow_busy=True).name if found or options.gpu else None
    return Host(gpu=gpu, engine=None if options.launcher == "local" else engine_version(), found=found)


def engine_version() -> str | None:
    """Return `Docker Engine 27.3.1`, or None where none answers."""
    from orchestrator import engine  # noqa: PLC0415 - the docker SDK takes a while to import

    try:
        return engine.version()
    except StackbenchError:
        return None
