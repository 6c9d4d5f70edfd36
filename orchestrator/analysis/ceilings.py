"""What a device can do, as far as it was measured, and how near a row comes to it."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from operator import itemgetter
from statistics import fmean, median
from typing import Literal, NamedTuple

from orchestrator.analysis.protocol import figure_phase
from orchestrator.base.files import Frozen
from orchestrator.base.grouping import grouped
from orchestrator.base.text import counted, scaled
from orchestrator.records.record import HostLoad, Rate, Record, Status, Work

Bound = Literal["compute", "memory"]
CeilingOf = Literal["this device", "this model of device"]
RateKind = Literal["burst", "sustained"]
LEAN = 0.15
"""By so much a row's work per joule may be above that of the ceiling's products."""
MARGIN = 0.15
"""By so much a share may be above 1 at most, however far the ceiling's own calls scattered."""
LOWER = ("tf32",)
"""Precisions that operands are rounded to within a product; no row's dtype."""
LINKS = ("all_reduce", "all_gather")
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
            known = limit is not None and default is not None and limit != default
            limited = f", power limit {limit:g} W ({default:g} W by default)" if known else ""
            ecc = f", ECC {self.settings['ECC']}" if self.ecc is not None else ""
            return f"{self.name}, driver {self.driver or 'not known'}{limited}{ecc}"
        return self.name if self.threads is None else f"{self.name}, {counted(self.threads, 'thread')}"

    @property
    def model(self) -> tuple[str, str, str | int | None] | None:
        """What a ceiling measured elsewhere must share to hold here: GPU model and driver, or CPU and threads."""
        if self.name is None:
            return None
        return self.device, self.name, self.driver if self.device == "cuda" else self.threads


class Products(Frozen):
    """Rates of matrix products in one precision; null where they were not measured."""

    dtype: str
    """Of the operands, or a lower precision that they were rounded to: `tf32`."""
    flops_per_second: float | None
    """In a burst: the largest of the sizes' median rates."""
    matrix_size: int | None
    flops_spread: float = 0.0
    """By what share the fastest single call of that size was faster than their median."""
    flops_per_joule: float | None = None
    """The largest of the sizes; null where the energy counter was not read for 2 s of them."""
    sustained_flops_per_second: float | None = None
    """Back to back for seconds, after a soak: all the work over all the time."""
    sustained_size: int | None = None
    sustained_spread: float = 0.0
    """By what share the fastest of its durations was faster than their mean."""

    @property
    def in_words(self) -> str:
        """The rates, as far as they were measured."""
        name = self.dtype.upper() if self.dtype in LOWER else self.dtype
        words = f"{name} matrix product {scaled(self.flops_per_second, 'FLOP/s')} (size {self.matrix_size})"
        if self.sustained_flops_per_second is not None:
            words += f", sustained {scaled(self.sustained_flops_per_second, 'FLOP/s')} (size {self.sustained_size})"
        return words


class Ceiling(Products):
    """A record of the benchmark `ceilings`. Rates are null where they were not measured; then `reason` may say why."""

    cell_id: str
    round: int
    stack: str
    hardware: Hardware
    status: Status
    reason: str | None
    bytes_per_second: float | None
    """Device copy, bytes read and bytes written both counted, the largest of the sizes' median rates."""
    copy_size: int | None
    copy_spread: float = 0.0
    devices: int = 1
    """Between how many the links were measured, alone; 1: what one device can do was measured."""
    all_reduce_bytes_per_second: float | None = None
    """Bytes that each device has to send at least, over the time: 2 (n - 1) / n of those that are summed."""
    all_gather_bytes_per_second: float | None = None
    """The same: (n - 1) / n of those that are gathered."""
    lower: tuple[Products, ...] = ()
    """The same operands multiplied in lower precisions."""
    host_load: HostLoad | None = None
    """Who used the host's CPUs while it was measured; null where nobody looked."""

    @property
    def in_words(self) -> str:
        """The rates, or why there are none."""
        if self.status != "ok":
            return f"{self.status}: {self.reason or 'no reason given'}"
        if self.devices > 1:
            rates = (("all-reduce", self.all_reduce_bytes_per_second), ("all-gather", self.all_gather_bytes_per_second))
            words = ", ".join(f"{name} {scaled(rate, 'B/s')}" for name, rate in rates)
            return f"links of {self.devices} devices: {words} (sent by each)"
        products = [super().in_words, *(products.in_words for products in self.lower)]
        return f"{', '.join(products)}, device copy {scaled(self.bytes_per_second, 'B/s')} (read + written)"


