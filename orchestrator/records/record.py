"""The record: the JSON file that one round of a cell leaves behind. Raw samples and proof, never rounded.

Readers accept schema version 1 for ever, and checks that came later are not required of its records.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Literal

from pydantic import FailFast, Field

from orchestrator.base.files import Count, Frozen, Integer, Json
from orchestrator.base.text import significant
from orchestrator.plan.workload import MEASURED, Kind, Role, Workload

Status = Literal["ok", "incorrect", "unsupported", "out_of_memory", "timeout", "crashed", "skipped", "infrastructure"]
COMPUTED: tuple[Status, ...] = ("ok", "incorrect")
"""With these an output was there: to be timed, checked and looked into."""
FAILED: tuple[Status, ...] = ("crashed", "timeout", "infrastructure")
"""A record with one of these is no result: the round is run again."""
BAD: tuple[Status, ...] = ("incorrect", *FAILED)
"""With one of these a run did not go well."""
Flag = Literal["unchecked", "not_fused", "memoised", "coarser", "tainted", "drift", "cold", "warm"]
Phase = Literal["first", "warmup", "timed", "repeat", "soak", "sustained"]
"""`sustained` are samples back to back at the device's power limit, after a soak: there the figure is made of them."""
CheckStatus = Literal["passed", "failed", "unchecked"]
KERNEL_PACKAGES = frozenset(
    {
        *("apex", "flash-attn", "flash-attn-3", "flashinfer-python", "liger-kernel", "lightning-thunder", "nvfuser"),
        *("sglang", "tensorrt", "torchao", "transformer-engine", "transformers", "triton", "vllm", "xformers"),
    }
)
KERNEL_PREFIXES = ("nvfuser-", "nvidia-cublas", "nvidia-cudnn", "pytorch-triton")


NOTABLE = 0.1
"""The share of the host's CPUs that others may use before a row, or a ceiling, says so."""

Sha256 = Annotated[str, Field(pattern="^[0-9a-f]{64}$")]


class Sample(Frozen):
    """One timed call. `begin_ns` and `end_ns` are CLOCK_MONOTONIC; `device_ns` is a duration by device events."""

    index: Count
    phase: Phase
    shape: tuple[Count, ...]
    begin_ns: Integer
    end_ns: Integer
    device_ns: Integer | None
    first_token_ns: Integer | None = None
    loss: float | None = None
    taint: str | None = None
    """Why the sample says little about the method: something else disturbed it."""
    energy_joules: float | None = None
    """From the device's own energy counter between begin and end; null where it has none."""


class PhaseTime(Frozen):
    """A named phase of the cell's page, on CLOCK_MONOTONIC."""

    name: str
    begin_ns: Integer
    end_ns: Integer


class Memory(Frozen):
    """Peaks. `process_bytes` was never reset; `steady_bytes` counts from the end of the warm-up.

    `reserved_bytes` is what the allocator held of the device, a CUDA graph's private pool included, never reset.
    """

    process_bytes: Integer | None
    steady_bytes: Integer | None
    reserved_bytes: Integer | None = None
    host_bytes: Integer | None


class Work(Frozen):
    """What one sample has to do, by count: floating-point operations, and bytes it must at least read."""

    flops: Integer | None
    bytes: Integer | None
    tokens: Integer | None


class Check(Frozen):
    """One look at what was timed. A check that `failed` makes the row `incorrect`; `what` says the first place."""

    name: str
    status: CheckStatus
    value: float | None = None
    """What was found, in the check's own measure."""
    limit: float | None = None
    """Where passing ends, in the same measure."""
    what: str | None = None
    """Passed: what was compared. Failed: the first place that differs. Unchecked: why."""


class Reference(Frozen):
    """The file that the row's output was compared with, and how far eager in the same precision is from it."""

    sha256: str | None
    """None: computed in the cell itself."""
    stack: str | None
    dtype: str
    error: float | None = None
    """Of the timed callable: root of the summed squared differences over that of the reference."""
    eager_error: float | None = None
    """Of eager in the row's precision, on the stack that made the reference; same measure."""


class Proof(Frozen):
    """That the row computed what it says. Checksums are exact to the bit."""

    weights_checksum: str | None = None
    inputs_checksum: str | None = None
    parameters: Integer | None = None
    finite: bool | None = None
    generated: tuple[Integer, ...] | None = None
    text: str | None = None
    checks: tuple[Check, ...] = ()
    checks_version: Count | None = None
    """Of the list of checks that its bench had; null: of before there was one."""
    seen_again: float | None = None
    """The time that it took on an input just seen, over that on a new one; null where that was not tried."""
    reference: Reference | None = None
    resembles: str | None = None
    """The known fault whose effect the output's error has, where one fits."""
    seconds: float | None = None
    """What the checks took of the cell's time."""


