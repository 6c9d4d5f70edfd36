"""From records to rows under either protocol.

`Reduction` takes records one at a time and keeps of each what its row needs: a hundred thousand fit in memory.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from statistics import median
from typing import Any, get_args

from orchestrator.analysis.beside import EagerRows, ProbeKey, beside_eager, beside_one_device, beside_probes
from orchestrator.analysis.ceilings import (
    Ceiling,
    Ceilings,
    Hardware,
    Share,
    ceiling,
    hardware_of,
    joules_of_sample,
    share_of_ceiling,
)
from orchestrator.analysis.evidence import evidence, first_call, over_rounds, units_in
from orchestrator.analysis.protocol import Figure, Protocol, Reduced, columns_of, combine, note, steady, unit_of
from orchestrator.analysis.rows import Evidence, FirstCall, Row
from orchestrator.base.grouping import grouped
from orchestrator.plan.workload import MEASURED, Kind, Role, Workload
from orchestrator.records.checks import held_to_list
from orchestrator.records.record import Compiles, Environment, Flag, Memory, Record, Status, Work

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


@dataclass(frozen=True)
class Round:
    """What a row needs of one record; samples and all else that is as long stand reduced in it.

    Without slots, as are the values in it: from process to process it goes in two thirds of the time.
    """

    cell_id: str
    workload_id: str
    number: int
    stack: str
    method: str
    kind: Kind
    workload: Workload
    status: Status
    reason: str | None
    flags: tuple[Flag, ...]
    started_utc: str | None
    memory: Memory | None
    work: Work | None
    environment: Environment | None
    image_id: str | None
    hardware: Hardware
    note: Reduced
    steady: Reduced
    first_call: FirstCall
    evidence: Evidence
    joules: float | None
    """Of the record's work."""


