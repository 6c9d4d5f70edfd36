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
    engine = None if options.launcher == "local" else engine_version(needed=options.launcher == "docker")
    return Host(gpu=gpu, engine=engine, found=found)


def engine_version(*, needed: bool) -> str | None:
    """Return `Docker Engine 27.3.1`; where none answers None, or, when it is needed, a UsageError with the reason."""
    from orchestrator import engine  # The docker SDK takes a while to import: only where it is asked.

    try:
        return engine.version()
    except StackbenchError:
        if needed:
            raise
        return None
