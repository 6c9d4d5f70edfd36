"""Shapes that need not be tried: larger ones of what has run out of memory in the same run already."""

from __future__ import annotations

from typing import TYPE_CHECKING

from orchestrator.records.record import is_row

if TYPE_CHECKING:
    from collections.abc import Iterable

    from orchestrator.plan.cell import Cell
    from orchestrator.plan.workload import Workload
    from orchestrator.records.record import Record, Status


OUT_OF_MEMORY: Status = "out_of_memory"


def too_large(cell: Cell, records: Iterable[Record]) -> str | None:
    """Return why `cell` is skipped: a smaller shape of it, all else being equal, ran out of memory; else None."""
    if cell.role != "row":
        return None
    for record in records:
        if record.status != OUT_OF_MEMORY or not is_row(record):
            continue
        alike = (record.method, record.stack, record.device) == (cell.method, cell.stack, cell.device)
        if alike and _is_smaller(record.workload, cell.workload):
            batch, tokens = _shape(record.workload)
            return f"a smaller shape ran out of memory in this run: batch {batch}, {tokens} tokens each"
    return None


def _is_smaller(one: Workload, other: Workload) -> bool:
    """Whether both compute the same, `one` with no more of anything and less of something."""
    if one.benchmark != other.benchmark or one.dtype != other.dtype or one.model is None or other.model is None:
        return False
    if one.model.model_dump(exclude={"name"}) != other.model.model_dump(exclude={"name"}):
        return False
    pairs = list(zip(_shape(one), _shape(other), strict=True))
    return all(mine <= theirs for mine, theirs in pairs) and any(mine < theirs for mine, theirs in pairs)


def _shape(workload: Workload) -> tuple[int, int]:
    """Return the batch, and the tokens of one sequence at its longest."""
    return workload.batch or 1, workload.sequence or len(workload.prompt or ()) + (workload.new_tokens or 0)
