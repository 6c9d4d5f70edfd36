"""One cell's whole proof as text: what ran, what it computed, every phase and sample, and how to run it again."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

from orchestrator.analysis.beside import EAGER
from orchestrator.analysis.reduced_run import Pair
from orchestrator.base.text import MISSING, json_document, one_line
from orchestrator.records.find import find_records, probe_prefix
from orchestrator.records.record import Record, is_row
from orchestrator.records.store import read_records, record_files, stem_of
from orchestrator.report.proof import Proof, RoundProof, measured_all_the_same, prove
from orchestrator.report.sections import INDENT, Environment, Section
from orchestrator.report.source import Source, read_source


def explain(run_folder: Path, cell: str, form: str = "text") -> str:
    """Return everything the run's records say about one cell, all its rounds, as `form` (text or json).

    `cell` is a title (`forward inductor@cpu`, or `forward inductor` of the only stack that has it), the name of a
    record's file, or the beginning of a cell_id. A name that no cell or more than one has is a UsageError that lists
    the candidates.
    """
    unreadable: list[str] = []
    records = tuple(find_records(run_folder, cell, unreadable))
    source = read_source(run_folder, [*records, *_others(run_folder, records[-1], unreadable)])
    pair = next((pair for pair in source.report.pairs if pair.steady.cell_id == records[-1].cell_id), None)
    proof = prove(source, records, pair)
    if form == "json":
        return _as_json(source, records, pair, proof, unreadable)
    shown: dict[Section, int] = {}
    measured = measured_all_the_same(pair) if pair else None
    parts = [
        [proof.title, proof.about],
        *(found.lines() for found in (*proof.top, *([measured] if measured else []))),
        *(lines for one in proof.rounds for lines in _round(one, shown)),
        *(found.lines() for found in proof.bottom),
        [f"left out: {one_line(line)}" for line in unreadable],
    ]
    return "\n\n".join("\n".join(lines) for lines in parts if lines)


def _as_json(
    source: Source, records: Sequence[Record], pair: Pair | None, proof: Proof, unreadable: Sequence[str]
) -> str:
    """Return the proof for programs; unknown is null.

    `rows`: the cell's rows under either protocol, as in tables.json, unrounded (null of a cell that is no row).
    `records`: the files that all of it comes from. `top`, `rounds`, `bottom`: the sections that the text has, in
    blocks by `kind`, whose words are rounded. `environments`: what such blocks name by their number.
    """
    environments: dict[Environment, int] = {}
    document = {
        "schema_version": 1,
        "run": source.report.header.run_id,
        "title": proof.title,
        "cell_id": records[-1].cell_id,
        "workload_id": records[-1].workload_id,
        "records": [f"records/{stem_of(record)}.json" for record in records],
        "rows": pair and {row.protocol: row.model_dump(mode="json") for row in (pair.steady, pair.note)},
        **proof.as_json(environments),
        "environments": [vars(environment) for environment in environments],
        "unreadable": unreadable,
    }
    return json_document(document)


def _round(found: RoundProof, shown: dict[Section, int]) -> Iterator[list[str]]:
    """Yield a round's lines, section by section; what an earlier round has word for word is not repeated."""
    flags = f" ({', '.join(found.flags)})" if found.flags else ""
    reason = f": {found.reason}" if found.reason else ""
    began = f"began: {found.began or MISSING}"
    yield [
        f"Round {found.number}",
        *(INDENT + one_line(line) for line in (f"status: {found.status}{flags}{reason}", began)),
    ]
    for section in found.sections:
        before = shown.setdefault(section, found.number)
        lines = section.lines() if before == found.number else [f"{section.title}: as in round {before}"]
        yield [INDENT + line for line in lines]


def _others(run_folder: Path, record: Record, unreadable: list[str]) -> Iterator[Record]:
    """Yield the records that a row's figures are laid beside: the ceilings, its probe, eager on its stack."""
    if not is_row(record):
        return
    names = ["ceilings-", probe_prefix(record)]
    names += [f"{record.workload.benchmark}-{EAGER}@{record.stack}-"] if record.method != EAGER else []
    paths = [path for path in record_files(run_folder) if path.name.startswith(tuple(names))]
    yield from read_records(paths, unreadable)
