"""The drawer's sections on what ran in a call, what the compiler did, and what the host saw of the GPU."""

from __future__ import annotations

from typing import TYPE_CHECKING

from orchestrator.analysis.evidence import operators
from orchestrator.base.text import MISSING, percent, significant
from orchestrator.report.blocks import facts, section, shares, table, text
from orchestrator.report.words import cpu_use

if TYPE_CHECKING:
    from orchestrator.records.record import Range, Record, WarmStart
    from orchestrator.report.blocks import Section


def dispatch_section(record: Record) -> Section | None:
    """Return which kernels (on a CPU: operators) ran in one call after timing, and what should have."""
    told = record.dispatch
    if told is None:
        return None
    missing = None
    if told.missing:
        missing = f"Expected and not seen: {', '.join(told.missing)}." + (
            f" Instead: {told.instead}." if told.instead else ""
        )
    groups = [(g.name, g.share, f"{percent(g.share)} · {g.launches:,} launches") for g in told.groups]
    top = [(k.name, k.group, f"{k.launches:,}", percent(k.share)) for k in told.top]
    return section(
        "Kernels" if told.kind == "kernels" else "Operators",
        text(missing, warning=True),
        facts(
            [
                ("profiled", told.what),
                ("launches", f"{told.launches:,}"),
                ("CUDA graph replays", told.graph_replays),
                ("expected", ", ".join(told.expected) or None),
                *((f"{operator} dispatched to", what) for operator, what in operators(record).items()),
            ]
        ),
        shares(groups),
        table(("kernel" if told.kind == "kernels" else "operator", "kind", "launches", "share"), top, numeric=(2, 3)),
        text(f"The whole listing: SHA-256 {told.listing_sha256}" if told.listing_sha256 else None),
    )


def compile_section(record: Record) -> Section | None:
    """Return what the compiler made, when and why."""
    told = record.compiles
    if told is None:
        return None
    ledger = [
        (e.sample, "x".join(map(str, e.shape)), e.graphs, e.recompiles, e.kernels, "; ".join(e.reasons))
        for e in told.ledger
    ]
    hits = None
    if told.cache_hits is not None or told.cache_misses is not None:
        hits = f"{_count(told.cache_hits)} hits, {_count(told.cache_misses)} misses"
    return section(
        "Compiles",
        facts(
            [
                ("graphs", told.graphs),
                ("recompiles", told.recompiles),
                ("kernels compiled by Triton at launch", told.kernels),
                ("compile cache", hits),
                ("warm start", _warm(told.warm)),
            ]
        ),
        table(("sample", "shape", "graphs", "recompiles", "kernels", "reasons"), ledger, numeric=(0, 2, 3, 4)),
        table(("graph breaks",), [(reason,) for reason in told.breaks]),
    )


def telemetry_section(record: Record) -> Section | None:
    """Return what the host read of the GPU and of its own CPUs while the timed samples ran."""
    told, cpus = record.telemetry, ("host's CPUs", cpu_use(record.host_load) if record.host_load else None)
    if told is None:
        return section("Telemetry", facts([cpus]))
    ranges = [
        _range("SM clock, MHz", told.sm_clock_mhz),
        _range("memory clock, MHz", told.memory_clock_mhz),
        _range("power, W", told.power_watts),
        _range("temperature, °C", told.temperature_celsius),
        _range("memory in use, GB", told.memory_bytes, 1e9),
    ]
    throttled = ", ".join(f"{reason} {percent(share)}" for reason, share in sorted(told.throttled.items()))
    interval = "" if told.interval_ms is None else f", one every {significant(told.interval_ms, 3)} ms"
    return section(
        "Telemetry",
        table(("over the timed samples", "low", "median", "high"), [r for r in ranges if r], numeric=(1, 2, 3)),
        facts(
            [
                ("readings", f"{told.readings:,}{interval}"),
                ("clock held back by", f"{throttled} of the readings" if throttled else "nothing"),
                ("energy", None if told.energy_joules is None else f"{significant(told.energy_joules)} J"),
                ("others on the GPU", ", ".join(told.foreign) or "none"),
                cpus,
            ]
        ),
        text(f"The whole series: SHA-256 {told.series_sha256}" if told.series_sha256 else None),
    )


def _range(name: str, found: Range | None, unit: float = 1.0) -> tuple[str, ...] | None:
    if found is None:
        return None
    return (name, *(significant(value / unit) for value in (found.low, found.median, found.high)))


def _count(value: int | None) -> str:
    return MISSING if value is None else f"{value:,}"


def _warm(warm: WarmStart | None) -> str | None:
    if warm is None:
        return None
    if warm.first_ns is None:
        return f"{MISSING} ({warm.reason or 'not measured'})"
    words = f"first call {significant(warm.first_ns / 1e9, 3)} s in a second process over the same cache"
    if warm.cache_hits is not None:
        words += f", {warm.cache_hits:,} hits, {_count(warm.cache_misses)} misses"
    return words
