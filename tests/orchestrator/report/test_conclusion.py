"""The sentence below a table, for every way in which a benchmark can come out."""

from __future__ import annotations

from typing import Any

import pytest
from record_samples import proof, record, samples

from orchestrator.analysis.reduce import rows
from orchestrator.analysis.rows import Scaling
from orchestrator.records.record import Record
from orchestrator.report.conclusion import conclude

NOISE = (1.0, 1.001, 0.999, 1.0005, 0.9995)


def ran(method: str, milliseconds: float, rounds: int = 5, noise: float = 1.0, **changes: Any) -> list[Record]:
    """A cell's rounds, each so many milliseconds long but for a little noise, with nothing to say against them."""
    fields = {
        "flags": ["cold"],
        "proof": proof(0.01),
        "cell_id": f"{method}{changes.get('stack', '')}".encode().hex()[:16].ljust(16, "0"),
    }
    return [
        record(
            round=number,
            method=method,
            samples=samples(2000.0, *[milliseconds * (1 + (NOISE[number % 5] - 1) * noise)] * 5),
            **{**fields, **changes},
        )
        for number in range(rounds)
    ]


def failed(method: str, status: str, **changes: Any) -> list[Record]:
    return [record(method=method, status=status, reason="why", flags=[], cell_id=method.encode().hex()[:16], **changes)]


def said(*cells: list[Record]) -> str:
    return conclude(rows([one for cell in cells for one in cell], "steady", probed=False))


EAGER = ran("eager", 450.0)
WRONG = [
    ran(name, milliseconds, status="incorrect", reason="wrong")
    for name, milliseconds in zip("abcde", (900.0, 901.0, 100.0, 902.0, 101.0), strict=True)
]
FASTER = "inductor is 1.50 times as fast as eager [1.50, 1.50]: faster, 5 rounds each"