class Group(Frozen):
    """Kernels (on a CPU: operators) of one kind in one profiled call."""

    name: str
    launches: Count
    share: float | None
    """Of the call's device time (on a CPU: of its operators' own time)."""


class Kernel(Frozen):
    """One kernel or operator by name."""

    name: str
    group: str
    launches: Count
    share: float | None


class Dispatch(Frozen):
    """What ran in one call after timing. The whole listing is a file of its own, named by its SHA-256."""

    kind: Literal["kernels", "operators"]
    what: str
    """What was profiled."""
    launches: Count
    graph_replays: Count | None
    groups: tuple[Group, ...]
    top: tuple[Kernel, ...]
    lower_precisions: tuple[str, ...] = ()
    """int8, fp8 and TF32, where a kernel's name tells it, each with such a name."""
    expected: tuple[str, ...]
    """What the method says must be seen."""
    missing: tuple[str, ...]
    instead: str | None = None
    """What ran in the place of what is missing."""
    listing_sha256: str | None = None


class Compiled(Frozen):
    """A sample in which the compiler made something."""

    sample: Integer
    """Index of the sample."""
    shape: tuple[Count, ...]
    graphs: Count
    recompiles: Count
    """Those of the graphs that stand for a graph that was there already."""
    kernels: Count = 0
    """Kernels that Triton compiled, or loaded from its cache, at their launch."""
    reasons: tuple[str, ...]


class WarmStart(Frozen):
    """The first call in a second process over the compile cache that the cell left."""

    first_ns: Integer | None
    cache_hits: Count | None = None
    cache_misses: Count | None = None
    reason: str | None = None


class Compiles(Frozen):
    """What the compiler did. `ledger` names samples in which it worked, all of them (the first 40 kept)."""

    graphs: Count
    recompiles: Count
    kernels: Count = 0
    """Those that Triton compiled at their launch, outside of graphs. Older records do not count them."""
    ledger: tuple[Compiled, ...]
    breaks: tuple[str, ...]
    """Reasons for which a graph was cut in two."""
    cache_hits: Count | None
    cache_misses: Count | None
    warm: WarmStart | None = None

    @property
    def made(self) -> int:
        """How many graphs and kernels."""
        return self.graphs + self.kernels

    @property
    def later_kernels(self) -> int:
        """How many of the kernels were compiled after the first call."""
        return self.kernels - sum(entry.kernels for entry in self.ledger if entry.sample == 0)


class Range(Frozen):
    """Of one quantity over the timed samples."""

    low: float
    median: float
    high: float


class Telemetry(Frozen):
    """What the host saw of the GPU while the timed samples ran; the series is a file of its own."""

    readings: Count
    interval_ms: float | None
    sm_clock_mhz: Range | None = None
    memory_clock_mhz: Range | None = None
    power_watts: Range | None = None
    temperature_celsius: Range | None = None
    memory_bytes: Range | None = None
    throttled: dict[str, float] = Field(default_factory=dict)
    """Share of the readings under each reason that was seen."""
    foreign: tuple[str, ...] = ()
    """Other processes seen on the GPU, by name where the host says it."""
    energy_joules: float | None = None
    """Over the timed samples alone."""
    series_sha256: str | None = None


class HostLoad(Frozen):
    """Who used the host's CPUs from the first timed sample to the last, in CPUs (1.5: one and a half all the time)."""

    cpus: Count
    """That the host has."""
    seconds: float
    """That the counters were read over: a little more than the samples took."""
    own: float
    """The cell's own processes."""
    others: float
    """All else that ran on this host."""
    stolen: float
    """What the hypervisor gave to other machines, where it says so."""

    @property
    def taken(self) -> float:
        """The share of the CPUs that the cell could not have."""
        return (self.others + self.stolen) / self.cpus

    @property
    def is_notable(self) -> bool:
        """Whether others took so much that a reader should know."""
        return self.taken >= NOTABLE

    @property
    def in_words(self) -> str:
        """What others took of the host's CPUs, and other machines of the hypervisor's."""
        stolen = f" and other machines {significant(self.stolen, 2)}" if self.stolen >= NOTABLE else ""
        return f"other processes took {significant(self.others, 2)}{stolen} of this host's {self.cpus} CPUs"


class Gpu(Frozen):
    """The device as the container saw it; what somebody can set of it, and its driver, as the host's NVML says."""

    name: str
    uuid: str | None
    memory_bytes: Integer | None
    compute_capability: str | None
    driver: str | None
    sm_clock_mhz: Integer | None = None
    memory_clock_mhz: Integer | None = None
    power_limit_watts: float | None = None
    """That holds, whoever set it."""
    power_default_watts: float | None = None
    """The limit that the card comes with."""
    ecc: bool | None = None


