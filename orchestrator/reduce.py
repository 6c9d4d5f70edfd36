"""From records to rows under either protocol.

`Reduction` takes records one at a time and keeps of each what its row needs: a hundred thousand fit in memory.
"""

from __future__ import annotations

from dataclasses import dataclass
from statistics import median
from typing import TYPE_CHECKING, Literal, get_args

from orchestrator.protocol import Figure, combine, first_call_seconds, note, steady, unit_of
from orchestrator.record import Flag, Status
from orchestrator.rows import Ceiling, Hardware, Row, Share, Versions, share_of_ceiling
from orchestrator.workload import MEASURED

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from orchestrator.protocol import Protocol, Reduced
    from orchestrator.record import Environment, Memory, Rate, Record, Work
    from orchestrator.workload import Workload

SEVERITY: tuple[Status, ...] = (
    "incorrect",
    "crashed",
    "timeout",
    "out_of_memory",
    "unsupported",
    "ok",
    "skipped",
    "infrastructure",
)
"""The first that any round has is the row's status. After ok: what says nothing about the stack."""

FLAG_ORDER: tuple[Flag, ...] = get_args(Flag)
BENCHMARK_ORDER = {benchmark: place for place, benchmark in enumerate(MEASURED)}

KERNEL_PACKAGES = (
    "apex",
    "flash-attn",
    "flash-attn-3",
    "flashinfer-python",
    "liger-kernel",
    "lightning-thunder",
    "nvfuser",
    "sglang",
    "tensorrt",
    "torchao",
    "transformer-engine",
    "transformers",
    "triton",
    "vllm",
    "xformers",
)
KERNEL_PREFIXES = ("nvfuser-", "nvidia-cublas", "nvidia-cudnn", "pytorch-triton")


@dataclass(frozen=True, slots=True)
class Round:
    """What a row needs of one record."""

    cell_id: str
    workload_id: str
    round: int
    stack: str
    method: str
    workload: Workload
    hardware: Hardware
    status: Status
    reason: str | None
    flags: tuple[Flag, ...]
    started_utc: str | None
    note: Reduced
    steady: Reduced
    first_call_seconds: float | None
    memory: Memory | None
    work: Work | None
    graphs: tuple[int, ...]
    versions: Versions


class Reduction:
    """Records as they come in, whatever their order; `rows` gives the same rows for the same records."""

    def __init__(self) -> None:
        self._rounds: dict[tuple[str, int], Round] = {}
        self._ceilings: dict[tuple[str, int], Ceiling] = {}
        self._workloads: dict[str, Workload] = {}
        self._versions: dict[tuple[str | None, str | None], Versions] = {}
        self._hardware: dict[Hardware, Hardware] = {}

    def add(self, record: Record) -> None:
        """Take in one record. Of two with the same key the one that began later counts."""
        key = (record.cell_id, record.round)
        if record.workload.benchmark == "ceilings":
            self._ceilings[key] = ceiling(record)
            return
        found = self._condense(record)
        before = self._rounds.get(key)
        if before is None or _age(before) <= _age(found):
            self._rounds[key] = found

    @property
    def ceilings(self) -> list[Ceiling]:
        """The ceilings of the run, in the order of their identities."""
        return [self._ceilings[key] for key in sorted(self._ceilings)]

    def rows(self, protocol: Protocol) -> list[Row]:
        """Return a row for each cell: by benchmark, workload, status (ok first), best first, name."""
        cells: dict[str, list[Round]] = {}
        for key in sorted(self._rounds):
            cells.setdefault(key[0], []).append(self._rounds[key])
        ceilings = self.ceilings
        return sorted((_row(rounds, protocol, ceilings) for rounds in cells.values()), key=place)

    def _condense(self, record: Record) -> Round:
        """Keep what a row needs; equal values are kept once, for most records of a run share them."""
        workload = self._workloads.setdefault(record.workload_id, record.workload)
        if workload != record.workload:
            workload = record.workload
        hardware = hardware_of(record)
        environment, image = record.environment, record.provenance.image_id if record.provenance else None
        software = (environment.fingerprint if environment else None, image)
        if software not in self._versions:
            self._versions[software] = versions_of(environment, image)
        return Round(
            cell_id=record.cell_id,
            workload_id=record.workload_id,
            round=record.round,
            stack=record.stack,
            method=record.method,
            workload=workload,
            hardware=self._hardware.setdefault(hardware, hardware),
            status=record.status,
            reason=record.reason,
            flags=record.flags,
            started_utc=record.started_utc,
            note=note(record),
            steady=steady(record),
            first_call_seconds=first_call_seconds(record),
            memory=record.memory,
            work=record.work,
            graphs=graphs_of(record),
            versions=self._versions[software],
        )


