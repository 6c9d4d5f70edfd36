from __future__ import annotations

import json
from typing import TYPE_CHECKING

import pytest
from plan_samples import write_stack

from orchestrator.base.errors import UsageError
from orchestrator.base.paths import IMAGES
from orchestrator.plan.stack import IMAGE_NAME, find_stacks, load_stack

if TYPE_CHECKING:
    from pathlib import Path


def refused(place: Path) -> str:
    with pytest.raises(UsageError) as caught:
        load_stack(place)
    line = str(caught.value)
    assert "\n" not in line
    return line.replace(str(place / "stack.toml"), "FILE")


def test_a_stack_knows_its_folder(tmp_path: Path) -> None:
    place = write_stack(tmp_path, "mine")
    stack = load_stack(place)
    assert (stack.name, stack.folder, stack.methods) == ("mine", place, ("inductor", "eager"))
    assert stack.python == "/opt/stack/bin/python"


def test_the_repositorys_stacks_are_good() -> None:
    assert "cpu" in find_stacks([IMAGES])


def test_ready_images_need_no_files(tmp_path: Path) -> None:
    (tmp_path / "stack.toml").write_text(
        'schema_version = 1\nname = "machine"\ndescription = "d"\nmethods = ["eager"]\n'
        '[ready]\nname = "host:1"\npython = "/usr/bin/python3"\nmounts = ["/usr"]\n[gpu]\nrequired = true\n'
    )
    assert load_stack(tmp_path).python == "/usr/bin/python3"


@pytest.mark.parametrize(
    ("old", "new", "says"),
    [
        ("schema_version = 1", "schema_version = ", "FILE: not valid TOML: "),
        ("schema_version = 1", "schema_version = 7", "FILE: schema_version: must be 1, is 7"),
        ("[build]", "", "FILE: give either [build] (a Dockerfile) or [ready] (an existing image)"),
        ("[build]", '[build]\ndockerfle = "x"', 'FILE: build.dockerfle: unknown key (did you mean "dockerfile"?)'),
        ("[build]", '[build]\ndockerfile = "Other"', 'FILE: build.dockerfile: no file "Other" in '),
        ("[build]", '[build]\nlock = "other.lock"', 'FILE: build.lock: no file "other.lock" in '),
        ('access = "none"', 'access = "nvlink"', "FILE: gpu.access: must be 'auto', 'request', 'cdi', 'raw' or 'none'"),
        ('["inductor", "eager"]', "[]", "FILE: methods: "),
        ('["inductor", "eager"]', '["../eager"]', 'FILE: methods: "../eager" is not a valid method name'),
        ('["inductor", "eager"]', '["eager", "eager"]', "FILE: methods: a method is named twice"),
        (
            "[gpu]",
            '[environment]\nTRITON_CACHE_DIR = "/c"\nA = "b"\n[gpu]',
            "FILE: environment.TRITON_CACHE_DIR: every cell gets one of its own",
        ),
        ('name = "cpu"', 'name = "CPU 1"', "FILE: name: "),
        ('name = "cpu"', "", "FILE: name: missing; add this key"),
        ('name = "cpu"', 'name = "cpu"\nfolder = "x"', "FILE: folder: unknown key"),
    ],
)
def test_bad_stacks_are_refused_in_one_line(tmp_path: Path, old: str, new: str, says: str) -> None:
    place = write_stack(tmp_path)
    text = (place / "stack.toml").read_text()
    assert old in text
    (place / "stack.toml").write_text(text.replace(old, new, 1))
    assert refused(place).startswith(says)


def test_bytes_that_are_no_text_are_refused(tmp_path: Path) -> None:
    (tmp_path / "stack.toml").write_bytes(b"\x7fELF\x00\xff")
    assert refused(tmp_path).startswith("FILE: not UTF-8 at byte 5")


def test_stacks_of_several_folders_and_a_folder_that_is_one(tmp_path: Path) -> None:
    write_stack(tmp_path / "one", "b")
    write_stack(tmp_path / "one", "a")
    own = write_stack(tmp_path / "two", "c")
    (tmp_path / "one" / "notes.txt").write_text("no stack")
    assert list(find_stacks([tmp_path / "one", own])) == ["a", "b", "c"]
    assert list(find_stacks([tmp_path / "one", tmp_path / "one"])) == ["a", "b"]


def test_two_stacks_of_one_name_are_refused(tmp_path: Path) -> None:
    write_stack(tmp_path / "one", "a")
    write_stack(tmp_path / "two", "a")
    with pytest.raises(
        UsageError, match=r'two/a/stack.toml: name: "a" is also the name of the stack in .*one/a; rename'
    ):
        find_stacks([tmp_path / "one", tmp_path / "two"])


def test_folders_without_stacks_are_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"no sub-folder has a stack.toml; name a folder of stacks"):
        find_stacks([tmp_path])
    with pytest.raises(UsageError, match="no such file or directory; check the path"):
        find_stacks([tmp_path / "nowhere"])
    (tmp_path / "file").write_text("")
    with pytest.raises(UsageError, match="not a directory; name a folder, not a file"):
        find_stacks([tmp_path / "file"])


@pytest.mark.parametrize(
    "name",
    [
        *("debian", "debian:bookworm", "host:1", "localhost:5000/a/b_c:1", "Registry.example/team/torch:2026-11"),
        *("[::1]:5000/a", f"a/b@sha256:{'0' * 64}", f"a:1@sha256:{'0' * 64}", f"sha256:{'0' * 64}", "a__b--c"),
    ],
)
def test_what_engines_take_is_an_images_name(name: str) -> None:
    assert IMAGE_NAME.fullmatch(name)


@pytest.mark.parametrize(
    "name", ["", "x:y:z", "../etc", "UPPER/x/Y", "a b", "a:", "-a", "a@sha256:", "a\n", "https://a/b"]
)
def test_what_no_engine_takes_is_refused_with_file_and_key(tmp_path: Path, name: str) -> None:
    head = 'schema_version = 1\nname = "mine"\ndescription = ""\nmethods = ["eager"]\n[ready]\n'
    (tmp_path / "stack.toml").write_text(f"{head}name = {json.dumps(name)}\n")
    assert "FILE: ready.name: " in (line := refused(tmp_path))
    assert "is not an image's name; write one" in line
