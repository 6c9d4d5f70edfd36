"""Everything that the tables know, as JSON: full precision, unknown is null, both protocols' rows one after another."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from typing import Any

from orchestrator.analysis.growth import growths
from orchestrator.analysis.protocol import Protocol
from orchestrator.analysis.reduced_run import Pair, Report
from orchestrator.base.files import Frozen
from orchestrator.base.text import in_json

SCHEMA_VERSION = 2
LEFT_OUT: Any = {
    "kind": True,
    "workload": True,
    "environment": True,
    "evidence": {"losses": True, "compiles": {"ledger"}, "dispatch": {"top", "listing_sha256"}},
}
"""Of a row: what only chooses columns, what stands once for many (`workloads`, `environments`), what is as long as a
record."""


def render(report: Report, protocol: Protocol | None = None) -> str:
    """Return the document as text."""
    return "".join(pieces(report, protocol))


def pieces(report: Report, protocol: Protocol | None = None) -> list[str]:
    """Return the document in pieces, a row each: as one text, many rows take several times their memory.

    It says run, ceilings, workloads and environments by identity, published figures, rows, growth.

    Rows are those of `protocol`; of both, one after the other, where it is null.
    A row whose status is not ok has a `headline` of null; its `figure`, where one was measured, stays.
    Last comes `growth`: the first calls of rows that differ in the model's layers alone.
    """
    header = report.header
    steady = [pair.steady for pair in report.pairs]
    document = {
        "schema_version": SCHEMA_VERSION,
        "run": {
            "run_id": header.run_id,
            "suite": header.suite,
            "started_utc": header.started_utc,
            "finished_utc": header.finished_utc,
            **({"imported_utc": header.imported_utc} if header.imported_utc else {}),
            "plan_id": header.plan_id,
            "bench_source": header.bench_source,
            "note": header.note,
            "host": header.host,
            "stacks": header.stacks,
            "rounds_planned": report.planned,
            "rounds_recorded": report.recorded,
            "failed_references": report.failed_references,
            "unreadable": report.unreadable,
        },
        "ceilings": [ceiling.model_dump(mode="json") for ceiling in report.ceilings],
        "workloads": _by_name((row.workload_id, row.workload) for row in steady),
        "environments": _by_name(
            ((row.fingerprint, row.environment) for row in steady),
            without={"gpu", "threads", "cpu", "cores", "settings"},
        ),
        "published": [
            comparison.model_dump(mode="json", include={"name", "title", "source", "gpu", "driver", "cuda", "caveats"})
            for comparison in report.published
        ],
        "rows": [row for pair in report.pairs for row in _rows(pair, protocol)],
        "growth": [found.model_dump(mode="json") for found in growths(steady)],
    }
    found, before = [], "{\n"
    for key, value in document.items():
        found += [f"{before}{_dump(key)}: ", *_lines(value)]
        before = ",\n"
    return [in_json(piece) for piece in (*found, "\n}\n")]


def _by_name(
    found: Iterable[tuple[str | None, Frozen | None]], without: set[str] | None = None
) -> dict[str | None, dict[str, Any]]:
    """Return what many rows share, once; of two with one name the last."""
    known = {name: value for name, value in found if value is not None}
    return {name: value.model_dump(mode="json", exclude=without) for name, value in known.items()}


def _lines(value: Any) -> Iterator[str]:
    """Yield JSON with a line for each element of a list: easy to read and compare, and quick to make."""
    if not isinstance(value, list) or not value:
        yield _dump(value)
        return
    before = "[\n"
    for element in value:
        yield before
        yield element if isinstance(element, Ready) else _dump(element)
        before = ",\n"
    yield "\n]"


_dump = json.JSONEncoder(ensure_ascii=False, allow_nan=False, separators=(",", ":")).encode


class Ready(str):
    """Text that is JSON already."""

    __slots__ = ()


def _rows(pair: Pair, protocol: Protocol | None) -> Iterator[Ready]:
    published = pair.published.model_dump_json() if pair.published else "null"
    for row in (pair.steady, pair.note):
        if protocol in (None, row.protocol):
            # pydantic writes JSON itself three times as fast as by way of Python's own values.
            facts = row.model_dump_json(exclude=LEFT_OUT)[1:-1]
            environment = _dump(row.fingerprint)
            yield Ready(f'{{"name":{_dump(row.name)},{facts},"environment":{environment},"published":{published}}}')
