"""From records to rows under either protocol.

`Reduction` takes records one at a time and keeps of each what its row needs: a hundred thousand fit in memory.
"""

from __future__ import annotations

from dataclasses import dataclass
from statistics import median
from typing import TYPE_CHECKING, Any, Literal, get_args

from orchestrator.analysis.beside import EagerRows, beside_eager, beside_probes
from orchestrator.analysis.conditions import hardware_of, versions_of
from orchestrator.analysis.evidence import FirstCall, evidence, first_call, over_rounds, units_in
from orchestrator.analysis.protocol import Figure, combine, note, steady, unit_of
from orchestrator.analysis.rows import Ceiling, Hardware, Row, Share, Versions, share_of_ceiling
from orchestrator.plan.workload import MEASURED, Role
from orchestrator.records.record import Flag, Status

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from orchestrator.analysis.beside import ProbeKey
    from orchestrator.analysis.evidence import Evidence
    from orchestrator.analysis.protocol import Protocol, Reduced
    from orchestrator.analysis.rows import Compilation
    from orchestrator.plan.workload import Workload
    from orchestrator.records.record import Memory, Rate, Record, Work

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
CROWDED = 0.25
"""A row of the CPU is tainted where others took this share of the host's CPUs."""
FLAG_ORDER: tuple[Flag, ...] = get_args(Flag)
BENCHMARK_ORDER = {benchmark: place for place, benchmark in enumerate(MEASURED)}


@dataclass(frozen=True, slots=True)
class Round:
    """What a row needs of one record."""

    cell_id: str
    workload_id: str
    round: int
    role: Role
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
    first_call: FirstCall
    memory: Memory | None
    work: Work | None
    versions: Versions
    evidence: Evidence


class Reduction:
    """Records as they come in, whatever their order; `rows` gives the same rows for the same records."""

    def __init__(self) -> None:
        self._rounds: dict[tuple[str, int], Round] = {}
        self._ceilings: dict[tuple[str, int], Ceiling] = {}
        self._references: dict[tuple[str, int], tuple[Status, str | None]] = {}
        self._workloads: dict[str, Workload] = {}
        self._versions: dict[tuple[str | None, str | None], Versions] = {}
        self._hardware: dict[Hardware, Hardware] = {}

    def add(self, record: Record) -> None:
        """Take in one record. Of two with the same key the one that began later counts."""
        key = (record.cell_id, record.round)
        if record.workload.benchmark == "ceilings":
            self._ceilings[key] = ceiling(record)
            return
        if record.workload.benchmark == "reference":
            self._references[key] = (record.status, record.reason)
            return
        found = self._condense(record)
        before = self._rounds.get(key)
        if before is None or _age(before) <= _age(found):
            self._rounds[key] = found

    def forget(self, cell_id: str, number: int) -> None:
        """Leave out a round's record that is replaced by another, whichever of them began later."""
        for kept in (self._rounds, self._ceilings, self._references):
            kept.pop((cell_id, number), None)

    @property
    def failed_references(self) -> list[str]:
        """A line for each reference cell that came to nothing: its rows are unchecked."""
        return [
            f"{status}: {reason}" if reason else status
            for _, (status, reason) in sorted(self._references.items())
            if status != "ok"
        ]

    @property
    def ceilings(self) -> list[Ceiling]:
        """The ceilings of the run, in the order of their identities."""
        return [self._ceilings[key] for key in sorted(self._ceilings)]

    def rows(self, protocol: Protocol, *, probed: bool = True) -> list[Row]:
        """Return a row for each cell: by benchmark, workload, status (ok first), best first, name.

        Probes are no rows: what they found is in those that they belong to. Without `probed` a row says what its own
        records do: for records whose run, and so whose probe, is not at hand.
        """
        ceilings = self.ceilings
        probes: dict[ProbeKey, list[Row]] = {}
        for rounds in self._cells("probe"):
            row = _row(rounds, protocol, ceilings)
            probes.setdefault((row.benchmark, row.method, row.stack, row.hardware.device), []).append(row)
        cells = self._cells("row")
        losses = {rounds[-1].cell_id: rounds[-1].evidence.losses for rounds in cells}
        found = [_row(rounds, protocol, ceilings) for rounds in cells]
        found = [beside_probes(row, probes) for row in found] if probed else found
        eagers = EagerRows(found)
        placed = [beside_eager(row, eagers.of(row), losses) for row in found]
        return sorted(placed, key=place)

    def _cells(self, role: Role) -> list[list[Round]]:
        """Return the rounds of each cell that is there for `role`."""
        cells: dict[str, list[Round]] = {}
        for key in sorted(self._rounds):
            if self._rounds[key].role == role:
                cells.setdefault(key[0], []).append(self._rounds[key])
        return list(cells.values())

    def _condense(self, record: Record) -> Round:
        """Keep what a row needs; equal values are kept once, for most records of a run share them."""
        workload = self._workloads.setdefault(record.workload_id, record.workload)
        if workload != record.workload:
            workload = record.workload
        hardware = hardware_of(record)
        environment, image = record.environment, record.provenance.image_id if record.provenance else None
        found, steadily = evidence(record), steady(record)
        status, reason = record.status, record.reason
        if status == "ok" and found.checks is not None and found.checks.failed:
            # A record that says ok beside a check that failed is not taken at its word.
            status, reason = "incorrect", found.checks.why
        software = (environment.fingerprint if environment else None, image)
        if software not in self._versions:
            self._versions[software] = versions_of(environment, image)
        return Round(
            cell_id=record.cell_id,
            workload_id=record.workload_id,
            round=record.round,
            role=record.role,
            stack=record.stack,
            method=record.method,
            workload=workload,
            hardware=self._hardware.setdefault(hardware, hardware),
            status=status,
            reason=reason,
            flags=record.flags,
            started_utc=record.started_utc,
            note=note(record),
            steady=steadily,
            first_call=first_call(record, steadily),
            memory=record.memory,
            work=record.work,
            versions=self._versions[software],
            evidence=found,
        )


