"""Numbers as people read them."""

from __future__ import annotations

import io
import math
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from orchestrator.base.text import (
    aligned,
    between,
    counted,
    fitted,
    gigabytes,
    milliseconds,
    percent,
    scaled,
    show,
    significant,
)


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0.44836, "0.4484"),
        (1.48, "1.480"),
        (9.99996, "10.00"),
        (0.99999, "1.000"),
        (548.04, "548.0"),
        (123456.7, "123457"),
        (-2.5, "-2.500"),
        (0.00012345, "0.0001234"),
        (1.2341e-7, "1.234e-07"),
        (0, "0"),
        (None, "–"),  # noqa: RUF001
        (math.nan, "–"),  # noqa: RUF001
        (math.inf, "–"),  # noqa: RUF001
    ],
)
def test_significant(value: float | None, text: str) -> None:
    assert significant(value) == text


@given(st.floats(min_value=1e-12, max_value=1e15))
def test_what_is_shown_is_within_half_of_the_last_digit(value: float) -> None:
    assert float(significant(value)) == pytest.approx(value, rel=5.0001e-4)


def test_units() -> None:
    assert gigabytes(15_345_678_901) == "15.3"
    assert percent(0.8051) == "80.5 %"
    assert milliseconds(0.00588) == "5.88"
    assert between(0.4471, 0.4492) == "[0.4471, 0.4492]"
    assert between(0.3, 29.9) == "[0.3000, 29.90]"
    assert between(1e-63, 4e60) == between(0.1, 10.01) == "[over 100-fold]"
    assert scaled(7.81e14, "FLOP/s") == "781 TFLOP/s"
    assert scaled(3.02e12, "B/s") == "3.02 TB/s"
    assert scaled(12.0, "B") == "12.0 B"
    assert counted(1, "round") == "1 round"
    assert counted(0, "round") == "0 rounds"


def test_aligned() -> None:
    rows = [("cell", "s"), ("a\x1b[2J\nlong  name", "1.5"), ("b", "10")]
    assert aligned(rows, right=(1,)) == [
        "cell               s",
        "a [2J long name  1.5",
        "b                 10",
    ]


def test_a_table_wider_than_the_terminal_has_columns_below_its_rows() -> None:
    rows = [
        ("cell", "what", "s", "remark"),
        ("forward", "a long workload of many words", "1.5", ""),
        ("b", "short", "2", "so"),
    ]
    assert fitted(rows, (1, 3), None) == fitted(rows, (1, 3), 60) == aligned(rows)
    assert fitted(rows, (1, 3), 30) == [
        "cell     s",
        "forward  1.5",
        "    what: a long workload of",
        "    many words",
        "b        2",
        "    what: short; remark: so",
    ]


@pytest.mark.parametrize(
    ("given", "written"), [({}, "a line\n"), ({"end": ""}, "a line"), ({"styled": True}, "a line\n")]
)
def test_a_line_is_written_at_once_so_that_no_other_thread_comes_between(given: dict[str, Any], written: str) -> None:
    class Out(io.StringIO):
        def write(self, text: str) -> int:
            said.append(text)
            return len(text)

    said: list[str] = []
    show("a line", Out(), **given)
    assert said == [written]