class Environment(Frozen):
    """What ran: every installed package with its build string; `fingerprint` hashes Python and packages."""

    fingerprint: str
    python: str
    platform: str
    packages: dict[str, str]
    torch: str | None = None
    torch_git: str | None = None
    cuda: str | None = None
    cudnn: str | None = None
    triton: str | None = None
    compiler: str | None = None
    cpu: str | None = None
    cores: Integer | None = None
    threads: Integer | None = None
    gpu: Gpu | None = None
    settings: dict[str, str] = Field(default_factory=dict)

    @property
    def in_short(self) -> str:
        """What decides most about a speed, for a line."""
        parts = (("torch", self.torch), ("CUDA", self.cuda), ("Triton", self.triton), ("Python", self.python))
        return ", ".join(f"{name} {version}" for name, version in parts if version)

    @property
    def kernel_packages(self) -> dict[str, str]:
        """The packages that bring kernels or compilers, and their versions."""
        return {
            name: version
            for name, version in sorted(self.packages.items())
            if name in KERNEL_PACKAGES or name.startswith(KERNEL_PREFIXES)
        }


class Rate(Frozen):
    """One ceiling measurement: durations, and the work done in one of them, which is of one call or a few."""

    kind: Literal["matrix_product", "device_copy", "all_reduce", "all_gather"]
    size: Integer
    work: Integer
    durations_ns: tuple[Integer, ...]
    sustained: bool = False
    """Back to back after a soak, for seconds; else a burst."""
    precision: Literal["tf32"] | None = None
    """The lower one that products of the workload's dtype were allowed."""
    begin_ns: Integer | None = None
    """Of the first of these calls, on CLOCK_MONOTONIC; older records do not say."""
    end_ns: Integer | None = None
    energy_joules: float | None = None
    """From begin to end, by the device's own energy counter."""


class Provenance(Frozen):
    """Which image and lock the cell ran from; the orchestrator's knowledge, put in before storing."""

    launcher: str
    image: str | None = None
    image_id: str | None = None
    lock: str | None = None
    gpu: str | None = None
    """UUID of the GPU that the cell was given; not every torch tells it."""
    cache: Literal["cold", "shared"] = "cold"
    weights: Sha256 | None = None
    """Over the files of the folder that an engine was given."""
    orchestrator: str | None = None
    exit_code: Integer | None = None
    wall_ns: Integer | None = None
    worker: dict[str, str] | None = None
    """Of a run on several GPUs: what its worker says of itself, and what else its host ran meanwhile."""


class Record(Frozen):
    """One round of one cell."""

    schema_version: Literal[1]
    written_by: Literal["bench", "orchestrator"]
    cell_id: str
    workload_id: str
    round: Count
    stack: str
    method: str
    workload: Workload
    device: Literal["cuda", "cpu"]
    status: Status
    reason: str | None
    flags: tuple[Flag, ...]
    bench_source: str | None
    started_utc: str | None
    phases: Annotated[tuple[PhaseTime, ...], FailFast()] = ()
    samples: Annotated[tuple[Sample, ...], FailFast()] = ()
    rates: tuple[Rate, ...] = ()
    memory: Memory | None = None
    work: Work | None = None
    proof: Proof | None = None
    environment: Environment | None = None
    provenance: Provenance | None = None
    role: Role = "row"
    kind: Kind = "model"
    """The method's."""
    dispatch: Dispatch | None = None
    compiles: Compiles | None = None
    telemetry: Telemetry | None = None
    host_load: HostLoad | None = None
    detail: dict[str, Json] = Field(default_factory=dict)
    log_sha256: Sha256 | None = None
    method_source: Sha256 | None = None
    """Of the method's file, where it is a user's own: the run keeps it in its folder `methods`."""

    @property
    def load(self) -> HostLoad | None:
        """Who used the host's CPUs; null too where ranks had begun and ended unseen: all that they did is in others."""
        unseen = self.workload.devices > 1 and self.host_load is not None and self.host_load.own == 0
        return None if unseen else self.host_load


def is_row(record: Record) -> bool:
    """Whether a table has a row for the record: not for ceilings (whose old records say no role), nor for proof."""
    return record.role == "row" and record.workload.benchmark in MEASURED


@dataclass(frozen=True)
class Refusal:
    """What to say where bench left no record of its own."""

    status: Status
    reason: str


NOTHING_LEFT = "it leaves nothing in the compile cache: a second process compiles again"