class Reduction:
    """Records as they come in, whatever their order; `rows` gives the same rows for the same records."""

    def __init__(self) -> None:
        self._rounds: dict[Role, dict[str, dict[int, Round]]] = {"row": {}, "probe": {}}
        self._ceilings: dict[tuple[str, int], Ceiling] = {}
        self._in_order: Ceilings | None = None
        self._references: dict[tuple[str, int], tuple[Status, str | None]] = {}
        self._workloads: dict[str, Workload] = {}
        self._environments: dict[tuple[Any, ...], Environment] = {}
        self._hardware: dict[Hardware, Hardware] = {}

    def add(self, record: Record) -> None:
        """Take in one record. Of two with the same key the one that began later counts."""
        key = (record.cell_id, record.round)
        if record.workload.benchmark == "ceilings":
            self._ceilings[key], self._in_order = ceiling(record), None
            return
        if record.role == "weights":
            return  # what is wrong with them says the row of an engine
        if record.workload.benchmark == "reference":
            self._references[key] = (record.status, record.reason)
            return
        self._keep(record.role, self._condense(record))

    def take_over(self, other: Reduction) -> None:
        """Take in all that another reduction holds, as if its records had been added here."""
        for role, cells in other._rounds.items():
            for rounds in cells.values():
                for found in rounds.values():
                    self._keep(role, found)
        self._ceilings.update(other._ceilings)
        self._in_order = None
        self._references.update(other._references)

    def _keep(self, role: Role, found: Round) -> None:
        rounds = self._rounds.setdefault(role, {}).setdefault(found.cell_id, {})
        before = rounds.get(found.number)
        if before is None or _age(before) <= _age(found):
            rounds[found.number] = found

    @property
    def recorded(self) -> int:
        """Rounds that have a record, those of ceilings, references and probes included.

        Of ceilings and references, which each GPU of a run has its own of, one counts.
        """
        rounds = sum(len(rounds) for cells in self._rounds.values() for rounds in cells.values())
        return rounds + len({cell_id for cell_id, _ in (*self._ceilings, *self._references)})

    def forget(self, cell_id: str, number: int) -> None:
        """Leave out a round's record that is replaced by another, whichever of them began later."""
        for cells in self._rounds.values():
            if cells.get(cell_id, {}).pop(number, None) and not cells[cell_id]:
                del cells[cell_id]
        for kept in (self._ceilings, self._references):
            kept.pop((cell_id, number), None)
        self._in_order = None

    @property
    def failed_references(self) -> list[str]:
        """Why reference cells came to nothing, each reason once: their rows are unchecked."""
        failed = (found for _, found in sorted(self._references.items()) if found[0] != "ok")
        return list(dict.fromkeys(f"{status}: {reason}" if reason else status for status, reason in failed))

    @property
    def ceilings(self) -> tuple[Ceiling, ...]:
        """The ceilings of the run, in the order of their identities."""
        return self._known_ceilings.all

    @property
    def _known_ceilings(self) -> Ceilings:
        if self._in_order is None:
            self._in_order = Ceilings(self._ceilings[key] for key in sorted(self._ceilings))
        return self._in_order

    def rows(self, protocol: Protocol, *, probed: bool = True) -> list[Row]:
        """Return a row for each cell: by benchmark, workload, status (ok first), best first, name.

        Probes have no rows: what they found is in the rows that they belong to. Without `probed` a row says what its
        own records do: for records whose run, and so whose probe, is not at hand.
        """
        found = self._steady_rows(probed=probed)
        if protocol == "note":
            found = [self.as_note(row) for row in found]
        return sorted(found, key=place)

    def as_note(self, row: Row) -> Row:
        """Return the row of the same cell under the note's protocol, which makes no verdicts."""
        rounds = self._rounds["row"][row.cell_id]
        # What the probe says of the row is no reason to take other rounds.
        counted = _counted([rounds[number] for number in sorted(rounds)])
        figure = _figure(counted, row.workload, row.status, "note")
        # Where every sample has its own shape the record's work is that of all timed samples together.
        if row.benchmark == "train_dynamic" and counted and counted[-1].note.used != counted[-1].steady.used:
            share = Share(share=None, reason="the work is counted over the timed samples, the note's are others")
        else:
            dtype, joules, lower = row.workload.dtype, _joules(counted), _lower(row.evidence)
            share = share_of_ceiling(
                row.work,
                figure.seconds,
                row.hardware,
                dtype,
                self._known_ceilings,
                joules=joules,
                lower=lower,
                devices=row.workload.devices,
            )
        changes = {"figure": figure, "units": units_in(row.workload, figure.samples), "share": share}
        return row.model_copy(update={"protocol": "note", "versus": None, "break_even": None, **changes})

    def _steady_rows(self, *, probed: bool) -> list[Row]:
        ceilings = self._known_ceilings
        probe_rows = (_row(rounds, ceilings) for rounds in self._cells("probe"))
        probes: dict[ProbeKey, tuple[Row, ...]] = grouped(
            ((row.benchmark, row.method, row.stack, row.hardware.device), row) for row in probe_rows
        )
        found = [_row(rounds, ceilings) for rounds in self._cells("row")]
        found = [beside_probes(row, probes) for row in found] if probed else found
        eagers = EagerRows(found)
        return beside_one_device([beside_eager(row, eagers.of(row)) for row in found])

    def _cells(self, role: Role) -> list[list[Round]]:
        """Return the rounds of each cell that is there for `role`."""
        cells = self._rounds[role]
        return [[cells[cell][number] for number in sorted(cells[cell])] for cell in sorted(cells)]

    def _condense(self, record: Record) -> Round:
        """Keep what a row needs; equal values are kept once, for most records of a run share them."""
        record = held_to_list(record)
        workload = self._workloads.setdefault(record.workload_id, record.workload)
        if workload != record.workload:
            workload = record.workload
        hardware = hardware_of(record)
        environment = record.environment
        samples = columns_of(record)
        found, steadily = evidence(record, samples), steady(record, samples)
        status, reason = record.status, record.reason
        if status == "ok" and found.checks is not None and found.checks.failed:
            # A record that says ok beside a check that failed is not taken at its word.
            status, reason = "incorrect", found.checks.why
        return Round(
            cell_id=record.cell_id,
            workload_id=record.workload_id,
            number=record.round,
            stack=record.stack,
            method=record.method,
            kind=record.kind,
            workload=workload,
            status=status,
            reason=reason,
            flags=record.flags,
            started_utc=record.started_utc,
            memory=record.memory,
            work=record.work,
            environment=environment and self._kept(environment),
            image_id=record.provenance.image_id if record.provenance else None,
            hardware=self._hardware.setdefault(hardware, hardware),
            note=note(record, samples),
            steady=steadily,
            first_call=first_call(record, steadily, samples),
            evidence=found,
            joules=joules_of_sample(record),
        )

    def _kept(self, found: Environment) -> Environment:
        """Return the first environment like this one; packages are compared by their fingerprint."""
        host = (found.cpu, found.cores, found.threads, found.gpu, *sorted(found.settings.items()))
        return self._environments.setdefault((found.fingerprint, found.torch_git, found.compiler, *host), found)


