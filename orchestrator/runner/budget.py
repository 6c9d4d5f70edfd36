"""How many rounds fit into a time: chosen from what earlier rounds took, and said before anything starts."""

from __future__ import annotations

import dataclasses
import re
import time
from typing import TYPE_CHECKING

from orchestrator.analysis.statistics import FEWEST_ROUNDS
from orchestrator.base.errors import UsageError
from orchestrator.base.text import counted
from orchestrator.records.store import newest_unfinished
from orchestrator.runner.estimate import estimate, expected, history, in_words

if TYPE_CHECKING:
    from collections.abc import Mapping

    from orchestrator.plan.cell import Cell, Plan
    from orchestrator.plan.choice import Choice
    from orchestrator.plan.options import RunOptions
    from orchestrator.runner.estimate import Earlier, Key

MOST_ROUNDS = 40
"""More tell little more: the interval shrinks with the root of their number."""
PARTS = re.compile(r"(?:(\d+(?:\.\d+)?)h)?(?:(\d+(?:\.\d+)?)m)?(?:(\d+(?:\.\d+)?)s)?")


def seconds_in(text: str) -> float:
    """Return the seconds in `45m`, `1h30m`, `90s`; anything else is a UsageError."""
    match = PARTS.fullmatch(text.strip())
    hours, minutes, seconds = (float(part or 0) for part in match.groups()) if match else (0.0, 0.0, 0.0)
    total = hours * 3600 + minutes * 60 + seconds
    if total <= 0:
        raise UsageError(f'"{text}" is no time', where="--budget", remedy="use 45m, 1h30m or 90s")
    return total


def fitted(choice: Choice, options: RunOptions, known: Mapping[Key, Earlier] | None = None) -> Choice:
    """Return the choice with as many rounds of each row as the budget has room for, at least one, and said in its line.

    `known` is what earlier rounds took (read where not given). An unfinished run that differs in its rounds alone keeps
    them, so that it can go on.
    """
    if options.budget_s is None:
        return choice
    if options.rounds is not None:
        raise UsageError("--rounds and --budget exclude each other", where="--budget", remedy="leave one of them out")
    known = history(options.results) if known is None else known

    def cost(rounds: int) -> float:
        return estimate(with_rounds(choice.plan, rounds), choice.stacks, known).seconds

    begun = None if options.fresh else _begun(choice.plan, options)
    rounds = begun or max((n for n in range(2, MOST_ROUNDS + 1) if cost(n) <= options.budget_s), default=1)
    takes = in_words(cost(rounds))
    line = f"budget {in_words(options.budget_s)}: {counted(rounds, 'round')} of each row, expected {takes}"
    if begun:
        line += " in all, as the unfinished run began"
    elif cost(rounds) > options.budget_s:
        line += ", more than the budget: one round is the least"
    elif rounds < MOST_ROUNDS:
        line += f" ({rounds + 1} would take {in_words(cost(rounds + 1))})"
    if rounds < FEWEST_ROUNDS:
        line += f"; a verdict needs {FEWEST_ROUNDS} rounds, {in_words(cost(FEWEST_ROUNDS))}"
    return dataclasses.replace(choice, plan=with_rounds(choice.plan, rounds), line=f"{choice.line}; {line}")


def with_rounds(plan: Plan, rounds: int) -> Plan:
    """Return the plan with so many rounds of each row; ceilings, references and probes stay as they are."""
    cells = [cell.model_copy(update={"rounds": rounds}) if cell.role == "row" else cell for cell in plan.cells]
    return plan.model_copy(update={"cells": tuple(cells)})


def used_up(options: RunOptions, began: float, cell: Cell, number: int, known: Mapping[Key, Earlier]) -> bool:
    """Whether round `number` of `cell` would end beyond the budget; the first round is run in any case.

    `began` is when the first cell was started, by the monotonic clock.
    """
    if options.budget_s is None or number == 0:
        return False
    return time.monotonic() - began + expected(cell, known).seconds > options.budget_s


def _begun(plan: Plan, options: RunOptions) -> int | None:
    """Return the rounds of the newest unfinished run where it is this plan but for them."""
    run = newest_unfinished(options.results)
    if run is None:
        return None
    rounds = max((cell.rounds for cell in run.plan.cells if cell.role == "row"), default=0)
    return rounds if rounds and with_rounds(plan, rounds).plan_id == run.header.plan_id else None
