"""Engines in a plan: known by a line of their files, planned for what they can run, with folders of weights before."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path

import pytest
from plan_samples import stack

from orchestrator.base.errors import UsageError
from orchestrator.base.grouping import grouped
from orchestrator.base.paths import BENCH
from orchestrator.plan.cell import Cell
from orchestrator.plan.methods import engines, find_methods
from orchestrator.plan.planner import make_plan
from orchestrator.plan.proof_cells import probe_workload
from orchestrator.plan.suite import load_suite
from orchestrator.plan.workload import Weights
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


def mixture(tmp_path: Path, settings: str = "") -> Path:
    """A suite of one tiny mixture, in bfloat16."""
    config = {"architectures": ["MixtralForCausalLM"], "num_hidden_layers": 2, "hidden_size": 64}
    config |= {"num_attention_heads": 4, "model_type": "mixtral"}
    config |= {"num_key_value_heads": 4, "intermediate_size": 96, "vocab_size": 512, "max_position_embeddings": 256}
    config |= {"rms_norm_eps": 1e-6, "num_local_experts": 8, "num_experts_per_tok": 2, "rope_theta": 1e4}
    (tmp_path / "config.json").write_text(json.dumps({**config, "tie_word_embeddings": False, "hidden_act": "silu"}))
    cell = '[[cells]]\nbenchmark = "generation"\nmodel = ["mix", "tiny"]\nprompt = [1, 2]\nnew_tokens = 4\n'
    head = f'schema_version = 1\nname = "mix"\ndescription = "d"\n[defaults]\n{settings}\n'
    (tmp_path / "suite.toml").write_text(f'{head}[models.mix]\nconfig = "config.json"\n{cell}')
    return tmp_path / "suite.toml"


def routing(cells: Iterable[Cell], role: str = "row") -> dict[tuple[str, str], set[str]]:
    """Who chooses the experts, by method and model."""
    found = (cell for cell in cells if cell.role == role)
    parts = ((cell.method, part) for cell in found for part in cell.workload.parts)
    by_name = grouped(((method, part.model.name), part.weights.routing) for method, part in parts)
    return {key: set(values) for key, values in by_name.items()}


def test_in_an_engine_the_router_chooses_the_experts_in_rows_probes_and_references(tmp_path: Path) -> None:
    cells = plan(str(mixture(tmp_path))).cells
    rows = {("eager", "mix"): {"hash"}, ("transformers", "mix"): {"router"}}
    assert routing(cells) == rows | {(method, "tiny"): {"hash"} for method, _ in rows}
    # Of both models there is one probe of each method: here they differ in the experts.
    assert routing(cells, "probe")["eager", "probe"] == {"hash"}
    assert routing(cells, "probe")["transformers", "probe"] == {"hash", "router"}
    subjects = [part for cell in cells if cell.role == "reference" for part in cell.workload.subjects or ()]
    assert {part.weights.routing for part in subjects if part.model.experts} == {"hash", "router"}
    ids = {cell.workload.workload_id for cell in cells if cell.role == "row" and cell.workload.model.experts}
    assert len(ids) == 2


def test_a_suite_may_let_the_router_choose_for_all(tmp_path: Path) -> None:
    rows = [cell for cell in plan(str(mixture(tmp_path))).cells if cell.role == "row"]
    before = {cell.key for cell in rows if cell.workload.model.experts is None}
    cells = plan(str(mixture(tmp_path, 'routing = "router"'))).cells
    assert routing(cells)["eager", "mix"] == routing(cells)["transformers", "mix"] == {"router"}
    assert before <= {cell.key for cell in cells}, "a model without experts has no other workload"


def test_of_a_checkpoint_the_row_stays_and_its_engines_probe_is_routed(tmp_path: Path) -> None:
    row = next(cell for cell in plan(str(mixture(tmp_path))).cells if cell.role == "row" and cell.kind == "model")
    read = row.workload.model_copy(update={"weights": Weights(source="checkpoint", fingerprint="0" * 16)})
    assert read.routed == read
    routed = {kind: probe_workload(read, kind).weights.routing for kind in ("model", "engine")}
    assert routed == {"model": "hash", "engine": "router"}
