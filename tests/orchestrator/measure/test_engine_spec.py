"""What an engine's cell is told: of what kind its method is, and where the weights of each of its workloads are."""

from __future__ import annotations

import json
from pathlib import Path

from fake_run import WORKLOAD, make_job

from orchestrator.launchers import Places
from orchestrator.measure.cell_spec import Beside, write_spec


def spec(tmp_path: Path, kind: str, **more: object) -> dict[str, object]:
    other = WORKLOAD.model_copy(update={"dtype": "float32"})
    job = make_job("good", tmp_path, beside_sha256=(None,), part_ids=("a", "b"), **more)
    cell = job.cell.model_copy(update={"kind": kind, "workload": WORKLOAD.model_copy(update={"beside": (other,)})})
    object.__setattr__(job, "cell", cell)
    write_spec(job, Places(checkpoint="/checkpoint/one"))
    found: dict[str, object] = json.loads((job.work / "spec.json").read_text())
    return found


def test_each_of_an_engines_workloads_has_a_folder_of_its_own(tmp_path: Path) -> None:
    found = spec(tmp_path, "engine", weights_ids=("one", "two"))
    assert (found["kind"], found["checkpoint"]) == ("engine", "/checkpoint/one")
    assert [part["checkpoint"] for part in found["beside"]] == ["/checkpoint/two"]  # type: ignore[attr-defined]


def test_other_methods_share_the_checkpoint(tmp_path: Path) -> None:
    found = spec(tmp_path, "model")
    assert (found["kind"], found["checkpoint"]) == ("model", "/checkpoint/one")
    assert [part["checkpoint"] for part in found["beside"]] == ["/checkpoint/one"]  # type: ignore[attr-defined]
    assert set(Beside.model_fields) == {"workload", "checkpoint", "reference", "reference_sha256"}
