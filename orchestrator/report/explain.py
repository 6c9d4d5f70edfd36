"""One row's whole proof, readable: what ran, what it computed, every phase and sample, and how to run it again."""

from __future__ import annotations

from collections.abc import Iterator
from statistics import median
from typing import TYPE_CHECKING

from orchestrator.analysis.beside import EAGER
from orchestrator.analysis.ceilings import ceiling
from orchestrator.analysis.columns import columns_of
from orchestrator.analysis.evidence import graphs_of
from orchestrator.analysis.protocol import first_call_seconds
from orchestrator.analysis.reduce import Reduction
from orchestrator.base.text import (
    DIGITS,
    MISSING,
    counted,
    gigabytes,
    milliseconds,
    percent,
    plain,
    printable,
    scaled,
    significant,
    with_interval,
)
from orchestrator.records.find import _probe_prefix, find_records
from orchestrator.records.record import is_row
from orchestrator.records.store import Run, read_record, record_files, stem_of
from orchestrator.report import cells as proof
from orchestrator.report import explain_proof
from orchestrator.report.words import command, reproduction

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from orchestrator.analysis.rows import Row
    from orchestrator.records.record import Environment, Record, Sample


SHOWN_TOKENS = 24
DRIFT_FEWEST = 4


def explain(run_folder: Path, cell: str) -> str:
    """Return everything the run's records say about one cell, all its rounds.

    `cell` is a title (`forward inductor@cpu`, or `forward inductor` of the only stack that has it), the name of a
    record's file, or the beginning of a cell_id. A name that no cell or more than one has is a UsageError that lists
    the candidates.
    """
    header = Run.open(run_folder).header
    records = find_records(run_folder, cell)
    reduction = Reduction()
    others = list(_others(run_folder, records[-1]))
    for record in (*records, *others):
        reduction.add(record)
    last = records[-1]
    parts = [_title(last, len(records)), *(_round(record) for record in records)]
    if is_row(last):
        rows = [row for row in (*reduction.rows("steady"), *reduction.rows("note")) if row.cell_id == last.cell_id]
        parts.append(_section("Figures", [*(line for row in rows for line in _figure(row)), *_first_call(rows[0])]))
        standing = explain_proof.standing(rows[0])
        parts += [_section("Beside others", standing)] if standing else []
        probes = [record for record in others if record.role == "probe" and record.method == last.method]
        on_probe = explain_proof.probe(rows[0], probes)
        parts += [_section("On the probe", on_probe)] if on_probe else []
    parts.append(_section("What ran", _what_ran(last)))
    parts.append(_section("Workload", _workload(last)))
    again = [command(header.suite, last, len(records))]
    again += [reproduction(header.run_id, last, len(records))] if is_row(last) else []
    parts.append(_section("Run it again", again))
    return "\n\n".join(parts)


def _others(run_folder: Path, record: Record) -> Iterator[Record]:
    """Yield the records that a row's figures are laid beside: the ceilings, its probe, eager on its stack."""
    if not is_row(record):
        return
    benchmark, stack = record.workload.benchmark, record.stack
    names = ["ceilings-", _probe_prefix(record)]
    names += [f"{benchmark}-{EAGER}@{stack}-"] if record.method != EAGER else []
    for path in record_files(run_folder):
        if path.name.startswith(tuple(names)):
            yield read_record(path)


def _title(record: Record, rounds: int) -> str:
    of = "probe of " if record.role == "probe" else ""
    title = f"{of}{record.workload.benchmark} {record.method}@{record.stack}"
    return f"{title}\ncell {record.cell_id}, workload {record.workload_id}, {counted(rounds, 'round')}"


