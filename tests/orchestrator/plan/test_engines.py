"""Engines in a plan: known by a line of their files, planned for what they can run, with folders of weights before."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from plan_samples import stack

from orchestrator.base.errors import UsageError
from orchestrator.base.paths import BENCH
from orchestrator.plan.methods import engines, find_methods
from orchestrator.plan.planner import make_plan
from orchestrator.plan.suite import load_suite
from orchestrator.runner.estimate import estimate, weights_bytes
from orchestrator.runner.order import remaining, turns
from orchestrator.runner.plan_text import _together

OWN = 'KIND = "engine"\ndef refuse(): ...\nsettings = load = refuse\n'
STACKS = {"hf": stack("hf", methods=("eager", "transformers"))}


def plan(name: str = "smoke", **more: object):
    return make_plan(load_suite(name), STACKS, device="cpu", engines=engines({}), **more)  # type: ignore[arg-type]


def test_an_adapter_is_known_by_its_line(tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text(OWN)
    own = find_methods([tmp_path])
    assert engines(own)["mine"] == engines({})["transformers"] == ("generation", "batched_generation")
    assert "eager" not in engines(own)
    (tmp_path / "mine.py").write_text(OWN.replace(" = load", ""))
    with pytest.raises(UsageError, match="has no function load"):
        find_methods([tmp_path])


def test_they_are_planned_for_generation_alone_with_their_weights_before_them() -> None:
    cells = plan("rehearsal").cells
    found = [cell for cell in cells if cell.method == "transformers"]
    assert {(cell.benchmark, cell.kind) for cell in found} == {("generation", "engine")}
    roles = list(dict.fromkeys(cell.role for cell in cells))
    assert roles.index("weights") < roles.index("reference") < roles.index("row")
    (weights,) = (cell for cell in cells if cell.role == "weights")
    parts = {(one.model, one.dtype) for cell in found for one in cell.workload.parts}
    assert {(one.model, one.dtype) for one in weights.workload.subjects or ()} == parts
    assert not any(cell.role == "weights" for cell in plan("rehearsal", methods=["eager"]).cells)


def test_ids_of_other_cells_stay() -> None:
    with_engines = {cell.key for cell in plan().cells}
    assert {cell.key for cell in plan(methods=["eager"]).cells} < with_engines


def test_their_folders_are_in_the_disk_need_and_the_plans_text() -> None:
    whole = plan("rehearsal")
    weights = [cell for cell in whole.cells if cell.role == "weights"]
    size = weights_bytes(whole.cells)
    cost = estimate(whole, STACKS, {}, made=["hf"])
    assert size > 0
    assert cost.disk_bytes == size
    assert "for engines: " in _together(weights, {})[-1]


def test_weights_are_made_again_where_a_round_is_left_that_reads_them() -> None:
    order = turns(plan(), lambda cell: cell.key)

    class Done:
        def __init__(self, turn):
            self.cell_id, self.round, self.status, self.role = turn.cell_id, turn.round, "ok", turn.cell.role
            self.detail, self.written_by = {}, "bench"

    class Known:
        def complete(self, record):
            return True

    engine = next(turn for turn in order if turn.cell.kind == "engine")
    left = remaining(order, [Done(turn) for turn in order if turn is not engine], Known())
    assert [turn.cell.role for turn in left] == ["weights", "row"]
    assert remaining(order, [Done(turn) for turn in order], Known()) == []


def test_the_list_of_checks_says_what_an_engine_shows() -> None:
    listed = json.loads((BENCH / "proof" / "checks.json").read_text(encoding="utf-8"))
    assert set(listed["kinds"]["engine"]) <= set(listed["checks"])