def rows(records: Iterable[Record], protocol: Protocol, *, probed: bool = True) -> list[Row]:
    """Return the rows of the five benchmarks' records; ceilings serve for the shares and have no row.

    `probed`: as for `Reduction.rows`.
    """
    reduction = Reduction()
    for record in records:
        reduction.add(record)
    return reduction.rows(protocol, probed=probed)


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
    # Versions, the model of the device and work are the same in every round of a cell, where its record got that far.
    shown = (counted or list(rounds))[-1]
    workload = shown.workload
    reduced = [r.note if protocol == "note" else r.steady for r in counted]
    figure = _nothing(shown, status)
    if reduced:
        figure = combine(protocol, workload.benchmark, workload.new_tokens, reduced)
    memory = [r.memory for r in rounds if r.memory is not None]
    compiled = [r.evidence.compilation for r in counted if r.evidence.compilation is not None]
    compilation = _compilation(shown.evidence, counted)
    second_process = compilation.warm_first_seconds if compilation else None
    return Row(
        protocol=protocol,
        cell_id=shown.cell_id,
        workload_id=shown.workload_id,
        benchmark=workload.benchmark,
        method=shown.method,
        stack=shown.stack,
        workload=workload,
        hardware=shown.hardware,
        gpus=tuple(dict.fromkeys(r.hardware.uuid for r in counted if r.hardware.uuid is not None)),
        status=status,
        reason=_reason(rounds),
        flags=_flags(rounds, counted),
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
        round_seconds=figure.round_seconds,
        device_figure=figure.device_figure,
        seconds=figure.seconds,
        units=units_in(workload, figure.samples),
        first_token_seconds=figure.first_token_seconds,
        next_token_seconds=figure.next_token_seconds,
        **over_rounds([r.first_call for r in counted], second_process),
        process_bytes=max((m.process_bytes for m in memory if m.process_bytes is not None), default=None),
        steady_bytes=max((m.steady_bytes for m in memory if m.steady_bytes is not None), default=None),
        reserved_bytes=max((m.reserved_bytes for m in memory if m.reserved_bytes is not None), default=None),
        host_bytes=max((m.host_bytes for m in memory if m.host_bytes is not None), default=None),
        graphs=max((c.graphs for c in compiled), default=None),
        recompiled=max((c.recompiles for c in compiled), default=None),
        work=shown.work,
        share=_share(shown, figure, protocol, ceilings),
        versions=shown.versions,
        compilation=compilation,
        one_compile=_one_compile(counted, compilation),
        **_evidence(shown.evidence, counted),
    )