def rows(records: Iterable[Record], protocol: Protocol, *, probed: bool = True) -> list[Row]:
    """Return the rows of the five benchmarks' records; ceilings serve for the shares and have no row.

    `probed`: as for `Reduction.rows`.
    """
    reduction = Reduction()
    for record in records:
        reduction.add(record)
    return reduction.rows(protocol, probed=probed)


def _counted(rounds: Sequence[Round]) -> list[Round]:
    """Return the rounds that a figure is made of: those that went as the row says, a wrong row's too."""
    wanted = "incorrect" if any(r.status == "incorrect" for r in rounds) else "ok"
    return [r for r in rounds if r.status == wanted]


def _figure(counted: Sequence[Round], workload: Workload, status: Status, protocol: Protocol) -> Figure:
    if not counted:
        return Figure(None, unit_of(workload.benchmark), None, reason=f"no round is ok ({status})")
    reduced = [r.note if protocol == "note" else r.steady for r in counted]
    return combine(protocol, workload.benchmark, workload.counted_tokens, reduced)


def _row(rounds: Sequence[Round], ceilings: Ceilings) -> Row:
    """Return a cell's row by its own records alone, under the protocol steady."""
    status = min((r.status for r in rounds), key=SEVERITY.index)
    counted = _counted(rounds)
    # Versions, the model of the device and work are the same in every round of a cell, where its record got that far.
    shown = (counted or list(rounds))[-1]
    workload = shown.workload
    figure = _figure(counted, workload, status, "steady")
    compiled = [r.evidence.compiles for r in counted if r.evidence.compiles is not None]
    evidence = _evidence(shown.evidence, counted)
    made = evidence.compiles
    second_process = made.warm.first_ns / 1e9 if made and made.warm and made.warm.first_ns is not None else None
    return Row(
        protocol="steady",
        cell_id=shown.cell_id,
        workload_id=shown.workload_id,
        benchmark=workload.benchmark,
        method=shown.method,
        stack=shown.stack,
        kind=shown.kind,
        workload=workload,
        hardware=shown.hardware,
        gpus=tuple(dict.fromkeys(r.hardware.uuid for r in counted if r.hardware.uuid is not None)),
        status=status,
        reason=_reason(rounds),
        flags=_flags(rounds, counted),
        rounds=len(rounds),
        rounds_ok=sum(r.status == "ok" for r in rounds),
        figure=figure,
        units=units_in(workload, figure.samples),
        began_utc=min((r.started_utc for r in counted if r.started_utc), default=None),
        first_call=over_rounds([r.first_call for r in counted], second_process),
        memory=_peaks(rounds),
        graphs=max((c.graphs for c in compiled), default=None),
        recompiled=max((c.recompiles for c in compiled), default=None),
        one_compile=_one_compile(counted, made),
        work=shown.work,
        share=share_of_ceiling(
            shown.work,
            figure.seconds,
            shown.hardware,
            workload.dtype,
            ceilings,
            joules=_joules(counted),
            sustained=2 * sum(bool(r.steady.blocks) for r in counted) > len(counted),
            lower=_lower(evidence),
            devices=workload.devices,
        ),
        environment=shown.environment,
        image_id=shown.image_id,
        evidence=evidence,
    )


