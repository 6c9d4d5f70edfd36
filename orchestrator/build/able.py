"""Whether this host can run a stack at all: a GPU where one is needed, its driver, its compute capability."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from orchestrator.host.gpu import HostGpu
    from orchestrator.plan.cell import Device
    from orchestrator.plan.stack import Stack


def why_not(stack: Stack, gpu: HostGpu | None, device: Device) -> str | None:
    """Return why `stack` cannot run on `gpu` (None: there is none) of this host, or None where it can."""
    if device == "cpu":
        return None
    if gpu is None:
        return "this stack needs a GPU, and this host has none"
    if stack.gpu.driver and numbers(gpu.driver) < numbers(stack.gpu.driver):
        return f"this stack needs driver {stack.gpu.driver} or later, and this host has {gpu.driver}"
    capability = gpu.compute_capability
    if stack.gpu.compute_capability and capability and numbers(capability) < numbers(stack.gpu.compute_capability):
        return (
            f"this stack needs compute capability {stack.gpu.compute_capability} or higher, "
            f"and {gpu.name} has {capability}"
        )
    return None


def numbers(version: str) -> tuple[int, ...]:
    """Return the numbers in a version, for comparing: (535, 104, 5) for `535.104.05`."""
    return tuple(int(part) for part in re.findall(r"\d+", version))
