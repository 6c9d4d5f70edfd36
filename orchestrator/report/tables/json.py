"""Everything that the tables know, as JSON: full precision, unknown is null, both protocols' rows one after another."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from orchestrator.analysis.growth import growths

if TYPE_CHECKING:
    from orchestrator.analysis.protocol import Protocol
    from orchestrator.analysis.reduced_run import Pair, Report

SCHEMA_VERSION = 2
LEFT_OUT: Any = {
    "workload": True,
    "environment": True,
    "evidence": {"losses": True, "compiles": {"ledger"}, "dispatch": {"top", "listing_sha256"}},
}
"""Of a row: what stands once for many (`workloads`, `environments`), and what is as long as a record."""


def render(report: Report, protocol: Protocol | None = None) -> str:
    """Return the document: run, ceilings, workloads and environments by identity, published figures, rows, growth.

    Rows are those of `protocol`; of both, one after the other, where it is null.
    A row whose status is not ok has a `headline` of null; its `figure`, where one was measured, stays.
    Last comes `growth`: the first calls of rows that differ in the model's layers alone.
    """
    header = report.header
    rows = [row for pair in report.pairs for row in _rows(pair, protocol)]
    document = {
        "schema_version": SCHEMA_VERSION,
        "run": {
            "run_id": header.run_id,
            "suite": header.suite,
            "started_utc": header.started_utc,
            "finished_utc": header.finished_utc,
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
        "workloads": {pair.steady.workload_id: pair.steady.workload.model_dump(mode="json") for pair in report.pairs},
        "environments": {
            fingerprint: environment.model_dump(mode="json", exclude={"gpu", "threads"})
            for fingerprint, environment in {
                pair.steady.fingerprint: pair.steady.environment for pair in report.pairs
            }.items()
            if environment is not None
        },
        "published": [
            comparison.model_dump(mode="json", include={"name", "title", "source", "gpu", "driver", "cuda", "caveats"})
            for comparison in report.published
        ],
        "rows": rows,
        "growth": [found.model_dump(mode="json") for found in growths(pair.steady for pair in report.pairs)],
    }
    return "{\n" + ",\n".join(f"{_dump(key)}: {_lines(value)}" for key, value in document.items()) + "\n}\n"


def _lines(value: Any) -> str:
    """Return JSON with a line for each element of a list: it reads and compares well, and is quickly made."""
    if isinstance(value, list) and value:
        return "[\n" + ",\n".join(map(_dump, value)) + "\n]"
    return _dump(value)


def _dump(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False, allow_nan=False)


def _rows(pair: Pair, protocol: Protocol | None) -> list[dict[str, Any]]:
    published = pair.published.model_dump(mode="json") if pair.published else None
    return [
        {
            "name": row.name,
            **row.model_dump(mode="json", exclude=LEFT_OUT),
            "environment": row.fingerprint,
            "published": published,
        }
        for row in (pair.steady, pair.note)
        if protocol in (None, row.protocol)
    ]
