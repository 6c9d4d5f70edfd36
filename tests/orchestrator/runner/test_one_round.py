"""What one round may do to the run that it is part of: nothing, whatever it writes, and wherever the disk is full."""

from __future__ import annotations

import errno
import json
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from fake_run import FAKE_BENCH, write_stack, write_suite
from plan_samples import stack

from orchestrator.cli import run
from orchestrator.host.folders import remove_tree
from orchestrator.launchers import work_area as workfolders
from orchestrator.plan.planner import make_plan
from orchestrator.plan.suite import load_suite
from orchestrator.records.store import Run
from orchestrator.runner import one_round
from orchestrator.runner import run_all as pipeline
from orchestrator.runner.outcomes import Outcomes


def go(place: Path, *more: str) -> int:
    suite, stacks = str(place / "mine.toml"), str(place / "stacks")
    chosen = ("run-all", "--suite", suite, "--stacks", stacks, "--stack", "fake", "--launcher", "local")
    return run([*chosen, "--results", str(place / "results"), *more])


def statuses(place: Path) -> dict[str, str]:
    """Of the newest run's rows."""
    folder = max((place / "results").iterdir())
    found = [json.loads(path.read_text()) for path in (folder / "records").iterdir()]
    return {record["method"]: record["status"] for record in found if record["role"] == "row"}


