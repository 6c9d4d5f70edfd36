from __future__ import annotations

import errno
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import BaseModel, Field, ValidationError

from orchestrator.analysis.published import Published
from orchestrator.base.errors import UsageError
from orchestrator.base.files import (
    FILE_LIMIT_BYTES,
    Count,
    Frozen,
    Json,
    os_error,
    read_bytes,
    read_json,
    read_toml,
    validate,
)
from orchestrator.base.invalid import check_known, closest, key_name
from orchestrator.plan.cell import Plan
from orchestrator.plan.families import ARCHITECTURES
from orchestrator.plan.models import SCALINGS
from orchestrator.plan.stack import Stack
from orchestrator.plan.suite import SuiteFile
from orchestrator.records.bundle import Manifest
from orchestrator.records.record import Record
from orchestrator.records.stack_lock import StackLock
from orchestrator.records.store import Header


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (b"a = ", "not valid TOML: "),
        (b"a = 1\na = 2", "not valid TOML: "),
        (b"a = '\xff'", "not UTF-8 at byte 5"),
        (b"a = " + b"[" * 100_000, "nested too deeply"),
        (b" " * (FILE_LIMIT_BYTES + 1), "more than the limit"),
        (b"a = " + b"9" * 5000, "an integer has thousands of digits"),
        (b"a = 0x" + b"f" * 5000, "a: must be an integer of at most 64 bits"),
        (b"[[b]]\na = [1, -9223372036854775809]", "b[0].a[1]: must be an integer of at most 64 bits"),
        (b"a = {b = 1e999}", "a.b: must be a finite number"),
        (b"a = nan", "a: must be a finite number"),
        (b"a.".join([b""] * 200_000) + b"a = 1", "nested too deeply"),
        (b"[" + b"'a' . ".join([b""] * 50_000) + b"a]", "nested too deeply"),
    ],
)
def test_bad_toml_is_one_line(tmp_path: Path, content: bytes, says: str) -> None:
    path = tmp_path / "x.toml"
    path.write_bytes(content)
    with pytest.raises(UsageError) as caught:
        read_toml(path)
    assert str(caught.value).startswith(f"{path}: ")
    assert says in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (b"{", "not valid JSON: "),
        (b"[]", "not a JSON object"),
        (b"\xff", "not UTF-8 at byte 0"),
        (b"[" * 200_000, "nested too deeply"),
        (b'{"a": ' * 150 + b"1" + b"}" * 150, "nested too deeply"),
        (b'{"a": ' + b"9" * 5000 + b"}", "an integer has thousands of digits"),
        (b'{"a": [0, {"b": 9223372036854775808}]}', "a[1].b: must be an integer of at most 64 bits"),
        (b'{"a": 1e999}', "a: must be a finite number"),
        (b'{"a": -Infinity}', "a: must be a finite number"),
        (b'{"a": NaN}', "a: must be a finite number"),
    ],
)
def test_bad_json_is_one_line(tmp_path: Path, content: bytes, says: str) -> None:
    path = tmp_path / "x.json"
    path.write_bytes(content)
    with pytest.raises(UsageError) as caught:
        read_json(path)
    assert says in str(caught.value)
    assert "\n" not in str(caught.value)


def test_what_is_within_bounds_is_read_as_it_is(tmp_path: Path) -> None:
    numbers = {"least": -(2**63) + 1, "most": 2**63 - 1, "float": 1.7976931348623157e308, "deep": [[[[1]]]]}
    (tmp_path / "x.json").write_text(json.dumps(numbers))
    assert read_json(tmp_path / "x.json") == numbers
    (tmp_path / "x.toml").write_bytes("\ufeffa.b.c = '1.2.3 and a.b.c.d'".encode())
    assert read_toml(tmp_path / "x.toml") == {"a": {"b": {"c": "1.2.3 and a.b.c.d"}}}


def bare(schema: Any, path: str = "") -> Iterator[str]:
    """Yield the places of integers that have no lower or no upper bound."""
    if isinstance(schema, dict):
        low, high = {"minimum", "exclusiveMinimum"}, {"maximum", "exclusiveMaximum"}
        if (
            schema.get("type") == "integer"
            and "const" not in schema
            and not (low & schema.keys() and high & schema.keys())
        ):
            yield path
        for key, inner in schema.items():
            yield from bare(inner, f"{path}/{key}")
    elif isinstance(schema, list):
        for index, inner in enumerate(schema):
            yield from bare(inner, f"{path}/{index}")


