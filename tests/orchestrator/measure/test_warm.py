"""The warm start: what a second process over a cell's own compile cache adds to its record, and never takes from it."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest
from fake_run import make_job, write_stack, write_suite
from places import ROOT

from orchestrator.analysis.reduce import rows
from orchestrator.cli import run
from orchestrator.measure.supervise import blank_record
from orchestrator.measure.warm import LOG_HEADING, wanted
from orchestrator.records.record import NOTHING_LEFT, Compiles, Record, Refusal

NEW = "STACKBENCH_TEST_PYTHON"
COMPILES = Compiles(graphs=1, recompiles=0, ledger=(), breaks=(), cache_hits=0, cache_misses=3)


def go(place: Path, *methods: str, rounds: int = 1, timeout_s: float = 60.0, more: str = "") -> dict[str, Any]:
    suite = write_suite(place, timeout_s, rounds)
    suite.write_text(suite.read_text().replace("[defaults]", f"{more}\n[defaults]"))
    write_stack(place, list(methods))
    arguments = ["--suite", str(suite), "--stacks", str(place / "stacks"), "--stack", "fake"]
    assert run(["run-all", *arguments, "--launcher", "local", "--results", str(place / "results")]) == 0
    folder = next((place / "results").iterdir())
    found = [json.loads(path.read_text()) for path in (folder / "records").iterdir()]
    return {f"{record['method']}-{record['round']}": record for record in found}


def log_of(place: Path, method: str) -> bytes:
    (path,) = (place / "results").glob(f"*/logs/*{method}@*-r0.log")
    return path.read_bytes()


def test_the_first_round_of_what_compiles_says_what_a_warm_start_takes(place: Path) -> None:
    found = go(place, "good", "compiles", rounds=2)
    warm = found["compiles-0"]["compiles"]["warm"]
    assert warm == {"first_ns": 10**8, "cache_hits": 3, "cache_misses": 0, "reason": None}
    assert found["compiles-0"]["compiles"]["cache_misses"] == 3
    assert len(found["compiles-0"]["samples"]) == 5
    assert found["compiles-1"]["compiles"]["warm"] is None
    assert found["good-0"]["compiles"] is None
    assert log_of(place, "compiles").count(LOG_HEADING) == 1
    assert log_of(place, "compiles").endswith(b"second process\n")
    assert LOG_HEADING not in log_of(place, "good")
    assert list((place / "state" / "work").iterdir()) == []


def test_the_row_has_it_whichever_round_it_was(place: Path) -> None:
    found = [Record.model_validate_json(json.dumps(record)) for record in go(place, "compiles", rounds=2).values()]
    (row,) = rows(found, "steady")
    assert row.evidence.compiles
    assert row.evidence.compiles.warm.first_ns == 100_000_000


@pytest.mark.parametrize(
    ("method", "reason"),
    [
        ("compiles_once", "crashed: cannot open .../model.bin; exit code 3"),
        ("compiles_and_hides", "crashed: the log's only line; exit code 0"),
        ("compiles_then_hangs", "timeout: not done after 5 s"),
        ("compiles_for_ages", "what it wrote cannot be worked with (ValidationError: "),
    ],
)
def test_a_second_process_that_fails_loses_nothing(place: Path, method: str, reason: str) -> None:
    record = go(place, method, timeout_s=5.0 if "hangs" in method else 60.0)[f"{method}-0"]
    assert record["status"] == "ok"
    assert len(record["samples"]) == 5
    warm = record["compiles"]["warm"]
    assert warm["first_ns"] is None
    assert warm["reason"].startswith(reason)
    assert list((place / "state" / "work").iterdir()) == []


def test_where_nothing_was_left_no_second_process_is_started(place: Path) -> None:
    warm = go(place, "compiles_and_keeps_nothing")["compiles_and_keeps_nothing-0"]["compiles"]["warm"]
    assert (warm["first_ns"], warm["reason"]) == (None, NOTHING_LEFT)
    assert LOG_HEADING not in log_of(place, "compiles_and_keeps_nothing")


def test_a_suite_can_do_without(place: Path) -> None:
    assert go(place, "compiles", more="warm = false")["compiles-0"]["compiles"]["warm"] is None


@pytest.mark.parametrize(
    ("cell", "record", "answer"),
    [
        ({}, {}, True),
        ({}, {"status": "incorrect"}, True),
        ({"warm": False}, {}, False),
        ({"role": "probe"}, {}, False),
        ({"cache": "shared"}, {}, False),
        ({}, {"round": 1}, False),
        ({}, {"status": "crashed"}, False),
        ({}, {"compiles": None}, False),
        ({}, {"compiles": COMPILES.model_copy(update={"graphs": 0})}, False),
        ({}, {"compiles": COMPILES.model_copy(update={"graphs": 0, "kernels": 3})}, True),
    ],
)
def test_which_cells_are_started_again(cell: dict[str, Any], record: dict[str, Any], answer: bool) -> None:
    job = make_job("compiles")
    made = blank_record(job, Refusal("ok", ""))
    made = made.model_copy(update={"compiles": COMPILES, **record})
    assert wanted(job.cell.model_copy(update=cell), made) is answer


@pytest.mark.oldtorch
@pytest.mark.skipif(
    NEW not in os.environ, reason="run by `make test-oldtorch`, which also runs it with the oldest torch"
)
def test_the_second_process_finds_what_the_first_compiled(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("STACKBENCH_PYTHON", str((ROOT / os.environ[NEW]).absolute()))
    suite = write_suite(tmp_path, timeout_s=600.0)
    results = tmp_path / "results"
    arguments = ["--suite", str(suite), "--stack", "cpu", "--method", "inductor", "--results", str(results)]
    assert run(["run-all", *arguments, "--launcher", "local"]) == 0
    (path,) = results.glob("*/records/forward-inductor@*.json")
    record = json.loads(path.read_text())
    cold, warm = record["compiles"], record["compiles"]["warm"]
    assert warm["reason"] is None
    assert warm["first_ns"] > 0
    assert "not_fused" not in record["flags"]
    assert cold["cache_hits"] == 0
    assert cold["cache_misses"] > 0
    assert warm["cache_hits"] == cold["cache_misses"]
    assert warm["cache_misses"] == 0
