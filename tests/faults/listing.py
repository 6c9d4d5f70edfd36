"""How a fault is tried, and the table of what came out."""

from __future__ import annotations

import re
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from random import Random

from scene import KINDS, Outcome, Problem

SCENE = re.compile(r"/\S*/(?=scene/|site-packages/)")
EVERY_S = 15.0
"""How often a line says how far a fault is."""


@dataclass(frozen=True)
class Fault:
    """One planted fault. `tries` yields outcomes for as long as it is asked; one try takes about `seconds`."""

    name: str
    planted: str
    must: str
    tries: Callable[[Random], Iterator[Outcome]]
    long: int
    """How often it is tried."""
    short: int
    """How often in the short version; 0: not at all."""
    seconds: float
    needs: frozenset[str] = frozenset()
    """Of `docker`, `dockerd`, `root`, `cc`: what it cannot be tried without."""


@dataclass
class Result:
    """What came out of one fault."""

    fault: Fault
    hows: Counter[str] = field(default_factory=Counter)
    problems: list[Problem] = field(default_factory=list)
    seconds: float = 0.0
    lacking: str = ""
    """What it was not tried for."""

    @property
    def count(self) -> int:
        return self.hows.total()


def try_fault(fault: Fault, times: int, seed: int, say: Callable[[str], None]) -> Result:
    """Try one fault at least so many times, or as often as there is something to try."""
    result, began = Result(fault), time.monotonic()
    said = began
    for outcome in fault.tries(Random(f"{fault.name} {seed}")):  # noqa: S311 - chance is wanted
        result.hows.update(outcome.hows)
        result.problems += outcome.problems
        for problem in outcome.problems:
            say(f"{fault.name}: {problem.kind}: {problem.what}")
        if result.count >= times:
            break
        if time.monotonic() - said > EVERY_S:
            said = time.monotonic()
            say(f"{fault.name}: {result.count} of {times}")
    result.seconds = time.monotonic() - began
    return result


def table(results: Sequence[Result]) -> str:
    """Return the results as Markdown: a line for each fault, and below it what was wrong."""
    heads = ("fault", "planted", "must hold", "tries", "where it struck", *KINDS)
    lines = [f"| {' | '.join(heads)} |", f"| :--- | :--- | :--- | ---: | :--- |{' ---: |' * len(KINDS)}"]
    for result in results:
        counts = Counter(problem.kind for problem in result.problems)
        hows = ", ".join(f"{count} {how}" for how, count in result.hows.most_common())
        cells = [result.fault.name, result.fault.planted, result.fault.must, f"{result.count:,}"]
        cells += [hows if not result.lacking else f"not tried: {result.lacking}"]
        lines.append(f"| {' | '.join([*cells, *(str(counts[kind]) for kind in KINDS)])} |")
    wrong = [(result.fault.name, problem) for result in results for problem in result.problems]
    seen = Counter(
        f"{name}: {problem.kind}: {SCENE.sub('', ' '.join(problem.what.split()))[:300]}" for name, problem in wrong
    )
    said = [f"- {line}{f' ({count} times)' if count > 1 else ''}" for line, count in seen.most_common()]
    return "\n".join([*lines, "", *(said or ["Nothing was wrong after any of them."])]) + "\n"
