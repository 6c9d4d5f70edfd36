"""images/lock.py: what `make lock-check` says of locks that hold and of locks that do not."""

from __future__ import annotations

import hashlib
import importlib.util
import subprocess
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from places import ROOT

from orchestrator.plan.stack import find_stacks

A, B = "a" * 64, "b" * 64


@pytest.fixture
def lock(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    spec = importlib.util.spec_from_file_location("lock_script", ROOT / "images" / "lock.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, "lock_script", module)  # dataclasses look themselves up there
    spec.loader.exec_module(module)
    monkeypatch.setattr(module, "ROOT", tmp_path)
    return module


def text(**pins: str) -> str:
    return "".join(f"{name}==1.0 \\\n    --hash=sha256:{value}\n" for name, value in pins.items())


def blocks(**pins: str) -> list[list[str]]:
    return [[f"{name}==1.0 \\", f"    --hash=sha256:{value}"] for name, value in pins.items()]


def test_a_lock_holds_where_the_index_answers_with_its_pins_and_hashes(
    lock: Any, tmp_path: Path, monkeypatch: Any
) -> None:
    (tmp_path / "x.lock").write_text(text(one=A, two=A))
    asked: list[str] = []

    def compiled(_lock: Any, python: str, constraints: list[str]) -> list[list[str]]:
        asked.append(python)
        assert constraints == ["x.lock"]
        return blocks(one=A, two=A)

    monkeypatch.setattr(lock, "compiled", compiled)
    found = lock.check(lock.Lock("x.lock", ("x.in",), "x", pythons=("3.10", "3.11")))
    assert found == []
    assert asked == ["3.10", "3.11"]


@pytest.mark.parametrize(
    ("answer", "says"),
    [
        ({"one": A}, "nothing asks for two==1.0; run `make lock`"),
        ({"one": A, "two": A, "three": A}, "it lacks three==1.0; run `make lock`"),
        ({"one": A, "two": B}, "the index has no file with the lock's hash of two==1.0"),
    ],
)
def test_what_does_not_hold_is_one_line_with_the_locks_name(
    lock: Any, tmp_path: Path, monkeypatch: Any, answer: dict[str, str], says: str
) -> None:
    (tmp_path / "x.lock").write_text(text(one=A, two=A))
    monkeypatch.setattr(lock, "compiled", lambda *_args, **_more: blocks(**answer))
    (found,) = lock.check(lock.Lock("x.lock", ("x.in",), "x"))
    assert str(found) == f"x.lock: for Python 3.10: {says}"


def test_pins_that_the_index_has_no_more_are_told_with_its_reason(lock: Any, tmp_path: Path, monkeypatch: Any) -> None:
    (tmp_path / "x.lock").write_text(text(one=A))

    def compiled(*_args: Any, **_more: Any) -> Any:
        raise subprocess.CalledProcessError(
            1, ["uv"], stderr="  \u00d7 No solution found:\n  \u2570 one==1.0 is not there\n"
        )

    monkeypatch.setattr(lock, "compiled", compiled)
    (found,) = lock.check(lock.Lock("x.lock", ("x.in",), "x"))
    assert str(found) == "x.lock: does not resolve for Python 3.10: No solution found: one==1.0 is not there"


def test_every_lock_of_the_repository_is_made_by_it(lock: Any) -> None:
    known = {name for entry in lock.LOCKS for name in (entry.target, entry.libraries) if name}
    there = {str(path.relative_to(ROOT)) for place in ("images", "tests") for path in (ROOT / place).rglob("*.lock")}
    assert there == known
    for entry in lock.LOCKS:
        for name in (*entry.sources, *entry.constraints):
            assert (ROOT / name).is_file()


def test_a_stack_says_for_which_pythons_its_lock_is_made(lock: Any) -> None:
    made_for = {entry.target: entry.pythons for entry in lock.LOCKS if entry.platform}
    for name, stack in find_stacks([ROOT / "images"]).items():
        assert stack.build is not None
        assert stack.build.pythons == made_for.get(f"images/{name}/requirements.lock", ())


def test_wheels_of_a_local_folder_have_their_hashes_in_a_lock(
    lock: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("some_thing-1.0+cpu-py3-none-any.whl", "some_thing-1.0.1-py3-none-any.whl", "other-1.0-py3-x-any.whl"):
        (tmp_path / name).write_bytes(name.encode())
    monkeypatch.setenv("PIP_FIND_LINKS", f"{tmp_path} https://elsewhere.example/")
    wanted = hashlib.sha256(b"some_thing-1.0+cpu-py3-none-any.whl").hexdigest()
    assert lock.local_hashes("some-thing", "1.0") == {wanted}
