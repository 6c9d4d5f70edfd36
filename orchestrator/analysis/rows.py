"""What the tables are made of: a row is a cell's records reduced under a protocol; a ceiling is what the GPU can do.

Nothing here is rounded; units stand in the names where the benchmark does not set them.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

from pydantic import Field

from orchestrator.analysis.protocol import IntervalKind, Protocol, Unit
from orchestrator.analysis.statistics import Verdict
from orchestrator.base.files import Frozen
from orchestrator.base.text import counted, scaled
from orchestrator.plan.workload import Benchmark, Workload
from orchestrator.records.record import COMPUTED, Flag, Group, HostLoad, Range, Status, Work

Bound = Literal["compute", "memory"]
CeilingOf = Literal["this device", "this model of device"]
Piece = Literal["pass", "token", "step"]
"""What a person counts: samples of the benchmark forward are passes."""
CacheState = Literal["cold", "partly warm", "warm"]
"""Whether the compile cache was empty when a process began; partly warm: it was not, and lacked something."""


class Hardware(Frozen):
    """What a cell ran on, as far as the record knows. `name` is the GPU's, or the CPU's for device `cpu`."""

    device: Literal["cuda", "cpu"]
    name: str | None = None
    uuid: str | None = None
    driver: str | None = None
    memory_bytes: int | None = None
    threads: int | None = None

    @property
    def in_words(self) -> str:
        """Name, and what else a reader has to know of it; empty where nothing is known."""
        if self.name is None:
            return ""
        if self.device == "cuda":
            return f"{self.name}, driver {self.driver or 'not known'}"
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
    reason: str | None = None


class Versions(Frozen):
    """The software that decides most about a row; `packages` has those that bring kernels or compilers."""

    python: str | None = None
    torch: str | None = None
    torch_git: str | None = None
    cuda: str | None = None
    cudnn: str | None = None
    triton: str | None = None
    compiler: str | None = None
    fingerprint: str | None = None
    image_id: str | None = None
    packages: dict[str, str] = Field(default_factory=dict)

    @property
    def in_short(self) -> str:
        """What decides most, for a line."""
        parts = (("torch", self.torch), ("CUDA", self.cuda), ("Triton", self.triton), ("Python", self.python))
        return ", ".join(f"{name} {version}" for name, version in parts if version)


class CheckCounts(Frozen):
    """How a record's checks came out; `why` is of the first that did not pass, a failed one before others."""

    passed: int
    failed: int
    unchecked: int
    why: str | None = None

    @property
    def total(self) -> int:
        """All of them."""
        return self.passed + self.failed + self.unchecked


class ProbeResult(Frozen):
    """How the row's method did on the probe: a tiny model in float32, with weights on which faults stand out."""

    status: Status | None
    """None: no probe was run."""
    passed: bool
    checks: CheckCounts | None = None
    reason: str | None = None
    """Why it did not pass."""


class Ran(Frozen):
    """Kernels (on a CPU: operators) of one call after timing, by kind; what the method says must be seen and is not."""

    kind: Literal["kernels", "operators"]
    what: str
    launches: int
    graph_replays: int | None
    groups: tuple[Group, ...]
    missing: tuple[str, ...]
    instead: str | None = None


class Compilation(Frozen):
    """What the compiler did. Of older records only graphs and recompiles: those made after the first call."""

    graphs: int
    recompiles: int
    kernels: int = 0
    """Those that Triton compiled at their launch, outside of graphs."""
    later_kernels: int = 0
    """Those of them that were compiled after the first call."""
    breaks: tuple[str, ...] = ()
    cache_hits: int | None = None
    cache_misses: int | None = None
    warm_first_seconds: float | None = None
    """The first call of a second process over the same compile cache."""
    warm_reason: str | None = None

    @property
    def made(self) -> int:
        """How many graphs and kernels."""
        return self.graphs + self.kernels


class Power(Frozen):
    """What the GPU drew while the timed samples ran. `joules` are of one pass, token (of any sequence) or step."""

    joules: float | None
    per: Piece
    watts: Range | None = None
    sm_clock_mhz: Range | None = None
    throttled: dict[str, float] = Field(default_factory=dict)
    foreign: tuple[str, ...] = ()


class Versus(Frozen):
    """The row against another on the same workload, by the one rule."""

    against: str
    verdict: Verdict


class BreakEven(Frozen):
    """After how many passes, tokens or steps the row's longer `upfront_seconds` are made up for against eager's."""

    count: int | None
    of: Piece
    reason: str | None = None


