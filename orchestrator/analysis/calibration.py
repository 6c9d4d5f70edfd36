"""The statistics against known truth: how often intervals hold it, how often verdicts are false, and what is found.

`python -m orchestrator.analysis.calibration simulate` draws rounds of two rows whose true ratio is known, under several
kinds of noise, in the interleaved order of `run-all` and one row after the other, and gives them to the rule of tables
and `compare`. `… alike RUN CELL` splits the rounds of a measured cell (as `explain` names it) at random in two sides,
again and again; without a cell it draws rounds at several noises.
"""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean
from typing import Literal

import click

from orchestrator.analysis.statistics import FEWEST_ROUNDS, LEVEL, Outcome, interval_across, interval_of_median, verdict
from orchestrator.base.errors import StackbenchError, UsageError
from orchestrator.base.paths import RESULTS

Order = Literal["interleaved", "sequential"]
Noise = Callable[[random.Random, int], list[float]]
"""Draws the logarithms of so many rounds' disturbances, in the order in which they ran."""
SIZE = 0.003
"""Standard deviation of the noise of one round."""
DRIFT = 0.02
"""By how much a session's end is slower than its beginning, or what a jump takes."""
DRAWS = 10_000
SAMPLES = 10
EFFECTS = (0.0, 0.0025, 0.005, 0.01, 0.015, 0.02, 0.03, 0.05)
ROUNDS = (FEWEST_ROUNDS, 10, 20)
SPLITS = 1000
SHIFT = 0.01
NOISES = (0.001, 0.003, 0.005, 0.007)
SIDES = (20, FEWEST_ROUNDS)
POOLS = 10


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
    return [noise + (0.03 if source.random() < 0.1 else 0.0) for noise in normal(source, count)]  # noqa: PLR2004


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


def report(draws: int = DRAWS, level: float = LEVEL) -> Iterator[str]:
    """Yield all of it as lines of text, each as soon as it is computed."""
    yield f"{draws} draws each; noise of a round {SIZE:.1%}; level {level * 100:g} %"
    yield from ("", "order, noise, rounds: coverage, false")
    cases: list[tuple[Order, str, Noise]] = [
        ("interleaved", name, noise) for name, noise in {**STEADY, **MOVING}.items()
    ]
    cases += [("sequential", name, noise) for name, noise in MOVING.items()]
    for order, name, noise in cases:
        for rounds in ROUNDS:
            found = verdicts(noise, rounds, 0.0, order, draws=draws, level=level)
            yield f"{order:<11}  {name:<11}  {rounds:>2}: {found.coverage:7.2%}, {found.different:7.2%}"
    yield from ("", f"power, interleaved: found slower, by true difference ({', '.join(f'{e:.2%}' for e in EFFECTS)})")
    fewer = math.ceil(draws / 5)
    for name, noise in {**STEADY, **MOVING}.items():
        for rounds in ROUNDS:
            curve = [
                verdicts(noise, rounds, effect, "interleaved", draws=fewer, level=level).slower for effect in EFFECTS
            ]
            yield f"{name:<11}  {rounds:>2}: {' '.join(f'{share:6.1%}' for share in curve)}"
    yield from ("", "a row's own interval: coverage across rounds")
    for name, noise in STEADY.items():
        shares = [f"{rounds} rounds {row_coverage(noise, rounds, draws=draws, level=level):.2%}" for rounds in ROUNDS]
        held, reached = median_coverage(noise, draws=draws, level=level)
        median = f"of the median of {SAMPLES} samples {held:.2%} (level {reached:.2%})"
        yield f"{name:<11}  {', '.join(shares)}; {median}"


def shares(
    pool: Sequence[float], side: int, shift: float = 0.0, *, splits: int = SPLITS, seed: int = 0
) -> dict[Outcome, float]:
    """Return the share of each outcome over random splits: two sides of `side` rounds out of `pool`, in seconds.

    `shift` (0.01: 1 %) is added to the times of the first side.
    """
    source = random.Random(seed)  # noqa: S311  (a simulation)
    counts: dict[Outcome, int] = {"faster": 0, "slower": 0, "same": 0, "inconclusive": 0}
    for _ in range(splits):
        drawn = source.sample(pool, 2 * side)
        counts[verdict([value * (1 + shift) for value in drawn[:side]], drawn[side:]).outcome] += 1
    return {outcome: count / splits for outcome, count in counts.items()}


