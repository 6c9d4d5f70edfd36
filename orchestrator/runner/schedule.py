"""Which worker runs which round next: a plan over many GPUs, as a value that neither waits nor starts anything.

Cells that are compared with each other (those of one workload) are a group, whose rounds run interleaved on one GPU,
with ceilings and references of that GPU's own. A free worker takes the group that is expected to take longest. Groups
with a cell whose time the CPU decides, or that takes several GPUs, come last, and run alone on their host. `run-all`
and `plan` use this schedule.
"""

from __future__ import annotations

import heapq
from collections import defaultdict, deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal, NamedTuple, Protocol

from orchestrator.base.grouping import grouped
from orchestrator.plan.cell import Cell, Device, Plan
from orchestrator.plan.proof_cells import probe_of, probe_workload
from orchestrator.plan.workload import on_one_device
from orchestrator.runner.order import interleave
from orchestrator.runner.pace import Kind

GroupKey = tuple[str, Device]
"""workload_id (of several devices: of what shows how they scale) and device of the cells that are compared."""
OF_THE_GPU = ("ceilings", "reference")
"""Roles of cells that each GPU of a run has its own rounds of."""


class Seat(NamedTuple):
    """A worker, as far as a schedule goes. `ordinal` is the round that its own ceilings and references have."""

    host: str
    uuid: str | None = None
    ordinal: int = 0


class Piece(NamedTuple):
    """One round of a cell for a certain worker."""

    cell: Cell
    round: int
    alone: bool


@dataclass
class Group:
    """Cells that stay on one GPU: the rounds that are still to be run of them, and what these are expected to take."""

    key: GroupKey
    pieces: list[Piece]
    seconds: float
    alone: bool


Answer = Piece | Literal["wait", "over"]
"""`wait`: until something else on the host has ended. `over`: nothing is left for this worker, as things are."""


@dataclass(frozen=True)
class Policy:
    """What a schedule goes by."""

    seconds: Callable[[Cell], float]
    """What one round is expected to take."""
    alone: Callable[[Cell], bool] = lambda _cell: False
    """Whether the CPU decides how long it takes, or its host's other GPUs take part in it."""
    able: Callable[[int, Cell], bool] = lambda _number, _cell: True
    """Whether a worker, by its number, can run the cell."""
    done: Callable[[int, Cell, int], bool] = lambda _number, _cell, _round: False
    """Whether a round has a result already; of ceilings and references the worker's own."""
    homes: Mapping[GroupKey, int] = field(default_factory=dict)
    """The workers whose GPUs have run rounds of groups before."""
    spread: bool = False
    """Any round may run on any GPU."""
    exclusive: bool = False
    """Every cell runs alone on its host."""
    kind: Callable[[Cell], Kind | None] = lambda _cell: None
    """Which guesses its expected time is one of; None where it is not guessed."""
    pace: Callable[[Kind | None], float] = lambda _kind: 1.0
    """How many times their guesses rounds of a kind take, as far as the run shows by now."""


@dataclass
class _State:
    """What one worker has before it."""

    seat: Seat
    pieces: deque[Piece] = field(default_factory=deque)
    group: Group | None = None
    """That the pieces are of."""
    begun: bool = False
    """Whether a row of it was handed out."""
    mine: deque[Group] = field(default_factory=deque)
    """Groups that this worker alone may run."""
    proved: set[int] = field(default_factory=set)
    """Ceilings and references that it was given, by their place among these cells."""
    lost: bool = False


@dataclass
class _HostState:
    running: int = 0
    alone: bool = False
    """Whether what runs is to be alone."""
    owner: int | None = None
    """The worker whose group runs alone."""


