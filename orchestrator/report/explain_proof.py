"""A record's proof, a line for each thing: checks, reference, kernels, compiles, what the host saw of the GPU."""

from __future__ import annotations

from typing import TYPE_CHECKING

from orchestrator.base.text import MISSING, between, counted, percent, significant
from orchestrator.records.store import stem_of
from orchestrator.report.words import cpu_use, loss_advice, taint_note, warnings

if TYPE_CHECKING:
    from collections.abc import Sequence

    from orchestrator.analysis.rows import Row
    from orchestrator.records.record import Check, Compiles, Dispatch, Range, Record, Telemetry


PLURALS = {"pass": "passes"}


def checks(record: Record) -> list[str]:
    """Return a line for each check, the reference, and the fault that the error resembles."""
    proof = record.proof
    if proof is None:
        return []
    lines = [_check(check) for check in proof.checks] or ["checks: none"]
    if proof.reference is not None:
        reference = proof.reference
        made = f"made on {reference.stack}" if reference.stack else "made in the cell itself"
        name = f"references/{record.workload_id}.safetensors, sha256 {reference.sha256}, " if reference.sha256 else ""
        lines.append(f"reference: {name}{made} in {reference.dtype}")
        if reference.error is not None:
            text = f"error: {significant(reference.error)} of the reference"
            if reference.eager_error:
                ratio = significant(reference.error / reference.eager_error, 3)
                text += f"; eager's in this precision {significant(reference.eager_error)}; error ÷ eager's {ratio}"
            lines.append(text)
    if proof.resembles:
        lines.append(f"the error has the effect of a known fault: {proof.resembles}")
    if proof.seconds is not None:
        lines.append(f"the checks took {significant(proof.seconds, 3)} s")
    return lines


def dispatch(record: Record) -> list[str]:
    """Return what ran in one call: groups, the kernels that took most, what was expected and missing."""
    told = record.dispatch
    if told is None:
        return []
    replays = f", {counted(told.graph_replays, 'graph replay')}" if told.graph_replays is not None else ""
    lines = [f"ran in {told.what}: {counted(told.launches, told.kind.removesuffix('s'))}{replays}"]
    lines += [f"  {g.name}: {counted(g.launches, 'launch', 'launches')}, {percent(g.share)}" for g in told.groups]
    lines += [
        f"  most: {k.name} ({k.group}): {counted(k.launches, 'launch', 'launches')}, {percent(k.share)}"
        for k in told.top
    ]
    lines += _expected(told)
    if told.listing_sha256:
        lines.append(f"whole listing: dispatch/{stem_of(record)}.json, sha256 {told.listing_sha256}")
    return lines


def compiles(told: Compiles | None) -> list[str]:
    """Return what the compiler did, sample by sample, and how a second process over its cache began."""
    if told is None:
        return []
    lines = [f"compiled: {counted(told.graphs, 'graph')}, {counted(told.recompiles, 'recompile')} among them"]
    if told.kernels:
        lines.append(f"compiled by Triton at launch: {counted(told.kernels, 'kernel')}")
    for entry in told.ledger:
        shape = "x".join(map(str, entry.shape))
        why = f": {'; '.join(entry.reasons)}" if entry.reasons else ""
        made = f"{counted(entry.graphs, 'graph')}, {counted(entry.recompiles, 'recompile')}"
        made += f", {counted(entry.kernels, 'kernel')}" if entry.kernels else ""
        lines.append(f"  in sample {entry.sample} ({shape}): {made}{why}")
    lines += [f"graph break: {reason}" for reason in told.breaks]
    lines += _cache("compile cache", told.cache_hits, told.cache_misses)
    warm = told.warm
    if warm is not None:
        first = MISSING if warm.first_ns is None else f"{significant(warm.first_ns / 1e9)} s"
        lines.append(f"warm first call, a second process: {first}{f' ({warm.reason})' if warm.reason else ''}")
        lines += _cache("compile cache of that process", warm.cache_hits, warm.cache_misses)
    return lines