def rows(records: Iterable[Record], protocol: Protocol) -> list[Row]:
    """Return the rows of the five benchmarks' records; ceilings serve for the shares and have no row."""
    reduction = Reduction()
    for record in records:
        reduction.add(record)
    return reduction.rows(protocol)


def ceiling(record: Record) -> Ceiling:
    """Return the best rate of each kind: the largest, over the sizes, of the median rate."""
    flops, matrix_size = _best_rate(record.rates, "matrix_product")
    copied, copy_size = _best_rate(record.rates, "device_copy")
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
    )


def graphs_of(record: Record) -> tuple[int, ...]:
    """Return how many graphs the compiler had made after each sample, or nothing where the record does not say."""
    told = record.detail.get("graphs")
    if not isinstance(told, list) or not all(isinstance(count, int) for count in told):
        return ()
    return tuple(told)


def hardware_of(record: Record) -> Hardware:
    """Return what the record says it ran on."""
    environment = record.environment
    if record.device == "cpu":
        threads = environment.threads if environment else None
        return Hardware(device="cpu", name=environment.cpu if environment else None, threads=threads)
    gpu = environment.gpu if environment else None
    if gpu is None:
        return Hardware(device="cuda")
    return Hardware(device="cuda", name=gpu.name, uuid=gpu.uuid, driver=gpu.driver, memory_bytes=gpu.memory_bytes)


def versions_of(environment: Environment | None, image_id: str | None) -> Versions:
    """Return the versions that decide most; of the packages those that bring kernels or compilers."""
    if environment is None:
        return Versions(image_id=image_id)
    return Versions(
        python=environment.python,
        torch=environment.torch,
        torch_git=environment.torch_git,
        cuda=environment.cuda,
        cudnn=environment.cudnn,
        triton=environment.triton,
        compiler=environment.compiler,
        fingerprint=environment.fingerprint,
        image_id=image_id,
        packages={
            name: version
            for name, version in sorted(environment.packages.items())
            if name in KERNEL_PACKAGES or name.startswith(KERNEL_PREFIXES)
        },
    )


def _best_rate(
    rates: Iterable[Rate], kind: Literal["matrix_product", "device_copy"]
) -> tuple[float | None, int | None]:
    found = [
        (rate.work / (median(rate.durations_ns) / 1e9), rate.size)
        for rate in rates
        if rate.kind == kind and rate.durations_ns and min(rate.durations_ns) > 0
    ]
    return max(found, default=(None, None))


