"""Figures over many runs: what lies there is read, lines are grouped and windowed, and nothing is believed."""

from __future__ import annotations

import datetime as dt
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from places import ROOT
from record_samples import ENVIRONMENT, GPU, check, proof, record, samples, save_run, small_run

from orchestrator.analysis.history import Line, history, moment
from orchestrator.base.errors import UsageError
from orchestrator.cli import run
from orchestrator.records.record import Record
from orchestrator.report.tables.history import as_json, as_text

NASTY = "\x1b[31m<script>"


def rounds(milliseconds: float, day: str, count: int = 5, **changes: Any) -> list[Record]:
    fields = {"started_utc": f"{day}T10:00:00Z", **changes}
    return [
        record(round=number, samples=samples(9e3, 460.0, *[milliseconds + number * 0.01] * 3), **fields)
        for number in range(count)
    ]


def saved(results: Path, name: str, records: list[Record]) -> Path:
    save_run(results, records).rename(results / name)
    return results / name


@pytest.fixture
def results(tmp_path: Path) -> Path:
    place = tmp_path / "results"
    saved(place, "20261101-100000-note", rounds(450.0, "2026-11-01"))
    saved(place, "20261110-100000-note", rounds(450.1, "2026-11-10"))
    saved(
        place,
        "20261120-100000-note",
        rounds(500.0, "2026-11-20", environment={**ENVIRONMENT, "gpu": {**GPU, "driver": "590"}}),
    )
    return place


def figures(lines: list[Line]) -> list[list[float]]:
    return [[round(point.figure, 3) for point in line.points] for line in lines]


def test_a_line_by_time_and_the_newest_against_the_one_before(results: Path) -> None:
    (line,) = history(results, [])
    assert figures([line]) == [[0.45, 0.45, 0.5]]
    assert [point.began_utc[:10] for point in line.points if point.began_utc] == [
        "2026-11-01",
        "2026-11-10",
        "2026-11-20",
    ]
    assert line.points[-1].driver == "590"
    assert line.verdict is not None
    assert line.verdict.outcome == "slower"
    text = as_text([line])
    assert "forward inductor@cuda" in text
    assert "2026-11-01 0.4500 (5), 2026-11-10 0.4501 (5), 2026-11-20 0.5000 (5)" in text
    assert json.loads(as_json([line]))["lines"][0]["verdict"]["outcome"] == "slower"


def test_the_window(results: Path) -> None:
    assert figures(history(results, [], since="2026-11-05")) == [[0.45, 0.5]]
    assert history(results, [], since="2026-12-01") == []
    now = dt.datetime(2026, 11, 23, tzinfo=dt.timezone.utc)
    assert moment("2w", now) == moment("14d", now) == moment("336h", now) == now.timestamp() - 14 * 86400
    for bad in ("", "30", "d30", "yesterday", "99999999w"):
        with pytest.raises(UsageError, match="is not a time"):
            moment(bad)


def test_lines_are_by_workload_method_stack_and_device(tmp_path: Path) -> None:
    other = {**ENVIRONMENT, "gpu": {**GPU, "name": "NVIDIA A100"}}
    saved(
        tmp_path / "r",
        "20261101-100000-note",
        [*small_run(), *rounds(700.0, "2026-11-01", cell_id="e" * 16, environment=other)],
    )
    found = history(tmp_path / "r", [])
    assert [(line.title, line.device) for line in found] == [
        ("forward eager@cuda", "NVIDIA H100 80GB HBM3"),
        ("forward inductor@cuda", "NVIDIA A100"),
        ("forward inductor@cuda", "NVIDIA H100 80GB HBM3"),
        ("generation inductor@cuda", "NVIDIA H100 80GB HBM3"),
    ]
    assert [
        len(history(tmp_path / "r", [], cell=words)) for words in ("forward", "inductor@cuda a100", "EAGER", "x")
    ] == [
        3,
        1,
        1,
        0,
    ]
    assert found[-1].unit == "tokens/s"


def test_a_wrong_row_has_no_line_whatever_it_says(tmp_path: Path) -> None:
    failed = proof(0.3, check("causality", "failed"))
    saved(tmp_path / "r", "20261101-100000-note", rounds(1.0, "2026-11-01", proof=failed))
    assert history(tmp_path / "r", []) == []
    assert as_text([]) == "no row is ok"


