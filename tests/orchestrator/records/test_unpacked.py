"""A bundle is a run like any other where it lies: checked, under its file's name, with nothing written beside it."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from places import RESULTS
from record_samples import save_run, small_run

from orchestrator.base.errors import UsageError
from orchestrator.cli import run as command
from orchestrator.records import runs, unpacked
from orchestrator.records.bundle import pack
from orchestrator.records.runs import find_run, name_of, newest_run, readable
from orchestrator.records.store import Run
from orchestrator.records.unpacked import open_bundle, origin_of
from orchestrator.runner.estimate import history


@pytest.fixture(autouse=True)
def state(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(unpacked, "STATE", tmp_path / "state")
    monkeypatch.chdir(tmp_path)
    return tmp_path / "state"


@pytest.fixture
def bundle(tmp_path: Path) -> Path:
    """The only run of the folder `results`."""
    folder = save_run(tmp_path / "made", small_run())
    (tmp_path / "results").mkdir()
    pack(Run.open(folder), tmp_path / "results" / "theirs.tar.gz")
    return tmp_path / "results" / "theirs.tar.gz"


@pytest.mark.parametrize("called", ["theirs", "theirs.tar.gz", "results/theirs.tar.gz"])
@pytest.mark.parametrize(
    "words",
    [
        "table RUN",
        "table RUN --format json",
        "report RUN -o page.html",
        "report RUN",
        "explain forward\N{NO-BREAK SPACE}eager@cuda --run RUN",
        "compare RUN:eager RUN:inductor",
        "history",
    ],
)
def test_every_command_that_takes_a_run(
    bundle: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], words: str, called: str
) -> None:
    given = [word.replace("RUN", called).replace("\N{NO-BREAK SPACE}", " ") for word in words.split(" ")]
    before = bundle.read_bytes()
    assert command([*given, "--results", str(bundle.parent)]) in (0, 2)  # 2: no verdict on single rounds
    said = capsys.readouterr()
    assert said.out
    assert not said.err
    assert [path.name for path in bundle.parent.iterdir()] == ["theirs.tar.gz"]
    assert bundle.read_bytes() == before
    if given[0] == "report":
        assert (tmp_path / ("page.html" if "-o" in given else "theirs.html")).is_file()


def test_it_says_what_the_folder_said(bundle: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (folder,) = (tmp_path / "made").iterdir()
    said = []
    for run in (folder, bundle):
        assert command(["table", str(run), "--format", "json"]) == 0
        said.append(capsys.readouterr().out)
    assert said[0] == said[1]
    assert Run.open(open_bundle(bundle).folder).header.imported_utc is None


def test_a_bundle_of_a_bundle_is_the_same(bundle: Path, tmp_path: Path) -> None:
    results = ["--results", str(bundle.parent)]
    assert command(["bundle", "theirs", "-o", "one.tar.gz", *results]) == 0
    assert command(["bundle", "one.tar.gz", "-o", "theirs.tar.gz"]) == 0
    shutil.move("theirs.tar.gz", tmp_path / "state" / "theirs.tar.gz")
    assert command(["bundle", str(tmp_path / "state" / "theirs.tar.gz"), "-o", "again.tar.gz"]) == 0
    assert Path("one.tar.gz").read_bytes() == Path("again.tar.gz").read_bytes()


def test_it_is_unpacked_once_into_a_private_place(bundle: Path, state: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = open_bundle(bundle)
    assert (first.bundle, first.folder.name, first.own) == (bundle, "theirs", False)
    assert origin_of(first.folder) == bundle.absolute()
    assert origin_of(bundle.parent) is None
    (place,) = (state / "bundles").iterdir()
    assert place.stat().st_mode & 0o777 == 0o700
    monkeypatch.setattr(unpacked, "unpack", None)
    assert open_bundle(bundle).folder == first.folder
    moved = bundle.rename(bundle.with_name("renamed (1).tar.gz"))
    monkeypatch.undo()
    monkeypatch.setattr(unpacked, "STATE", state)
    again = open_bundle(moved)
    assert again.folder.name == "renamed--1-"
    assert origin_of(again.folder) == moved.absolute()


def test_what_nothing_has_read_for_a_month_is_removed(bundle: Path, state: Path) -> None:
    old = state / "bundles" / ("0" * 64)
    new = state / "bundles" / ("1" * 64)
    for place in (old, new):
        (place / "run").mkdir(parents=True)
    os.utime(old, (0, 0))
    open_bundle(bundle)
    assert not old.exists()
    assert new.exists()


def test_a_damaged_one_is_refused_in_one_line_and_nothing_is_left(
    bundle: Path, state: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    content = bytearray(bundle.read_bytes())
    content[len(content) // 2] ^= 255
    for bad in (bytes(content), b"", b"not a bundle"):
        bundle.write_bytes(bad)
        assert command(["table", "theirs", "--results", str(bundle.parent)]) == 4
        said = capsys.readouterr().err
        assert said.count("\n") == 1
        assert "theirs.tar.gz: " in said
        assert "ask for it again" in said
        assert not list(state.glob("bundles/*/*"))
        assert command(["history", "--results", str(bundle.parent)]) in (0, 4)
        assert "left out: " in capsys.readouterr().err


def test_where_the_state_folder_cannot_be_written_the_line_says_what_to_do(
    bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setattr(unpacked, "STATE", tmp_path / "file")
    with pytest.raises(UsageError, match=r"theirs.tar.gz: .*; name another place in STACKBENCH_STATE"):
        open_bundle(bundle)


def test_where_there_is_no_room_the_line_names_the_bundle_and_the_state(
    bundle: Path, state: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    usage = shutil.disk_usage(bundle)._replace(free=10)
    monkeypatch.setattr(shutil, "disk_usage", lambda _place: usage)
    with pytest.raises(UsageError, match=rf"theirs.tar.gz: cannot .* {state}: .* 10 free; .*STACKBENCH_STATE$"):
        open_bundle(bundle)


def test_one_that_was_unpacked_is_read_where_nothing_can_be_written(
    bundle: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = open_bundle(bundle)
    moved = bundle.rename(bundle.parent.parent / bundle.name)

    def refused(path: Path, _content: bytes) -> None:
        raise UsageError("read-only file system", where=str(path))

    monkeypatch.setattr(unpacked, "write_bytes", refused)
    monkeypatch.setattr(unpacked, "unpack", None)
    assert open_bundle(moved).folder == first.folder


def test_a_name_that_is_not_utf8_is_one_too(bundle: Path) -> None:
    moved = bundle.rename(bundle.with_name(os.fsdecode(b"bad\xff.tar.gz")))
    assert origin_of(find_run(bundle.parent, str(moved)).folder) == moved.absolute()


def test_one_that_is_being_removed_is_not_read_by_halves(
    bundle: Path, state: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    place = open_bundle(bundle).folder.parent
    os.utime(place, (0, 0))
    monkeypatch.setattr(shutil, "rmtree", lambda *_given, **_named: None)  # a process that is killed there
    unpacked._sweep(state / "bundles")
    assert not place.exists()


def test_one_that_is_replaced_while_it_is_read_is_refused(
    bundle: Path, state: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = unpacked.unpack

    def slow(path: Path, place: Path, finish: Callable[[Path], object], **named: Any) -> Run:
        def replaced(folder: Path) -> None:
            path.write_bytes(b"another")
            finish(folder)

        return real(path, place, replaced, **named)

    monkeypatch.setattr(unpacked, "unpack", slow)
    with pytest.raises(UsageError, match="was changed while it was read"):
        open_bundle(bundle)
    assert not list(state.glob("bundles/*/*"))


def test_two_processes_that_unpack_it_at_once_both_have_it(bundle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real = unpacked.unpack

    def second(*given: object, **named: object) -> Run:
        real(*given, **named)  # type: ignore[arg-type]
        return real(*given, **named)  # type: ignore[arg-type]

    monkeypatch.setattr(unpacked, "unpack", second)
    assert len(list(open_bundle(bundle).records([]))) == len(small_run())


def test_the_newest_run_is_never_a_bundle(bundle: Path, tmp_path: Path) -> None:
    results = bundle.parent
    with pytest.raises(UsageError, match=r"no run of your own here; start one with .* name one that is here: theirs"):
        newest_run(results)
    mine = Path(shutil.copytree(next((tmp_path / "made").iterdir()), results / "renamed"))
    assert newest_run(results).folder == mine
    assert [run.folder.name for run in readable(results)] == ["renamed"]
    assert [run.folder.name for run in readable(results, bundled=True)] == ["renamed", "theirs"]


def test_a_folder_goes_before_a_bundle_of_its_name(bundle: Path) -> None:
    assert command(["import", str(bundle), "--results", str(bundle.parent)]) == 0
    (folder,) = (path for path in bundle.parent.iterdir() if path.is_dir())
    folder.rename(bundle.parent / "theirs")
    assert find_run(bundle.parent, "theirs").bundle is None
    assert find_run(bundle.parent, "theirs.tar.gz").bundle == bundle


def test_what_stands_for_it_on_a_command_line_is_it(
    bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(runs, "RESULTS", bundle.parent)
    assert command(["import", str(bundle), "--results", str(bundle.parent)]) == 0
    (folder,) = (path for path in bundle.parent.iterdir() if path.is_dir())
    folder.rename(bundle.parent / "theirs")
    dashed = Path(shutil.copy(bundle, bundle.with_name("-rf.tar.gz")))
    other = Path(shutil.copytree(bundle.parent / "theirs", tmp_path / "theirs"))
    names = ["-rf", "theirs", "theirs.tar.gz"]
    assert sorted(name for name, _ in runs.listed(bundle.parent)) == names
    for place in (bundle, bundle.parent / "theirs", dashed, other):
        name = name_of(runs.open_run(place))
        assert not name.startswith("-")
        found = find_run(bundle.parent, name)
        assert (found.bundle or found.folder).resolve() == place


def test_a_name_that_nothing_has_lists_near_ones(bundle: Path) -> None:
    with pytest.raises(UsageError, match=r'no run "thiers" \(did you mean "theirs"\?\); known: theirs'):
        find_run(bundle.parent, "thiers")


def test_a_bundle_is_not_gone_on_with(bundle: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["run-all", "--launcher", "local", "--suite", "smoke", "--stack", "cpu", "--resume", "theirs"]
    assert command([*words, "--results", str(bundle.parent)]) == 4
    said = capsys.readouterr().err
    assert f"take it in first: orchestrator import {bundle}" in said


def test_an_estimate_knows_what_committed_rounds_took() -> None:
    known = history(RESULTS)
    assert {method for _, method, device in known if device == "cuda"} >= {"eager", "inductor", "fused", "thunder"}