def _row(rounds: Sequence[Round], protocol: Protocol, ceilings: Sequence[Ceiling]) -> Row:
    status = min((r.status for r in rounds), key=SEVERITY.index)
    # The figure is made of the rounds that went as the row says; a wrong row's is kept, but is no headline.
    counted = [r for r in rounds if r.status == ("incorrect" if status == "incorrect" else "ok")]
    # Versions, hardware and work are the same in every round of a cell, where its record got that far.
    shown = (counted or list(rounds))[-1]
    workload = shown.workload
    reduced = [r.note if protocol == "note" else r.steady for r in counted]
    figure = _nothing(shown, status)
    if reduced:
        figure = combine(protocol, workload.benchmark, workload.new_tokens, reduced)
    first = [r.first_call_seconds for r in counted if r.first_call_seconds is not None]
    memory = [r.memory for r in rounds if r.memory is not None]
    graphs = [r.graphs for r in counted if r.graphs]
    return Row(
        protocol=protocol,
        cell_id=shown.cell_id,
        workload_id=shown.workload_id,
        benchmark=workload.benchmark,
        method=shown.method,
        stack=shown.stack,
        workload=workload,
        hardware=shown.hardware,
        status=status,
        reason=_reason(rounds),
        flags=tuple(flag for flag in FLAG_ORDER if any(flag in r.flags for r in rounds)),
        rounds=len(rounds),
        rounds_ok=sum(r.status == "ok" for r in rounds),
        figure=figure.figure,
        headline=figure.figure if status == "ok" else None,
        unit=figure.unit,
        basis=figure.basis,
        complete=figure.complete,
        figure_reason=figure.reason,
        interval=figure.interval,
        interval_kind=figure.interval_kind,
        interval_level=figure.interval_level,
        round_figures=figure.round_figures,
        device_figure=figure.device_figure,
        seconds=figure.seconds,
        first_token_seconds=figure.first_token_seconds,
        next_token_seconds=figure.next_token_seconds,
        first_call_seconds=median(first) if first else None,
        first_call_rounds=tuple(first),
        process_bytes=max((m.process_bytes for m in memory if m.process_bytes is not None), default=None),
        steady_bytes=max((m.steady_bytes for m in memory if m.steady_bytes is not None), default=None),
        reserved_bytes=max((m.reserved_bytes for m in memory if m.reserved_bytes is not None), default=None),
        host_bytes=max((m.host_bytes for m in memory if m.host_bytes is not None), default=None),
        graphs=max((g[-1] for g in graphs), default=None),
        recompiled=max((g[-1] - g[0] for g in graphs), default=None),
        work=shown.work,
        share=_share(shown, figure, protocol, ceilings),
        versions=shown.versions,
    )


def _share(shown: Round, figure: Figure, protocol: Protocol, ceilings: Sequence[Ceiling]) -> Share:
    # Where every sample has its own shape the record's work is that of all timed samples together.
    if shown.workload.benchmark == "train_dynamic" and protocol == "note" and shown.note.used != shown.steady.used:
        return Share(share=None, reason="the work is counted over the timed samples, the note's are others")
    return share_of_ceiling(shown.work, figure.seconds, shown.hardware, shown.workload.dtype, ceilings)


def _nothing(shown: Round, status: Status) -> Figure:
    return Figure(None, unit_of(shown.workload.benchmark), None, reason=f"no round is ok ({status})")


def _reason(rounds: Sequence[Round]) -> str | None:
    """Return the reasons of the rounds, each once, with the rounds' numbers where they differ."""
    told: dict[str, list[int]] = {}
    for r in rounds:
        if r.status != "ok" or r.reason:
            told.setdefault(f"{r.status}: {r.reason}" if r.reason else r.status, []).append(r.round)
    if not told:
        return None
    if len({r.status for r in rounds}) == 1 and len(told) == 1 and len(next(iter(told.values()))) == len(rounds):
        return rounds[0].reason
    return "; ".join(f"round {', '.join(map(str, numbers))} {text}" for text, numbers in told.items())


def _age(found: Round) -> tuple[str, int, str]:
    """Order two records of the same key by when they began; the rest only makes the order definite."""
    return (found.started_utc or "", -SEVERITY.index(found.status), repr(found.steady))


def place(row: Row) -> tuple[object, ...]:
    """Return the key that orders rows as the tables show them: ok rows first, the best of them first."""
    figure = row.headline
    better = 0.0 if figure is None else -figure if row.unit == "tokens/s" else figure
    return (
        BENCHMARK_ORDER[row.benchmark],
        _workload_order(row.workload),
        row.workload_id,
        SEVERITY.index("ok") != SEVERITY.index(row.status),
        figure is None,
        better,
        row.name,
        row.cell_id,
    )


def _workload_order(workload: Workload) -> tuple[object, ...]:
    model = workload.model.name if workload.model else ""
    return (model, workload.batch or 0, workload.sequence or 0, workload.new_tokens or 0, workload.dtype)