class Schedule:
    """Hands out rounds, and keeps what each worker has. Not thread-safe: whoever uses it locks it."""

    def __init__(self, plan: Plan, seats: Sequence[Seat], policy: Policy) -> None:
        self._policy = policy
        self._states = [_State(seat) for seat in seats]
        self._known_parts: dict[int, tuple[str, ...]] = {}
        self._hosts = {seat.host: _HostState() for seat in seats}
        self._beside: dict[str, tuple[int, ...]] = grouped((seat.host, number) for number, seat in enumerate(seats))
        self._of_gpu = [cell for cell in plan.cells if cell.role in OF_THE_GPU]
        self._subjects = [{one.workload_id for one in cell.workload.subjects or ()} for cell in self._of_gpu]
        self.taken = self.left_behind = 0
        """Rounds that were handed out; those that stay for another run, as the GPU that began them was lost."""
        groups = sorted(_groups(plan, policy), key=lambda group: -group.seconds)
        self.waiting = sum(len(group.pieces) for group in groups)
        """Rounds of rows and probes that were not handed out yet."""
        self._left = defaultdict[Kind | None, float](float)
        for piece in (piece for group in groups for piece in group.pieces):
            self._left[policy.kind(piece.cell)] += policy.seconds(piece.cell)
        self._free: dict[bool, deque[Group]] = {False: deque(), True: deque()}
        for group in groups:
            home = None if policy.spread else policy.homes.get(group.key)
            (self._free[group.alone] if home is None else self._states[home].mine).append(group)
        if not groups and not any(cell.role == "row" for cell in plan.cells):
            for number, state in enumerate(self._states):  # a plan of ceilings alone: each GPU has its own
                state.pieces.extend(self._proof_of(number, self._of_gpu))

    @property
    def left_s(self) -> float:
        """What the rounds of rows and probes that were not handed out yet are expected to take one GPU."""
        return sum(max(0.0, seconds) * self._policy.pace(kind) for kind, seconds in self._left.items())

    def take(self, number: int) -> Answer:
        """Return what worker `number` runs next."""
        state, policy = self._states[number], self._policy
        host = self._hosts[state.seat.host]
        if state.lost:
            return "over"
        if not state.pieces and not self._refill(number, state, host):
            return "wait" if self._free[True] else "over"
        piece = state.pieces[0]
        if host.alone or (piece.alone and host.running):
            return "wait"
        state.pieces.popleft()
        host.running, host.alone, self.taken = host.running + 1, piece.alone, self.taken + 1
        if piece.cell.role not in OF_THE_GPU:
            state.begun, self.waiting = True, self.waiting - 1
            self._left[policy.kind(piece.cell)] -= policy.seconds(piece.cell)
        return piece

    def ended(self, number: int) -> None:
        """Take in that what worker `number` ran has ended."""
        host = self._hosts[self._states[number].seat.host]
        host.running, host.alone = host.running - 1, False

    def lose(self, number: int) -> int:
        """Take in that a worker runs nothing more; return how many rounds stay for another run, as they began there.

        What it had not begun goes to the others; with `spread` all of it does.
        """
        state, before = self._states[number], self.left_behind
        host, state.lost = self._hosts[state.seat.host], True
        host.owner = None if host.owner == number else host.owner
        rest = [piece for piece in state.pieces if piece.cell.role not in OF_THE_GPU]
        if rest and state.group is not None and (self._policy.spread or not state.begun):
            seconds = sum(self._policy.seconds(piece.cell) for piece in rest)
            kept = Group(state.group.key, rest, seconds, state.group.alone)
            self._free[kept.alone].appendleft(kept)
        else:
            self.left_behind += len(rest)
        self.left_behind += sum(len(group.pieces) for group in state.mine)
        state.pieces.clear()
        state.mine.clear()
        if all(other.lost for other in self._states):
            for free in self._free.values():
                self.left_behind += sum(len(group.pieces) for group in free)
                free.clear()
        return self.left_behind - before

    def neighbours(self, number: int) -> Sequence[int]:
        """Return the workers of the host that worker `number` is of, itself among them."""
        return self._beside[self._states[number].seat.host]

    def _refill(self, number: int, state: _State, host: _HostState) -> bool:
        """Give the worker its next group, those that may run beside others first; return whether there was one."""
        if host.owner == number:
            host.owner = None
        group = self._first(state.mine, number, alone=False) or self._first(self._free[False], number)
        if group is None and host.owner is None:
            group = self._first(state.mine, number) or self._first(self._free[True], number)
            host.owner = None if group is None else number
        if group is None:
            return False
        state.group, state.begun = group, False
        state.pieces.extend([*self._proof_for(number, group), *group.pieces])
        return True

    def _first(self, groups: deque[Group], number: int, *, alone: bool = True) -> Group | None:
        """Take the first group that the worker can run (where no other can, any) out of `groups`."""
        for place, group in enumerate(groups):
            if (alone or not group.alone) and self._fits(group, number):
                del groups[place]
                return group
        return None

    def _fits(self, group: Group, number: int) -> bool:
        cells = [piece.cell for piece in group.pieces]
        able = self._policy.able
        others = (other for other, state in enumerate(self._states) if not state.lost)
        return all(able(number, cell) for cell in cells) or not any(
            all(able(other, cell) for cell in cells) for other in others
        )

    def _proof_for(self, number: int, group: Group) -> Iterator[Piece]:
        """Yield what the group's rows are measured against and that this GPU does not have yet."""
        stacks = {
            (piece.cell.stack, piece.cell.device, devices)
            for piece in group.pieces
            for devices in (1, piece.cell.workload.devices)
        }
        parts = {part for piece in group.pieces for part in self._parts(piece.cell)}
        wanted = [
            cell
            for cell, subjects in zip(self._of_gpu, self._subjects, strict=True)
            if (subjects & parts if subjects else (cell.stack, cell.device, cell.workload.devices) in stacks)
        ]
        return self._proof_of(number, wanted)

    def _parts(self, cell: Cell) -> tuple[str, ...]:
        """Return the workload_ids of the cell's references: several cells have one workload, and ids take a while."""
        key = id(cell.workload)
        if key not in self._known_parts:
            self._known_parts[key] = tuple(part.workload_id for part in cell.workload.referred)
        return self._known_parts[key]

    def _proof_of(self, number: int, wanted: Sequence[Cell]) -> Iterator[Piece]:
        state, ids = self._states[number], set(map(id, wanted))
        for place, cell in enumerate(self._of_gpu):
            if id(cell) in ids and place not in state.proved:
                state.proved.add(place)
                if not self._policy.done(number, cell, state.seat.ordinal):
                    yield Piece(cell, state.seat.ordinal, self._policy.exclusive or _takes_peers(cell))


