"""What a device can do, as far as it was measured, and how near a row comes to it."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from statistics import median
from typing import Literal

from orchestrator.base.files import Frozen
from orchestrator.base.text import counted, scaled
from orchestrator.records.record import Rate, Record, Status, Work

Bound = Literal["compute", "memory"]
CeilingOf = Literal["this device", "this model of device"]
LEAN = 0.15
"""By so much a row's work per joule may be above that of the ceiling's products."""
SHORTEST_ENERGY_NS = 2_000_000_000
"""The energy counter says little of less."""


@dataclass(frozen=True)
class Hardware:
    """What a cell ran on, as far as the record knows. `name` is the GPU's, or the CPU's for device `cpu`."""

    device: Literal["cuda", "cpu"]
    name: str | None = None
    uuid: str | None = None
    driver: str | None = None
    memory_bytes: int | None = None
    threads: int | None = None
    power_limit_watts: float | None = None
    power_default_watts: float | None = None
    ecc: bool | None = None

    @property
    def settings(self) -> dict[str, str]:
        """What somebody can set of a GPU, in words, as far as it is known."""
        limit, ecc = self.power_limit_watts, self.ecc
        found = {"power limit": f"{limit:g} W"} if limit is not None else {}
        return found | ({"ECC": "on" if ecc else "off"} if ecc is not None else {})

    @property
    def in_words(self) -> str:
        """Name, and what else a reader has to know of it; empty where nothing is known."""
        if self.name is None:
            return ""
        if self.device == "cuda":
            limit, default = self.power_limit_watts, self.power_default_watts
            limited = f", power limit {limit:g} W ({default:g} W by default)" if default and limit != default else ""
            ecc = f", ECC {self.settings['ECC']}" if self.ecc is not None else ""
            return f"{self.name}, driver {self.driver or 'not known'}{limited}{ecc}"
        return self.name if self.threads is None else f"{self.name}, {counted(self.threads, 'thread')}"

    def is_same_model(self, other: Hardware) -> bool:
        """Whether a ceiling measured on the other holds here: same GPU model and driver, or same CPU and threads."""
        if self.name is None or self.device != other.device or self.name != other.name:
            return False
        return self.driver == other.driver if self.device == "cuda" else self.threads == other.threads


class Ceiling(Frozen):
    """A record of the benchmark `ceilings`. Rates are null where they were not measured; then `reason` may say why."""

    cell_id: str
    round: int
    stack: str
    hardware: Hardware
    dtype: str
    status: Status
    reason: str | None
    flops_per_second: float | None
    """Matrix product, the largest of the sizes' median rates."""
    matrix_size: int | None
    bytes_per_second: float | None
    """Device copy, bytes read and bytes written both counted, the largest of the sizes' median rates."""
    copy_size: int | None
    flops_spread: float = 0.0
    """By what share the fastest single call of that size was faster than their median."""
    copy_spread: float = 0.0
    flops_per_joule: float | None = None
    """Of the products, the largest of the sizes; null where the energy counter was not read for 2 s of them."""

    @property
    def in_words(self) -> str:
        """The rates, or why there are none."""
        if self.status != "ok":
            return f"{self.status}: {self.reason or 'no reason given'}"
        return (
            f"{self.dtype} matrix product {scaled(self.flops_per_second, 'FLOP/s')} "
            f"(size {self.matrix_size}), device copy {scaled(self.bytes_per_second, 'B/s')} (read + written)"
        )


class Share(Frozen):
    """How near a row comes to what the device can do: the ideal time of the tighter bound over the time taken."""

    share: float | None
    bound: Bound | None = None
    ceiling_of: CeilingOf | None = None
    stack: str | None = None
    """The one that measured the ceiling: the best of all stacks' on that device, since it is the device's."""
    reason: str | None = None


def hardware_of(record: Record) -> Hardware:
    """Return what the record says it ran on."""
    environment = record.environment
    if record.device == "cpu":
        threads = environment.threads if environment else None
        return Hardware(device="cpu", name=environment.cpu if environment else None, threads=threads)
    gpu = environment.gpu if environment else None
    given = record.provenance.gpu if record.provenance else None
    if gpu is None:
        return Hardware(device="cuda", uuid=given)
    same = ("name", "driver", "memory_bytes", "power_limit_watts", "power_default_watts", "ecc")
    return Hardware(device="cuda", uuid=given or gpu.uuid, **{name: getattr(gpu, name) for name in same})


def ceiling(record: Record) -> Ceiling:
    """Return the best rate of each kind: the largest, over the sizes, of the median rate."""
    flops, matrix_size, flops_spread = _best_rate(record.rates, "matrix_product")
    copied, copy_size, copy_spread = _best_rate(record.rates, "device_copy")
    return Ceiling(
        cell_id=record.cell_id,
        round=record.round,
        stack=record.stack,
        hardware=hardware_of(record),
        dtype=record.workload.dtype,
        status=record.status,
        reason=record.reason,
        flops_per_second=flops,
        matrix_size=matrix_size,
        bytes_per_second=copied,
        copy_size=copy_size,
        flops_spread=flops_spread,
        copy_spread=copy_spread,
        flops_per_joule=_per_joule(record.rates),
    )


def _per_joule(rates: Iterable[Rate]) -> float | None:
    found = [
        rate.work * len(rate.durations_ns) / rate.energy_joules
        for rate in rates
        if rate.kind == "matrix_product"
        and rate.energy_joules
        and rate.begin_ns is not None
        and rate.end_ns is not None
        and rate.end_ns - rate.begin_ns >= SHORTEST_ENERGY_NS
    ]
    return max(found, default=None)


