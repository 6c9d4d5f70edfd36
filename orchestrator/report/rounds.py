"""What one round's record says, in sections: checks, samples, kernels, compiles, telemetry, output, what ran."""

from __future__ import annotations

from collections.abc import Sequence
from statistics import median
from typing import Any

from orchestrator.analysis.ceilings import ceiling
from orchestrator.analysis.evidence import compiles, evidence, graphs_of, operators
from orchestrator.analysis.protocol import columns_of, figure_phase, first_call_seconds
from orchestrator.base.text import (
    MISSING,
    between,
    counted,
    gigabytes,
    milliseconds,
    percent,
    plain,
    scaled,
    significant,
)
from orchestrator.records.record import Rate, Record, Sample, WarmStart
from orchestrator.records.store import stem_of
from orchestrator.report.columns import not_fused, resembles
from orchestrator.report.sections import Block, Environment, Samples, Section, code, facts, section, shares, table, text
from orchestrator.report.source import Source, file_text, read_log
from orchestrator.report.words import came_again, cpu_use, disturbed, drifted, first_is_off, sentence

SHOWN_TOKENS = 40
PHASES = {"warmup": "warm-up", "timed": "timed", "repeat": "repeated", "soak": "soak", "sustained": "sustained"}
UNCHECKED = "Unchecked: nothing beyond finite numbers was asked of the output."
SHOWN_ELSEWHERE = ("graphs", "kernels")
"""Of a record's further detail: what the compiles' section says, and the packages with kernels."""


def round_sections(source: Source, record: Record) -> tuple[Section, ...]:
    """Return everything that a record says, in the order in which a reader asks."""
    found = (
        section("Checks", *checks(source, record)),
        _samples(record),
        _rates(record),
        _dispatch(record),
        _compiles(record),
        telemetry(record),
        _output(record),
        section("Phases", _phases(record), folded=True),
        _record(source, record),
        _what_ran(record),
        section(
            "Further detail",
            facts(*((key, plain(value)) for key, value in record.detail.items() if key not in SHOWN_ELSEWHERE)),
            folded=True,
        ),
        _log(source, record),
    )
    return tuple(filter(None, found))


def checks(source: Source, record: Record) -> list[Block | None]:
    """Return the checks one a line, the reference, and the fault that the error resembles."""
    proof = record.proof
    if proof is None:
        return [text("There is no proof: the cell did not get this far.")]
    rows = [(c.status, c.name, _number(c.value), _number(c.limit), c.what) for c in proof.checks]
    blocks: list[Block | None] = [
        table(("", "check", "value", "limit", "what"), rows, numeric=(2, 3), state=0),
        None if rows else text(UNCHECKED),
        text(sentence(resembles(proof.resembles)) if proof.resembles else None, warning=True),
    ]
    reference = proof.reference
    if reference is not None:
        error, eager = reference.error, reference.eager_error
        workload_id = record.workload.referred[0].workload_id
        made = "computed in the cell itself" if reference.stack is None else f"made on the stack {reference.stack}"
        ratio = f", {significant(error / eager, 3)} times eager's" if error is not None and eager else ""
        blocks.append(
            facts(
                ("reference", f"{reference.dtype}, {made}"),
                (
                    "reference's file",
                    file_text(source, f"references/{workload_id}.safetensors", reference.sha256),
                ),
                ("error", None if error is None else f"{_number(error)} of the reference{ratio}"),
                ("eager's error", None if eager is None else f"{_number(eager)} in the same precision"),
            )
        )
    seconds, again = proof.seconds, proof.seen_again
    return [
        *blocks,
        text(
            None
            if again is None
            else f"On an input just seen a call took {significant(again, 3)} of that on a new one."
        ),
        text(None if seconds is None else f"The checks took {significant(seconds, 3)} s."),
    ]


