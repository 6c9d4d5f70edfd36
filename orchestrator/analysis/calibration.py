"""How often the verdict calls alike rounds different, and how often it finds 1 %, on rounds measured or simulated.

`python -m orchestrator.analysis.calibration RUN CELL` splits the rounds of a measured cell (as `explain` names it) at
random in two sides, again and again; without both it draws rounds at several noises.
"""

from __future__ import annotations

import math
import random
from collections.abc import Sequence
from pathlib import Path
from statistics import fmean

import click

from orchestrator.analysis.statistics import FEWEST_ROUNDS, Outcome, verdict
from orchestrator.base.errors import StackbenchError, UsageError
from orchestrator.base.paths import RESULTS
from orchestrator.base.text import show

SPLITS = 1000
SHIFT = 0.01
NOISES = (0.001, 0.003, 0.005, 0.007)
SIDES = (20, FEWEST_ROUNDS)
POOLS = 10


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

    reduced = [steady(record) for record in find_records(run_folder, cell, []) if record.status == "ok"]
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


@click.command(
    name="python -m orchestrator.analysis.calibration", context_settings={"help_option_names": ["-h", "--help"]}
)
@click.argument("run", required=False)
@click.argument("cell", required=False)
def main(run: str | None, cell: str | None) -> None:
    """Split the rounds of one CELL of a RUN at random in two sides; without both, simulated rounds."""
    from orchestrator.records.runs import find_run

    if run is not None and cell is None:
        raise click.UsageError("give a RUN and a CELL, or neither")
    try:
        lines = simulated() if run is None or cell is None else measured(find_run(RESULTS, run).folder, cell)
    except StackbenchError as error:
        raise click.ClickException(str(error)) from error
    show("\n".join(lines))


if __name__ == "__main__":
    main()