def _takes_peers(cell: Cell) -> bool:
    """Whether other GPUs of its host take part in it: nothing else may run on these meanwhile."""
    return cell.device == "cuda" and cell.workload.devices > 1


def comparable(plan: Plan) -> dict[GroupKey, tuple[Cell, ...]]:
    """Return the rows of the plan by what they are compared with."""
    rows = [cell for cell in plan.cells if cell.role == "row"]
    workloads = {id(cell.workload): cell.workload for cell in rows}  # several cells have one, and ids take a while
    beside = on_one_device(workloads.values())
    ids = {
        place: beside[own][1] if (own := workload.workload_id) in beside else workload.alone.workload_id
        for place, workload in workloads.items()
    }
    return grouped(((ids[id(cell.workload)], cell.device), cell) for cell in rows)


def _groups(plan: Plan, policy: Policy) -> Iterator[Group]:
    """Yield the groups that have rounds to run; a probe goes with the first group that it says something about."""
    rows = comparable(plan)
    probes: dict[tuple[str, ...], Cell] = {
        (*probe_of(cell), cell.workload.workload_id): cell for cell in plan.cells if cell.role == "probe"
    }
    for key, cells in rows.items():
        found = [
            probes.pop((*probe_of(cell), probe_id), None) for cell in cells for probe_id in _probe_ids(cell, probes)
        ]
        alone = policy.exclusive or any(map(policy.alone, cells))
        order = [
            Piece(cell, number, alone if cell.role == "row" else policy.exclusive or _takes_peers(cell))
            for cell, number in interleave(Plan(suite=plan.suite, cells=(*filter(None, found), *cells)))
            if not policy.done(-1, cell, number)
        ]
        for pieces in [[piece] for piece in order] if policy.spread else [order]:
            if pieces:
                yield Group(key, pieces, sum(policy.seconds(piece.cell) for piece in pieces), alone)


def _probe_ids(cell: Cell, probes: Mapping[tuple[str, ...], Cell]) -> list[str]:
    return [probe_workload(cell.workload, cell.kind).workload_id] if probes and not cell.workload.is_own_probe else []


@dataclass(frozen=True)
class Forecast:
    """How a schedule would go if every round took what is expected. Seconds."""

    makespan_s: float
    busy_s: float
    """Of all GPUs together: a cell of several keeps that many busy."""
    until_last_wave: float
    """The share of the GPUs' time that is used until the first of them finds nothing more to do."""
    by_host: Mapping[str, float]
    """Seconds that each host's GPUs are busy, all together."""


class Handing(Protocol):
    """What hands out rounds to workers, by their numbers."""

    def take(self, number: int) -> Answer:
        """Return what the worker runs next."""

    def ended(self, number: int) -> None:
        """Take in that what it ran has ended."""

    def neighbours(self, number: int) -> Sequence[int]:
        """Return the workers for whom something may be there to run then."""


def forecast(plan: Plan, seats: Sequence[Seat], policy: Policy, schedule: Handing | None = None) -> Forecast:
    """Run the schedule without starting anything: each round takes what is expected of it. None: the plan's own."""
    schedule = schedule or Schedule(plan, seats, policy)
    running: list[tuple[float, int, int]] = []
    free, idle, busy = list(range(len(seats))), set[int](), [0.0] * len(seats)
    now, first_idle = 0.0, None
    while True:
        for number in free:
            piece = schedule.take(number)
            if isinstance(piece, Piece):
                seconds, width = policy.seconds(piece.cell), 1
                if piece.cell.device == "cuda":
                    width = min(piece.cell.workload.devices, len(schedule.neighbours(number)))
                busy[number] += width * seconds
                heapq.heappush(running, (now + seconds, number, width))
                idle.discard(number)
                continue
            idle.add(number)
            if piece == "over" and first_idle is None:
                first_idle = now, sum(busy) - sum(width * (end - now) for end, _, width in running)
        if not running:
            break
        now, number, _ = heapq.heappop(running)
        schedule.ended(number)
        free = [number, *(other for other in schedule.neighbours(number) if other in idle)]
    idle_at, used = first_idle or (now, sum(busy))
    by_host = {seat.host: 0.0 for seat in seats}
    for seat, seconds in zip(seats, busy, strict=True):
        by_host[seat.host] += seconds
    return Forecast(now, sum(busy), used / (idle_at * len(seats)) if idle_at else 1.0, by_host)