class Share(Frozen):
    """How near a row comes to what the device can do: the ideal time of the tighter bound over the time taken."""

    share: float | None
    bound: Bound | None = None
    ceiling_of: CeilingOf | None = None
    stack: str | None = None
    """The one that measured the ceiling: the best of all stacks' on that device, since it is the device's."""
    rate: RateKind | None = None
    """Which of the matrix product's rates it is a share of; null where another bound is the tighter."""
    precision: str | None = None
    """That of these products, where it is lower than the row's dtype."""
    reason: str | None = None

    @property
    def is_plain(self) -> bool:
        """Whether it is of a burst in the row's own dtype, or of a copy."""
        return self.rate != "sustained" and self.precision is None

    @property
    def rate_in_words(self) -> str:
        """Which rate it is a share of: `sustained rate in TF32`."""
        return f"{self.rate or 'burst'} rate" + (f" in {self.precision.upper()}" if self.precision else "")


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
    products = [rate for rate in record.rates if rate.kind == "matrix_product"]
    by_precision: dict[str | None, list[Rate]] = {None: []}
    for rate in products:
        by_precision.setdefault(rate.precision, []).append(rate)
    own, *lower = (_products(rates, name or record.workload.dtype) for name, rates in by_precision.items())
    reduced, gathered = (_best_rate(rate for rate in record.rates if rate.kind == kind)[0] for kind in LINKS)
    copied, copy_size, copy_spread = _best_rate(rate for rate in record.rates if rate.kind == "device_copy")
    return Ceiling(
        **dict(own),
        cell_id=record.cell_id,
        round=record.round,
        stack=record.stack,
        hardware=hardware_of(record),
        status=record.status,
        reason=record.reason,
        bytes_per_second=copied,
        copy_size=copy_size,
        copy_spread=copy_spread,
        lower=tuple(lower),
        devices=record.workload.devices,
        all_reduce_bytes_per_second=reduced,
        all_gather_bytes_per_second=gathered,
        host_load=record.load,
    )


def _products(rates: Sequence[Rate], dtype: str) -> Products:
    flops, size, spread = _best_rate(rate for rate in rates if not rate.sustained)
    sustained, sustained_size, sustained_spread = _best_rate((rate for rate in rates if rate.sustained), fmean)
    return Products(
        dtype=dtype,
        flops_per_second=flops,
        matrix_size=size,
        flops_spread=spread,
        flops_per_joule=_per_joule(rates),
        sustained_flops_per_second=sustained,
        sustained_size=sustained_size,
        sustained_spread=sustained_spread,
    )


def _per_joule(products: Iterable[Rate]) -> float | None:
    found = [
        rate.work * len(rate.durations_ns) / rate.energy_joules
        for rate in products
        if rate.energy_joules
        and rate.begin_ns is not None
        and rate.end_ns is not None
        and rate.end_ns - rate.begin_ns >= SHORTEST_ENERGY_NS
    ]
    return max(found, default=None)


def joules_of_sample(record: Record) -> float | None:
    """Return the energy of one sample, of train_dynamic of all timed ones; null where they took less than 2 s together.

    Of the samples that the figure is made of.
    """
    shown = figure_phase(record.samples)
    taken = [sample for sample in record.samples if sample.phase == shown]
    energy = record.telemetry.energy_joules if record.telemetry else None
    if record.workload.devices > 1:
        return None  # the counter is of one of them
    if energy is None or sum(sample.end_ns - sample.begin_ns for sample in taken) < SHORTEST_ENERGY_NS:
        return None
    total = record.workload.benchmark == "train_dynamic"
    return energy / len(taken) * (sum(sample.phase == "timed" for sample in record.samples) if total else 1)


def _best_rate(
    rates: Iterable[Rate], typical: Callable[[Sequence[int]], float] = median
) -> tuple[float | None, int | None, float]:
    """Return rate, size, and by what share the fastest call of that size was faster than the typical one."""
    found = [
        (
            rate.work / (typical(rate.durations_ns) / 1e9),
            rate.size,
            typical(rate.durations_ns) / min(rate.durations_ns) - 1,
        )
        for rate in rates
        if rate.durations_ns and min(rate.durations_ns) > 0
    ]
    return max(found, default=(None, None, 0.0))


