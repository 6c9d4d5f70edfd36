"""Which devices a run uses, and holding them: the GPU that is free, and the locks of all that the plan needs."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from orchestrator.base.errors import UsageError
from orchestrator.base.text import NO_GPU, Say
from orchestrator.host import locks
from orchestrator.host.gpu import HostGpu, choose_gpu, gpus, selected
from orchestrator.plan import memory
from orchestrator.plan.cell import Plan
from orchestrator.plan.choice import RunOptions


def pick_gpu(found: Sequence[HostGpu], options: RunOptions) -> HostGpu | None:
    """Return the GPU to run on; None where there is none to be had, and cells that need one become `skipped`.

    One that is busy with another run of ours is not refused: its lock is waited for.
    """
    mine = selected(found, options.gpu)
    if not mine and options.gpu is None:
        return None
    free = [gpu for gpu in mine if locks.is_free(gpu.uuid)]
    if options.gpu is None and any(not gpu.busy for gpu in free):
        return choose_gpu(free, None, allow_busy=options.allow_busy)
    try:
        return choose_gpu(found, options.gpu, allow_busy=options.allow_busy)
    except UsageError:
        waited_for = [gpu for gpu in mine if gpu not in free]
        if not waited_for:
            raise
        return waited_for[0]


def pick_peers(found: Sequence[HostGpu], gpu: HostGpu | None, plan: Plan, *, allow_busy: bool) -> tuple[HostGpu, ...]:
    """Return further GPUs of the same model for the plan's cells of several; fewer where there are not so many."""
    wanted = max((cell.workload.devices for cell in plan.cells if cell.device == "cuda"), default=1)
    if gpu is None:
        return ()
    alike = [one for one in gpu.alike(found) if one.visible]
    free = [one for one in alike if allow_busy or (not one.busy and locks.is_free(one.uuid))]
    return tuple(free[: wanted - 1])


@contextlib.contextmanager
def hold_devices(plan: Plan, gpu: HostGpu | None, say: Say, peers: Sequence[HostGpu] = ()) -> Iterator[None]:
    """Hold the locks of all devices that the plan uses, always in the same order."""
    devices = [None] if any(cell.device == "cpu" for cell in plan.cells) else []
    uuids = [*devices, *(one.uuid for one in (gpu, *peers) if one)]
    with locks.hold_all(uuids, purpose=f"suite {plan.suite}", say=say):
        yield


@dataclass(frozen=True)
class Host:
    """The GPU that would be used and the engine that answers, in words; None where there is none.

    `no_gpu` is why there is none, where there is none.
    """

    gpu: str | None
    engine: str | None
    found: tuple[HostGpu, ...] = ()
    no_gpu: str = NO_GPU

    def beyond_memory(self, plan: Plan) -> list[str]:
        """Return a line for each workload that cannot fit into the memory of its device here."""
        on_gpus = [gpu.memory_bytes for gpu in self.found if gpu.memory_bytes is not None]
        return memory.beyond(plan, {"cuda": max(on_gpus, default=None), "cpu": memory_bytes()})


def look(options: RunOptions) -> Host:
    """Look at the host without touching anything. A busy GPU is not an error here: a plan runs nothing."""
    here = gpus()
    gpu = None
    if options.gpu is not None or selected(here.found, None):
        chosen = choose_gpu(here.found, options.gpu, allow_busy=True, why_none=here.why_none)
        remark = here.remark(options.gpu)
        gpu = f"{chosen.name} ({remark})" if remark else chosen.name
    engine = None
    if options.launcher != "local":
        from orchestrator.host import docker_engine  # The docker SDK takes a while to import: only where it is asked.

        client = docker_engine.connect() if options.launcher == "docker" else docker_engine.answers()
        with docker_engine.engine_errors():
            engine = client and f"Docker Engine {client.version().get('Version', '?')}"
    return Host(gpu=gpu, engine=engine, found=here.found, no_gpu=here.why_none)


def facts(gpu: HostGpu | None) -> dict[str, Any]:
    """Return what hardware this is, `gpu` being the one that is used; no host name, no path."""
    shown = ("name", "uuid", "driver", "memory_bytes")
    return {
        "gpu": None if gpu is None else {name: getattr(gpu, name) for name in shown},
        "cores": len(os.sched_getaffinity(0)),
        "memory_bytes": memory_bytes(),
    }


def memory_bytes() -> int:
    """Return how much memory this host has."""
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
