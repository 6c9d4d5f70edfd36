"""Faster, slower or the same: the one rule by which two rows are compared, from their rounds' medians alone.

The difference of the logarithms' means gets Welch's t-interval at the 1 % level. With at least five rounds a side:

1. `same` where the whole interval lies within ±1 %: what is proved to be that small is called no difference;
2. `faster` or `slower` where the interval leaves out zero;
3. `inconclusive` otherwise, and with fewer rounds.

The first rule goes before the second, so a tiny difference that many quiet rounds make certain is still `same`; a
difference of 1 % is found, for its interval reaches over the band's edge. `python -m orchestrator.analysis.calibration`
shows how often each answer is given.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import lru_cache
from statistics import fmean, variance
from typing import Literal

from orchestrator.base.files import Frozen
from orchestrator.base.limits import MOST_ROUNDS
from orchestrator.base.text import between, counted, significant

Outcome = Literal["faster", "slower", "same", "inconclusive"]
LEVEL = 0.99
FEWEST_ROUNDS = 5
FEWEST_FOR_INTERVAL = 2
BAND = math.log(1.01)
"""Half the width, in logarithms, of what counts as the same: a factor of 1.01 either way."""


class Verdict(Frozen):
    """How `a` does against `b`. `ratio` is a's time over b's, with its interval where both have two rounds."""

    outcome: Outcome
    ratio: float | None
    interval: tuple[float, float] | None
    level: float = LEVEL
    rounds: tuple[int, int]
    reason: str | None = None
    """Why it is inconclusive."""

    @property
    def in_words(self) -> str:
        """Outcome, speedup with its interval, rounds, and the reason where there is one."""
        text = f"{self.outcome}, {significant(self.speedup)} times as fast"
        if self.speedup_interval is not None:
            text += f" {between(*self.speedup_interval)} at {self.level * 100:g} %"
        rounds = f"{counted(self.rounds[0], 'round')} against {self.rounds[1]}"
        return f"{text}, {rounds}{f' ({self.reason})' if self.reason else ''}"

    @property
    def speedup(self) -> float | None:
        """How many times as fast `a` is."""
        return None if self.ratio is None else 1 / self.ratio

    @property
    def speedup_interval(self) -> tuple[float, float] | None:
        """The interval of `speedup`."""
        return None if self.interval is None else (1 / self.interval[1], 1 / self.interval[0])


def rounds_wanted(found: Verdict) -> int | None:
    """Return about how many rounds of each side would bring a verdict, were ratio and spread what they are now.

    None: more than a run may have.
    """
    has = min(found.rounds)
    if has < FEWEST_ROUNDS or found.ratio is None or found.interval is None:
        return FEWEST_ROUNDS
    away, half = abs(math.log(found.ratio)), math.log(found.interval[1] / found.interval[0]) / 2
    wanted = max(away, BAND - away)
    spread = half / _narrowing(has, found.level)
    counts = range(has + 1, MOST_ROUNDS + 1)
    return next((count for count in counts if spread * _narrowing(count, found.level) < wanted), None)


def _narrowing(count: int, level: float) -> float:
    """Return half the width of the interval between two sides of so many rounds, over what one round differs by."""
    return student_t(2 * count - 2, level) / math.sqrt(count)


def verdict(a: Sequence[float], b: Sequence[float], level: float = LEVEL) -> Verdict:
    """Return how `a` does against `b`: the rounds' median times of two rows, in seconds, each above zero.

    Tables and `compare` say it at 99 % alone; other levels are for `python -m orchestrator.analysis.calibration`.
    """
    rounds = (len(a), len(b))
    if not a or not b:
        return Verdict(outcome="inconclusive", ratio=None, interval=None, rounds=rounds, reason="a side has no round")
    logs_a, logs_b = [math.log(value) for value in a], [math.log(value) for value in b]
    difference = fmean(logs_a) - fmean(logs_b)
    ratio = bounded_exp(difference)
    few = f"{min(rounds)} of at least {FEWEST_ROUNDS} rounds"
    if min(rounds) < FEWEST_FOR_INTERVAL:
        return Verdict(outcome="inconclusive", ratio=ratio, interval=None, rounds=rounds, reason=few)
    half = _half_width(logs_a, logs_b, level)
    low, high = difference - half, difference + half
    outcome, reason = _outcome(low, high), None
    if min(rounds) < FEWEST_ROUNDS:
        outcome, reason = "inconclusive", few
    elif outcome == "inconclusive":
        reason = "the interval holds 1 and is wider than ±1 %"
    interval = (bounded_exp(low), bounded_exp(high))
    return Verdict(outcome=outcome, ratio=ratio, interval=interval, level=level, rounds=rounds, reason=reason)


def _outcome(low: float, high: float) -> Outcome:
    if low > -BAND and high < BAND:
        return "same"
    if high < 0:
        return "faster"
    return "slower" if low > 0 else "inconclusive"


def _half_width(a: Sequence[float], b: Sequence[float], level: float) -> float:
    """Return half the width of Welch's interval of the difference of means."""
    parts = [variance(side) / len(side) for side in (a, b)]
    total = math.fsum(parts)
    if total == 0:
        return 0.0
    degrees = total**2 / math.fsum(part**2 / (len(side) - 1) for part, side in zip(parts, (a, b), strict=True))
    return student_t(degrees, level) * math.sqrt(total)


def interval_across(values: Sequence[float], level: float = LEVEL) -> tuple[float, float]:
    """Return Student's t-interval of the logarithms' mean, as plain values: at least two, all positive.

    Logarithms, because run times are skewed and their errors are relative.
    """
    logs = [math.log(value) for value in values]
    mean = fmean(logs)
    variance = math.fsum((x - mean) ** 2 for x in logs) / (len(logs) - 1)
    half = student_t(len(logs) - 1, level) * math.sqrt(variance / len(logs))
    return bounded_exp(mean - half), bounded_exp(mean + half)


def interval_of_median(values: Sequence[float], level: float = LEVEL) -> tuple[float, float, float]:
    """Return the order statistics that hold the median with probability `level`, and the level that they reach.

    Where even the smallest and the largest do not reach it (fewer than 8 values at 99 %) they are returned with
    the lower level they have. Exact for any continuous distribution, on independent samples.
    """
    ordered = sorted(values)
    rank, reached = _ranks(len(ordered), level)
    return ordered[rank], ordered[-1 - rank], reached


@lru_cache(maxsize=512)
def student_t(degrees: float, level: float = LEVEL) -> float:
    """Return the two-sided quantile of Student's t."""
    # Not at the top: importing it takes longer than reading a thousand records, and one round needs none.
    from scipy.special import stdtrit

    return float(stdtrit(degrees, 0.5 + level / 2))


@lru_cache(maxsize=4096)
def _ranks(count: int, level: float) -> tuple[int, float]:
    """Return how many values to leave out at either end, and the level that the rest reaches."""
    below, rank, reached = 0, 0, 1 - 2 * 0.5**count if count > 1 else 0.0
    for left_out in range((count - 1) // 2 + 1):
        below += math.comb(count, left_out)
        covered = 1 - below / 2 ** (count - 1)
        if covered < level:
            break
        rank, reached = left_out, covered
    return rank, reached


def bounded_exp(value: float) -> float:
    """Return exp(value) inside what a float and JSON can hold: two wild rounds make an absurdly wide interval."""
    return math.exp(min(max(value, -700.0), 700.0))
