"""The statistics against known truth: how often intervals hold it, how often verdicts are false, and what is found.

    python tests/benchmarks/verdicts.py [--draws N] [--level PERCENT]

Draws rounds of two rows whose true ratio is known, under several kinds of noise, in the interleaved order of `run-all`
and one row after the other, and gives them to the rule of tables and `compare`.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Iterator
from pathlib import Path

import click

sys.path[:0] = [str(Path(__file__).parents[1] / "support"), str(Path(__file__).parents[2])]

from known_truth import DRAWS, MOVING, SAMPLES, SIZE, STEADY, Noise, Order, median_coverage, row_coverage, verdicts  # noqa: E402

from orchestrator.analysis.statistics import FEWEST_ROUNDS, LEVEL  # noqa: E402

EFFECTS = (0.0, 0.0025, 0.005, 0.01, 0.015, 0.02, 0.03, 0.05)
ROUNDS = (FEWEST_ROUNDS, 10, 20)


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


@click.command(context_settings={"help_option_names": ["-h", "--help"]})
@click.option("--draws", type=click.IntRange(min=1), default=DRAWS, show_default=True, help="Pairs of rows each.")
@click.option(
    "--level",
    type=click.FloatRange(0, 100, min_open=True, max_open=True),
    default=LEVEL * 100,
    show_default=True,
    help="Of the intervals, in percent.",
)
def main(draws: int, level: float) -> None:
    """Show how often intervals hold a known truth, how often verdicts are false, and what differences are found."""
    for line in report(draws, level / 100):
        click.echo(line)


if __name__ == "__main__":
    main()