def _samples(record: Record) -> Section | None:
    first, seen = first_call_seconds(columns_of(record)), evidence(record)
    losses = [sample.loss for sample in record.samples if sample.loss is not None]
    shown = figure_phase(record.samples)
    energies = [s.energy_joules for s in record.samples if s.phase == shown and s.energy_joules is not None]
    spreads = []
    for phase, name in PHASES.items():
        chosen = [sample for sample in record.samples if sample.phase == phase]
        if chosen:
            spreads.append((name, len(chosen), *_spread(chosen), _shapes(chosen)))
    return section(
        "Samples",
        facts(("first call", None if first is None else f"{significant(first)} s")),
        table(
            ("", "samples", "wall min, ms", "median", "max", "device median, ms", "shape"),
            spreads,
            numeric=(1, 2, 3, 4, 5),
        ),
        text(
            None if seen.first_off is None else sentence(first_is_off(seen.first_off)),
            None if seen.drift is None else sentence(drifted(seen.drift)),
            None if seen.second_time is None else sentence(came_again(seen.second_time)),
            warning=True,
        ),
        _every_sample(record),
        facts(
            ("loss", f"{significant(losses[0], 6)} at first, {significant(losses[-1], 6)} at last" if losses else None),
            (f"energy of a {shown} sample", f"{between(min(energies), max(energies), 3)} J" if energies else None),
            ("peak memory", _memory(record)),
        ),
    )


def _spread(samples: Sequence[Sample]) -> tuple[str, ...]:
    walls = [_seconds(sample) for sample in samples]
    devices = [sample.device_ns for sample in samples if sample.device_ns is not None]
    wall = (milliseconds(of(walls), 4) for of in (min, median, max))
    return (*wall, _milliseconds(devices, 4) if devices else "")


def _shapes(samples: Sequence[Sample]) -> str:
    shapes = sorted({sample.shape for sample in samples})
    first, last = _shape(shapes[0]), _shape(shapes[-1])
    return first if len(shapes) == 1 else f"{len(shapes)} shapes, {first} to {last}"


def _every_sample(record: Record) -> Samples | None:
    if not record.samples:
        return None
    start = min(sample.begin_ns for sample in record.samples)
    rows = []
    for s in record.samples:
        since, device = (s.begin_ns - start) / 1e9, None if s.device_ns is None else s.device_ns / 1e9
        rows.append((s.index, s.phase, since, _seconds(s), device, s.loss, s.taint, _shape(s.shape)))
    return Samples(tuple(rows))


def _memory(record: Record) -> str:
    memory = record.memory
    if memory is None:
        return "not known"
    peaks = (
        ("process", memory.process_bytes),
        ("from the end of the warm-up", memory.steady_bytes),
        ("reserved", memory.reserved_bytes),
        ("host", memory.host_bytes),
    )
    return ", ".join(f"{what} {gigabytes(count)} GB" for what, count in peaks if count is not None)


def _rates(record: Record) -> Section | None:
    """Return what a ceilings cell measured."""
    if not record.rates:
        return None
    found = ceiling(record)
    told = disturbed([found])
    return section(
        "Ceilings",
        facts(*(_durations(rate) for rate in record.rates if rate.durations_ns), ("best", found.in_words)),
        text(sentence(told) if told else None, warning=True),
    )


def _durations(rate: Rate) -> tuple[str, str]:
    name = f"{rate.kind.replace('_', ' ')} at {rate.size}" + (f" in {rate.precision.upper()}" if rate.precision else "")
    if not rate.sustained:
        return name, f"median {_milliseconds(rate.durations_ns)} ms of {len(rate.durations_ns)} calls"
    seconds, work = sum(rate.durations_ns) / 1e9, scaled(rate.work, "FLOP")
    return f"{name}, sustained", f"{len(rate.durations_ns)} times {work} in {seconds:.3g} s"