def telemetry(record: Record) -> list[str]:
    """Return what the host saw while the timed samples ran, and which samples it found disturbed."""
    told = record.telemetry
    lines = _series(told, record) if told is not None else []
    if record.host_load is not None:
        lines.append(f"the host's CPUs: {cpu_use(record.host_load)}")
    energies = [s.energy_joules for s in record.samples if s.phase == "timed" and s.energy_joules is not None]
    if energies:
        spread = between(min(energies), max(energies), 3)
        lines.append(f"energy of a timed sample: {spread} J")
    return lines + [f"sample {s.index} ({s.phase}) is tainted: {s.taint}" for s in record.samples if s.taint]


def standing(row: Row) -> list[str]:
    """Return how the row stands beside eager, when it pays off, and what its samples warn of."""
    lines = []
    if row.versus is not None:
        lines.append(f"against {row.versus.against}: {row.versus.verdict.in_words}")
    if row.break_even is not None:
        even = row.break_even
        text = "never" if even.count is None else f"after {counted(even.count, even.of, PLURALS.get(even.of))}"
        lines.append(f"pays off: {text}{f' ({even.reason})' if even.reason else ''}")
    if row.evidence.power is not None and row.evidence.power.joules is not None:
        lines.append(f"energy: {significant(row.evidence.power.joules)} J a {row.evidence.power.per}")
    lines += [f"warning: {warning}" for warning in warnings(row)]
    return lines + [note for note in (loss_advice(row), taint_note(row)) if note]


def probe(row: Row | None, probes: Sequence[Record]) -> list[str]:
    """Return how the row's method did on the probe, check by check."""
    if row is None or row.probe is None:
        return []
    result = row.probe
    how = "passed" if result.passed else result.status if result.status not in (None, "ok") else "unchecked"
    lines = [f"{how}{f': {result.reason}' if result.reason else ''}"]
    for record in probes:
        lines.append(f"record: records/{stem_of(record)}.json, {record.status}")
        lines += [f"  {line}" for line in checks(record)]
    return lines


def _check(check: Check) -> str:
    text = f"check {check.name}: {check.status}"
    if check.value is not None:
        text += f", {significant(check.value)}"
        text += f" (limit {significant(check.limit)})" if check.limit is not None else ""
    return f"{text}: {check.what}" if check.what else text


def _expected(told: Dispatch) -> list[str]:
    if not told.expected:
        return ["expected: nothing in particular"]
    lines = [f"expected: {', '.join(told.expected)}; " + ("missing" if told.missing else "all seen")]
    if told.missing:
        instead = f"; ran instead: {told.instead}" if told.instead else ""
        lines[0] += f": {', '.join(told.missing)}{instead}"
    return lines


def _cache(name: str, hits: int | None, misses: int | None) -> list[str]:
    if hits is None and misses is None:
        return []
    return [f"{name}: {MISSING if hits is None else hits} hits, {MISSING if misses is None else misses} misses"]


def _series(told: Telemetry, record: Record) -> list[str]:
    every = f", one each {significant(told.interval_ms, 3)} ms" if told.interval_ms is not None else ""
    lines = [f"the host's readings: {told.readings}{every}"]
    ranges: dict[str, tuple[Range | None, float]] = {
        "SM clock, MHz": (told.sm_clock_mhz, 1),
        "memory clock, MHz": (told.memory_clock_mhz, 1),
        "power, W": (told.power_watts, 1),
        "temperature, °C": (told.temperature_celsius, 1),
        "memory, GB": (told.memory_bytes, 1e9),
    }
    for name, (found, unit) in ranges.items():
        if found is not None:
            low, middle, high = (significant(value / unit) for value in (found.low, found.median, found.high))
            lines.append(f"  {name}: {low} to {high}, median {middle}")
    if told.throttled:
        shares = ", ".join(f"{reason} {percent(share)}" for reason, share in sorted(told.throttled.items()))
        lines.append(f"  throttled, by reason, share of the readings: {shares}")
    if told.foreign:
        lines.append(f"  other processes on the GPU: {', '.join(told.foreign)}")
    if told.energy_joules is not None:
        lines.append(f"  energy over the timed samples: {significant(told.energy_joules)} J")
    if told.series_sha256:
        lines.append(f"  series: telemetry/{stem_of(record)}.jsonl, sha256 {told.series_sha256}")
    return lines
