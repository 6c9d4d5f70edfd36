"""What a record says beside its figure, and what its samples warn of."""

from __future__ import annotations

from typing import Any

import pytest
from record_samples import COMPILES, TELEMETRY, check, dispatch, proof, record, sample, samples

from orchestrator.analysis.evidence import compiles, evidence, power, unsteadiness
from orchestrator.analysis.protocol import columns_of
from orchestrator.analysis.reduce import rows
from orchestrator.report.words import warnings

QUIET = [450.0, 451.5, 449.5, 450.5, 452.0, 449.0, 453.0, 450.2]


def taken(*milliseconds: float, **changes: Any) -> list[dict[str, Any]]:
    made = samples(9000.0, 455.0, *milliseconds)
    return [{**one, **changes} if one["phase"] == "timed" else one for one in made]


def test_a_record_that_says_ok_beside_a_failed_check_is_incorrect() -> None:
    lies = proof(0.01, check("causality", "failed", what="row 3 differs"))
    (row,) = rows([record(samples=taken(*QUIET), proof=lies)], "steady")
    assert (row.status, row.reason, row.headline) == ("incorrect", "causality: row 3 differs", None)
    assert row.evidence.checks is not None
    assert (row.evidence.checks.passed, row.evidence.checks.failed, row.evidence.checks.total) == (3, 1, 4)


@pytest.mark.parametrize(
    ("its", "flags"),
    [
        (proof(), ()),
        (proof(0.01, check("sampler", "unchecked", what="no draws")), ("unchecked",)),
        (None, ("unchecked",)),
        (proof(checks=[]), ("unchecked",)),
    ],
)
def test_a_row_is_unchecked_where_a_check_lacks_whatever_the_record_says(its: Any, flags: tuple[str, ...]) -> None:
    probe = record(samples=taken(*QUIET), cell_id="d" * 16, role="probe", proof=proof(), flags=[])
    (row,) = rows([record(samples=taken(*QUIET), proof=its, flags=[]), probe], "steady")
    assert row.flags == flags


def test_the_error_is_relative_to_eagers() -> None:
    found = evidence(record(samples=taken(*QUIET), proof=proof(0.015)))
    assert (found.error, found.eager_error) == (0.015, 0.01)
    (row,) = rows([record(samples=taken(*QUIET), proof=proof(0.015))], "steady")
    assert row.evidence.error_ratio == pytest.approx(1.5)


def test_what_was_expected_and_not_seen_is_a_flag() -> None:
    (row,) = rows([record(samples=taken(*QUIET), flags=[], dispatch=dispatch("Triton", instead="copies"))], "steady")
    assert "not_fused" in row.flags
    assert row.evidence.dispatch is not None
    assert (row.evidence.dispatch.missing, row.evidence.dispatch.instead) == (("Triton",), "copies")


def test_compiles_and_what_older_records_say_of_them() -> None:
    found = compiles(record(compiles=COMPILES, detail={"graphs": [7, 7]}))
    assert found is not None
    assert (found.graphs, found.recompiles, len(found.breaks), found.warm.first_ns) == (2, 1, 1, 9_500_000_000)
    older = compiles(record(detail={"graphs": [1, 1, 3]}))
    assert older is not None
    assert (older.graphs, older.recompiles, older.warm) == (3, 2, None)
    assert compiles(record()) is None


@pytest.mark.parametrize(
    ("benchmark", "joules", "per"),
    [("forward", 310.0, "pass"), ("train_static", 310.0, "step"), ("generation", 1.55, "token")],
)
def test_energy_is_given_for_one_pass_token_or_step(benchmark: str, joules: float, per: str) -> None:
    found = power(record(benchmark, samples=taken(*QUIET), telemetry=TELEMETRY))
    assert found is not None
    assert (found.joules, found.per) == (pytest.approx(joules), per)
    # Where each sample has its own, these count.
    found = power(record(benchmark, samples=taken(*QUIET, energy_joules=620.0), telemetry=TELEMETRY))
    assert found is not None
    assert found.joules == pytest.approx(2 * joules)
    assert power(record(benchmark, samples=taken(*QUIET))) is None


def off(*milliseconds: float, **changes: Any) -> tuple[float | None, float | None]:
    return unsteadiness(columns_of(record(samples=taken(*milliseconds, **changes))))


