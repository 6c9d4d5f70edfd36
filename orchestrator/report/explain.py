"""One cell's whole proof as text: what ran, what it computed, every phase and sample, and how to run it again."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from orchestrator.analysis.beside import EAGER
from orchestrator.base.text import MISSING, one_line
from orchestrator.records.find import find_records, probe_prefix
from orchestrator.records.record import Record, is_row
from orchestrator.records.store import read_stored, record_files
from orchestrator.report.proof import RoundProof, measured_all_the_same, prove
from orchestrator.report.sections import INDENT, Section
from orchestrator.report.source import read_source


def explain(run_folder: Path, cell: str) -> str:
    """Return everything the run's records say about one cell, all its rounds.

    `cell` is a title (`forward inductor@cpu`, or `forward inductor` of the only stack that has it), the name of a
    record's file, or the beginning of a cell_id. A name that no cell or more than one has is a UsageError that lists
    the candidates.
    """
    records = tuple(find_records(run_folder, cell))
    source = read_source(run_folder, [*records, *_others(run_folder, records[-1])])
    pair = next((pair for pair in source.report.pairs if pair.steady.cell_id == records[-1].cell_id), None)
    proof = prove(source, records, pair)
    shown: dict[Section, int] = {}
    measured = measured_all_the_same(pair) if pair else None
    parts = [
        [proof.title, proof.about],
        *(found.lines() for found in (*proof.top, *([measured] if measured else []))),
        *(lines for one in proof.rounds for lines in _round(one, shown)),
        *(found.lines() for found in proof.bottom),
    ]
    return "\n\n".join("\n".join(lines) for lines in parts)


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


def _others(run_folder: Path, record: Record) -> Iterator[Record]:
    """Yield the records that a row's figures are laid beside: the ceilings, its probe, eager on its stack."""
    if not is_row(record):
        return
    names = ["ceilings-", probe_prefix(record)]
    names += [f"{record.workload.benchmark}-{EAGER}@{record.stack}-"] if record.method != EAGER else []
    for path in record_files(run_folder):
        if path.name.startswith(tuple(names)):
            yield read_stored(path)