def drawn_pool(rounds: int, noise: float, seed: int) -> list[float]:
    """Return the times of so many alike rounds; `noise` is the standard deviation of their logarithms."""
    source = random.Random(seed)  # noqa: S311  (a simulation)
    return [math.exp(source.gauss(0, noise)) for _ in range(rounds)]


def called_different(outcomes: dict[Outcome, float]) -> float:
    """Return the share of splits that were called different."""
    return outcomes["faster"] + outcomes["slower"]


def simulated() -> list[str]:
    """Return a line for each number of rounds a side and noise: the mean over pools, and the worst pool."""
    lines = ["rounds a side, noise: called different (worst pool); 1 % found (worst pool)"]
    for side in SIDES:
        for noise in NOISES:
            pools = [drawn_pool(2 * side, noise, seed) for seed in range(POOLS)]
            alike = [called_different(shares(pool, side)) for pool in pools]
            found = [shares(pool, side, SHIFT)["slower"] for pool in pools]
            lines.append(
                f"{side:2d}, {noise:.1%}: {fmean(alike):.2%} ({max(alike):.2%}); {fmean(found):.1%} ({min(found):.1%})"
            )
    return lines


def measured(run_folder: Path, cell: str) -> list[str]:
    """Return the same for the rounds of one cell of a run; UsageError for a name that leads nowhere, or too few."""
    from orchestrator.analysis.protocol import steady
    from orchestrator.records.find import find_records

    reduced = [steady(record) for record in find_records(run_folder, cell) if record.status == "ok"]
    pool = [round_.seconds for round_ in reduced if round_.seconds is not None]
    if len(pool) < 2 * FEWEST_ROUNDS:
        raise UsageError(
            f"{len(pool)} rounds", where=cell, remedy=f"two sides need {2 * FEWEST_ROUNDS}, `run-all --rounds`"
        )
    lines = [f"{len(pool)} rounds"]
    for side in dict.fromkeys((len(pool) // 2, FEWEST_ROUNDS)):
        alike, found = shares(pool, side), shares(pool, side, SHIFT)
        lines.append(
            f"{side} a side, {SPLITS} splits: called different {called_different(alike):.2%}; "
            f"1 % found {found['slower']:.1%}"
        )
    return lines


@click.group(
    name="python -m orchestrator.analysis.calibration", context_settings={"help_option_names": ["-h", "--help"]}
)
def main() -> None:
    """Try the statistics against known truth, or against rounds that were measured."""


@main.command()
@click.option("--draws", type=click.IntRange(min=1), default=DRAWS, show_default=True, help="Pairs of rows each.")
@click.option(
    "--level",
    type=click.FloatRange(0, 100, min_open=True, max_open=True),
    default=LEVEL * 100,
    show_default=True,
    help="Of the intervals, in percent.",
)
def simulate(draws: int, level: float) -> None:
    """Show how often intervals hold a known truth, how often verdicts are false, and what differences are found."""
    for line in report(draws, level / 100):
        click.echo(line)


@main.command()
@click.argument("run", required=False)
@click.argument("cell", required=False)
def alike(run: str | None, cell: str | None) -> None:
    """Split the rounds of one CELL of a RUN at random in two sides; without both, simulated rounds."""
    from orchestrator.records.store import find_run

    if run is not None and cell is None:
        raise click.UsageError("give a RUN and a CELL, or neither")
    try:
        lines = simulated() if run is None or cell is None else measured(find_run(RESULTS, run).folder, cell)
    except StackbenchError as error:
        raise click.ClickException(str(error)) from error
    click.echo("\n".join(lines))


if __name__ == "__main__":
    main()
