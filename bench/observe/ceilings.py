"""The two ceilings of the device, measured: matrix product in the workload's type, and device copy."""

from __future__ import annotations

from typing import Any

import torch

from bench.observe.clock import Clock
from bench.record import Events
from bench.spec import Workload


def measure(workload: Workload, device: str, clock: Clock, events: Events) -> list[dict[str, Any]]:
    """Rates: for each, the duration of every timed call and the work of one (FLOPs, or bytes read + written)."""
    events.phase("samples")
    rates = [matrix_product(size, workload, device, clock) for size in workload.matrix_sizes or ()]
    if workload.copy_bytes:
        rates.append(device_copy(workload.copy_bytes, workload, device, clock))
    return rates


def matrix_product(size: int, workload: Workload, device: str, clock: Clock) -> dict[str, Any]:
    """Square product at `size`: 2 * size**3 FLOPs. Values are spread as a model's are; zeros would run faster."""
    dtype = getattr(torch, workload.dtype)
    generator = torch.Generator(device).manual_seed(workload.seed)
    a, b = (torch.randn(size, size, device=device, generator=generator).to(dtype) for _ in range(2))
    out = torch.empty(size, size, dtype=dtype, device=device)
    taken = _repeat(lambda: torch.mm(a, b, out=out), workload, clock)
    return {"kind": "matrix_product", "size": size, "work": 2 * size**3, **taken}


def device_copy(count: int, workload: Workload, device: str, clock: Clock) -> dict[str, Any]:
    """Copy `count` bytes: each is read once and written once."""
    source = torch.ones(count // 4, dtype=torch.float32, device=device)
    target = torch.empty_like(source)
    taken = _repeat(lambda: target.copy_(source), workload, clock)
    return {"kind": "device_copy", "size": count, "work": 2 * count, **taken}


def _repeat(call: Any, workload: Workload, clock: Clock) -> dict[str, Any]:
    timed = [clock.time(call)[1] for _ in range(workload.warmup + workload.iterations)][workload.warmup :]
    durations = [timing.device_ns or timing.end_ns - timing.begin_ns for timing in timed]
    return {"durations_ns": durations, "begin_ns": timed[0].begin_ns, "end_ns": timed[-1].end_ns}
