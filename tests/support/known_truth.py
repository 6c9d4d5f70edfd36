"""Rounds whose truth is known, under several kinds of noise, and how the statistics do on them."""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Literal

from orchestrator.analysis.statistics import LEVEL, interval_across, interval_of_median, verdict

Order = Literal["interleaved", "sequential"]
Noise = Callable[[random.Random, int], list[float]]
"""Draws the logarithms of so many rounds' disturbances, in the order in which they ran."""
SIZE = 0.003
"""Standard deviation of the noise of one round."""
DRIFT = 0.02
"""By how much a session's end is slower than its beginning, or what a jump takes."""
DRAWS = 10_000
SAMPLES = 10


def normal(source: random.Random, count: int) -> list[float]:
    """Return noise as in textbooks."""
    return [source.gauss(0, SIZE) for _ in range(count)]


def heavy(source: random.Random, count: int) -> list[float]:
    """Return noise with heavy tails: Student's t with three degrees of freedom, of the same standard deviation."""
    scale = SIZE / math.sqrt(3)
    return [scale * source.gauss(0, 1) / math.sqrt(source.gammavariate(1.5, 2) / 3) for _ in range(count)]


def skewed(source: random.Random, count: int) -> list[float]:
    """Return noise that only slows down: an exponential."""
    return [source.expovariate(1 / SIZE) for _ in range(count)]


def outliers(source: random.Random, count: int) -> list[float]:
    """Return normal noise in which every tenth round is three percent slower."""
    return [noise + (0.03 if source.random() < 0.1 else 0.0) for noise in normal(source, count)]


def drifting(source: random.Random, count: int) -> list[float]:
    """Return normal noise over a steady slowdown, as of a machine that warms up."""
    return [noise + DRIFT * place / (count - 1) for place, noise in enumerate(normal(source, count))]


def stepping(source: random.Random, count: int) -> list[float]:
    """Return normal noise with one lasting jump at some moment: a neighbour that comes or goes."""
    moment, jump = source.randrange(1, count), source.choice((-DRIFT, DRIFT))
    return [noise + (jump if place >= moment else 0.0) for place, noise in enumerate(normal(source, count))]


def wandering(source: random.Random, count: int) -> list[float]:
    """Return normal noise over a random walk."""
    here, found = 0.0, []
    for noise in normal(source, count):
        here += source.gauss(0, SIZE / 2)
        found.append(noise + here)
    return found


STEADY: Mapping[str, Noise] = {"normal": normal, "heavy tails": heavy, "skewed": skewed, "outliers": outliers}
MOVING: Mapping[str, Noise] = {"drifting": drifting, "stepping": stepping, "wandering": wandering}


@dataclass(frozen=True)
class Found:
    """Shares over all draws."""

    coverage: float
    """Intervals that hold the true ratio."""
    slower: float
    faster: float
    same: float

    @property
    def different(self) -> float:
        """Verdicts that say there is a difference."""
        return self.slower + self.faster


def two_rows(
    noise: Noise, rounds: int, effect: float, order: Order, source: random.Random
) -> tuple[list[float], list[float]]:
    """Return the seconds of both rows' rounds; the first is truly `effect` (0.01: 1 %) slower than the second.

    Interleaved: A B, B A, A B, …, as `run-all` orders its rounds. Sequential: all of A, then all of B.
    """
    disturbed = noise(source, 2 * rounds)
    if order == "sequential":
        a, b = disturbed[:rounds], disturbed[rounds:]
    else:
        pairs = [(disturbed[2 * n], disturbed[2 * n + 1]) for n in range(rounds)]
        a = [pair[n % 2] for n, pair in enumerate(pairs)]
        b = [pair[1 - n % 2] for n, pair in enumerate(pairs)]
    return [(1 + effect) * math.exp(value) for value in a], [math.exp(value) for value in b]


def verdicts(
    noise: Noise,
    rounds: int,
    effect: float,
    order: Order,
    *,
    draws: int = DRAWS,
    level: float = LEVEL,
    seed: int = 0,
) -> Found:
    """Return how the rule does over so many draws."""
    source = random.Random(seed)  # noqa: S311  (a simulation)
    held, counts = 0, {"slower": 0, "faster": 0, "same": 0, "inconclusive": 0}
    for _ in range(draws):
        answer = verdict(*two_rows(noise, rounds, effect, order, source), level)
        assert answer.interval is not None
        held += answer.interval[0] <= 1 + effect <= answer.interval[1]
        counts[answer.outcome] += 1
    return Found(held / draws, counts["slower"] / draws, counts["faster"] / draws, counts["same"] / draws)


def row_coverage(noise: Noise, rounds: int, *, draws: int = DRAWS, level: float = LEVEL, seed: int = 0) -> float:
    """Return how often a row's interval across rounds holds the truth: the mean of the noise, over a long series."""
    source = random.Random(seed)  # noqa: S311  (a simulation)
    long = noise(random.Random(seed + 1), 200_000)  # noqa: S311
    truth = math.exp(math.fsum(long) / len(long))
    held = 0
    for _ in range(draws):
        low, high = interval_across([math.exp(value) for value in noise(source, rounds)], level)
        held += low <= truth <= high
    return held / draws


def median_coverage(
    noise: Noise, samples: int = SAMPLES, *, draws: int = DRAWS, level: float = LEVEL, seed: int = 0
) -> tuple[float, float]:
    """Return how often the interval within a process holds the true median, and the level that it says it has."""
    source = random.Random(seed)  # noqa: S311  (a simulation)
    long = sorted(noise(random.Random(seed + 1), 200_000))  # noqa: S311
    truth, held, reached = long[len(long) // 2], 0, 0.0
    for _ in range(draws):
        low, high, reached = interval_of_median(noise(source, samples), level)
        held += low <= truth <= high
    return held / draws, reached