@pytest.fixture
def made(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    return make(tmp_path, monkeypatch, ["spins", "good"])


def make(place: Path, monkeypatch: pytest.MonkeyPatch, methods: list[str], **stack: Any) -> Path:
    for module in (workfolders, pipeline):
        monkeypatch.setattr(module, "STATE", place / "state")
    monkeypatch.setattr(workfolders, "BENCH", FAKE_BENCH)
    write_suite(place, timeout_s=50.0)
    file = write_stack(place, methods) / "fake" / "stack.toml"
    head, table, rest = file.read_text().partition("[ready]")
    file.write_text(head + "".join(f"{key} = {value}\n" for key, value in stack.items()) + table + rest)
    return place


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A disk of 64 MB, for the results and the cells' folders alike."""
    place = tmp_path / "disk"
    place.mkdir()
    mounted = ["mount", "-t", "tmpfs", "-o", "size=64m", "stackbench-test", str(place)]
    if os.getuid() != 0 or subprocess.run(mounted, check=False, capture_output=True).returncode != 0:
        pytest.skip("mounts a small disk")
    try:
        yield place
    finally:
        subprocess.run(["umount", "-l", str(place)], check=True)


def test_a_cell_that_fills_the_results_disk_costs_no_other_cell_anything(
    small_disk: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    make(small_disk, monkeypatch, ["fills_the_disk", "prints_without_end", "nests", "good"])
    assert go(small_disk) == 1
    found = statuses(small_disk)
    assert found.pop("good") == "ok"
    assert len(found) == 3
    assert set(found.values()) == {"crashed"}, found
    assert "Traceback" not in "".join(capsys.readouterr())
    assert list((small_disk / "state" / "work").iterdir()) == []
    assert go(small_disk) == 1  # and again


def test_a_stack_says_how_much_its_cells_may_write(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    make(tmp_path, monkeypatch, ["fills_the_disk", "makes_files", "good"], work_bytes=5_000_000, work_files=300)
    assert go(tmp_path) == 1
    assert statuses(tmp_path) == {"fills_the_disk": "crashed", "makes_files": "crashed", "good": "ok"}
    for shown in capsys.readouterr():  # while it runs, and below the table
        assert "may write 5 MB" in shown
        assert "more than 300 files" in shown


@pytest.mark.parametrize("key", ["work_bytes", "work_files"])
def test_a_limit_is_above_zero(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any, key: str) -> None:
    make(tmp_path, monkeypatch, ["good"], **{key: 0})
    assert go(tmp_path) == 4
    assert f"{key}: must be greater than 0" in capsys.readouterr().err


def test_a_disk_that_others_fill_at_the_save_is_waited_for(
    made: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(one_round, "FULL_DISK_EVERY_S", 0.01)
    refused = fill(monkeypatch, "records", times=3)
    assert go(made) == 0
    assert statuses(made) == {"spins": "ok", "good": "ok"}
    assert not refused
    assert "no space left on device; make room or name another folder; waiting for room" in capsys.readouterr().err


def test_a_disk_that_stays_full_ends_the_run_in_a_line_and_the_next_goes_on(
    made: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(one_round, "FULL_DISK_EVERY_S", 0.01)
    monkeypatch.setattr(one_round, "FULL_DISK_WAIT_S", 0.05)
    real = Path.write_bytes
    with monkeypatch.context() as patched:
        refused = fill(patched, "good@", times=10**9)
        assert go(made) == 4
        assert refused
    assert Path.write_bytes is real
    said = capsys.readouterr()
    assert "no space left on device" in said.err
    assert "Traceback" not in said.err
    assert statuses(made) == {"spins": "ok"}
    assert go(made) == 0
    assert "going on with run" in capsys.readouterr().err
    assert statuses(made) == {"spins": "ok", "good": "ok"}


def test_tables_that_cannot_be_written_end_no_run(
    made: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    fill(monkeypatch, "tables.md", times=1)
    assert go(made) == 0
    assert "the tables could not be brought up to date" in capsys.readouterr().err
    assert (max((made / "results").iterdir()) / "tables.md").exists()


def fill(monkeypatch: pytest.MonkeyPatch, where: str, times: int) -> list[int]:
    """Have the disk refuse so many writes of files with `where` in their place; return what is left of them."""
    left, real = list(range(min(times, 10_000))), Path.write_bytes

    def write(path: Path, content: bytes) -> int:
        if where in f"{path.parent.name}/{path.name}" and left:
            left.pop()
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return real(path, content)

    monkeypatch.setattr(Path, "write_bytes", write)
    return left


def test_records_deleted_underneath_are_made_again(made: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real = Run.save

    def save(run: Run, *arguments: Any) -> Any:
        for part in ("records", "logs"):
            remove_tree(run.folder / part)
        return real(run, *arguments)

    monkeypatch.setattr(Run, "save", save)
    assert go(made) == 0


@pytest.mark.parametrize("where", ["reduction", "drift", "side files"])
def test_what_goes_wrong_with_a_cells_record_is_its_row(
    made: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], where: str
) -> None:
    owner: Any
    owner, name = {
        "reduction": (Outcomes, "add"),
        "drift": (one_round, "mark_drift"),
        "side files": (one_round, "_with_side_files"),
    }[where]
    real, place = getattr(owner, name), {"reduction": 1, "drift": 0, "side files": 1}[where]

    def wrong(*arguments: Any) -> Any:
        if arguments[place].method == "spins" and arguments[place].status == "ok":
            raise OverflowError("int too large to convert to float")
        return real(*arguments)

    monkeypatch.setattr(owner, name, wrong)
    assert go(made) == 1
    assert statuses(made) == {"spins": "crashed", "good": "ok"}
    for shown in capsys.readouterr():  # while it runs, and below the table
        assert "cannot be worked with (OverflowError: int too large to convert to float)" in " ".join(shown.split())


@pytest.mark.parametrize(
    ("memory_bytes", "asked", "skipped"), [(10**9, False, True), (10**9, True, False), (10**12, False, False)]
)
def test_what_cannot_fit_on_the_gpu_is_skipped_with_its_figures(
    monkeypatch: pytest.MonkeyPatch, memory_bytes: int, asked: bool, skipped: bool
) -> None:
    plan = make_plan(load_suite("note"), {"a": stack()}, device="cuda", benchmarks=["forward"])
    cell = next(cell for cell in plan.cells if cell.role == "row")
    monkeypatch.setattr(one_round, "blank_record", lambda job, refusal: refusal)
    monkeypatch.setattr(one_round, "make_job", lambda *_: None)
    session = SimpleNamespace(
        choice=SimpleNamespace(asked=asked),
        gpu=SimpleNamespace(memory_bytes=memory_bytes),
        ready=SimpleNamespace(refused={}, prepared={}),
        progress=SimpleNamespace(event=None),
        outcomes=SimpleNamespace(exhausted={}, incorrect={}),
        area=SimpleNamespace(cell=lambda _: None),
        store=lambda record, job, log: record,
        peers=0,
    )
    turn: Any = SimpleNamespace(cell=cell)
    if not skipped:
        with pytest.raises(TypeError):  # it is started: there is no area to start it in
            one_round.run_round(session, turn)  # type: ignore[arg-type]
        return
    refusal: Any = one_round.run_round(session, turn)  # type: ignore[arg-type]
    assert refusal.status == "skipped"
    assert "13.5 GB of weights" in refusal.reason
    assert "the GPU has 1.00 GB of memory" in refusal.reason