def _round(record: Record) -> str:
    flags = f" ({', '.join(record.flags)})" if record.flags else ""
    lines = [f"status: {record.status}{flags}" + (f": {record.reason}" if record.reason else "")]
    lines += [f"record: records/{stem_of(record)}.json, written by {record.written_by}"]
    if record.log_sha256:
        lines.append(f"log: logs/{stem_of(record)}.log, sha256 {record.log_sha256}")
    lines.append(f"began: {record.started_utc or MISSING}")
    if record.phases:
        spans = (f"{phase.name} {significant((phase.end_ns - phase.begin_ns) / 1e9, 3)} s" for phase in record.phases)
        lines.append(f"phases: {', '.join(spans)}")
    lines += _samples(record)
    lines += _rates(record)
    lines += _memory(record)
    lines += _proof(record)
    lines += [*explain_proof.dispatch(record), *explain_proof.compiles(record.compiles)]
    lines += explain_proof.telemetry(record)
    lines += [f"{key}: {plain(value)}" for key, value in record.detail.items() if key not in ("graphs", "kernels")]
    return _section(f"Round {record.round}", lines)


def _samples(record: Record) -> list[str]:
    if not record.samples:
        return ["samples: none"]
    first = first_call_seconds(columns_of(record))
    lines = [f"first call: {significant(first)} s"] if first is not None else []
    for phase in ("warmup", "timed", "repeat"):
        chosen = [sample for sample in record.samples if sample.phase == phase]
        if chosen:
            lines.append(f"{phase}: {_spread(chosen)}")
    timed = [sample for sample in record.samples if sample.phase == "timed"]
    if len(timed) >= DRIFT_FEWEST and len({sample.shape for sample in timed}) == 1:
        half = len(timed) // 2
        early, late = (median(_seconds(s) for s in part) for part in (timed[:half], timed[-half:]))
        lines.append(f"drift: the later half's median is {(late / early - 1) * 100:+.2f} % off the earlier half's")
    losses = [sample.loss for sample in record.samples if sample.loss is not None]
    if losses:
        lines.append(f"loss: {significant(losses[0], 6)} at first, {significant(losses[-1], 6)} at last")
    graphs = graphs_of(record)
    if graphs:
        grown = ", ".join(str(i) for i in range(1, len(graphs)) if graphs[i] > graphs[i - 1])
        later = f"; after the first call in samples {grown}" if grown else ""
        lines.append(f"graphs compiled: {graphs[-1]}{later}")
    return lines


def _spread(samples: Sequence[Sample]) -> str:
    walls = [_seconds(sample) for sample in samples]
    devices = [sample.device_ns for sample in samples if sample.device_ns is not None]
    low, middle, high = (milliseconds(of(walls), 4) for of in (min, median, max))
    text = f"{counted(len(samples), 'sample')}, wall min {low}, median {middle}, max {high} ms"
    if devices:
        text += f"; device median {milliseconds(median(devices) / 1e9, 4)} ms"
    shapes = sorted({sample.shape for sample in samples})
    if len(shapes) == 1:
        return f"{text}; shape {'x'.join(map(str, shapes[0]))}"
    return f"{text}; {len(shapes)} shapes, {'x'.join(map(str, shapes[0]))} to {'x'.join(map(str, shapes[-1]))}"


def _rates(record: Record) -> list[str]:
    if not record.rates:
        return []
    found = ceiling(record)
    lines = []
    for rate in record.rates:
        if rate.durations_ns:
            typical = milliseconds(median(rate.durations_ns) / 1e9)
            lines.append(f"{rate.kind} at {rate.size}: median {typical} ms of {len(rate.durations_ns)} calls")
    return [
        *lines,
        f"matrix product: {scaled(found.flops_per_second, 'FLOP/s')} in {found.dtype}",
        f"device copy: {scaled(found.bytes_per_second, 'B/s')}, read and written bytes counted",
    ]


def _memory(record: Record) -> list[str]:
    memory = record.memory
    if memory is None:
        return ["memory: not known"]
    parts = (
        ("process", memory.process_bytes),
        ("steady", memory.steady_bytes),
        ("reserved", memory.reserved_bytes),
        ("host", memory.host_bytes),
    )
    return [f"peak memory: {', '.join(f'{name} {gigabytes(count)} GB' for name, count in parts if count is not None)}"]