def _dispatch(record: Record) -> Section | None:
    """Return which kernels (on a CPU: operators) ran in one call after timing, and what should have."""
    ran = record.dispatch
    if ran is None:
        return None
    one = ran.kind.removesuffix("s")
    launches = [
        (g.name, g.share, f"{percent(g.share)}, {counted(g.launches, 'launch', 'launches')}") for g in ran.groups
    ]
    top = [(k.name, k.group, f"{k.launches:,}", percent(k.share)) for k in ran.top]
    return section(
        ran.kind.capitalize(),
        text(f"Not fused: {not_fused(ran)}." if ran.missing else None, warning=True),
        facts(
            ("profiled", ran.what),
            ("launches", f"{ran.launches:,}"),
            ("CUDA graph replays", ran.graph_replays),
            ("expected", f"{', '.join(ran.expected)}{'' if ran.missing else ': all seen'}" if ran.expected else None),
            ("lower precisions, by name", "; ".join(ran.lower_precisions) or None),
            *((f"{operator} dispatched to", what) for operator, what in operators(record).items()),
        ),
        shares(launches),
        table((one, "kind", "launches", "share"), top, numeric=(2, 3)),
    )


def _compiles(record: Record) -> Section | None:
    """Return what the compiler made, when and why, and how a second process over its cache began."""
    made = compiles(record)
    if made is None:
        return None
    ledger = [(e.sample, _shape(e.shape), e.graphs, e.recompiles, e.kernels, "; ".join(e.reasons)) for e in made.ledger]
    graphs = graphs_of(record)
    later = [str(i) for i in range(1, len(graphs)) if graphs[i] > graphs[i - 1]]
    return section(
        "Compiles",
        facts(
            ("graphs", made.graphs),
            ("recompiles among them", made.recompiles),
            ("graphs after the first call", f"in samples {', '.join(later)}" if later else None),
            ("kernels compiled by Triton at launch", made.kernels or None),
            ("compile cache", _cache(made.cache_hits, made.cache_misses)),
            ("warm start", _warm(made.warm) if made.warm else None),
        ),
        table(("sample", "shape", "graphs", "recompiles", "kernels", "reasons"), ledger, numeric=(0, 2, 3, 4)),
        table(("graph breaks",), [(reason,) for reason in made.breaks]),
    )


def telemetry(record: Record) -> Section | None:
    """Return what the host read of the GPU and of its own CPUs while the timed samples ran."""
    seen, cpus = record.telemetry, ("host's CPUs", cpu_use(record.host_load) if record.host_load else None)
    if seen is None:
        return section("Telemetry", facts(cpus))
    ranges = (
        ("SM clock, MHz", seen.sm_clock_mhz, 1.0),
        ("memory clock, MHz", seen.memory_clock_mhz, 1.0),
        ("power, W", seen.power_watts, 1.0),
        ("temperature, °C", seen.temperature_celsius, 1.0),
        ("memory in use, GB", seen.memory_bytes, 1e9),
    )
    rows = [
        (name, *(significant(value / unit) for value in (found.low, found.median, found.high)))
        for name, found, unit in ranges
        if found is not None
    ]
    throttled = ", ".join(f"{reason} {percent(share)}" for reason, share in sorted(seen.throttled.items()))
    interval = "" if seen.interval_ms is None else f", one every {significant(seen.interval_ms, 3)} ms"
    return section(
        "Telemetry",
        table((f"over the {figure_phase(record.samples)} samples", "low", "median", "high"), rows, numeric=(1, 2, 3)),
        facts(
            ("readings", f"{seen.readings:,}{interval}"),
            ("clock held back by", f"{throttled} of the readings" if throttled else "nothing"),
            ("energy", None if seen.energy_joules is None else f"{significant(seen.energy_joules)} J"),
            ("other processes on the GPU", ", ".join(seen.foreign) or "none"),
            cpus,
        ),
    )