OURS = (SuiteFile, Stack, Plan, Published, Record, Header, Manifest, StackLock)
FOREIGN = (*OURS, *dict.fromkeys((*ARCHITECTURES.values(), *SCALINGS.values())))


@pytest.mark.parametrize("kind", FOREIGN, ids=lambda kind: kind.__name__)
def test_every_integer_of_a_foreign_file_has_bounds(kind: type[BaseModel]) -> None:
    assert list(bare(kind.model_json_schema())) == []


class Values(Frozen):
    number: float = 0.0
    count: Count = 0
    others: dict[str, Json] | None = None


@pytest.mark.parametrize(
    "text",
    [
        '{"number": 1e999}',
        '{"number": NaN}',
        '{"count": 9223372036854775808}',
        '{"count": 1' + "0" * 400 + "}",
        '{"others": {"a": [1e999]}}',
        '{"others": {"a": {"b": 1' + "0" * 400 + "}}}",
    ],
)
def test_a_value_has_no_number_beyond_bounds(text: str) -> None:
    with pytest.raises(ValidationError) as caught:
        Values.model_validate_json(text)
    assert re.search("finite number|64 bits|less than or equal to 9223372036854775807", str(caught.value))


@given(st.text(max_size=30))
def test_any_path_that_is_not_there_is_a_line(name: str) -> None:
    with pytest.raises(UsageError):
        read_bytes(Path("/nonexistent") / name.lstrip("/"))


@pytest.mark.parametrize(
    ("location", "raw", "name"),
    [
        (("cells", 0, "batch", 0), {"cells": [{"batch": 3}]}, "cells[0].batch"),
        (("cells", 0, "batch", 1), {"cells": [{"batch": [3, 4]}]}, "cells[0].batch[1]"),
        (("cells", 0, "new"), {"cells": [{}]}, "cells[0].new"),
        (("cells",), {}, "cells"),
        ((), {}, ""),
        (("a", "constrained-int"), {"a": 1}, "a"),
        (("a", "tuple[str, ...]", 1), {"a": ["b", 2]}, "a[1]"),
        (("samples", 0, "loss"), None, "samples[0].loss"),
    ],
)
def test_keys_are_named_as_in_the_file(location: tuple[str | int, ...], raw: Any, name: str) -> None:
    assert key_name(location, raw) == name


class Choosing(Frozen):
    several: tuple[int | str | tuple[float, ...], ...] = Field(min_length=1)
    inner: tuple[Values, ...] = Field(default=(), min_length=1)


@pytest.mark.parametrize(
    ("raw", "said"),
    [
        ({"several": [{}]}, "several[0]: must be a valid integer or must be text or must be a list"),
        (
            {"several": [["a"]]},
            'several[0]: must be a valid integer or must be text, is ["a"]; several[0][0]: must be a valid number',
        ),
        ({"several": []}, "several: must not be empty"),
        ({"several": [1], "inner": [{"count": -1}]}, "inner[0].count: must be greater than or equal to 0, is -1"),
        ({"several": [1], "inner": [{"counts": 1}]}, "inner[0].counts: unknown key"),
        ({"several": [1], "inner": []}, "inner: must not be empty"),
    ],
)
def test_a_value_that_fits_none_of_several_kinds_is_told_once(raw: dict[str, Any], said: str) -> None:
    with pytest.raises(UsageError) as caught:
        validate(Choosing, raw, Path("x.toml"))
    assert str(caught.value).startswith(f"x.toml: {said}")
    assert str(caught.value).count("; ") == said.count("; ")


def test_near_words_are_suggested() -> None:
    assert closest("egaer", ["eager", "inductor"]) == ' (did you mean "eager"?)'
    assert closest("x", ["eager"]) == ""
    with pytest.raises(UsageError, match=r'^unknown stack "a b"; known: none$'):
        check_known("stack", ["a\nb"], [])


def test_every_failed_call_has_a_remedy() -> None:
    for number in (errno.ENOSPC, errno.EROFS, errno.EACCES, errno.EIO):
        line = str(os_error(OSError(number, "Some Reason"), "place"))
        assert line.startswith("place: some reason; ")
