"""What of a plan is still to be run, in which order, and whether there is time for it."""

from __future__ import annotations

import math
import time
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from typing import NamedTuple, TypeVar

from orchestrator.analysis.ceilings import hardware_of
from orchestrator.host.gpu import HostGpu
from orchestrator.plan.cell import Cell, Plan
from orchestrator.plan.choice import RunOptions
from orchestrator.plan.proof_cells import probe_workload, weights_workload
from orchestrator.plan.workload import Role, Workload, describe
from orchestrator.records.record import Record, is_row
from orchestrator.records.references import References
from orchestrator.records.store import finished_keys
from orchestrator.runner.estimate import (
    Earlier,
    Key,
    expected,
    key_of,
    power_share,
    second_start_seconds,
    used_up,
    wall_seconds,
)
from orchestrator.runner.pace import Pace

T = TypeVar("T")
USED_UP = "the budget is used up"
"""Why no further round of a row is started; first rounds are."""
MAKING: tuple[Role, ...] = ("reference", "weights")
"""Cells that only make what others ask for."""


class Turn(NamedTuple):
    """A round of a cell, when it is its turn. `title` is what a person reads while it runs."""

    cell: Cell
    round: int
    cell_id: str
    workload_id: str
    part_ids: tuple[str, ...]
    """The workload_ids of its references, see `Workload.referred`."""
    title: str
    weights_ids: tuple[str, ...] = ()
    """Of an engine's cell: the folders of weights of these parts."""


def interleave(plan: Plan) -> list[tuple[Cell, int]]:
    """Return (cell, round) in the order in which they run; what proves the rows has one round and goes first."""
    most = max((cell.rounds for cell in plan.cells), default=0)
    before = [cell for cell in plan.cells if cell.role != "row"]
    rows = [cell for cell in plan.cells if cell.role == "row"]
    passes = ((number, [*before, *in_turn(rows, number)]) for number in range(most))
    return [(cell, number) for number, cells in passes for cell in cells if cell.rounds > number]


