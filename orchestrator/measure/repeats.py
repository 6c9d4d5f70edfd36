"""Answers the question that bench asks after its samples: which of them to measure again.

The question comes in `events.jsonl`, the answer goes as a file into the work folder. The process behind both is not
trusted: what it tells is checked before it is reckoned with, and nothing that it left in the folder is followed or
written through.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any, get_args

from orchestrator.base.untrusted import place_file
from orchestrator.measure.validity import Span
from orchestrator.records.record import Phase

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path


MOST_ASKS = 3
MOST_ROWS = 512
"""More samples than a record has room for."""
MOST_SIZES = 8
LARGEST = 2**63


class Question:
    """What was asked last, and not yet answered. A question may come in several lines."""

    def __init__(self) -> None:
        self._ask, self._answered = 0, 0
        self._rows: list[Span] = []
        self._whole = False

    def take(self, told: dict[str, Any]) -> None:
        """Take in one event `samples`; ValueError, TypeError or KeyError where it is none that bench would write."""
        ask = int(told["ask"])
        if not self._answered < ask <= MOST_ASKS:
            raise ValueError(ask)
        if ask != self._ask:
            self._ask, self._rows = ask, []
        self._whole = False
        rows = [_span(row) for row in told["rows"]]
        if len(self._rows) + len(rows) > MOST_ROWS:
            self._answered = MOST_ASKS  # nobody to be answered
            raise ValueError(len(rows))
        self._rows += rows
        self._whole = told["more"] is False

    def answer(self, folder: Path, choose: Callable[[Sequence[Span]], Sequence[int]]) -> None:
        """Write what `choose` makes of the samples into `folder`, where a question is open."""
        if self._whole:
            self._whole, self._answered = False, self._ask
            place_file(folder, f"repeat-{self._ask}.json", json.dumps({"repeat": list(choose(self._rows))}))
            self._rows = []


def _span(row: Any) -> Span:
    index, phase, begin_ns, end_ns, device_ns, shape, compiled = row
    if phase not in get_args(Phase) or not isinstance(compiled, bool) or not 0 < len(shape) <= MOST_SIZES:
        raise ValueError(phase)
    numbers = [index, begin_ns, end_ns, *([] if device_ns is None else [device_ns]), *shape]
    if not all(type(number) is int and 0 <= number < LARGEST for number in numbers):
        raise ValueError(numbers)
    return Span(index, phase, begin_ns, end_ns, device_ns, tuple(shape), compiled)
