"""Rows of one workload at several batches: throughput against latency, and which of them nothing beats in both."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from orchestrator.analysis.rows import Row
from orchestrator.base.grouping import grouped
from orchestrator.plan.workload import BATCHED, Workload, describe

NOT_PROVED = frozenset(("unchecked", "not_fused"))


@dataclass(frozen=True)
class Step:
    """An ok row at its batch. `further_seconds`: for each further token of a sequence, its latency."""

    row: Row
    number: int
    """Of the report that it comes from."""
    tokens_per_second: float
    """Of all sequences together."""
    further_seconds: float
    first_seconds: float
    on_front: bool = False

    @property
    def batch(self) -> int:
        """Sequences at once."""
        return self.row.workload.batch or 1

    @property
    def seconds(self) -> tuple[float, float]:
        """To the first token of all sequences, and for each further one."""
        return self.first_seconds, self.further_seconds

    @property
    def proved(self) -> bool:
        """Whether every check of its output was made and passed, and the kernels that it promises were seen."""
        return is_proved(self.row)


@dataclass(frozen=True)
class Ladder:
    """The steps on one model of device that differ in batch, method and stack alone: by name and batch."""

    workload: Workload
    """Of the first step, its batch left out."""
    device: str | None
    steps: tuple[Step, ...]

    @property
    def what(self) -> str:
        """Model, sizes and type in words."""
        return describe(self.workload)

    def front(self) -> list[Step]:
        """Return the steps of the Pareto front, the lowest latency first."""
        return sorted((step for step in self.steps if step.on_front), key=lambda step: step.further_seconds)


def is_proved(row: Row) -> bool:
    """Whether a row's speed may stand beside others' without a word of doubt."""
    return row.status == "ok" and not NOT_PROVED & set(row.flags)


def ladders(rows: Iterable[tuple[int, Row]]) -> list[Ladder]:
    """Return the ladders of rows, each with its report's number; rows without both times have no step."""
    found = grouped(
        ((_alike(row.workload), row.hardware.name), step)
        for number, row in rows
        if row.benchmark == BATCHED and (step := _step(number, row)) is not None
    )
    return [
        Ladder(steps[0].row.workload.model_copy(update={"batch": None}), device, with_front(steps))
        for (_, device), steps in found.items()
    ]


def with_front(steps: Sequence[Step]) -> tuple[Step, ...]:
    """Return the steps by name and batch, those of the Pareto front marked.

    On it is a proved step unless another one has no less throughput and no more latency, and is better in one of them.
    """
    proved = [step for step in steps if step.proved]
    marked = (
        Step(*_fields(step), on_front=step.proved and not any(_beats(other, step) for other in proved))
        for step in steps
    )
    return tuple(sorted(marked, key=lambda step: (step.row.name, step.number, step.batch)))


def _fields(step: Step) -> tuple[Row, int, float, float, float]:
    return step.row, step.number, step.tokens_per_second, step.further_seconds, step.first_seconds


def _beats(one: Step, other: Step) -> bool:
    mine, theirs = (one.tokens_per_second, -one.further_seconds), (other.tokens_per_second, -other.further_seconds)
    return mine != theirs and mine[0] >= theirs[0] and mine[1] >= theirs[1]


def _alike(workload: Workload) -> str:
    return workload.model_copy(update={"batch": None}).workload_id


def _step(number: int, row: Row) -> Step | None:
    figure = row.figure
    if row.headline is None or figure.first_token_seconds is None or figure.next_token_seconds is None:
        return None
    return Step(row, number, row.headline, figure.next_token_seconds, figure.first_token_seconds)