def _proof(record: Record) -> list[str]:
    proof = record.proof
    if proof is None:
        return ["proof: none"]
    facts = {
        "weights": proof.weights_checksum or MISSING,
        "inputs": proof.inputs_checksum or MISSING,
        "parameters": MISSING if proof.parameters is None else proof.parameters,
        "finite": {None: "not looked at", True: "yes", False: "no"}[proof.finite],
    }
    lines = [f"proof: {plain(facts)}"]
    if proof.generated:
        shown = " ".join(map(str, proof.generated[:SHOWN_TOKENS]))
        lines.append(f"tokens made: {shown}{' …' if len(proof.generated) > SHOWN_TOKENS else ''}")
    if proof.text is not None:
        lines.append(f"text: {proof.text}")
    return lines + explain_proof.checks(record)


def _figure(row: Row) -> list[str]:
    if row.figure.value is None:
        return [f"{row.protocol}: none ({row.figure.reason})"]
    text = with_interval(
        f"{row.protocol}: {significant(row.figure.value)} {row.figure.unit}",
        row.figure.interval,
        row.figure.interval_level,
        row.figure.interval_kind,
    )
    text += f"; {row.figure.basis}"
    text += "" if row.headline is not None else f"; not shown as a speed, for the row is {row.status}"
    lines = [text]
    if row.figure.device_value is not None:
        lines.append(f"  by the device's clock: {significant(row.figure.device_value)} {row.figure.unit}")
    if row.figure.first_token_seconds is not None:
        further = milliseconds(row.figure.next_token_seconds)
        lines.append(f"  first token {milliseconds(row.figure.first_token_seconds)} ms, each further one {further} ms")
    if row.work is not None:
        least = "" if row.work.bytes is None else f", at least {scaled(row.work.bytes, 'B')} read"
        lines.append(f"  work: {scaled(row.work.flops, 'FLOP')}{least}")
    share = row.share
    why = f"{share.bound} bound, ceilings of {share.ceiling_of}" if share.share is not None else share.reason
    lines.append(f"  of the ceiling: {percent(share.share)} ({why})")
    return lines


def _first_call(row: Row) -> list[str]:
    if row.first_call.seconds is None or row.status != "ok":
        return []
    later = proof.later_compiles(row)
    more = "" if later is None else f"; compiles in the warm-up: {significant(later)} s"
    return [f"first call: {proof.first_call(row, ' s', DIGITS)}{more}"]


def _what_ran(record: Record) -> list[str]:
    lines = []
    provenance = record.provenance
    if provenance is not None:
        facts = {
            "launcher": provenance.launcher,
            "image": provenance.image,
            "image id": provenance.image_id,
            "lock": provenance.lock,
            "cache": provenance.cache,
            "orchestrator": provenance.orchestrator,
            "exit code": provenance.exit_code,
            "wall time, s": None if provenance.wall_ns is None else significant(provenance.wall_ns / 1e9),
        }
        lines += [f"{name}: {value}" for name, value in facts.items() if value is not None]
    lines.append(f"bench source: {record.bench_source or MISSING}")
    return lines + (_environment(record.environment) if record.environment else ["environment: not known"])


def _environment(environment: Environment) -> list[str]:
    lines = [
        f"{name}: {plain(value)}"
        for name, value in environment
        if value is not None and name not in ("packages", "settings", "gpu")
    ]
    if environment.gpu is not None:
        lines.append(f"gpu: {', '.join(f'{name} {value}' for name, value in environment.gpu if value is not None)}")
    lines += [f"setting: {name}={value}" for name, value in sorted(environment.settings.items())]
    packages = sorted(environment.packages.items())
    return [*lines, f"packages ({len(packages)}): {', '.join(f'{name} {version}' for name, version in packages)}"]


def _workload(record: Record) -> list[str]:
    content = record.workload.model_dump(mode="json", exclude_none=True, exclude={"subjects"})
    subjects = [f"reference for: {s.benchmark}, workload {s.workload_id}" for s in record.workload.subjects or ()]
    return [*(f"{name}: {plain(value)}" for name, value in content.items()), *subjects]


def _section(title: str, lines: Sequence[str]) -> str:
    """Return a heading with indented lines; what a container wrote cannot start a line or steer a terminal."""
    return "\n".join([title, *(f"  {' '.join(printable(line).split(chr(10)))}" for line in lines)])


def _seconds(sample: Sample) -> float:
    return (sample.end_ns - sample.begin_ns) / 1e9
