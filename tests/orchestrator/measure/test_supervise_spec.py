from __future__ import annotations

import json
from typing import TYPE_CHECKING

import pytest
from plan_samples import smoke_cell

from orchestrator.base.errors import UsageError
from orchestrator.launchers import Job, Places
from orchestrator.measure.cell_spec import write_spec
from orchestrator.plan.workload import Workload

if TYPE_CHECKING:
    from pathlib import Path


def test_the_spec_says_all_that_bench_needs(tmp_path: Path) -> None:
    cell = smoke_cell(cache="shared", timeout_s=12.5, method_source="e" * 64)
    job = Job(
        cell,
        3,
        "c" * 16,
        "b" * 16,
        tmp_path,
        tmp_path / "log",
        "run",
        reference_sha256="d" * 64,
        threads=2,
    )
    write_spec(job, Places(cache="/cache", checkpoint="/checkpoint", references="/references"))
    spec = json.loads((tmp_path / "spec.json").read_text())
    workload = Workload.model_validate(spec.pop("workload"))
    assert workload == cell.workload
    assert spec == {
        "schema_version": 1,
        "cell_id": "c" * 16,
        "workload_id": cell.workload.workload_id,
        "round": 3,
        "stack": "cpu",
        "method": "eager",
        "kind": "model",
        "device": "cpu",
        "bench_source": "b" * 16,
        "method_source": "e" * 64,
        "threads": 2,
        "cache": "shared",
        "cache_folder": "/cache",
        "checkpoint": "/checkpoint",
        "deadline_s": 12.5,
        "role": "row",
        "reference": f"/references/{cell.workload.workload_id}.safetensors",
        "reference_sha256": "d" * 64,
        "subject_ids": [],
        "beside": [],
        "repeats": True,
        "only_first": False,
    }
    assert [place.name for place in tmp_path.iterdir()] == ["spec.json"]


def test_a_folder_that_is_not_there_is_a_clear_line(tmp_path: Path) -> None:
    gone = tmp_path / "gone"
    job = Job(smoke_cell(), 0, "c", "b", gone, gone / "log", "run")
    with pytest.raises(UsageError, match=r"spec.json: no such file or directory"):
        write_spec(job, Places())
