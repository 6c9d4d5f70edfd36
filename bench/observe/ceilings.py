"""The ceilings of the device, measured: matrix product in the workload's type (a burst, sustained), and device copy."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from math import ceil
from time import monotonic_ns
from typing import Any

import torch

from bench.observe.clock import Clock, Timing
from bench.parallel import gather
from bench.record import Events
from bench.spec import Workload

# Sustained calls that are shorter are timed several at once: a record has room for 4,000 durations.
SHORTEST_NS, MOST_DURATIONS = 5_000_000, 4000


def measure(workload: Workload, device: str, clock: Clock, events: Events) -> list[dict[str, Any]]:
    """Rates: for each, the durations of what was timed, and the work in one of them (FLOPs, or bytes read + written).

    Every product is sustained too: which size is the fastest in a burst depends on how warm the device was by then.
    """
    events.phase("samples")
    if workload.devices > 1:
        return links(workload, device, clock)
    # The lower precisions first: products in float32 take long enough to heat the device.
    precisions = [*lower_precisions(workload, device), None]
    sizes = workload.matrix_sizes or ()
    rates = [matrix_product(size, precision, workload, device, clock) for precision in precisions for size in sizes]
    products = list(rates)
    if workload.copy_bytes:
        rates.append(device_copy(workload.copy_bytes, workload, device, clock))
    if workload.sustained_s:
        events.phase("sustained")
        # The first one's soak serves all: they follow one another without a rest.
        soaks = [workload.soak_s or 0.0, *[0.0] * len(products)]
        for product, soak_s in zip(products, soaks):  # noqa: B905  (Python 3.10's zip)
            rates.append(sustained(product, workload, device, clock, events, soak_s=soak_s))
    return rates


def lower_precisions(workload: Workload, device: str) -> tuple[str, ...]:
    """Those of the workload that the device has: TF32 came with compute capability 8.0."""
    has = device == "cpu" or torch.cuda.get_device_capability() >= (8, 0)
    return (workload.precisions or ()) if has else ()


def matrix_product(size: int, precision: str | None, workload: Workload, device: str, clock: Clock) -> dict[str, Any]:
    """Square product at `size`: 2 * size**3 FLOPs. `precision` None: the workload's type as it is."""
    with products_in(precision):
        taken = _repeat(_product(size, workload, device), workload, clock)
    return {"kind": "matrix_product", "size": size, "precision": precision, "work": 2 * size**3, **taken}


def sustained(
    burst: dict[str, Any], workload: Workload, device: str, clock: Clock, events: Events, *, soak_s: float
) -> dict[str, Any]:
    """The product of `burst` back to back: `soak_s` unrecorded, until clocks have settled, then the workload's time."""
    shortest_ns = max(SHORTEST_NS, (workload.sustained_s or 0) * 1e9 / MOST_DURATIONS)
    calls = ceil(shortest_ns / min(burst["durations_ns"]))
    call = _product(burst["size"], workload, device)

    def several() -> None:
        for _ in range(calls):
            call()

    begin = monotonic_ns()
    soaked = begin + round(soak_s * 1e9)
    end = soaked + round((workload.sustained_s or 0) * 1e9)
    timed: list[Timing] = []
    done, seconds = 0, ceil((end - begin) / 1e9)
    with products_in(burst["precision"]):
        while not timed or (timed[-1].end_ns < end and len(timed) < MOST_DURATIONS):
            timing = clock.time(several)[1]
            if timing.begin_ns >= soaked:
                timed.append(timing)
            # For whoever watches a second is a sample.
            if (timing.end_ns - begin) // 10**9 > done:
                done = (timing.end_ns - begin) // 10**9
                events.sample(min(done, seconds) - 1, seconds)
    return {**burst, "sustained": True, "work": calls * burst["work"], **_taken(timed)}


@contextmanager
def products_in(precision: str | None) -> Iterator[None]:
    """Products of float32 are in TF32 or, whatever the environment says, really in float32; afterwards as before."""
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("high" if precision == "tf32" else "highest")
    try:
        yield
    finally:
        torch.set_float32_matmul_precision(before)


def links(workload: Workload, device: str, clock: Clock) -> list[dict[str, Any]]:
    """What connects the devices: an all-reduce and an all-gather of `copy_bytes` in all.

    The work is what each device sends at least: of n devices 2 (n - 1) / n of the bytes that are summed, and
    (n - 1) / n of those that are gathered.
    """
    import torch.distributed as dist

    dtype, size = getattr(torch, workload.dtype), clock.team.size
    each = (workload.copy_bytes or 0) // dtype.itemsize // size
    whole, part = torch.ones(each * size, dtype=dtype, device=device), torch.ones(each, dtype=dtype, device=device)
    count = each * size * dtype.itemsize
    # Into parts of one tensor, which every backend gathers: views, so that nothing is copied on a GPU.
    into = list(whole.chunk(size))

    def gathered() -> Any:
        return gather(whole, part) if device == "cuda" else dist.all_gather(into, part)

    calls = {"all_reduce": (lambda: dist.all_reduce(whole), 2), "all_gather": (gathered, 1)}
    return [
        {"kind": kind, "size": count, "work": times * (size - 1) * count // size, **_repeat(call, workload, clock)}
        for kind, (call, times) in calls.items()
    ]


def device_copy(count: int, workload: Workload, device: str, clock: Clock) -> dict[str, Any]:
    """Copy `count` bytes: each is read once and written once."""
    source = torch.ones(count // 4, dtype=torch.float32, device=device)
    target = torch.empty_like(source)
    taken = _repeat(lambda: target.copy_(source), workload, clock)
    return {"kind": "device_copy", "size": count, "work": 2 * count, **taken}


def _product(size: int, workload: Workload, device: str) -> Callable[[], Any]:
    """A call that multiplies. Values are spread as a model's are; zeros would run faster."""
    dtype = getattr(torch, workload.dtype)
    generator = torch.Generator(device).manual_seed(workload.seed)
    a, b = (torch.randn(size, size, device=device, generator=generator).to(dtype) for _ in range(2))
    out = torch.empty(size, size, dtype=dtype, device=device)
    return lambda: torch.mm(a, b, out=out)


def _repeat(call: Callable[[], Any], workload: Workload, clock: Clock) -> dict[str, Any]:
    return _taken([clock.time(call)[1] for _ in range(workload.warmup + workload.iterations)][workload.warmup :])


def _taken(timed: Sequence[Timing]) -> dict[str, Any]:
    durations = [timing.device_ns or timing.end_ns - timing.begin_ns for timing in timed]
    return {"durations_ns": durations, "begin_ns": timed[0].begin_ns, "end_ns": timed[-1].end_ns}