class Row(Frozen):
    """A cell under one protocol. `figure` and `interval` are in `unit`; `headline` is what may be shown as a speed."""

    protocol: Protocol
    cell_id: str
    workload_id: str
    benchmark: Benchmark
    method: str
    stack: str
    workload: Workload
    hardware: Hardware
    """Of the last round that counts."""
    gpus: tuple[str, ...]
    """The UUIDs of the GPUs that the rounds ran on which count: several where a run went on on another machine."""
    status: Status
    reason: str | None
    flags: tuple[Flag, ...]
    rounds: int
    rounds_ok: int

    figure: float | None
    headline: float | None
    """The figure, where the row's status is ok: a wrong or a broken row has no speed."""
    unit: Unit
    basis: str
    complete: bool
    figure_reason: str | None
    interval: tuple[float, float] | None
    interval_kind: IntervalKind | None
    interval_level: float | None
    round_figures: tuple[float, ...]
    round_seconds: tuple[float, ...]
    """The same in seconds: what verdicts are made of."""
    device_figure: float | None
    """The same by the device's own clock."""
    seconds: float | None
    units: int | None
    """Passes, tokens (of one sequence) or steps that `seconds` are the time of."""
    first_token_seconds: float | None
    next_token_seconds: float | None
    first_call_seconds: float | None
    """The median of the rounds that began with an empty compile cache; where none did, of all."""
    first_call_cache: CacheState | None
    """What `first_call_seconds` is of; null where it is not known of every round."""
    first_call_rounds: tuple[float, ...]
    """Of every round, whatever its compile cache held."""
    warm_first_call_seconds: float | None
    """Over a filled compile cache: a second process's, else the median of the rounds that began with one."""
    upfront_seconds: float | None
    """The first call and what later compiles cost: of each round the first call, and the wall time of the warm-up
    samples in which the compiler worked, less that of a steady sample each; the median of the rounds that
    `first_call_seconds` is of."""

    process_bytes: int | None
    steady_bytes: int | None
    reserved_bytes: int | None
    host_bytes: int | None
    graphs: int | None
    """Graphs that the compiler made in all."""
    recompiled: int | None
    """Those of them that stand for one that was there already; of older records, those made after the first call."""
    work: Work | None
    share: Share
    versions: Versions

    checks: CheckCounts | None = None
    """Of the last round that counts."""
    error: float | None = None
    """Distance of what was timed from the reference, relative to the reference."""
    eager_error: float | None = None
    """That of eager in the same precision on the stack that made the reference."""
    error_ratio: float | None = None
    """`error` over `eager_error`. Of eager on another stack it is the drift between the stacks."""
    resembles: str | None = None
    probe: ProbeResult | None = None
    """None where the row is its own probe."""
    ran: Ran | None = None
    dispatched: dict[str, str] = Field(default_factory=dict)
    """What each operator of a method that brings its own was dispatched to, found while it ran, with the reasons."""
    compilation: Compilation | None = None
    one_compile: bool = False
    """Rounds of it began over what an earlier one had compiled: its interval knows nothing of how compiles differ."""
    power: Power | None = None
    host_load: HostLoad | None = None
    """Of the round in which others took most of the host's CPUs."""
    tainted: int = 0
    """Timed samples that something else disturbed, in all rounds."""
    taints: tuple[str, ...] = ()
    first_off: float | None = None
    """By what share the first timed sample is off the others, where that is no chance."""
    drift: float | None = None
    """By what share the later half of the timed samples is off the earlier, where that is no chance."""
    versus: Versus | None = None
    """Against eager on the same stack."""
    break_even: BreakEven | None = None
    loss_distance: float | None = None
    """Of a training row: the largest distance of a step's loss from that of eager on the same stack. Advice only."""

    @property
    def name(self) -> str:
        """`method@stack`."""
        return f"{self.method}@{self.stack}"

    @property
    def title(self) -> str:
        """How a person names the cell: `forward inductor@cpu`."""
        return f"{self.benchmark} {self.name}"

    @property
    def shown_flags(self) -> tuple[Flag, ...]:
        """Those to stand by the status: cold and warm are with the first call, and no output is nothing to check."""
        computed = self.status in COMPUTED
        return tuple(f for f in self.flags if f not in ("cold", "warm") and (computed or f != "unchecked"))


def share_of_ceiling(
    work: Work | None, seconds: float | None, hardware: Hardware, dtype: str, ceilings: Sequence[Ceiling]
) -> Share:
    """Return the ideal time over `seconds` for the work done in them, and which bound is the tighter.

    The compute bound is flops over the matrix product's rate, the memory bound bytes over the copy's rate; the ideal
    time is the longer of the two. Ceilings of this very device are taken where there are any, else those of another
    one of the same model (a run that went on on another machine).
    """
    if seconds is None:
        return Share(share=None, reason="no figure")
    if work is None or (work.flops is None and work.bytes is None):
        return Share(share=None, reason="the work of a sample is not known")
    found, ceiling_of = _ceilings_for(hardware, ceilings)
    if ceiling_of is None:
        return Share(share=None, reason="the run has no ceilings of this device")
    flops_rate = max((c.flops_per_second for c in found if c.flops_per_second and c.dtype == dtype), default=None)
    copy_rate = max((c.bytes_per_second for c in found if c.bytes_per_second), default=None)
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
    return Share(share=ideal / seconds, bound=bound, ceiling_of=ceiling_of)


def _ceilings_for(hardware: Hardware, ceilings: Sequence[Ceiling]) -> tuple[list[Ceiling], CeilingOf | None]:
    alike = [c for c in ceilings if c.status == "ok" and hardware.is_same_model(c.hardware)]
    if hardware.device == "cpu":
        return alike, "this device" if alike else None
    same = [c for c in alike if hardware.uuid is not None and c.hardware.uuid == hardware.uuid]
    if same:
        return same, "this device"
    return alike, "this model of device" if alike else None