@pytest.mark.parametrize(("found", "lines"), [("passed", 1), ("failed", 0)])
def test_a_row_whose_method_is_wrong_on_the_probe_has_no_line(tmp_path: Path, found: str, lines: int) -> None:
    probe = record(role="probe", cell_id="9" * 16, proof=proof(0.3, check("causality", found)))
    saved(tmp_path / "r", "20261101-100000-note", [*rounds(1.0, "2026-11-01"), probe])
    assert len(history(tmp_path / "r", [])) == lines


def test_a_round_that_failed_does_not_hide_the_others(tmp_path: Path) -> None:
    *good, last = rounds(450.0, "2026-11-01")
    saved(tmp_path / "r", "20261101-100000-note", [*good, last.model_copy(update={"status": "timeout", "samples": ()})])
    (line,) = history(tmp_path / "r", [])
    assert [len(point.round_seconds) for point in line.points] == [4]


def test_what_is_read_is_what_lies_there(results: Path) -> None:
    saved(results, "20261121-100000-note", rounds(400.0, "2026-11-21"))
    assert figures(history(results, [])) == [[0.45, 0.45, 0.5, 0.4]]
    shutil.rmtree(results / "20261101-100000-note")
    path = next((results / "20261110-100000-note" / "records").iterdir())
    path.write_text("{")
    (line,) = history(results, [])
    assert [len(point.round_seconds) for point in line.points] == [4, 5, 5]


def test_a_results_folder_that_nobody_may_write_to_is_read(results: Path) -> None:
    before = sorted(path for path in results.rglob("*"))
    assert len(history(results, [])) == 1
    assert sorted(path for path in results.rglob("*")) == before


def test_nothing_from_a_record_steers_a_terminal(tmp_path: Path) -> None:
    environment = {**ENVIRONMENT, "gpu": {**GPU, "name": NASTY}}
    saved(tmp_path / "r", "x", rounds(1.0, "2026-11-01", started_utc=NASTY, environment=environment))
    text = as_text(history(tmp_path / "r", []))
    assert "\x1b" not in text
    assert "? 0.001" in text


def test_the_command(results: Path, capsys: Any) -> None:
    words = ["history", "--results", str(results)]
    assert run([*words, "--cell", "inductor", "--format", "json"]) == 0
    assert len(json.loads(capsys.readouterr().out)["lines"]) == 1
    assert run([*words, "--since", "x"]) == 4
    assert capsys.readouterr().err.count("\n") == 1
    assert run(["history", "--results", str(results / "none")]) == 4
    assert capsys.readouterr().err.count("\n") == 1


@pytest.mark.parametrize("content", ["", "{", "[]", "{}"])
def test_a_bad_run_is_named_and_hides_no_other(results: Path, capsys: Any, content: str) -> None:
    (results / "20261110-100000-note" / "run.json").write_text(content)
    assert figures(history(results, [])) == [[0.45, 0.5]]
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    assert "20261110-100000-note/run.json: " in error


@pytest.mark.parametrize("name", ["20261101-100000-note (1)", "20261101-100000-note-copy", "a"])
def test_a_copy_is_no_run_of_its_own(results: Path, name: str) -> None:
    before = figures(history(results, []))
    shutil.copytree(results / "20261101-100000-note", results / name)
    assert figures(history(results, [])) == before
    # It went on elsewhere: what it has more is the run's too.
    saved(results.parent / "more", "x", rounds(450.0, "2026-11-01", 7)[5:])
    for path in (results.parent / "more" / "x" / "records").iterdir():
        shutil.copy(path, results / name / "records")
    (line,) = history(results, [])
    assert [len(point.round_seconds) for point in line.points] == [7, 5, 5]


def test_a_state_folder_that_is_empty_or_cannot_be_written_hinders_nothing(results: Path, tmp_path: Path) -> None:
    (tmp_path / "state").mkdir(mode=0o500)
    command = [sys.executable, "-m", "orchestrator", "history", "--results", str(results)]
    environment = {**os.environ, "STACKBENCH_STATE": str(tmp_path / "state"), "PYTHONPATH": str(ROOT)}
    done = subprocess.run(command, env=environment, cwd=ROOT, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
