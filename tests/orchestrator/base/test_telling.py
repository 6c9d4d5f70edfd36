"""The line of a log that says why its program ended."""

from __future__ import annotations

from pathlib import Path

import pytest

from orchestrator.base.telling import telling

CASES = dict(case.split("\n", 1) for case in Path(__file__).with_name("endings.txt").read_text().split("=== ")[1:])
"""How logs end, and after a `---` the line that says why."""


@pytest.mark.parametrize("name", CASES)
def test_the_line_that_says_why_is_found(name: str) -> None:
    output, _, line = CASES[name].strip("\n").rpartition("--- ")
    assert telling(output) == line
    assert telling(output.replace("\n", "\r\n")) == line
    assert telling("some line before it\n" * 1000 + output) == line


@pytest.mark.parametrize(
    ("output", "line"),
    [
        ("", ""),
        ("\n  \n", ""),
        ("\x1b[31mRuntimeError: red\x1b[0m\n", "RuntimeError: red"),
        ("10%\r20%\rRuntimeError: at 20%", "RuntimeError: at 20%"),
        ("RuntimeError: \x1b]0;title\x07 \u202e", "RuntimeError: ]0;title"),
    ],
)
def test_nothing_in_it_steers_a_terminal(output: str, line: str) -> None:
    assert telling(output) == line


def test_of_a_long_line_the_beginning_and_the_end_are_kept() -> None:
    found = telling(f"ImportError: {'x' * 3000}: undefined symbol: _ZN3c10")
    assert len(found) <= 240
    assert found.startswith("ImportError: xxx")
    assert " … " in found
    assert found.endswith(": undefined symbol: _ZN3c10")


@pytest.mark.parametrize("output", ["\x00\xff" * 9, "Traceback (most recent call last):", "  File x\n" * 9, "=\n" * 9])
def test_whatever_is_printed_is_survived(output: str) -> None:
    assert len(telling(output)) < 400
