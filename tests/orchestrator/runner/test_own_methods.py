"""A user's own method by the fake bench: its file is a part of what is measured, kept, compared and sent."""

from __future__ import annotations

import hashlib
import json
import tarfile
from pathlib import Path
from typing import Any

import pytest
from fake_run import write_stack, write_suite

from orchestrator.cli import run
from orchestrator.records.bundle import pack
from orchestrator.records.store import Run

METHOD = "def refuse(): ...\noperators = compile_model = compile_step = settings = expects = refuse\n"


@pytest.fixture
def own(place: Path) -> Path:
    """A folder with one method, called as a behaviour of the fake bench, beside a suite and a stack without it."""
    write_suite(place)
    write_stack(place, ["good"])
    (place / "own").mkdir()
    (place / "own" / "checked.py").write_text(METHOD)
    return place / "own"


def go(own: Path, *more: str, command: str = "run-all", methods: bool = True) -> int:
    place = own.parent
    words = ["--suite", str(place / "mine.toml"), "--stack", "fake"] if command != "reproduce" else []
    words += ["--stacks", str(place / "stacks"), "--launcher", "local", "--results", str(place / "results")]
    return run([command, *words, *(["--methods", str(own)] if methods else []), *more])


def runs(own: Path) -> list[Path]:
    return sorted((own.parent / "results").iterdir())


def record(folder: Path, method: str) -> dict[str, Any]:
    (path,) = (folder / "records").glob(f"forward-{method}@*.json")
    found: dict[str, Any] = json.loads(path.read_text())
    return found


def test_every_stack_offers_it_and_its_file_is_a_part_of_the_identity(own: Path) -> None:
    assert go(own) == 0
    (first,) = runs(own)
    sha256 = hashlib.sha256(METHOD.encode()).hexdigest()
    assert record(first, "checked")["method_source"] == sha256
    assert record(first, "good")["method_source"] is None
    assert [path.name for path in (first / "methods").iterdir()] == ["checked.py"]
    assert (first / "methods" / "checked.py").read_text() == METHOD
    assert f"methods/checked.py of the run, SHA-256 {sha256}" in (first / "tables.md").read_text()
    (own / "checked.py").write_text(METHOD + "# faster\n")
    assert go(own) == 0
    second = runs(own)[-1]
    assert record(second, "good")["cell_id"] == record(first, "good")["cell_id"]
    assert record(second, "checked")["cell_id"] != record(first, "checked")["cell_id"]


def test_a_changed_file_is_another_run(own: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert go(own, "--max-minutes", "1e-6") == 3
    (own / "checked.py").write_text(METHOD + "# faster\n")
    capsys.readouterr()
    assert go(own) == 0
    assert "has another plan (another file of the method checked)" in capsys.readouterr().err
    assert len(runs(own)) == 2


def test_an_unchanged_file_is_the_same_run(own: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert go(own, "--max-minutes", "1e-6") == 3
    assert go(own) == 0
    assert "going on with run" in capsys.readouterr().err
    assert len(runs(own)) == 1


def test_compare_and_explain_name_the_file(own: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert go(own) == 0
    (own / "checked.py").write_text(METHOD + "# faster\n")
    assert go(own) == 0
    first, second = runs(own)
    sha256 = record(second, "checked")["method_source"]
    capsys.readouterr()
    run(["compare", str(first), str(second)])
    assert f"the method's file {record(first, 'checked')['method_source'][:20]}" in capsys.readouterr().out
    assert run(["explain", "forward checked@fake", "--run", str(second)]) == 0
    assert f"the method's file: {sha256}" in capsys.readouterr().out


def test_reproduce_asks_for_the_file_that_the_run_kept(own: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert go(own) == 0
    (first,) = runs(own)
    again = ("forward checked@fake", "--run", str(first))
    assert go(own, *again, command="reproduce", methods=False) == 4
    assert "the record's method checked is somebody's own; name its folder with --methods" in capsys.readouterr().err
    for text, other in ((METHOD, False), (METHOD + "# faster\n", True)):
        (own / "checked.py").write_text(text)
        assert go(own, *again, "--dry-run", command="reproduce") == 0
        assert (", by another file of the method checked" in capsys.readouterr().out) is other
    (own / "checked.py").unlink()
    go(own, *again, "--methods", str(first / "methods"), command="reproduce", methods=False)
    assert record(runs(own)[-1], "checked")["cell_id"] == record(first, "checked")["cell_id"]


def test_a_bundle_has_the_file_and_no_other(own: Path) -> None:
    assert go(own) == 0
    (first,) = runs(own)
    (first / "methods" / "stray.py").write_text(METHOD)
    target = own.parent / "sent.tar.gz"
    _, left_out = pack(Run.open(first), target)
    assert left_out == ["methods/stray.py (is named by no record)"]
    with tarfile.open(target) as tar:
        assert f"{first.name}/methods/checked.py" in tar.getnames()
    assert run(["import", str(target), "--results", str(own.parent / "there")]) == 0
    assert (own.parent / "there" / first.name / "methods" / "checked.py").read_text() == METHOD
    (first / "methods" / "checked.py").write_text(METHOD + "# faster\n")
    _, left_out = pack(Run.open(first), own.parent / "other.tar.gz")
    assert "methods/checked.py (is not the file that its record names)" in left_out


@pytest.mark.parametrize("command", ["run-all", "plan"])
def test_what_cannot_be_is_one_line(command: str, own: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert go(own, "--method", "good", command=command) == 4
    assert "--methods: no cell is run by checked; name one of them with --method" in capsys.readouterr().err
    (own / "torch.py").write_text(METHOD)
    assert go(own, command=command) == 4
    assert 'torch.py: "torch" is the name of a method of bench' in capsys.readouterr().err
    assert go(own, "--method", "chekced", command=command) == 4
    assert 'unknown method "chekced" (did you mean "checked"?)' in capsys.readouterr().err
    assert not (own.parent / "results").exists()


def test_the_plan_names_it(own: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert go(own, "--format", "json", command="plan") == 0
    cells = {cell["method"]: cell for cell in json.loads(capsys.readouterr().out)["cells"]}
    assert cells["checked"]["method_source"] == hashlib.sha256(METHOD.encode()).hexdigest()
    assert cells["good"]["method_source"] is None
