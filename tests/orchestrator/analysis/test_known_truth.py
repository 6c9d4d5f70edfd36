"""The statistics against known truth, seeded: coverage, false verdicts, power, and what interleaving is for."""

from __future__ import annotations

import math
import random
import subprocess
import sys
from statistics import fmean

import pytest
from known_truth import (
    MOVING,
    SIZE,
    STEADY,
    drifting,
    heavy,
    median_coverage,
    normal,
    row_coverage,
    two_rows,
    verdicts,
)
from places import ROOT

from orchestrator.analysis.compare import _round_means
from orchestrator.analysis.statistics import verdict

DRAWS = 1000
LEVEL = 0.99
CHANCE = 0.01
"""Three standard errors of a share of 1 % over so many draws."""
EVERY = {**STEADY, **MOVING}


@pytest.mark.parametrize("name", sorted(EVERY))
def test_intervals_hold_the_truth_and_verdicts_are_not_false(name: str) -> None:
    for rounds in (5, 12):
        found = verdicts(EVERY[name], rounds, 0.0, "interleaved", draws=DRAWS)
        assert LEVEL - CHANCE <= found.coverage <= 1.0
        assert found.different <= 1 - LEVEL + CHANCE / 2


def test_with_normal_noise_the_level_is_met_and_not_merely_exceeded() -> None:
    assert verdicts(normal, 5, 0.0, "interleaved", draws=4 * DRAWS).coverage == pytest.approx(LEVEL, abs=CHANCE / 2)


@pytest.mark.parametrize("name", sorted(EVERY))
def test_what_is_not_the_same_is_hardly_ever_called_so_nor_the_wrong_way_round(name: str) -> None:
    found = verdicts(EVERY[name], 5, 0.02, "interleaved", draws=DRAWS)
    assert found.same <= 1 - LEVEL
    assert found.faster <= 1 - LEVEL


@pytest.mark.parametrize("name", sorted(MOVING))
def test_interleaving_beats_one_row_after_the_other(name: str) -> None:
    interleaved, sequential = (
        verdicts(MOVING[name], 10, 0.0, order, draws=DRAWS) for order in ("interleaved", "sequential")
    )  # type: ignore[arg-type]
    assert interleaved.coverage > sequential.coverage + 0.1
    assert interleaved.different < sequential.different - 0.1


def test_a_drift_is_taken_for_a_difference_without_interleaving() -> None:
    assert verdicts(drifting, 10, 0.0, "sequential", draws=300).different > 0.99


def test_power_grows_with_the_difference_and_with_the_rounds() -> None:
    curves = [
        [verdicts(normal, rounds, effect, "interleaved", draws=300).slower for effect in (0.0, 0.005, 0.01, 0.02)]
        for rounds in (5, 10)
    ]
    for curve in curves:
        assert curve == sorted(curve)
    assert curves[0][2] > 0.85
    assert curves[1][2] > 0.97
    assert verdicts(heavy, 5, 0.02, "interleaved", draws=300).slower > 0.9


@pytest.mark.parametrize("name", ["normal", "heavy tails"])
def test_a_rows_own_interval_holds_the_truth(name: str) -> None:
    assert row_coverage(STEADY[name], 5, draws=2 * DRAWS) >= LEVEL - CHANCE
    held, level = median_coverage(STEADY[name], draws=2 * DRAWS)
    assert held >= level - CHANCE / 2


def test_the_order_of_interleaved_rounds() -> None:
    a, b = two_rows(lambda _, count: [float(place) for place in range(count)], 4, 0.0, "interleaved", random.Random(0))  # noqa: S311
    assert [round(math.log(value)) for value in a] == [0, 3, 4, 7]
    assert [round(math.log(value)) for value in b] == [1, 2, 5, 6]


def test_a_mean_over_cells_that_share_their_rounds_disturbances() -> None:
    """Cells of a round are slowed down together: a mean of each round's own mean knows that, cells alone do not."""
    source = random.Random(5)  # noqa: S311
    held = {"together": 0, "apart": 0}
    for _ in range(DRAWS):
        sides = []
        for _ in "ab":
            shared = [source.gauss(0, SIZE) for _ in range(8)]
            cells = [[math.exp(common + source.gauss(0, SIZE / 5)) for common in shared] for _ in range(6)]
            sides.append(cells)
        for how, told in (
            ("together", verdict(*(_round_means(side) for side in sides))),
            ("apart", verdict(*([value for cell in side for value in cell] for side in sides))),
        ):
            assert told.interval is not None
            held[how] += told.interval[0] <= 1.0 <= told.interval[1]
    assert held["together"] / DRAWS >= LEVEL - CHANCE
    assert held["apart"] / DRAWS < 0.9


def test_round_means_are_geometric() -> None:
    assert _round_means([[1.0, 2.0], [4.0, 8.0, 16.0]]) == pytest.approx([2.0, 4.0])
    assert fmean(_round_means([[2.0]])) == pytest.approx(2.0)


@pytest.mark.parametrize("name", ["normal", "heavy tails", "skewed"])
def test_another_level_is_met_too(name: str) -> None:
    """95 %: low enough that a thousand draws tell an interval that is too narrow from one that is too wide."""
    found = verdicts(STEADY[name], 5, 0.0, "interleaved", draws=4 * DRAWS, level=0.95)
    assert 0.94 <= found.coverage <= 0.98


def printed(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(ROOT / "tests" / "benchmarks" / "verdicts.py"), *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=False)


def test_what_is_printed() -> None:
    done = printed("--draws", "20", "--level", "95")
    assert done.returncode == 0
    assert done.stdout.startswith("20 draws each; noise of a round 0.3%; level 95 %\n")
    assert "power, interleaved: found slower" in done.stdout
    assert done.stdout.count("sequential") == 9


@pytest.mark.parametrize("arguments", [["--draws", "0"], ["--draws", "many"], ["--level", "100"], ["20"]])
def test_bad_arguments_are_reported_without_a_traceback(arguments: list[str]) -> None:
    done = printed(*arguments)
    assert done.returncode == 2
    assert "Error: " in done.stderr
    assert "Traceback" not in done.stderr