class _Best(NamedTuple):
    """The best rate that was measured for a bound. `per_second` is FLOPs or bytes; a copy has no kind."""

    per_second: float
    spread: float
    stack: str
    bound: Bound
    kind: RateKind | None = None
    precision: str | None = None
    load: HostLoad | None = None
    """What ran beside it."""


_ORDER = itemgetter(slice(3))
"""Of the best ones: by rate, spread and stack."""


class Bounds(NamedTuple):
    """What the ceilings say of one device and dtype: the best product and copy, where any were measured."""

    ceiling_of: CeilingOf
    product: _Best | None
    copy: _Best | None
    flops_per_joule: float | None
    """The best of these products."""
    measured: tuple[str, ...]
    """The dtypes in which products were measured."""


class Ceilings:
    """A run's ceilings. Many rows ask the same of them, and a run on many GPUs has many: what was found is kept."""

    def __init__(self, ceilings: Iterable[Ceiling]) -> None:
        self.all = tuple(ceilings)
        self._bounds: dict[tuple[Hardware, str, frozenset[str], bool], Bounds | None] = {}
        self._by_model = grouped((c.hardware.model, c) for c in self.all if c.status == "ok" and c.devices == 1)

    def bounds(self, hardware: Hardware, dtype: str, lower: frozenset[str], *, sustained: bool) -> Bounds | None:
        """Return what is known of this hardware, of products in `dtype` and in the precisions in `lower`."""
        key = (hardware, dtype, lower, sustained)
        if key not in self._bounds:
            self._bounds[key] = self._look(*key)
        return self._bounds[key]

    def _look(self, hardware: Hardware, dtype: str, lower: frozenset[str], sustained: bool) -> Bounds | None:
        found = self._by_model.get(hardware.model, ()) if hardware.model else ()
        if not found:
            return None
        same = tuple(c for c in found if hardware.uuid is not None and c.hardware.uuid == hardware.uuid)
        ceiling_of: CeilingOf = "this device" if same or hardware.device == "cpu" else "this model of device"
        found = same if same and hardware.device == "cuda" else found
        products = [(c, p) for c in found if c.dtype == dtype for p in (c, *c.lower) if p is c or p.dtype in lower]
        copies = [
            _Best(c.bytes_per_second, c.copy_spread, c.stack, "memory", load=c.host_load)
            for c in found
            if c.bytes_per_second
        ]
        return Bounds(
            ceiling_of,
            _best_product(products, dtype, sustained=sustained),
            max(copies, default=None, key=_ORDER),
            max((p.flops_per_joule for _, p in products if p.flops_per_joule), default=None),
            tuple(sorted({c.dtype for c in found if c.flops_per_second})),
        )


def share_of_ceiling(
    work: Work | None,
    seconds: float | None,
    hardware: Hardware,
    dtype: str,
    ceilings: Ceilings | Iterable[Ceiling],
    *,
    joules: float | None = None,
    sustained: bool = False,
    lower: Sequence[str] = (),
    devices: int = 1,
) -> Share:
    """Return the ideal time over `seconds` for the work done in them, and which bound is the tighter.

    The compute bound is flops over the matrix product's rate, the memory bound bytes over the copy's rate; the ideal
    time is the longer of the two. Ceilings of this very device are taken where there are any, else those of another
    one of the same model (a run that went on on another machine). `sustained`: the seconds are of samples at the power
    cap, and of products the sustained rate counts where there is one. `devices`: how many did the work, which
    together can do so many times what one can. `lower`: what the row's kernels tell of lower precisions
    (`Dispatch.lower_precisions`); their products count too where they were measured. There is no share
    where work per joule (`joules`: of that work) is far above the ceiling's, nor above 1 by more than single calls of
    the ceiling were or by more than MARGIN.
    """
    if seconds is None:
        return Share(share=None, reason="no figure")
    if work is None or (work.flops is None and work.bytes is None):
        return Share(share=None, reason="the work of a sample is not known")
    named = frozenset(entry.partition(":")[0].lower() for entry in lower)
    known = ceilings if isinstance(ceilings, Ceilings) else Ceilings(ceilings)
    found = known.bounds(hardware, dtype, named, sustained=sustained)
    if found is None:
        return Share(share=None, reason="the run has no ceilings of this device")
    ceiling_of, product, copy = found.ceiling_of, found.product, found.copy
    # A bound that is unknown might be the tighter one: no share is better than a share of the wrong thing.
    if work.flops is not None and product is None:
        measured = ", ".join(found.measured)
        why = f"the matrix product was measured in {measured}, not in {dtype}" if measured else "it was not measured"
        return Share(share=None, ceiling_of=ceiling_of, reason=f"no compute ceiling: {why}")
    if work.bytes is not None and copy is None:
        return Share(share=None, ceiling_of=ceiling_of, reason="no memory ceiling: it was not measured")
    of_each = ((work.bytes, copy), (work.flops, product))
    ideals = [
        (count / devices / best.per_second, best) for count, best in of_each if count is not None and best is not None
    ]
    ideal, best = max(ideals, key=itemgetter(0))
    share = Share(
        share=ideal / seconds,
        bound=best.bound,
        ceiling_of=ceiling_of,
        stack=best.stack,
        rate=best.kind,
        precision=best.precision,
    )
    reason = _too_near(share, best, hardware, dtype)
    if reason is None and joules and work.flops is not None:
        reason = _too_little_energy(work.flops / joules, found.flops_per_joule)
    return share if reason is None else share.model_copy(update={"share": None, "reason": reason})