def _output(record: Record) -> Section | None:
    proof = record.proof
    if proof is None:
        return None
    made = proof.generated or ()
    tokens = " ".join(map(str, made[:SHOWN_TOKENS])) + (" …" if len(made) > SHOWN_TOKENS else "")
    return section(
        "Output",
        facts(
            ("finite", {None: "not looked at", True: "yes", False: "no"}[proof.finite]),
            ("weights", proof.weights_checksum),
            ("inputs", proof.inputs_checksum),
            ("parameters", None if proof.parameters is None else f"{proof.parameters:,}"),
            ("tokens made", tokens or None),
        ),
        code(proof.text),
    )


def _phases(record: Record) -> Any:
    spans = [(phase.name, (phase.end_ns - phase.begin_ns) / 1e9) for phase in record.phases]
    whole = sum(max(seconds, 0.0) for _, seconds in spans)
    return shares(
        (name, seconds / whole if whole > 0 else None, f"{significant(seconds, 3)} s") for name, seconds in spans
    )


def _record(source: Source, record: Record) -> Section | None:
    made, stem = record.provenance, stem_of(record)
    listing = record.dispatch.listing_sha256 if record.dispatch else None
    series = record.telemetry.series_sha256 if record.telemetry else None
    return section(
        "Record",
        facts(
            ("file", f"records/{stem}.json, written by {record.written_by}"),
            ("all that was launched", file_text(source, f"dispatch/{stem}.json", listing)),
            ("all telemetry readings", file_text(source, f"telemetry/{stem}.jsonl", series)),
            ("exit code", made and made.exit_code),
            ("wall time", f"{significant(made.wall_ns / 1e9)} s" if made and made.wall_ns else None),
        ),
    )


def _what_ran(record: Record) -> Section | None:
    names = ("launcher", "image", "image_id", "lock", "cache", "weights", "orchestrator")
    return section(
        "What ran",
        facts(
            ("bench source", record.bench_source or MISSING),
            ("the method's file", record.method_source),
            *((name.replace("_", " "), getattr(record.provenance, name, None)) for name in names),
            ("environment", None if record.environment else "not known"),
        ),
        _environment(record),
    )


def _environment(record: Record) -> Environment | None:
    found = record.environment
    if found is None:
        return None
    known = [
        (name, value) for name, value in found if value is not None and name not in ("packages", "settings", "gpu")
    ]
    if found.gpu is not None:
        known.append(("gpu", ", ".join(f"{name} {value}" for name, value in found.gpu if value is not None)))
    return Environment(
        facts=tuple((name.replace("_", " "), str(value)) for name, value in known),
        settings=tuple(sorted(found.settings.items())),
        packages=tuple(sorted(found.packages.items())),
    )


def _log(source: Source, record: Record) -> Section | None:
    log = read_log(source, record)
    if log is None:
        return None
    before = f"; {counted(log.left_out, 'line')} before these" if log.left_out else ""
    return section(
        "Log",
        text(f"{log.name}, SHA-256 {record.log_sha256}{before}"),
        text(log.remark, warning=True),
        code(log.text),
        folded=record.status == "ok" and log.remark is None,
    )


def _warm(warm: WarmStart) -> str:
    words = MISSING
    if warm.first_ns is not None:
        words = f"first call {significant(warm.first_ns / 1e9)} s in a second process over the same cache"
    cache = _cache(warm.cache_hits, warm.cache_misses)
    return words + (f" ({warm.reason})" if warm.reason else "") + (f", {cache}" if cache else "")


def _cache(hits: int | None, misses: int | None) -> str | None:
    if hits is None and misses is None:
        return None
    return f"{MISSING if hits is None else f'{hits:,}'} hits, {MISSING if misses is None else f'{misses:,}'} misses"


def _milliseconds(durations_ns: Sequence[int], digits: int = 3) -> str:
    return milliseconds(median(durations_ns) / 1e9, digits)


def _number(value: float | None) -> str:
    return "" if value is None else significant(value)


def _shape(shape: Sequence[int]) -> str:
    return "x".join(map(str, shape))


def _seconds(sample: Sample) -> float:
    return (sample.end_ns - sample.begin_ns) / 1e9
