"""What of a plan is still to be run, and in which order."""

from __future__ import annotations

from typing import TYPE_CHECKING

from orchestrator.records.record import is_row
from orchestrator.records.store import stem_of

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from orchestrator.plan.cell import Cell, Plan
    from orchestrator.plan.workload import Workload
    from orchestrator.records.record import Record, Status
    from orchestrator.records.references import References
    from orchestrator.records.store import Run


def interleave(plan: Plan) -> list[tuple[Cell, int]]:
    """Return (cell, round) in the order in which they run: A B C, C B A, …, so that a drift hits all cells alike."""
    most = max((cell.rounds for cell in plan.cells), default=0)
    order: list[tuple[Cell, int]] = []
    for number in range(most):
        cells = [cell for cell in plan.cells if cell.rounds > number]
        order += [(cell, number) for cell in (reversed(cells) if number % 2 else cells)]
    return order


def remaining(
    order: Sequence[tuple[Cell, int]], run: Run, references: References, identity: Callable[[Cell], str]
) -> list[tuple[Cell, int]]:
    """Return the rounds that have no result, in their order; `identity` gives a cell's cell_id.

    A reference counts as long as its files are here (they are in no commit, so not in every copy of a run), and is
    made again only where a round that has no result asks for it.
    """
    lacking = {(record.cell_id, record.round) for record in run.records() if not references.complete(record)}
    done = run.finished_keys() - lacking
    todo = [(cell, number) for cell, number in order if (identity(cell), number) not in done]
    wanted = {cell.workload.workload_id for cell, _ in todo if cell.role != "reference"}
    return [(cell, number) for cell, number in todo if cell.role != "reference" or _asked_for(cell, wanted)]


def forget_replaced(run: Run, current: set[str]) -> None:
    """Remove records that only say a stack could not run, where it can now: they would stand beside its results."""
    for record in list(run.records()):
        hollow = record.written_by == "orchestrator" and record.status in ("skipped", "infrastructure")
        if hollow and record.cell_id not in current:
            for part, ending in (("records", "json"), ("logs", "log")):
                (run.folder / part / f"{stem_of(record)}.{ending}").unlink(missing_ok=True)


def _asked_for(cell: Cell, wanted: set[str]) -> bool:
    return any(subject.workload_id in wanted for subject in cell.workload.subjects or ())


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
