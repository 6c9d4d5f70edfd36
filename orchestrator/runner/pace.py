"""How wrong guessed times are on this machine: learnt from a run's own rounds, for those of it that are left."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable

from orchestrator.plan.cell import Cell
from orchestrator.plan.workload import Benchmark, Role
from orchestrator.records.record import COMPUTED, Record
from orchestrator.runner.estimate import Key, guess_seconds, key_of, wall_seconds

Kind = tuple[Role, Benchmark]
"""Of a cell whose time is guessed: those of one kind are wrongly guessed alike."""
FEWEST_SEEN = 3
"""Rounds of a kind, before their times say how wrong its guesses are."""


class Pace:
    """How many times their guesses this run's rounds took, by kind: what those that are still guessed are taken to.

    Time over guess of all rounds of a role and benchmark; of too few, of the role; of rows, before that, of the probes,
    which start and compile as they do. Nothing is learnt of ceilings, whose time is fixed, or from rounds that failed.
    """

    def __init__(self, known: Iterable[Key]) -> None:
        """`known` have an earlier record when the run begins: they are not guessed."""
        self._known = frozenset(known)
        self._seen = defaultdict[Kind | Role, list[tuple[float, float]]](list)

    def kind(self, cell: Cell) -> Kind | None:
        """Return which guesses the cell's time is one of; None where it is not guessed."""
        return None if cell.role == "ceilings" or key_of(cell) in self._known else (cell.role, cell.benchmark)

    def add(self, cell: Cell, record: Record) -> None:
        """Take in what a round took."""
        kind, seconds = self.kind(cell), wall_seconds(record)
        if kind is not None and seconds is not None and record.status in COMPUTED:
            for of in (kind, cell.role):
                self._seen[of].append((seconds, min(guess_seconds(cell), cell.timeout_s)))

    def factor(self, kind: Kind | None) -> float:
        """Return what to multiply guesses of a kind with; 1 where too little is known."""
        if kind is None:
            return 1.0
        probes: tuple[Role, ...] = ("probe",) if kind[0] == "row" else ()
        for seen in (self._seen.get(of, []) for of in (kind, kind[0], *probes)):
            if len(seen) >= FEWEST_SEEN:
                took, guessed = map(sum, zip(*seen, strict=True))
                return took / guessed
        return 1.0
