"""What this host has, as far as a plan depends on it: a GPU, and a Docker Engine that answers."""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from orchestrator.base.errors import StackbenchError
from orchestrator.host.gpu import HostGpu, choose_gpu, gpus

if TYPE_CHECKING:
    from orchestrator.plan.options import RunOptions


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


def facts(gpu: HostGpu | None) -> dict[str, Any]:
    """Return what hardware this is, `gpu` being the one that is used; no host name, no path."""
    shown = ("name", "uuid", "driver", "memory_bytes")
    return {
        "gpu": None if gpu is None else {name: getattr(gpu, name) for name in shown},
        "cores": len(os.sched_getaffinity(0)),
        "memory_bytes": os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"),
    }


def engine_version(*, needed: bool) -> str | None:
    """Return `Docker Engine 27.3.1`; where none answers None, or, when it is needed, a UsageError with the reason."""
    from orchestrator.host import docker_engine  # The docker SDK takes a while to import: only where it is asked.

    try:
        return docker_engine.version()
    except StackbenchError:
        if needed:
            raise
        return None
