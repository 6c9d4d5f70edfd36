"""A row's drawer: its whole proof in sections, what `orchestrator explain` prints."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from orchestrator.base.text import (
    DIGITS,
    MISSING,
    counted,
    gigabytes,
    milliseconds,
    percent,
    plain,
    scaled,
    significant,
    with_interval,
)
from orchestrator.records.store import stem_of
from orchestrator.report.blocks import code, environment, facts, kept, samples, section, shares, text
from orchestrator.report.cells import first_call, later_compiles
from orchestrator.report.checks import beside_section, checks_of
from orchestrator.report.evidence import compile_section, dispatch_section, telemetry_section
from orchestrator.report.source import read_log
from orchestrator.report.words import command, reproduction

if TYPE_CHECKING:
    from orchestrator.analysis.reduced_run import Pair
    from orchestrator.analysis.rows import Row
    from orchestrator.records.record import Environment, Record
    from orchestrator.report.blocks import Block, Section
    from orchestrator.report.source import Source

SHOWN_TOKENS = 40


class Proofs:
    """Makes drawers and keeps the environments that they refer to, each once."""

    def __init__(self) -> None:
        self.environments: list[dict[str, Any]] = []
        self._numbers: dict[str, int] = {}

    def drawer(self, source: Source, pair: Pair) -> dict[str, Any]:
        """Return a row's drawer: figures, what each round says, the workload, and how to run it again."""
        rounds = source.records[pair.steady.cell_id]
        last = rounds[-1]
        header, count = source.report.header, len(rounds)
        return {
            "about": f"cell {last.cell_id}, workload {last.workload_id}, {counted(count, 'round')}",
            "top": kept([section("Figures", *_figures(pair)), beside_section(pair.steady)]),
            "rounds": [self._round(source, record) for record in rounds],
            "bottom": kept(
                [
                    self._probe(source, pair.steady),
                    section("Workload", facts(_workload(last)), folded=True),
                    section(
                        "Run it again",
                        code(command(header.suite, last, count), copied=True),
                        code(reproduction(header.run_id, last, count), copied=True),
                    ),
                ]
            ),
        }

    def _round(self, source: Source, record: Record) -> dict[str, Any]:
        proof = record.proof
        found = [
            section("Checks", *checks_of(record)),
            section("Samples", samples(_samples(record)), facts(_memory(record))),
            dispatch_section(record),
            compile_section(record),
            telemetry_section(record),
            section("Output", facts(_output(record)), code(proof.text or "") if proof else None),
            section("Phases", shares(_phases(record)), folded=True),
            self._what_ran(record),
            section("Further detail", facts((k, plain(v)) for k, v in record.detail.items()), folded=True),
            _log(source, record),
        ]
        return {
            "number": record.round,
            "status": record.status,
            "flags": list(record.flags),
            "reason": record.reason,
            "began": record.started_utc,
            "sections": kept(found),
        }

    def _probe(self, source: Source, row: Row) -> Section | None:
        result = row.probe
        if result is None:
            return None
        found = source.probes.get((row.benchmark, row.method, row.stack), ())
        how = "passed" if result.passed else result.status if result.status not in (None, "ok") else "unchecked"
        lines = [text(f"{how}{f': {result.reason}' if result.reason else ''}", warning=not result.passed)]
        for record in found:
            lines += [text(f"records/{stem_of(record)}.json, {record.status}"), *checks_of(record)]
        return section("On the probe", *lines, folded=result.passed)

    def _what_ran(self, record: Record) -> Section | None:
        made = record.provenance
        blocks: list[Block | None] = [
            facts(
                [
                    ("record", f"records/{stem_of(record)}.json, written by {record.written_by}"),
                    ("bench source", record.bench_source),
                    ("launcher", made and made.launcher),
                    ("image", made and made.image),
                    ("image id", made and made.image_id),
                    ("lock", made and made.lock),
                    ("compile cache", made and made.cache),
                    ("orchestrator", made and made.orchestrator),
                    ("exit code", made and made.exit_code),
                    ("wall time", f"{significant(made.wall_ns / 1e9)} s" if made and made.wall_ns else None),
                ]
            )
        ]
        if record.environment is not None:
            blocks.append(environment(self._number(record.environment)))
        return section("What ran", *blocks)

    def _number(self, found: Environment) -> int:
        key = found.model_dump_json()
        if key not in self._numbers:
            self._numbers[key] = len(self.environments)
            self.environments.append(_environment(found))
        return self._numbers[key]