def _evidence(shown: Evidence, counted: Sequence[Round]) -> dict[str, Any]:
    """Return the row's fields of evidence: of the last round that counts, but what disturbed any round of all."""
    ratio = shown.error / shown.eager_error if shown.error is not None and shown.eager_error else None
    offs = [r.evidence.first_off for r in counted]
    drifts = [r.evidence.drift for r in counted]
    loads = [r.evidence.host_load for r in counted if r.evidence.host_load is not None]
    return {
        "checks": shown.checks,
        "error": shown.error,
        "eager_error": shown.eager_error,
        "error_ratio": ratio,
        "resembles": shown.resembles,
        "ran": shown.ran,
        "dispatched": shown.dispatched,
        "power": shown.power,
        "host_load": max(loads, key=lambda load: load.taken, default=None),
        "tainted": sum(r.evidence.tainted for r in counted),
        "taints": tuple(dict.fromkeys(taint for r in counted for taint in r.evidence.taints)),
        "first_off": _in_most(offs),
        "drift": _in_most(drifts),
    }


def _one_compile(counted: Sequence[Round], compilation: Compilation | None) -> bool:
    """Whether a compiled row has several rounds, and some did not compile it anew."""
    compiled = compilation is not None and compilation.made > 0
    return compiled and len(counted) > 1 and any(r.first_call.cache in ("warm", "partly warm") for r in counted)


def _compilation(shown: Evidence, counted: Sequence[Round]) -> Compilation | None:
    """Return the last round's, with the warm start of the round that has one."""
    warm = next((c for r in counted if (c := r.evidence.compilation) and (c.warm_first_seconds or c.warm_reason)), None)
    if shown.compilation is None or warm is None:
        return shown.compilation
    told = {"warm_first_seconds": warm.warm_first_seconds, "warm_reason": warm.warm_reason}
    return shown.compilation.model_copy(update=told)


def _in_most(found: Sequence[float | None]) -> float | None:
    """Return the median of what was found where more than half of the rounds have it."""
    known = [value for value in found if value is not None]
    return median(known) if 2 * len(known) > len(found) else None


def _share(shown: Round, figure: Figure, protocol: Protocol, ceilings: Sequence[Ceiling]) -> Share:
    # Where every sample has its own shape the record's work is that of all timed samples together.
    if shown.workload.benchmark == "train_dynamic" and protocol == "note" and shown.note.used != shown.steady.used:
        return Share(share=None, reason="the work is counted over the timed samples, the note's are others")
    return share_of_ceiling(shown.work, figure.seconds, shown.hardware, shown.workload.dtype, ceilings)


def _flags(rounds: Sequence[Round], counted: Sequence[Round]) -> tuple[Flag, ...]:
    """Return the rounds' flags and those that follow from what is in the records, whatever these say themselves."""
    found = {flag for r in rounds for flag in r.flags}
    for r in counted:
        checks = r.evidence.checks
        if checks is None or checks.unchecked:
            found.add("unchecked")
        load = r.evidence.host_load
        if r.steady.tainted or (load is not None and r.hardware.device == "cpu" and load.taken >= CROWDED):
            found.add("tainted")
        if r.evidence.ran is not None and r.evidence.ran.missing:
            found.add("not_fused")
    if _in_most([r.evidence.drift for r in counted]) is not None:
        found.add("drift")
    return tuple(flag for flag in FLAG_ORDER if flag in found)


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
