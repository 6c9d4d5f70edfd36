"""What the tables are made of: a row is a cell's records reduced under a protocol.

Nothing here is rounded; units stand in the names where the benchmark does not set them.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from pydantic import Field, computed_field

from orchestrator.analysis.ceilings import Hardware, Share
from orchestrator.analysis.protocol import Figure, Protocol
from orchestrator.analysis.statistics import Verdict
from orchestrator.base.files import Frozen
from orchestrator.plan.workload import Benchmark, Kind, Scaled, Workload
from orchestrator.records.record import (
    COMPUTED,
    Compiles,
    Dispatch,
    Environment,
    Flag,
    HostLoad,
    Memory,
    Range,
    Status,
    Work,
)

Piece = Literal["pass", "token", "step"]
"""What a person counts: samples of the benchmark forward are passes."""
CacheState = Literal["cold", "partly warm", "warm"]
"""Whether the compile cache was empty when a process began; partly warm: it was not, and lacked something."""


@dataclass(frozen=True)
class CheckCounts:
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


class Scaling(Frozen):
    """A row of several devices against the same method on one: the share of their tokens per second that is had.

    Of so many times the one device's. 1 where every further device brings as much as the first.
    """

    against: str
    """The one device's cell_id."""
    devices: int
    way: Scaled
    efficiency: float
    interval: tuple[float, float] | None


class BreakEven(Frozen):
    """After how many passes, tokens or steps the row's longer `upfront_seconds` are made up for against eager's."""

    count: int | None
    of: Piece
    reason: str | None = None


@dataclass(frozen=True)
class FirstCall:
    """A first call, compilation included, in seconds: of one round, or over a row's rounds."""

    seconds: float | None
    """Of a row: the median of the rounds that began with an empty compile cache; where none did, of all."""
    upfront_seconds: float | None
    """The first call and what later compiles cost: of each round the first call, and the wall time of the warm-up
    samples in which the compiler worked, less that of a steady sample each; of a row the median of the rounds that
    `seconds` is of."""
    cache: CacheState | None
    """What `seconds` is of; null where it is not known of every round."""
    rounds: tuple[float, ...] = ()
    """Of every round, whatever its compile cache held."""
    warm_seconds: float | None = None
    """Over a filled compile cache: a second process's, else the median of the rounds that began with one."""
    startup_seconds: float | None = None
    """From when the model is made, or an engine is told to load it, to the end of the first call; of a row the median
    of the rounds that `seconds` is of."""


@dataclass(frozen=True)
class Evidence:
    """What was seen beside the figure of one round; of a row its last round's, and what disturbed any of its rounds."""

    checks: CheckCounts | None
    error: float | None
    """Distance of what was timed from the reference, relative to the reference."""
    eager_error: float | None
    """That of eager in the same precision on the stack that made the reference."""
    error_ratio: float | None
    """`error` over `eager_error`. Of eager on another stack it is the drift between the stacks."""
    resembles: str | None
    dispatch: Dispatch | None
    operators: dict[str, str]
    """What each operator of a method that brings its own was dispatched to, found while it ran, with the reasons."""
    compiles: Compiles | None
    """Of a row with the warm start of the round that has one. Of older records graphs and recompiles alone, the latter
    being all that were made after the first call."""
    power: Power | None
    host_load: HostLoad | None
    """Of the round in which others took most of the host's CPUs."""
    tainted: int
    """Timed samples that something else disturbed, in all rounds."""
    taints: tuple[str, ...]
    first_off: float | None
    """By what share the first timed sample is off the others, where that is no chance."""
    drift: float | None
    """By what share the later half of the timed samples is off the earlier, where that is no chance."""
    second_time: float | None
    """How many times as long samples of many shapes took when each came for the second time, where it is much."""
    losses: tuple[float | None, ...]
    """Of the samples, in training."""


class Row(Frozen):
    """A cell under one protocol."""

    protocol: Protocol
    cell_id: str
    workload_id: str
    benchmark: Benchmark
    method: str
    stack: str
    kind: Kind
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
    figure: Figure
    """Of a wrong row too, though it may not be shown as a speed."""
    units: int | None
    """Passes, tokens (those that the figure counts) or steps that the figure's `seconds` are the time of."""
    began_utc: str | None
    """When the first of the rounds began that the figure is made of."""
    first_call: FirstCall
    memory: Memory
    """The largest peaks of any round."""
    graphs: int | None
    """Graphs that the compiler made in all, in the round in which it made most."""
    recompiled: int | None
    """Those of them that stand for one that was there already; of older records, those made after the first call."""
    one_compile: bool
    """Rounds of it began over what an earlier one had compiled: its interval knows nothing of how compiles differ."""
    work: Work | None
    share: Share
    environment: Environment | None
    image_id: str | None
    evidence: Evidence
    probe: ProbeResult | None = None
    """None where the row is its own probe."""
    versus: Versus | None = None
    """Against eager on the same stack."""
    break_even: BreakEven | None = None
    scaling: Scaling | None = None
    """Of a row of several devices, where the run has the same on one."""
    loss_distance: float | None = None
    """Of a training row: the largest distance of a step's loss from that of eager on the same stack. Advice only."""

    @computed_field  # type: ignore[prop-decorator]
    @property
    def headline(self) -> float | None:
        """The figure, where the row's status is ok: a wrong or a broken row has no speed."""
        return self.figure.value if self.status == "ok" else None

    @property
    def name(self) -> str:
        """`method@stack`."""
        return f"{self.method}@{self.stack}"

    @property
    def title(self) -> str:
        """How a person names the cell: `forward inductor@cpu`."""
        return f"{self.benchmark} {self.name}"

    @property
    def fingerprint(self) -> str | None:
        """Of Python and every installed package."""
        return self.environment.fingerprint if self.environment else None

    @property
    def shown_flags(self) -> tuple[Flag, ...]:
        """Those to stand by the status: cold and warm are with the first call, and no output is nothing to check."""
        computed = self.status in COMPUTED
        return tuple(f for f in self.flags if f not in ("cold", "warm") and (computed or f != "unchecked"))