def joules_of_sample(record: Record) -> float | None:
    """Return the energy of one timed sample, of train_dynamic of all; null where they took less than 2 s together."""
    timed = [sample for sample in record.samples if sample.phase == "timed"]
    energy = record.telemetry.energy_joules if record.telemetry else None
    if energy is None or sum(sample.end_ns - sample.begin_ns for sample in timed) < SHORTEST_ENERGY_NS:
        return None
    return energy if record.workload.benchmark == "train_dynamic" else energy / len(timed)


def _best_rate(
    rates: Iterable[Rate], kind: Literal["matrix_product", "device_copy"]
) -> tuple[float | None, int | None, float]:
    """Return rate, size, and by what share the fastest call of that size was faster."""
    found = [
        (
            rate.work / (median(rate.durations_ns) / 1e9),
            rate.size,
            median(rate.durations_ns) / min(rate.durations_ns) - 1,
        )
        for rate in rates
        if rate.kind == kind and rate.durations_ns and min(rate.durations_ns) > 0
    ]
    return max(found, default=(None, None, 0.0))


def share_of_ceiling(
    work: Work | None,
    seconds: float | None,
    hardware: Hardware,
    dtype: str,
    ceilings: Sequence[Ceiling],
    *,
    joules: float | None = None,
) -> Share:
    """Return the ideal time over `seconds` for the work done in them, and which bound is the tighter.

    The compute bound is flops over the matrix product's rate, the memory bound bytes over the copy's rate; the ideal
    time is the longer of the two. Ceilings of this very device are taken where there are any, else those of another
    one of the same model (a run that went on on another machine). There is no share where work per joule (`joules`: of
    that work) is far above the ceiling's, nor above 1 by more than single calls of the ceiling were.
    """
    if seconds is None:
        return Share(share=None, reason="no figure")
    if work is None or (work.flops is None and work.bytes is None):
        return Share(share=None, reason="the work of a sample is not known")
    found, ceiling_of = _ceilings_for(hardware, ceilings)
    if ceiling_of is None:
        return Share(share=None, reason="the run has no ceilings of this device")
    none: tuple[float | None, float, str | None] = (None, 0.0, None)
    products = [(c.flops_per_second, c.flops_spread, c.stack) for c in found if c.flops_per_second and c.dtype == dtype]
    flops_rate, flops_spread, flops_stack = max(products, default=none)
    copies = [(c.bytes_per_second, c.copy_spread, c.stack) for c in found if c.bytes_per_second]
    copy_rate, copy_spread, copy_stack = max(copies, default=none)
    # A bound that is unknown might be the tighter one: no share is better than a share of the wrong thing.
    if work.flops is not None and not flops_rate:
        measured = ", ".join(sorted({c.dtype for c in found if c.flops_per_second}))
        why = f"the matrix product was measured in {measured}, not in {dtype}" if measured else "it was not measured"
        return Share(share=None, ceiling_of=ceiling_of, reason=f"no compute ceiling: {why}")
    if work.bytes is not None and not copy_rate:
        return Share(share=None, ceiling_of=ceiling_of, reason="no memory ceiling: it was not measured")
    ideals: list[tuple[float, Bound]] = []
    if work.flops is not None and flops_rate:
        ideals.append((work.flops / flops_rate, "compute"))
    if work.bytes is not None and copy_rate:
        ideals.append((work.bytes / copy_rate, "memory"))
    ideal, bound = max(ideals)
    spread, stack = (flops_spread, flops_stack) if bound == "compute" else (copy_spread, copy_stack)
    share = ideal / seconds
    reason = None
    if share > 1 + spread:
        reason = f"it would be {share:.3g} times the {bound} ceiling, whose own calls were at most "
        reason += f"{1 + spread:.3g} times it: {_perhaps(hardware, bound, dtype)}"
    elif joules and work.flops is not None:
        reason = _too_little_energy(work.flops / joules, [c.flops_per_joule for c in found if c.dtype == dtype])
    shown = share if reason is None else None
    return Share(share=shown, bound=bound, ceiling_of=ceiling_of, stack=stack, reason=reason)


def _too_little_energy(flops_per_joule: float, ceilings: Iterable[float | None]) -> str | None:
    """Return what to say of work that took less energy than the ceiling's own products would have."""
    best = max((rate for rate in ceilings if rate), default=None)
    if best is None or flops_per_joule <= (1 + LEAN) * best:
        return None
    done, at_most = scaled(flops_per_joule, "FLOP/J"), scaled(best, "FLOP/J")
    return f"its work took {done} by the device's energy counter, and the matrix product does {at_most}"


def _perhaps(hardware: Hardware, bound: Bound, dtype: str) -> str:
    """Return in words what makes a share above 1 of a right figure."""
    causes = ["part of the work was not done"]
    if bound == "memory":
        causes.insert(0, "the model fits the device's cache")
    elif dtype == "float32" and hardware.device == "cuda":
        causes.insert(0, "its products are in TF32, another type than the ceiling's")
    if hardware.device == "cpu":
        causes.insert(0, "other work loaded the CPU while the ceiling was measured")
    return " or ".join(causes)


def _ceilings_for(hardware: Hardware, ceilings: Sequence[Ceiling]) -> tuple[list[Ceiling], CeilingOf | None]:
    alike = [c for c in ceilings if c.status == "ok" and hardware.is_same_model(c.hardware)]
    if hardware.device == "cpu":
        return alike, "this device" if alike else None
    same = [c for c in alike if hardware.uuid is not None and c.hardware.uuid == hardware.uuid]
    if same:
        return same, "this device"
    return alike, "this model of device" if alike else None
