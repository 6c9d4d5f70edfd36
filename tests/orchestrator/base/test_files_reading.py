from __future__ import annotations

import errno
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from orchestrator.base.errors import UsageError
from orchestrator.base.files import (
    FILE_LIMIT_BYTES,
    check_known,
    closest,
    key_name,
    os_error,
    read_bytes,
    read_json,
    read_toml,
)


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (b"a = ", "not valid TOML: "),
        (b"a = 1\na = 2", "not valid TOML: "),
        (b"a = '\xff'", "not UTF-8 at byte 5"),
        (b"a = " + b"[" * 100_000, "not valid TOML: "),
        (b" " * (FILE_LIMIT_BYTES + 1), "more than the limit"),
    ],
)
def test_bad_toml_is_one_line(tmp_path: Path, content: bytes, says: str) -> None:
    path = tmp_path / "x.toml"
    path.write_bytes(content)
    with pytest.raises(UsageError) as caught:
        read_toml(path)
    assert str(caught.value).startswith(f"{path}: {says}" if says.startswith("no") else f"{path}: ")
    assert says in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("content", [b"{", b"[]", b"\xff", b"[" * 200_000])
def test_bad_json_is_one_line(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "x.json"
    path.write_bytes(content)
    with pytest.raises(UsageError) as caught:
        read_json(path)
    assert "\n" not in str(caught.value)


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
        (("a", "b", 2), {"a": 1}, "a.b"),
    ],
)
def test_keys_are_named_as_in_the_file(location: tuple[str | int, ...], raw: Any, name: str) -> None:
    assert key_name(location, raw) == name


def test_near_words_are_suggested() -> None:
    assert closest("egaer", ["eager", "inductor"]) == ' (did you mean "eager"?)'
    assert closest("x", ["eager"]) == ""
    with pytest.raises(UsageError, match=r'^unknown stack "a b"; known: none$'):
        check_known("stack", ["a\nb"], [])


def test_every_failed_call_has_a_remedy() -> None:
    for number in (errno.ENOSPC, errno.EROFS, errno.EACCES, errno.EIO):
        line = str(os_error(OSError(number, "Some Reason"), "place"))
        assert line.startswith("place: some reason; ")
