"""Which devices a run uses, and holding them: the GPU that is free, and the locks of all that the plan needs."""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING

from orchestrator.base.errors import UsageError
from orchestrator.host import locks
from orchestrator.host.gpu import choose_gpu

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from orchestrator.host.gpu import HostGpu
    from orchestrator.plan.cell import Plan
    from orchestrator.plan.options import RunOptions


def pick_gpu(found: Sequence[HostGpu], options: RunOptions) -> HostGpu | None:
    """Return the GPU to run on; None on a host without any, where cells that need one become `skipped`.

    One that is busy with another run of ours is no reason to refuse: its lock is waited for.
    """
    if not found:
        return None
    free = [gpu for gpu in found if locks.is_free(gpu.uuid)]
    mine = [gpu for gpu in found if options.gpu in (None, gpu.uuid)]
    if options.gpu is None and any(not gpu.busy for gpu in free):
        return choose_gpu(free, None, allow_busy=options.allow_busy)
    try:
        return choose_gpu(found, options.gpu, allow_busy=options.allow_busy)
    except UsageError:
        waited_for = [gpu for gpu in mine if gpu not in free]
        if not waited_for:
            raise
        return waited_for[0]


@contextlib.contextmanager
def hold_devices(plan: Plan, gpu: HostGpu | None, say: Callable[[str], None]) -> Iterator[None]:
    """Hold the locks of all devices that the plan uses, always in the same order."""
    devices = {cell.device for cell in plan.cells}
    with contextlib.ExitStack() as held:
        if "cpu" in devices:
            held.enter_context(locks.hold(None, purpose=f"suite {plan.suite}", say=say))
        if gpu is not None:
            held.enter_context(locks.hold(gpu.uuid, purpose=f"suite {plan.suite}", say=say))
        yield
