"""The record: the JSON file that one round of a cell leaves behind. Raw samples and proof, never rounded."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field

from orchestrator.frozen import Frozen
from orchestrator.workload import Count, Workload

RECORD_LIMIT_BYTES = 50_000

Status = Literal["ok", "incorrect", "unsupported", "out_of_memory", "timeout", "crashed", "skipped", "infrastructure"]
Flag = Literal["unchecked", "not_fused", "tainted", "drift", "cold", "warm"]
Phase = Literal["first", "warmup", "timed", "repeat"]


class Sample(Frozen):
    """One timed call. `begin_ns` and `end_ns` are CLOCK_MONOTONIC; `device_ns` is a duration by device events."""

    index: Count
    phase: Phase
    shape: tuple[Count, ...]
    begin_ns: int
    end_ns: int
    device_ns: int | None
    first_token_ns: int | None = None
    loss: float | None = None


class PhaseTime(Frozen):
    """A named phase of the cell's page, on CLOCK_MONOTONIC."""

    name: str
    begin_ns: int
    end_ns: int


class Memory(Frozen):
    """Peaks. `process_bytes` was never reset; `steady_bytes` counts from the end of the warm-up.

    `reserved_bytes` is what the allocator held of the device, a CUDA graph's private pool included, never reset.
    """

    process_bytes: int | None
    steady_bytes: int | None
    reserved_bytes: int | None = None
    host_bytes: int | None


class Work(Frozen):
    """What one sample has to do, by count: floating-point operations, and bytes it must at least read."""

    flops: int | None
    bytes: int | None
    tokens: int | None


class Proof(Frozen):
    """That the row computed what it says. Checksums are exact to the bit."""

    weights_checksum: str | None = None
    inputs_checksum: str | None = None
    parameters: int | None = None
    finite: bool | None = None
    generated: tuple[int, ...] | None = None
    text: str | None = None


class Gpu(Frozen):
    """The device as the container saw it."""

    name: str
    uuid: str | None
    memory_bytes: int | None
    compute_capability: str | None
    driver: str | None
    sm_clock_mhz: int | None = None
    memory_clock_mhz: int | None = None
    power_limit_watts: float | None = None


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
    cores: int | None = None
    threads: int | None = None
    gpu: Gpu | None = None
    settings: dict[str, str] = Field(default_factory=dict)


class Rate(Frozen):
    """One ceiling measurement: durations of single calls, and the work of one call."""

    kind: Literal["matrix_product", "device_copy"]
    size: int
    work: int
    durations_ns: tuple[int, ...]


class Provenance(Frozen):
    """Which image and lock the cell ran from; the orchestrator's knowledge, put in before storing."""

    launcher: str
    image: str | None = None
    image_id: str | None = None
    lock: str | None = None
    cache: Literal["cold", "shared"] = "cold"
    orchestrator: str | None = None
    exit_code: int | None = None
    wall_ns: int | None = None


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
    phases: tuple[PhaseTime, ...] = ()
    samples: tuple[Sample, ...] = ()
    rates: tuple[Rate, ...] = ()
    memory: Memory | None = None
    work: Work | None = None
    proof: Proof | None = None
    environment: Environment | None = None
    provenance: Provenance | None = None
    detail: dict[str, Any] = Field(default_factory=dict)
    log_sha256: Annotated[str, Field(pattern="^[0-9a-f]{64}$")] | None = None
