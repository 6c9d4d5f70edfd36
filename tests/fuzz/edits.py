"""From a fuzzer's bytes to documents: a good one, in which some values are something else."""

from __future__ import annotations

import copy
import json
import math
from collections.abc import Sequence
from typing import Any, TypeVar

T = TypeVar("T")
RAW = {
    "@many digits": "9" * 5000,
    "@1e999": "1e999",
    "@deep": "[" * 3000 + "]" * 3000,
    "@long": '"' + "x" * 70_000 + '"',
}
"""Text that no value is written as, put in the place of these words."""
NUMBERS = (0, 1, -1, 2, 2**31, 2**53, 2**63 - 1, 2**63, 2**64, -(2**63) - 1, 10**400, 0.5, -0.0, 1e-320, 1e308)
NOT_FINITE = (math.inf, -math.inf, math.nan)
TEXTS = (
    *(
        "",
        "a",
        "ok",
        "cold",
        "\0",
        "\x1b[31m",
        "\x1b]0;x\x07",
        "\u202e",
        "\n",
        "\r\n=1",
        "=1+1",
        "-",
        "..",
        "/",
        "../../x",
    ),
    *(
        "a/b",
        "CON",
        "x" * 300,
        "\ud800",
        "é",
        "<script>",
        "1",
        "1e9",
        "2026-01-01",
        "forward",
        "tiny",
        "0" * 16,
        "f" * 64,
    ),
)
SIMPLE = (*NUMBERS, *NOT_FINITE, *TEXTS, *RAW, True, False, None, [], {}, [[]], [1, 2], {"a": 1}, [None], {"": ""})


class Chooser:
    """Makes choices by bytes, one after the other; after the last all are the first."""

    def __init__(self, data: bytes) -> None:
        self._data, self._place = data, 0

    def number(self, below: int) -> int:
        """Return a number from 0 to `below` - 1."""
        taken = self.take(1 if below <= 256 else 2 if below <= 65536 else 4)
        return int.from_bytes(taken, "little") % below

    def one_of(self, choices: Sequence[T]) -> T:
        return choices[self.number(len(choices))]

    def take(self, count: int) -> bytes:
        taken = self._data[self._place : self._place + count]
        self._place += count
        return taken.ljust(count, b"\0")

    @property
    def rest(self) -> bytes:
        return self._data[self._place :]


def edited(template: str, choose: Chooser) -> Any:
    """Return the JSON of `template` with one to four edits: values replaced, removed, added, doubled."""
    whole = [json.loads(template)]
    for _ in range(choose.one_of((1, 1, 1, 2, 4))):
        here: Any = whole
        while True:
            keys: Sequence[Any] = list(here) if isinstance(here, dict) else range(len(here))
            key = choose.one_of(keys)
            if not isinstance(here[key], (dict, list)) or not here[key] or not choose.number(8):
                break
            here = here[key]
        _edit(here, key, choose)
    return whole[0] if whole else None


def _edit(here: Any, key: Any, choose: Chooser) -> None:
    kind = choose.number(8)
    if kind == 0 and isinstance(here, dict):
        del here[key]
    elif kind == 1 and isinstance(here, dict):
        here[choose.one_of(TEXTS)] = copy.deepcopy(choose.one_of(SIMPLE))
    elif kind == 2 and isinstance(here, list):
        here.extend([here[key]] * choose.number(40))
    elif kind == 3:
        here[key] = [here[key]]
    elif kind == 4 and isinstance(here[key], (int, float)):
        here[key] = int.from_bytes(choose.take(8), "little", signed=True)
    elif kind == 5 and isinstance(here[key], str):
        here[key] = choose.take(1 + choose.number(30)).decode("utf-8", "surrogateescape")
    else:
        here[key] = copy.deepcopy(choose.one_of(SIMPLE))


def as_json(document: Any) -> bytes:
    return _raw(json.dumps(document)).encode("utf-8", "surrogatepass")


def as_toml(document: dict[str, Any]) -> bytes:
    """Return a document as TOML: every table in one line, null left out."""
    lines = [f"{json.dumps(key)} = {_toml(value)}" for key, value in document.items() if value is not None]
    return _raw("\n".join(lines) + "\n").encode("utf-8", "surrogatepass")


def _toml(value: Any) -> str:
    if isinstance(value, dict):
        inside = (f"{json.dumps(key)} = {_toml(inner)}" for key, inner in value.items() if inner is not None)
        return "{" + ", ".join(inside) + "}"
    if isinstance(value, list):
        return "[" + ", ".join(_toml(inner) for inner in value if inner is not None) + "]"
    if isinstance(value, float) and not math.isfinite(value):
        return "nan" if math.isnan(value) else "inf" if value > 0 else "-inf"
    return json.dumps(value)


def _raw(text: str) -> str:
    for word, instead in RAW.items():
        text = text.replace(json.dumps(word), instead)
    return text
