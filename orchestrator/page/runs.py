"""The card at the head of the page that says what one run is."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING, Any

from orchestrator.numbers import MISSING, counted, scaled

if TYPE_CHECKING:
    from orchestrator.page.source import Source
    from orchestrator.rows import Ceiling, Hardware


def run_card(source: Source) -> dict[str, Any]:
    """Return what stands at the head of a run's tables: where it ran, its ceilings, its rounds and rows."""
    report = source.report
    header = report.header
    hardware = {_hardware(pair.steady.hardware) for pair in report.pairs} | {
        _hardware(found.hardware) for found in report.ceilings
    }
    statuses = Counter(pair.steady.status for pair in report.pairs)
    rounds = f"{report.recorded} of {report.planned} recorded" + ("" if header.finished_utc else ", not finished")
    facts: list[tuple[str, list[str]]] = [
        ("Ran on", sorted(text for text in hardware if text) or [MISSING]),
        (
            "Measured ceilings",
            list(dict.fromkeys(_ceiling(found) for found in report.ceilings)) or ["none in this run"],
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


def _hardware(hardware: Hardware) -> str:
    if hardware.name is None:
        return ""
    if hardware.device == "cuda":
        return f"{hardware.name}, driver {hardware.driver or 'not known'}"
    return hardware.name if hardware.threads is None else f"{hardware.name}, {counted(hardware.threads, 'thread')}"


def _ceiling(ceiling: Ceiling) -> str:
    if ceiling.status != "ok":
        return f"{ceiling.status}: {ceiling.reason or 'no reason given'}"
    return (
        f"{ceiling.dtype} matrix product {scaled(ceiling.flops_per_second, 'FLOP/s')} "
        f"(size {ceiling.matrix_size}), device copy {scaled(ceiling.bytes_per_second, 'B/s')} (read + written)"
    )