def _best_product(found: Iterable[tuple[Ceiling, Products]], dtype: str, *, sustained: bool) -> _Best | None:
    """Return the best sustained rate where it is asked for and was measured by any stack, else the best of a burst."""
    rates: dict[RateKind, list[_Best]] = {"burst": [], "sustained": []}
    for c, p in found:
        lower, stack, load = None if p.dtype == dtype else p.dtype, c.stack, c.host_load
        if p.flops_per_second:
            rates["burst"].append(_Best(p.flops_per_second, p.flops_spread, stack, "compute", "burst", lower, load))
        if p.sustained_flops_per_second:
            rate, spread = p.sustained_flops_per_second, p.sustained_spread
            rates["sustained"].append(_Best(rate, spread, stack, "compute", "sustained", lower, load))
    kept = (sustained and rates["sustained"]) or rates["burst"]
    return max(kept, default=None, key=_ORDER)


def _too_near(share: Share, best: _Best, hardware: Hardware, dtype: str) -> str | None:
    """Return what to say of a share that is above 1 by more than may be: which of ceiling and row is wrong."""
    if share.share is None or share.bound is None or share.share <= 1 + min(best.spread, MARGIN):
        return None
    of = f"{share.bound} ceiling" + ("" if share.is_plain else f" ({share.rate_in_words})")
    which = _which(share.share, best, hardware, _causes(hardware, share.bound, share.precision or dtype))
    return (
        f"it would be {share.share:.3g} times the {of}, whose own calls were at most {1 + best.spread:.3g} times it: "
        f"{which}"
    )


def _which(share: float, best: _Best, hardware: Hardware, causes: Sequence[str]) -> str:
    """Return whether the ceiling or the row is wrong, and what says so. A GPU's calls are timed on the device."""
    if hardware.device == "cpu" and best.load is not None and best.load.is_notable:
        return f"the ceiling is wrong, for while it was measured, {best.load.in_words}"
    if share <= 1 + best.spread:
        return f"the ceiling is wrong, for its calls differ by more than {MARGIN * 100:.0f} %"
    if hardware.device == "cpu" and best.load is None:
        loaded = "other work loaded the CPU while the ceiling was measured, which its record does not say,"
        return f"the ceiling or the row is wrong: {loaded} or {' or '.join(causes)}"
    return f"it is the row, not the ceiling: {' or '.join(causes)}"


def _too_little_energy(flops_per_joule: float, best: float | None) -> str | None:
    """Return what to say of work that took less energy than the ceiling's own products would have."""
    if best is None or flops_per_joule <= (1 + LEAN) * best:
        return None
    done, at_most = scaled(flops_per_joule, "FLOP/J"), scaled(best, "FLOP/J")
    return f"its work took {done} by the device's energy counter, and the matrix product does {at_most}"


def _causes(hardware: Hardware, bound: Bound, dtype: str) -> list[str]:
    """Return in words what of the row makes a share above 1."""
    causes = ["part of the work was not done"]
    if bound == "memory":
        causes.insert(0, "the model fits the device's cache")
    elif dtype == "float32" and hardware.device == "cuda":
        causes.insert(0, "its products are in TF32, another type than the ceiling's")
    return causes
