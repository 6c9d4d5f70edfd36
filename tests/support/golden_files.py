"""Golden files: UPDATE_GOLDEN=1 writes them again."""

from __future__ import annotations

import os
import re
from typing import Any

import pytest
from places import GOLDEN

NUMBER = re.compile(r"(-?\d+\.\d+(?:e[+-]?\d+)?)")


def golden(name: str, text: str) -> None:
    path = GOLDEN / name
    if os.environ.get("UPDATE_GOLDEN"):
        path.parent.mkdir(exist_ok=True)
        path.write_text(text, encoding="utf-8")
    # Compared as parts, for the last digit of an exponential may differ between machines.
    assert parts(text) == parts(path.read_text(encoding="utf-8"))


def parts(text: str) -> list[Any]:
    return [pytest.approx(float(part), rel=1e-9) if NUMBER.fullmatch(part) else part for part in NUMBER.split(text)]
