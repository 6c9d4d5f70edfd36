"""The card at the head of the page that says what one run is."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING, Any

from orchestrator.base.text import MISSING

if TYPE_CHECKING:
    from orchestrator.report.source import Source


def run_card(source: Source) -> dict[str, Any]:
    """Return what stands at the head of a run's tables: where it ran, its ceilings, its rounds and rows."""
    report = source.report
    header = report.header
    hardware = {pair.steady.hardware.in_words for pair in report.pairs} | {
        found.hardware.in_words for found in report.ceilings
    }
    statuses = Counter(pair.steady.status for pair in report.pairs)
    rounds = f"{report.recorded} of {report.planned} recorded" + ("" if header.finished_utc else ", not finished")
    facts: list[tuple[str, list[str]]] = [
        ("Ran on", sorted(text for text in hardware if text) or [MISSING]),
        (
            "Measured ceilings",
            list(dict.fromkeys(found.in_words for found in report.ceilings)) or ["none in this run"],
        ),
        ("Run", [f"{header.run_id}, begun {header.started_utc}"]),
        ("Rounds", [rounds]),
        ("Rows", [", ".join(f"{count} {status}" for status, count in statuses.most_common()) or "none"]),
    ]
    if header.note:
        facts.append(("Remark", [header.note]))
    return {
        "name": source.name,
        "suite": header.suite,
        "finished": header.finished_utc is not None,
        "facts": facts,
        "unreadable": list(source.unreadable),
        "failed": list(report.failed_references),
    }
