"""Telemetry as a GPU would have given it."""

from __future__ import annotations

from orchestrator.host.gpu import Quick
from orchestrator.measure.telemetry import Reading, Series

MS = 1_000_000


def series(count: int = 100, step_ms: int = 20, **fields) -> Series:
    """Readings every `step_ms`; a field is a constant or a function of the time in ms."""

    def quick(at: int) -> Quick:
        return Quick(**{name: value(at) if callable(value) else value for name, value in fields.items()})

    return Series([Reading(at * MS, quick(at)) for at in range(0, count * step_ms, step_ms)])