@pytest.mark.parametrize(
    ("cells", "sentence"),
    [
        ([EAGER, ran("inductor", 300.0)], FASTER),
        (
            [EAGER, ran("inductor", 449.5)],
            "inductor is as fast as eager, within 1 %: 1.00 times [0.999, 1.00], 5 rounds each",
        ),
        (
            [EAGER, ran("inductor", 600.0), ran("thunder", 900.0)],
            (
                "no method has a better figure than eager: inductor is 0.750 times as fast as eager [0.749, 0.751]:"
                " slower, 5 rounds each"
            ),
        ),
        (
            [ran("eager", 450.0, 1), ran("inductor", 338.0, 1)],
            "inductor is 1.33 times as fast as eager; not proven, one round: add `--rounds 5`",
        ),
        (
            [ran("eager", 450.0, 3), ran("inductor", 338.0)],
            "inductor is 1.33 times as fast as eager; not proven, 3 rounds: add `--rounds 5`",
        ),
        (
            [ran("eager", 450.0, 5, 60), ran("inductor", 445.0, 5, 60)],
            (
                "inductor is 1.01 times as fast as eager; not proven, 5 rounds and an interval of [0.914, 1.12] that"
                " holds 1: about `--rounds 242` would do"
            ),
        ),
        ([EAGER], "only eager was run, so there is nothing to compare it with"),
        ([EAGER, failed("inductor", "crashed")], "only eager has a speed: inductor crashed"),
        (
            [ran("inductor", 300.0), failed("eager", "timeout")],
            "only inductor has a speed, and there is nothing to compare it with: eager is timeout",
        ),
        (
            [ran("inductor", 300.0), ran("thunder", 200.0)],
            "thunder has the best figure, and there is nothing to compare it with: eager was not run on its stack",
        ),
        (
            [failed("eager", "skipped"), failed("inductor", "skipped")],
            "no row has a speed: eager skipped, inductor skipped",
        ),
        (
            [failed(name, "crashed" if name == "a" else "unsupported") for name in "abcd"],
            "no row has a speed: 3 unsupported, 1 crashed",
        ),
        (
            [EAGER, ran("inductor", 300.0), ran("fused", 100.0, status="incorrect", reason="wrong")],
            f"{FASTER}; fused is incorrect, so its speed, a better one, does not count",
        ),
        (
            [EAGER, *(ran(name, 900.0, status="incorrect", reason="wrong") for name in ("fused", "thunder"))],
            (
                "only eager has a speed: fused incorrect, thunder incorrect; fused, thunder are incorrect, so their"
                " speed does not count"
            ),
        ),
        (
            [EAGER, ran("inductor", 300.0), *WRONG[:4]],
            f"{FASTER}; a, b, c, d are incorrect, so their speed does not count, though c had a better one",
        ),
        (
            [EAGER, ran("inductor", 300.0), *WRONG],
            (
                f"{FASTER}; a, b, c and 2 others are incorrect, so their speed does not count,"
                " though c, e had a better one"
            ),
        ),
        (
            [EAGER, ran("inductor", 300.0), WRONG[2], WRONG[4]],
            f"{FASTER}; c, e are incorrect, so their speed, a better one, does not count",
        ),
        (
            [ran("eager", 450.0, flags=["unchecked"]), ran("inductor", 300.0, flags=["unchecked", "cold"])],
            f"{FASTER}; inductor and eager are flagged unchecked",
        ),
        (
            [EAGER, ran("inductor", 300.0, flags=["not_fused"]), ran("thunder", 400.0, flags=["tainted"])],
            f"{FASTER}; inductor is flagged not_fused",
        ),
        (
            [EAGER, ran("eager", 450.0, stack="other"), ran("inductor", 300.0, stack="other")],
            (
                "inductor@other has the best figure and is 1.50 times as fast as eager@other [1.50, 1.50]: faster,"
                " 5 rounds each"
            ),
        ),
        (
            [EAGER, ran("inductor", 400.0), ran("thunder", 300.0, stack="other")],
            (
                "thunder@other has the best figure, and no eager on its stack; inductor@cuda is 1.12 times as fast as"
                " eager@cuda [1.12, 1.13]: faster, 5 rounds each"
            ),
        ),
    ],
)
def test_what_a_table_comes_to(cells: list[list[Record]], sentence: str) -> None:
    assert said(*cells) == f"{sentence}."


def test_of_tokens_a_second_more_is_better() -> None:
    def generated(method: str, milliseconds: float, **changes: Any) -> list[Record]:
        what = record("generation").workload
        return ran(method, milliseconds, workload=what, **changes)

    wrong = generated("fused", 400.0, status="incorrect", reason="wrong")
    slow = generated("thunder", 4000.0, status="incorrect", reason="wrong")
    found = said(generated("eager", 1200.0), generated("inductor", 800.0), wrong)
    assert found.startswith("inductor is 1.50 times as fast as eager")
    assert found.endswith("fused is incorrect, so its speed, a better one, does not count.")
    assert said(generated("eager", 1200.0), generated("inductor", 800.0), slow).endswith("so its speed does not count.")


def test_cells_of_one_name_are_told_apart() -> None:
    twice = [ran("inductor", 300.0, cell_id="1" * 16), ran("inductor", 400.0, cell_id="2" * 16)]
    assert said(EAGER, *twice).startswith("inductor (11111111) is 1.50 times as fast as eager ")


def test_a_row_of_several_devices_is_told_against_one() -> None:
    (row,) = rows(ran("eager", 400.0), "steady", probed=False)
    scaling = Scaling(against="a" * 16, devices=2, way="weak", efficiency=0.75, interval=None)
    scaled = row.model_copy(update={"scaling": scaling})
    assert conclude([scaled]) == "eager has 75.0 % of 2 times its speed on one device (weak scaling)."
    (other,) = rows(ran("inductor", 300.0), "steady", probed=False)
    assert conclude([other, scaled]).endswith("; eager has 75.0 % of 2 times its speed on one device (weak scaling).")
    assert conclude([row]) == "only eager was run, so there is nothing to compare it with."
