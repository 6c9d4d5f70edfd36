"""The rule that tells rows apart: its answers one by one, and how often it errs over thousands of random splits."""

from __future__ import annotations

import math

import pytest
from click.testing import CliRunner
from record_samples import record, samples, save_run

from orchestrator.analysis.calibration import called_different, drawn_pool, main, measured, shares
from orchestrator.analysis.statistics import BAND, FEWEST_ROUNDS, Verdict, rounds_wanted, verdict

ALIKE = [1.0, 1.001, 0.999, 1.0005, 0.9995]


def scaled(factor: float) -> list[float]:
    return [value * factor for value in ALIKE]


@pytest.mark.parametrize(
    ("a", "b", "outcome"),
    [
        (ALIKE, ALIKE, "same"),
        (scaled(0.7), ALIKE, "faster"),
        (scaled(1.3), ALIKE, "slower"),
        (scaled(1.003), ALIKE, "same"),  # certain, and too small to matter
        (scaled(1.0101), ALIKE, "slower"),
        (scaled(1 / 1.0101), ALIKE, "faster"),
        ([1.0, 1.1, 0.9, 1.05, 0.95], ALIKE, "inconclusive"),
        (scaled(0.5)[:4], ALIKE, "inconclusive"),
        (scaled(0.5), ALIKE[:4], "inconclusive"),
        ([1.0], [2.0], "inconclusive"),
        ([], ALIKE, "inconclusive"),
        ([1.0] * 5, [1.0] * 5, "same"),
        ([1.0] * 5, [2.0] * 5, "faster"),
    ],
)
def test_outcomes(a: list[float], b: list[float], outcome: str) -> None:
    told = verdict(a, b)
    assert told.outcome == outcome
    assert (told.reason is not None) == (outcome == "inconclusive")


def test_the_interval_is_welchs() -> None:
    # Reckoned with scipy.stats.ttest_ind(log a, log b, equal_var=False).confidence_interval(0.99).
    a, b = [1.10, 1.12, 1.08, 1.11, 1.09], [1.00, 1.05, 0.95, 1.02, 0.98, 1.01]
    from scipy import stats

    expected = stats.ttest_ind([math.log(x) for x in a], [math.log(x) for x in b], equal_var=False)
    low, high = expected.confidence_interval(0.99)
    told = verdict(a, b)
    assert told.interval == pytest.approx((math.exp(low), math.exp(high)), rel=1e-9)
    assert told.speedup_interval == pytest.approx((math.exp(-high), math.exp(-low)), rel=1e-9)
    assert told.rounds == (5, 6)


def test_sides_can_be_swapped() -> None:
    a, b = verdict(scaled(1.2), ALIKE), verdict(ALIKE, scaled(1.2))
    assert (a.outcome, b.outcome) == ("slower", "faster")
    assert a.ratio == pytest.approx(b.speedup)


def spread(count: int, factor: float, deviation: float) -> list[float]:
    """So many values whose logarithms have that mean and that standard deviation."""
    steps = [number - (count - 1) / 2 for number in range(count)]
    scale = deviation / math.sqrt(math.fsum(step**2 for step in steps) / (count - 1))
    return [factor * math.exp(scale * step) for step in steps]


@pytest.mark.parametrize("factor", [1.0, 1.004, 1.006, 0.98, 1.03])
@pytest.mark.parametrize("deviation", [0.02, 0.05])
def test_so_many_rounds_would_do(factor: float, deviation: float) -> None:
    def told(count: int) -> Verdict:
        return verdict(spread(count, factor, deviation), spread(count, 1.0, deviation))

    assert told(5).outcome == "inconclusive"
    wanted = rounds_wanted(told(5))
    assert wanted is not None
    assert told(wanted).outcome != "inconclusive"
    assert told(wanted - 1).outcome == "inconclusive"


def test_where_a_run_may_not_have_so_many_rounds_none_would_do() -> None:
    assert rounds_wanted(verdict(spread(5, 1.0, 0.4), spread(5, 1.0, 0.4))) is None
    assert rounds_wanted(verdict([1.0], [2.0])) == rounds_wanted(verdict([], [1.0])) == FEWEST_ROUNDS


def test_the_band_is_a_factor_of_1_01_either_way() -> None:
    # With hardly any noise 1 % added lies on the band's edge, and its interval reaches over it.
    outcomes = shares(drawn_pool(40, 1e-5, seed=3), 20, math.exp(BAND) - 1)
    assert outcomes["slower"] > 0.9


@pytest.mark.parametrize("seed", [1, 2, 3])
def test_forty_alike_rounds_split_at_random_are_called_alike_and_one_percent_is_found(seed: int) -> None:
    pool = drawn_pool(40, 0.003, seed)
    assert called_different(shares(pool, 20)) <= 0.01
    assert shares(pool, 20, 0.01)["slower"] >= 0.9


def test_five_rounds_a_side_err_as_seldom_and_find_less() -> None:
    alike, found = [], []
    for seed in range(6):
        pool = drawn_pool(10, 0.003, seed)
        alike.append(called_different(shares(pool, 5, splits=250)))
        found.append(shares(pool, 5, 0.01, splits=250)["slower"])
    assert sum(alike) / len(alike) <= 0.015
    assert sum(found) / len(found) > 0.5


def test_rounds_that_were_measured(tmp_path) -> None:
    pool = drawn_pool(12, 0.002, seed=5)
    taken = [record(round=i, samples=samples(9e3, 450.0, *[450.0 * t] * 3)) for i, t in enumerate(pool)]
    lines = measured(save_run(tmp_path, taken), "forward inductor@cuda")
    assert lines[0] == "12 rounds"
    assert [line.split(",")[0] for line in lines[1:]] == ["6 a side", "5 a side"]


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["nowhere", "forward inductor@cuda"], 'no run "nowhere"'),
        (["RUN", "forward eager@cuda"], "no such cell"),
        (["RUN", "forward inductor@cuda"], "9 rounds; two sides need 10"),
        (["RUN"], "give a RUN and a CELL, or neither"),
    ],
)
def test_what_cannot_be_split_is_one_line(tmp_path, arguments, told) -> None:
    folder = save_run(tmp_path, [record(round=i, samples=samples(9e3, *[450.0] * 4)) for i in range(9)])
    done = CliRunner().invoke(main, [*(str(folder) if word == "RUN" else word for word in arguments)])
    assert done.exit_code != 0
    assert isinstance(done.exception, SystemExit)
    assert told in done.output.splitlines()[-1]
