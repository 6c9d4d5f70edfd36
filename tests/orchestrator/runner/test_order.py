"""Shapes larger than one that ran out of memory: skipped, as rows that say why."""

from __future__ import annotations

import json
from collections import Counter
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from fake_run import FAKE_BENCH, write_stack, write_suite
from record_samples import record, workload

from orchestrator.cli import run
from orchestrator.host.gpu import HostGpu
from orchestrator.launchers import work_area as workfolders
from orchestrator.plan.cell import Cell
from orchestrator.plan.proof_cells import probe_workload
from orchestrator.records.record import Provenance
from orchestrator.runner import run_all as pipeline
from orchestrator.runner.order import Turn, in_turn, needless, too_large

FULL = {"status": "out_of_memory", "reason": "no room"}


def cell(
    benchmark: str = "forward", role: Any = "row", method: str = "inductor", stack: str = "cuda", **changes: Any
) -> Cell:
    work = workload(benchmark, **changes)
    return Cell(stack=stack, method=method, device="cuda", workload=work, timeout_s=60.0, role=role)


@pytest.mark.parametrize(
    ("larger", "skipped"),
    [
        (cell(batch=20), True),
        (cell(sequence=4096), True),
        (cell(batch=20, sequence=4096, seed=1, iterations=20), True),
        (cell(), False),  # the very same: what was measured stands
        (cell(batch=5), False),
        (cell(batch=20, sequence=1024), False),  # more of the one, less of the other: it may fit
        (cell(batch=20, dtype="float32"), False),
        (cell(batch=20, method="eager"), False),
        (cell(batch=20, stack="other"), False),
        (cell("train_static", batch=20), False),
        (cell(batch=20, role="probe"), False),
        (cell(batch=20, devices=2, parallel="tensor"), False),  # each has a part of it
    ],
)
def test_only_what_is_larger_and_else_alike(larger: Cell, skipped: bool) -> None:
    reason = too_large(larger, [record(**FULL)])
    assert (reason is not None) is skipped
    assert too_large(larger, [record(status="crashed"), record(), record(**FULL, role="probe")]) is None
    if reason:
        assert reason == "a smaller shape ran out of memory in this run: batch 10, 2048 tokens each"


@pytest.mark.parametrize("parallel", ["ddp", "fsdp2"])
def test_what_one_way_over_several_devices_does_not_hold_another_may(parallel: Any) -> None:
    def several(batch: int, way: Any) -> Cell:
        return cell("train_static", batch=batch, devices=2, parallel=way)

    full = record("train_static", **FULL, workload=several(4, parallel).workload)
    for way in ("ddp", "fsdp2"):
        assert (too_large(several(8, way), [full]) is not None) is (way == parallel)
    assert too_large(cell("train_static", batch=8), [full]) is None


@pytest.mark.parametrize(
    ("name", "uuid", "skipped"),
    [
        ("NVIDIA H100 80GB HBM3", "GPU-1", True),
        ("NVIDIA A10", "GPU-1", False),
        (None, "GPU-1", False),
        (None, "GPU-0", True),
    ],
)
def test_another_model_of_gpu_has_other_memory(name: str | None, uuid: str, skipped: bool) -> None:
    larger = cell(batch=20)
    turn = Turn(larger, 0, "c" * 16, larger.workload.workload_id, (larger.workload.workload_id,), larger.title)
    here = HostGpu(uuid, 0, name or "NVIDIA H100 80GB HBM3", "580.159.04")
    full = record(**FULL)
    if name is None:  # it ran out before it could say where it was
        full = full.model_copy(update={"environment": None, "provenance": Provenance(launcher="docker", gpu="GPU-0")})
    assert (needless(turn, [full], [], here) is not None) is skipped


def test_generation_counts_prompt_and_new_tokens() -> None:
    small = record("generation", **FULL)
    assert too_large(cell("generation", new_tokens=400), [small])
    assert too_large(cell("generation", new_tokens=100), [small]) is None


def test_a_row_that_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for module in (workfolders, pipeline):
        monkeypatch.setattr(module, "STATE", tmp_path / "state")
    monkeypatch.setattr(workfolders, "BENCH", FAKE_BENCH)
    suite = write_suite(tmp_path)
    suite.write_text(suite.read_text().replace("sequence = 64", "sequence = [32, 64, 96]"))
    write_stack(tmp_path, ["small_memory"])
    words = ["run-all", "--suite", str(suite), "--stacks", str(tmp_path / "stacks"), "--stack", "fake"]
    assert run([*words, "--launcher", "local", "--results", str(tmp_path / "results")]) == 0
    (folder,) = (tmp_path / "results").iterdir()
    found = [json.loads(path.read_text()) for path in (folder / "records").glob("forward-*")]
    told = {one["workload"]["sequence"]: (one["status"], one["reason"]) for one in found}
    assert told == {
        32: ("ok", None),
        64: ("out_of_memory", "no room"),
        96: ("skipped", "a smaller shape ran out of memory in this run: batch 2, 64 tokens each"),
    }
    assert "small_memory@fake skipped: a smaller shape ran out of memory" in capsys.readouterr().out
    assert "**skipped**: a smaller shape ran out of memory" in (folder / "tables.md").read_text()


@pytest.mark.parametrize("n", range(1, 12))
def test_each_row_follows_each_other_equally_often(n: int) -> None:
    rounds = n if n % 2 == 0 else 2 * n
    orders = [in_turn(range(n), number) for number in range(rounds)]
    assert orders[0] == list(range(n))
    assert all(sorted(order) == list(range(n)) for order in orders)
    assert all(orders[number + 1] == orders[number][::-1] for number in range(0, rounds, 2))
    followed = Counter(pair for order in orders for pair in pairwise(order))
    assert set(followed.values()) <= {rounds // n}
    assert len(followed) == n * (n - 1)
    places = Counter((place, row) for order in orders for place, row in enumerate(order))
    assert set(places.values()) == {rounds // n}


def test_the_probe_of_its_own_model_alone_ends_a_rows_rounds() -> None:
    row = cell()
    other = row.workload.model.model_copy(update={"norm_eps": 3e-5}) if row.workload.model else None
    turn = Turn(row, 1, "c" * 16, row.workload.workload_id, (row.workload.workload_id,), row.title)
    for model, ended in ((row.workload.model, True), (other, False)):
        of = probe_workload(row.workload.model_copy(update={"model": model}))
        wrong = record(status="incorrect", reason="rows", role="probe", workload=of, method="inductor")
        assert (needless(turn, [], [wrong]) is not None) is ended
        assert needless(turn._replace(round=0), [], [wrong]) is None
