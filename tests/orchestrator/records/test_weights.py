"""Folders of weights that a cell's process left: taken over whole, hashed here, out of its reach; links are not."""

from __future__ import annotations

from pathlib import Path

import pytest
from fake_run import WORKLOAD

from orchestrator.plan.cell import Cell
from orchestrator.plan.proof_cells import weights_cells, weights_workload
from orchestrator.records.record import Record
from orchestrator.records.weights import WeightFolders

PROMPT = {"benchmark": "generation", "prompt": (1, 2), "new_tokens": 4, "temperature": 1.0, "sequence": None}
GENERATION = WORKLOAD.model_copy(update={**PROMPT, "ids_below": None})
ROW = Cell(stack="a", method="e", device="cpu", workload=GENERATION, timeout_s=9.0, kind="engine")
MAKER = ROW.model_copy(update={"kind": "model", "stack": "maker"})
NAME = weights_workload(GENERATION).workload_id


def record(cell: Cell) -> Record:
    same = {"cell_id": "0" * 16, "workload_id": "1" * 16, "stack": "a", "method": "weights", "device": "cpu"}
    return Record(
        **same, schema_version=1, written_by="bench", round=0, workload=cell.workload, status="ok", reason=None,
        flags=(), bench_source=None, started_utc=None,
    )  # fmt: skip


@pytest.fixture
def left(tmp_path: Path) -> Path:
    folder = tmp_path / "work" / f"weights-{NAME}"
    folder.mkdir(parents=True)
    (folder / "config.json").write_text("{}")
    (folder / "model.safetensors").write_bytes(b"weights")
    return folder


def test_a_folder_is_moved_and_hashed(tmp_path: Path, left: Path) -> None:
    (cell,) = weights_cells([ROW], MAKER)
    folders = WeightFolders(tmp_path / "weights")
    found = folders.collect(left.parent, cell, record(cell), print).detail["weights"][NAME]
    assert set(found["files"]) == {"config.json", "model.safetensors"}
    assert folders.known == {NAME: found["sha256"]}
    assert not left.exists()
    assert (folders.path(NAME) / "model.safetensors").stat().st_mode & 0o777 == 0o444
    left.mkdir()
    (left / "config.json").write_text('{"other": 1}')
    (left / "model.safetensors").write_bytes(b"weights")
    again = WeightFolders(tmp_path / "again").collect(left.parent, cell, record(cell), print)
    assert again.detail["weights"][NAME]["sha256"] != found["sha256"]


@pytest.mark.parametrize("what", ["none", "a link", "a link inside", "empty"])
def test_what_is_no_folder_of_plain_files_is_left(tmp_path: Path, left: Path, what: str) -> None:
    secret = tmp_path / "secret"
    secret.mkdir()
    (secret / "key").write_text("s")
    if what == "a link inside":
        (left / "more.safetensors").symlink_to(secret / "key")
    else:
        for path in left.iterdir():
            path.unlink()
        if what != "empty":
            left.rmdir()
        if what == "a link":
            left.symlink_to(secret)
    (cell,) = weights_cells([ROW], MAKER)
    said: list[str] = []
    folders = WeightFolders(tmp_path / "weights")
    found = folders.collect(left.parent, cell, record(cell), said.append).detail["weights"][NAME]
    assert found["sha256"] is None
    assert folders.known == {}
    assert said[0].startswith("no weights for engines: no folder was taken over: ")
    assert (secret / "key").stat().st_mode & 0o777 != 0o444


def test_one_cell_makes_every_folder_of_the_hashs_weights_and_one_each_checkpoints() -> None:
    wide = ROW.model_copy(update={"workload": GENERATION.model_copy(update={"dtype": "float32"})})
    own = GENERATION.weights.model_copy(update={"source": "checkpoint", "fingerprint": "f" * 16})  # type: ignore[union-attr]
    checkpoint = ROW.model_copy(update={"workload": GENERATION.model_copy(update={"weights": own})})
    first, second = weights_cells([ROW, wide, ROW, checkpoint, MAKER], MAKER)
    assert [subject.dtype for subject in first.workload.subjects or ()] == ["bfloat16", "float32"]
    assert (first.stack, first.role, first.method, first.kind) == ("maker", "weights", "weights", "model")
    assert second.workload.weights == own
    assert weights_cells([MAKER], MAKER) == []
