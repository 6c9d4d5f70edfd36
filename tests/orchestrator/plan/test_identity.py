"""Identities last: no committed row gets another id, and a field that is added later changes none at its default."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from committed import FOLDERS
from golden_files import golden
from places import GOLDEN
from plan_samples import smoke_cell, smoke_workload

from orchestrator.plan.cell import Cell, Plan
from orchestrator.plan.workload import ModelConfig, Weights, Workload, digest

KNOWN = json.loads((GOLDEN / "ids.json").read_text(encoding="utf-8"))
by_name = pytest.mark.parametrize("run", FOLDERS, ids=lambda run: run.name)


def read(path: Path) -> dict[str, Any]:
    raw: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return raw


def recorded_cell(raw: dict[str, Any]) -> Cell:
    """The cell that a record is of; its deadline and rounds are no part of its identity."""
    return Cell.model_validate_json(
        json.dumps(
            {
                **{key: raw[key] for key in ("stack", "method", "device", "workload", "role")},
                "cache": raw["provenance"]["cache"],
                "timeout_s": 1,
            }
        )
    )


def ids_of(raw: dict[str, Any]) -> str:
    """Both ids, computed from what the record holds."""
    cell, gpu = recorded_cell(raw), raw["environment"]["gpu"]
    cell_id = cell.cell_id(
        environment=raw["environment"]["fingerprint"],
        bench_source=raw["bench_source"],
        gpu=f"{gpu['name']}|{gpu['driver']}" if gpu else None,
    )
    return f"{cell.workload.workload_id} {cell_id}"


def computed(run: Path) -> dict[str, Any]:
    plan = Plan.model_validate_json(json.dumps(read(run / "run.json")["plan"]))
    return {
        "plan_id": plan.plan_id,
        "cells": [f"{cell.workload.workload_id} {cell.key}" for cell in plan.cells],
        "records": {path.stem: ids_of(read(path)) for path in sorted((run / "records").glob("*.json"))},
    }


def test_every_committed_run_is_in_the_golden_file() -> None:
    assert len(FOLDERS) == 16
    golden("ids.json", json.dumps({run.name: computed(run) for run in FOLDERS}, indent=1) + "\n")


@by_name
def test_plans_and_records_have_the_ids_that_they_say(run: Path) -> None:
    found = computed(run)
    assert found == KNOWN[run.name]
    assert found["plan_id"] == read(run / "run.json")["plan_id"]
    for stem, ids in found["records"].items():
        raw = read(run / "records" / f"{stem}.json")
        assert ids == f"{raw['workload_id']} {raw['cell_id']}"


class LaterModel(ModelConfig):
    towers: int = 1


class LaterWeights(Weights):
    scale: str | None = None


class LaterWorkload(Workload):
    precision: str = "as dtype"


class LaterCell(Cell):
    devices: int = 1


def later(value: Any, kind: type, **fields: Any) -> Any:
    return kind.model_validate({**dict(value), **fields})


def test_a_later_field_of_a_workload_is_hashed_only_where_it_is_set() -> None:
    one = smoke_workload()
    assert later(one, LaterWorkload).workload_id == one.workload_id
    assert later(one, LaterWorkload, precision="as dtype").workload_id == one.workload_id
    set_ids = {later(one, LaterWorkload, precision=word).workload_id for word in ("fp8", "nvfp4")}
    assert len(set_ids | {one.workload_id}) == 3


@pytest.mark.parametrize(
    ("part", "kind", "field"), [("model", LaterModel, {"towers": 8}), ("weights", LaterWeights, {"scale": "block"})]
)
def test_so_is_one_of_its_model_and_of_its_weights(part: str, kind: type, field: dict[str, Any]) -> None:
    one = smoke_workload()
    inner = getattr(one, part)
    assert one.model_copy(update={part: later(inner, kind)}).workload_id == one.workload_id
    assert one.model_copy(update={part: later(inner, kind, **field)}).workload_id != one.workload_id


def test_so_is_one_of_a_reference_s_subjects() -> None:
    def reference(*subjects: Workload) -> str:
        return smoke_workload().model_copy(update={"benchmark": "reference", "subjects": subjects}).workload_id

    one = smoke_workload()
    assert reference(later(one, LaterWorkload)) == reference(one)
    assert reference(later(one, LaterWorkload, precision="fp8")) != reference(one)


def test_so_is_one_of_a_cell() -> None:
    one, places = smoke_cell(), {"environment": "e", "bench_source": "b", "gpu": "g"}
    same, other = later(one, LaterCell), later(one, LaterCell, devices=2)
    assert (same.key, same.cell_id(**places)) == (one.key, one.cell_id(**places))
    assert other.key != one.key
    assert other.cell_id(**places) != one.cell_id(**places)


def test_the_name_of_a_model_and_how_a_cell_is_run_are_no_part_of_its_identity() -> None:
    one = smoke_workload()
    assert one.model is not None
    named = one.model_copy(update={"model": one.model.model_copy(update={"name": "mine"})})
    assert named.workload_id == one.workload_id
    changes: tuple[dict[str, Any], ...] = ({}, {"rounds": 9}, {"timeout_s": 5.0}, {"warm": False})
    cells = [smoke_cell(**change) for change in changes]
    assert len({one.key for one in cells}) == 1


@pytest.mark.parametrize("kind", [ModelConfig, Weights, Workload, Cell])
def test_every_field_is_decided_upon(kind: Any) -> None:
    """A field that is neither of version 1 nor without a say in the identity has a default, so that old ids stay."""
    assert set(kind.model_fields) >= kind.VERSION_1 | kind.NOT_HASHED
    assert not kind.VERSION_1 & kind.NOT_HASHED
    late = set(kind.model_fields) - kind.VERSION_1 - kind.NOT_HASHED
    assert not [name for name in late if kind.model_fields[name].is_required()]


def test_the_hash_itself() -> None:
    assert digest([None, 1.5, "ä", {"b": 1, "a": (2,)}]) == digest([None, 1.5, "ä", {"a": [2], "b": 1}])
    assert digest({"benchmark": "forward"}) == "0d9e2bc850ecc21b"