def _figures(pair: Pair) -> list[Block | None]:
    row = pair.steady
    if row.status != "ok":
        return [text(f"No speed is shown, for the row is {row.status}.")]
    told: list[tuple[str, str]] = []
    for found, name in ((pair.steady, "steady"), (pair.note, "as the note")):
        told.append((name, _figure(found)))
        if found.figure.device_value is not None:
            told.append(("by the device's clock", f"{significant(found.figure.device_value)} {found.figure.unit}"))
    if row.figure.first_token_seconds is not None:
        further = milliseconds(row.figure.next_token_seconds)
        told.append(
            ("tokens", f"first {milliseconds(row.figure.first_token_seconds)} ms, each further one {further} ms")
        )
    if row.first_call.seconds is not None:
        told.append(("first call", first_call(row, " s", DIGITS)))
    later = later_compiles(row)
    if later is not None:
        told.append(("compiles in the warm-up", f"{significant(later)} s"))
    told.append(("of the ceiling", _share(row)))
    if row.work is not None:
        least = "" if row.work.bytes is None else f", at least {scaled(row.work.bytes, 'B')} read"
        told.append(("work of a sample", f"{scaled(row.work.flops, 'FLOP')}{least}"))
    return [facts(told)]


def _figure(row: Row) -> str:
    if row.headline is None:
        return f"none ({row.figure.reason})"
    words = with_interval(
        f"{significant(row.headline)} {row.figure.unit}",
        row.figure.interval,
        row.figure.interval_level,
        row.figure.interval_kind,
    )
    return f"{words}; {row.figure.basis}"


def _share(row: Row) -> str:
    share = row.share
    if share.share is None:
        return f"{MISSING} ({share.reason})"
    return f"{percent(share.share)} ({share.bound} bound, ceilings of {share.ceiling_of})"


def _samples(record: Record) -> list[list[Any]]:
    if not record.samples:
        return []
    start = min(sample.begin_ns for sample in record.samples)
    return [
        [
            sample.index,
            sample.phase,
            (sample.begin_ns - start) / 1e9,
            (sample.end_ns - sample.begin_ns) / 1e9,
            None if sample.device_ns is None else sample.device_ns / 1e9,
            sample.loss,
            sample.taint,
            "x".join(map(str, sample.shape)),
        ]
        for sample in record.samples
    ]


def _memory(record: Record) -> list[tuple[str, str | None]]:
    memory = record.memory
    if memory is None:
        return []
    peaks = (
        ("process", memory.process_bytes),
        ("from the end of the warm-up", memory.steady_bytes),
        ("reserved", memory.reserved_bytes),
        ("host", memory.host_bytes),
    )
    return [("peak memory", ", ".join(f"{what} {gigabytes(count)} GB" for what, count in peaks if count is not None))]


def _output(record: Record) -> list[tuple[str, Any]]:
    proof = record.proof
    if proof is None:
        return []
    made = proof.generated
    tokens = None
    if made:
        tokens = " ".join(map(str, made[:SHOWN_TOKENS])) + (" …" if len(made) > SHOWN_TOKENS else "")
    return [
        ("finite", {None: "not looked at", True: "yes", False: "no"}[proof.finite]),
        ("weights", proof.weights_checksum),
        ("inputs", proof.inputs_checksum),
        ("parameters", None if proof.parameters is None else f"{proof.parameters:,}"),
        ("tokens made", tokens),
    ]


def _phases(record: Record) -> list[tuple[str, float | None, str]]:
    spans = [(phase.name, (phase.end_ns - phase.begin_ns) / 1e9) for phase in record.phases]
    whole = sum(max(seconds, 0.0) for _, seconds in spans)
    return [(name, seconds / whole if whole > 0 else None, f"{significant(seconds, 3)} s") for name, seconds in spans]


def _environment(found: Environment) -> dict[str, Any]:
    gpu = found.gpu
    told = [(name, value) for name, value in found if value is not None and name not in ("packages", "settings", "gpu")]
    if gpu is not None:
        told.append(("gpu", ", ".join(f"{name} {value}" for name, value in gpu if value is not None)))
    return {
        "facts": [[name.replace("_", " "), str(value)] for name, value in told],
        "settings": [[name, value] for name, value in sorted(found.settings.items())],
        "packages": [[name, version] for name, version in sorted(found.packages.items())],
    }


def _workload(record: Record) -> list[tuple[str, str]]:
    content = record.workload.model_dump(mode="json", exclude_none=True)
    return [(name.replace("_", " "), plain(value)) for name, value in content.items()]


def _log(source: Source, record: Record) -> Section | None:
    log = read_log(source, record)
    if log is None:
        return None
    above = f"{log.name}, SHA-256 {record.log_sha256}"
    if log.left_out:
        above += f"; {counted(log.left_out, 'line')} before these"
    return section(
        "Log",
        text(above),
        text(log.remark, warning=True),
        code(log.text),
        folded=record.status == "ok" and log.remark is None,
    )