def _lower(evidence: Evidence) -> tuple[str, ...]:
    return evidence.dispatch.lower_precisions if evidence.dispatch else ()


def _joules(counted: Sequence[Round]) -> float | None:
    return median(known) if (known := [r.joules for r in counted if r.joules is not None]) else None


def _peaks(rounds: Sequence[Round]) -> Memory:
    known = [r.memory for r in rounds if r.memory is not None]
    if len(known) == 1:
        return known[0]
    peaks = {name: [getattr(memory, name) for memory in known] for name in Memory.model_fields}
    return Memory(**{name: max((p for p in found if p is not None), default=None) for name, found in peaks.items()})


def _evidence(shown: Evidence, counted: Sequence[Round]) -> Evidence:
    """Return a row's evidence: of the last round that counts, but what disturbed any round of all."""
    each = [r.evidence for r in counted]
    warm = next((e.compiles.warm for e in each if e.compiles and e.compiles.warm), None)
    compiles = shown.compiles
    if compiles is not None and compiles.warm != warm:
        compiles = compiles.model_copy(update={"warm": warm})
    return replace(
        shown,
        compiles=compiles,
        host_load=max((e.host_load for e in each if e.host_load), key=lambda load: load.taken, default=None),
        tainted=sum(e.tainted for e in each),
        taints=tuple(dict.fromkeys(taint for e in each for taint in e.taints)),
        first_off=_in_most([e.first_off for e in each]),
        drift=_in_most([e.drift for e in each]),
        second_time=_in_most([e.second_time for e in each]),
    )


def _one_compile(counted: Sequence[Round], made: Compiles | None) -> bool:
    """Whether a compiled row has several rounds, and some did not compile it again."""
    compiled = made is not None and made.made > 0
    return compiled and len(counted) > 1 and any(r.first_call.cache in ("warm", "partly warm") for r in counted)


def _in_most(found: Sequence[float | None]) -> float | None:
    """Return the median of what was found where more than half of the rounds have it."""
    known = [value for value in found if value is not None]
    return median(known) if 2 * len(known) > len(found) else None


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
        if r.evidence.dispatch is not None and r.evidence.dispatch.missing:
            found.add("not_fused")
    if _in_most([r.evidence.drift for r in counted]) is not None:
        found.add("drift")
    return tuple(flag for flag in FLAG_ORDER if flag in found)


def _reason(rounds: Sequence[Round]) -> str | None:
    """Return the reasons of the rounds, each once, with the rounds' numbers where they differ."""
    reasons: dict[str, list[int]] = {}
    for r in rounds:
        if r.status != "ok" or r.reason:
            text = f"{r.status}: {r.reason}" if r.reason else r.status
            reasons.setdefault(text, []).append(r.number)
    if len(reasons) == 1 and len({r.status for r in rounds}) == 1 and len(*reasons.values()) == len(rounds):
        return rounds[0].reason
    several = (f"round {', '.join(map(str, numbers))} {text}" for text, numbers in reasons.items())
    return "; ".join(several) or None


def _age(found: Round) -> tuple[str, int, str]:
    """Order two records of the same key by when they began; the rest only makes the order definite."""
    return (found.started_utc or "", -SEVERITY.index(found.status), repr(found.steady))


def place(row: Row) -> tuple[object, ...]:
    """Return the key that orders rows as the tables show them: ok rows first, the best of them first."""
    figure = row.headline
    better = 0.0 if figure is None else -figure if row.figure.unit == "tokens/s" else figure
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
    return (
        model,
        workload.batch or 0,
        workload.sequence or workload.prompt_tokens or 0,
        workload.new_tokens or 0,
        workload.dtype,
        workload.devices,
        workload.parallel or "",
    )