def test_the_first_sample_and_a_drift_are_noticed_and_noise_is_not() -> None:
    assert off(*QUIET) == (None, None)
    first, drift = off(600.0, *QUIET[1:])
    assert first == pytest.approx(600 / 450.5 - 1)
    assert drift is None
    first, drift = off(*(450.0 + 6 * i for i in range(12)))
    assert drift == pytest.approx(0.078, abs=0.01)
    assert off(100.0, 140.0, 90.0, 130.0, 150.0, 110.0, 95.0, 145.0)[1] is None  # a difference, but within the noise
    assert off(450.0, 460.0, 470.0) == (None, None)  # too few
    assert off(600.0, *QUIET[1:], taint="throttled") == (None, None)
    shapes = [sample(i, 100.0 + 10 * i, shape=[2, 10 + i]) for i in range(10)]
    assert unsteadiness(columns_of(record("train_dynamic", samples=shapes))) == (None, None)


def test_each_warning_names_a_remedy() -> None:
    drifting = [600.0, *(450.0 + 6 * i for i in range(12))]
    (row,) = rows([record(samples=taken(*drifting))], "steady")
    assert "drift" in row.flags
    first, drift = warnings(row)
    assert "raise `warmup`" in first
    assert "nvidia-smi -lgc" in drift
    assert "--rounds" in drift
    (row,) = rows([record(samples=taken(*QUIET, taint="another process on the GPU"))], "steady")
    assert "tainted" in row.flags
    (line,) = warnings(row)
    assert line.startswith("8 timed samples tainted (another process on the GPU): ")
    (row,) = rows([record(samples=taken(*QUIET))], "steady")
    assert warnings(row) == []


def sustained(*milliseconds: float) -> Any:
    made = [sample(1, wall, "sustained") for wall in milliseconds]
    return unsteadiness(columns_of(record(samples=[*taken(*QUIET), *made])))


def test_samples_that_alternate_at_the_power_cap_are_no_drift_nor_is_their_first_one_off() -> None:
    low, high = [435.0, 436.0, 435.5], [467.0, 466.0, 466.5]
    alternating = [pair[at % 3] for at in range(23) for pair in (low, high)]
    # More of the one in one half, more of the other in the other: the halves' medians are 7 % apart, their means 0.4 %.
    slipped = [*alternating[:22], 435.0, *alternating[22:44], 467.0]
    for walls in (alternating, slipped, slipped[::-1], [480.0, *alternating]):
        assert sustained(*walls) == (None, None)
    warming = [wall + 1.5 * at for at, wall in enumerate(alternating)]
    assert sustained(*warming) == (None, pytest.approx(0.078, abs=0.01))


def test_lengths_that_cost_more_when_they_come_again_are_told_where_the_figure_leaves_that_out() -> None:
    def row(soak: float, *, shapes: int = 8, soaked: int = 8) -> Any:
        phases = {"timed": 100.0, "soak": soak, "sustained": 90.0}
        made = [
            sample(i, wall + i, phase, shape=[2, 10 + i % shapes])
            for phase, wall in phases.items()
            for i in range(soaked if phase == "soak" else 8)
        ]
        return rows([record("train_dynamic", samples=[sample(0, 900.0, "first"), *made])], "steady")[0]

    (line,) = warnings(found := row(330.0))
    assert found.evidence.second_time == pytest.approx(3.2, abs=0.05)
    assert "took 3.2 times as long as the first" in line
    assert "compare a method that records none" in line
    assert warnings(row(110.0)) == []  # burst, and then the power cap
    assert row(330.0, shapes=1).evidence.second_time is None
    assert row(330.0, soaked=6).evidence.second_time is None  # of older records: the figure has what is left
    stall = [sample(i, 2500.0 if i == 3 else 110.0, "soak", shape=[2, 10 + i]) for i in range(8)]
    nothing = [sample(i, 0.0, shape=[2, 10 + i]) for i in range(8)]
    timed = [sample(i, 100.0 + i, shape=[2, 10 + i]) for i in range(8)]
    for made in ([*timed, *stall], [*nothing, *stall]):
        (found,) = rows([record("train_dynamic", samples=made)], "steady")
        assert found.evidence.second_time is None


def test_one_odd_round_of_three_is_no_drift_of_the_row() -> None:
    odd = record(round=2, samples=taken(*(450.0 + 6 * i for i in range(12))))
    (row,) = rows([*(record(round=i, samples=taken(*QUIET)) for i in range(2)), odd], "steady")
    assert (row.evidence.drift, "drift" in row.flags) == (None, False)