def in_turn(cells: Sequence[T], number: int) -> list[T]:
    """Return the cells in the order of a round: as they are in round 0, and then so that each has each other before it.

    Williams' design: of n cells, an even number, each follows each other once in n rounds, an odd number twice in 2n.
    Every second round is the one before it backwards, so that a drift hits all cells alike.
    """
    n = len(cells)
    zigzag = [place // 2 + 1 if place % 2 else (n - place // 2) % n for place in range(n)]
    rank = {label: place for place, label in enumerate(zigzag)}
    order = [cells[rank[(label + number // 2) % n]] for label in zigzag]
    return order[::-1] if number % 2 else order


def turns(plan: Plan, identity: Callable[[Cell], str]) -> list[Turn]:
    """Return every round of the plan in its order; `identity` gives a cell's cell_id, and is asked once for each."""
    firsts = first_turns(plan, identity)
    return [nth(firsts[id(cell)], number) for cell, number in interleave(plan)]


def first_turns(plan: Plan, identity: Callable[[Cell], str]) -> dict[int, Turn]:
    """Return the first round of each cell of the plan, by the `id` of the very cell."""
    titles = Counter(cell.title for cell in plan.cells)
    return {
        id(cell): Turn(
            cell,
            0,
            identity(cell),
            cell.workload.workload_id,
            tuple(part.workload_id for part in cell.workload.referred),
            cell.title + (f" ({describe(cell.workload)})" if titles[cell.title] > 1 else ""),
            tuple(weights_workload(part).workload_id for part in cell.workload.parts if cell.kind == "engine"),
        )
        for cell in plan.cells
    }


def nth(first: Turn, number: int) -> Turn:
    """Return a cell's round `number`, from its first."""
    return first._replace(round=number, title=first.title + (f" round {number + 1}" if first.cell.rounds > 1 else ""))


def remaining(order: Sequence[Turn], records: Sequence[Record], references: References) -> list[Turn]:
    """Return the rounds that have no result among the run's `records`, in their order.

    A reference counts as long as its files are here (they are in no commit, so not in every copy of a run), and is
    made again only where a round that has no result asks for it. Weights are gone with the process that had them made.
    """
    done = finished_keys(record for record in records if record.role != "weights" and references.complete(record))
    todo = [turn for turn in order if (turn.cell_id, turn.round) not in done]
    asking = [turn for turn in todo if turn.cell.role not in MAKING]
    wanted = {part for turn in asking for part in (*turn.part_ids, *turn.weights_ids)}
    subjects = [{subject.workload_id for subject in turn.cell.workload.subjects or ()} for turn in todo]
    return [turn for turn, own in zip(todo, subjects, strict=True) if turn.cell.role not in MAKING or own & wanted]


def replaced(record: Record, current: set[str]) -> bool:
    """Whether the record only says that a stack could not run, where it can now: it would stand beside its results."""
    hollow = record.written_by == "orchestrator" and record.status in ("skipped", "infrastructure")
    return hollow and record.cell_id not in current


class Agenda:
    """The rounds that are still to be run, and the time for them; `known` is what earlier rounds took."""

    def __init__(self, todo: Sequence[Turn], options: RunOptions, known: dict[Key, Earlier], asked: float) -> None:
        """`asked` is when the run was asked for, by the monotonic clock."""
        self.todo, self.options, self._known = todo, options, known
        self._asked, self._began = asked, time.monotonic()
        self._cells = {id(turn.cell): turn.cell for turn in todo}
        self._left = Counter(id(turn.cell) for turn in todo)
        self.pace = Pace(known)
        self._kinds = {key: self.pace.kind(cell) for key, cell in self._cells.items()}

    @property
    def left_s(self) -> float:
        """What the rounds that are not done are expected to take."""
        return sum(
            expected(self._cells[key], self._known, self.pace.factor(self._kinds[key])).seconds * count
            for key, count in self._left.items()
            if count
        )

    def over(self, turn: Turn) -> str:
        """Return why the round is not started, in words; empty where there is time for it."""
        limit, now = self.options.max_minutes, time.monotonic()
        if used_up(self.options, self._began, turn.cell, turn.round, self._known):
            self._began = -math.inf  # nor is another row's further round started, however short
            return USED_UP
        return f"{limit:g} minutes are over" if limit is not None and now - self._asked > limit * 60 else ""

    def done(self, turn: Turn, record: Record) -> None:
        """Take in what became of a round: it is no longer left, and those after it will take as long.

        So will others of its kind that are guessed, as far as their guesses say.
        """
        self._left[id(turn.cell)] -= 1
        self.pace.add(turn.cell, record)
        seconds, again = wall_seconds(record), second_start_seconds(record)
        if seconds is None:
            return
        key = key_of(turn.cell)
        if again is None and key in self._known:
            again = self._known[key].second_start  # of the first round alone
        self._known[key] = Earlier(seconds, again, power_share(record))


def needless(
    turn: Turn, exhausted: Iterable[Record], incorrect: Iterable[Record], gpu: HostGpu | None = None
) -> str | None:
    """Return why a row's round on `gpu` is skipped, by what came of others in this run; else None.

    A smaller shape ran out of memory, or the method is wrong: rounds are for noise, and its first one is run.
    """
    cell = turn.cell
    for record in incorrect if cell.role == "row" else ():
        same = (record.method, record.stack, record.workload.benchmark) == (cell.method, cell.stack, cell.benchmark)
        if record.cell_id == turn.cell_id and record.round != turn.round:
            return f"round {record.round + 1} was incorrect, and no other round would make it right"
        of_it = record.role == "probe" and same and turn.round > 0
        if of_it and record.workload == probe_workload(cell.workload, cell.kind):
            return "its method is incorrect on the probe, and one round has shown what it does here"
    return too_large(cell, (record for record in exhausted if gpu is None or _ran_on_such(record, gpu)))


def _ran_on_such(record: Record, gpu: HostGpu) -> bool:
    """Whether it ran on this model of GPU, or where it does not say which, on this one: another has other memory."""
    found = hardware_of(record)
    return found.uuid == gpu.uuid if found.name is None else found.name == gpu.name


def too_large(cell: Cell, records: Iterable[Record]) -> str | None:
    """Return why `cell` is skipped: a smaller shape of it, all else being equal, ran out of memory; else None."""
    if cell.role != "row":
        return None
    for record in records:
        exhausted = record.status == "out_of_memory" and is_row(record)
        alike = (record.method, record.stack, record.device) == (cell.method, cell.stack, cell.device)
        if exhausted and alike and _is_smaller(record.workload, cell.workload):
            batch, tokens = _shape(record.workload)
            return f"a smaller shape ran out of memory in this run: batch {batch}, {tokens} tokens each"
    return None


def _is_smaller(one: Workload, other: Workload) -> bool:
    """Whether both compute the same, `one` with no more of anything and less of something."""
    alike = all(getattr(one, name) == getattr(other, name) for name in ("benchmark", "dtype", "devices", "parallel"))
    if not alike or one.model is None or other.model is None:
        return False
    if one.model.model_dump(exclude={"name"}) != other.model.model_dump(exclude={"name"}):
        return False
    pairs = list(zip(_shape(one), _shape(other), strict=True))
    return all(mine <= theirs for mine, theirs in pairs) and any(mine < theirs for mine, theirs in pairs)


def _shape(workload: Workload) -> tuple[int, int]:
    """Return the batch, and the tokens of one sequence at its longest."""
    return workload.batch or 1, workload.sequence or workload.prompt_length + (workload.new_tokens or 0)
