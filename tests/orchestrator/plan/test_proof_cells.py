"""What the rows of a plan are proved with: which references and probes there are, and for which rows."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
from committed import FOLDERS
from fake_run import WORKLOAD
from plan_samples import OF_THE_NOTE, SUITE, stack, write_suite

from orchestrator.plan.cell import Cell, Plan
from orchestrator.plan.planner import make_plan
from orchestrator.plan.proof_cells import SUBJECTS_AT_MOST, probe_model, probe_of, probe_workload
from orchestrator.plan.suite import load_suite
from orchestrator.plan.workload import GENERATING, Experts
from orchestrator.records.store import Run

if TYPE_CHECKING:
    from pathlib import Path

STACKS = {"a": stack("a", ("inductor", "eager")), "b": stack("b", ("eager", "thunder"))}


def note(**selection: object) -> Plan:
    return make_plan(load_suite("note"), STACKS, device="cuda", **selection)  # type: ignore[arg-type]


def test_every_row_and_every_probe_has_its_reference_and_every_row_its_probe() -> None:
    plan = note()
    references = [cell for cell in plan.cells if cell.role == "reference"]
    made = [subject.workload_id for cell in references for subject in cell.workload.subjects or ()]
    asked = {part.workload_id for cell in plan.cells if cell.role in ("probe", "row") for part in cell.workload.parts}
    assert sorted(made) == sorted(asked)
    probes = [(*probe_of(cell), cell.workload.workload_id) for cell in plan.cells if cell.role == "probe"]
    rows = [cell for cell in plan.cells if cell.role == "row"]
    wanted = {(*probe_of(row), probe_workload(row.workload).workload_id) for row in rows}
    assert sorted(probes) == sorted(wanted)
    assert len(wanted) == len({(probe_of(row), probe_model_of(row)) for row in rows})


def test_a_reference_cell_has_one_model_one_weights_one_dtype_but_that_of_the_probes() -> None:
    references = [cell for cell in note().cells if cell.role == "reference"]
    names = []
    for cell in references:
        work = cell.workload
        assert (cell.benchmark, cell.method, cell.stack) == ("reference", "reference", "a")
        assert (work.iterations, work.warmup, cell.rounds) == (1, 0, 1)
        assert cell.timeout_s == 1500.0
        for subject in work.subjects or () if work.weights and work.weights.source != "probe" else ():
            assert (subject.model, subject.weights, subject.dtype) == (work.model, work.weights, work.dtype)
        names.append(work.model.name if work.model else "")
    assert sorted(names) == ["open_llama_3b", "open_llama_7b", "probe"]


def probe_model_of(row: Cell) -> str:
    assert row.workload.model is not None
    return repr(probe_model(row.workload.model))


def test_probes_are_tiny_and_sharp_and_have_the_traits_of_the_rows_model() -> None:
    plan = note(rounds=3)
    probes = [cell for cell in plan.cells if cell.role == "probe"]
    models = {probe_model_of(cell) for cell in plan.cells if cell.role == "row"}
    assert {cell.benchmark for cell in probes} == set(OF_THE_NOTE)
    assert {repr(cell.workload.model) for cell in probes} == models
    for cell in probes:
        work = cell.workload
        assert work.model is not None
        assert (work.model.layers, work.model.width, work.model.vocabulary) == (2, 128, 512)
        assert work.weights is not None
        assert work.weights.source == "probe"
        assert [part.dtype for part in work.parts] == ["bfloat16", "float32"]
        assert [part.is_own_probe for part in work.parts] == [False, True]
        assert {part.model for part in work.parts} == {work.model}
        assert cell.rounds == 1
        assert work.iterations >= work.warmup + 2
        if work.benchmark in GENERATING:
            assert work.prompt is not None
            assert len(work.prompt) == 6
            assert max(work.prompt) < 512
        else:
            assert (work.batch, work.sequence) == (2, 64)
        rates = [0.05, 6e-4] if work.benchmark.startswith("train") else [None, None]
        assert [part.learning_rate for part in work.parts] == rates


TRAITS = [
    {"norm_eps": 1e-5},
    {"heads": 32, "kv_heads": 8, "head_size": 128},
    {"heads": 32, "kv_heads": 1, "head_size": 100},
    {"rope_base": 500000.0},
    {"rope_scaling": {"type": "linear", "factor": 2.0}},
    {"tied_head": True},
    {"qkv_bias": True},
    {"sliding_window": 4096},
    {"activation": "gelu_tanh", "norm_plus_one": True, "post_norms": True, "embedding_scaled": True},
    {"qk_norm": True, "query_scalar": 144.0, "attention_cap": 50.0, "logit_cap": 30.0},
    {"rotary_size": 8},
    {"sliding_window": 4096, "local_rope_base": 10000.0},
]


@pytest.mark.parametrize("traits", TRAITS, ids=str)
def test_a_trait_of_the_model_is_one_of_its_probe(traits: dict[str, Any]) -> None:
    plain = WORKLOAD.model
    assert plain is not None
    model = plain.model_copy(update=traits)
    probe = probe_model(model)
    for name, value in traits.items():
        if name not in ("heads", "kv_heads", "sliding_window"):
            assert getattr(probe, name) == value
    assert (probe.kv_heads == 1) == (model.kv_heads == 1)
    assert probe.heads // probe.kv_heads == min(model.heads // model.kv_heads, 8)
    assert (probe.sliding_window is None) == (model.sliding_window is None)
    assert probe.sliding_window is None or probe.sliding_window < 64
    other = WORKLOAD.model_copy(update={"model": model})
    ids = [{part.workload_id for part in probe_workload(one).parts} for one in (other, WORKLOAD)]
    assert not ids[0] & ids[1]


def test_a_probe_has_each_kind_of_layer_that_its_model_has() -> None:
    plain = WORKLOAD.model
    assert plain is not None
    assert probe_model(plain).full_layers == ()
    experts = Experts(count=128, active=8, width=768, normalised=True, dense_layers=(5,), shared_width=2048)
    model = plain.model_copy(update={"sliding_window": 4096, "full_layers": (0, 5), "experts": experts})
    probe = probe_model(model)
    assert [probe.is_local(layer) for layer in (0, 1)] == [True, False]
    assert [probe.has_experts(layer) for layer in (0, 1)] == [False, True]
    own = probe.experts
    assert own is not None
    assert (own.count, own.active, own.normalised, own.shared_width) == (7, 3, True, 96)
    few = experts.model_copy(update={"count": 2, "active": 2, "dense_layers": ()})
    own = probe_model(model.model_copy(update={"experts": few})).experts
    assert own is not None
    assert (own.count, own.active, own.dense_layers) == (2, 2, ())


def test_a_selection_keeps_only_what_its_rows_need() -> None:
    plan = note(benchmarks=["train_static"], methods=["thunder"])
    assert [(cell.role, cell.title) for cell in plan.cells] == [
        ("ceilings", "ceilings torch@b"),
        ("reference", "reference reference@a"),
        ("reference", "reference reference@a"),
        ("probe", "probe of train_static thunder@b"),
        ("row", "train_static thunder@b"),
    ]
    assert [len(cell.workload.subjects or ()) for cell in plan.cells[1:3]] == [2, 1]  # the probe's two parts; the row


def test_rows_that_are_their_own_probes_get_none(tmp_path: Path) -> None:
    sharp = SUITE.replace("batch = 2", 'batch = 2\nweights = "probe"\ndtype = ["float32", "bfloat16"]')
    suite = load_suite(str(write_suite(tmp_path, sharp)))
    plan = make_plan(suite, STACKS, device="cpu", benchmarks=["forward"], methods=["thunder"])
    rows = [cell.workload for cell in plan.cells if cell.role == "row"]
    assert [(work.dtype, work.weights.source if work.weights else "") for work in rows] == [
        ("float32", "probe"),
        ("bfloat16", "probe"),
    ]
    # Those of the row in bfloat16 alone.
    assert [[part.dtype for part in cell.workload.parts] for cell in plan.cells if cell.role == "probe"] == [
        ["bfloat16", "float32"]
    ]
    exact = sharp.replace(', "bfloat16"', "")
    plan = make_plan(load_suite(str(write_suite(tmp_path, exact))), STACKS, device="cpu", benchmarks=["forward"])
    assert [cell for cell in plan.cells if cell.role == "probe"] == []


@pytest.mark.parametrize(("key", "role"), [("references", "reference"), ("probes", "probe")])
def test_a_suite_can_do_without(tmp_path: Path, key: str, role: str) -> None:
    suite = load_suite(str(write_suite(tmp_path, SUITE.replace("\n[ceilings]", f"{key} = false\n[ceilings]"))))
    plan = make_plan(suite, STACKS, device="cpu")
    assert role not in {cell.role for cell in plan.cells}
    assert {"reference", "probe"} - {role} < {cell.role for cell in plan.cells}


def test_references_are_made_where_the_gpu_and_eager_are() -> None:
    stacks = {"a": stack("a", ("eager",)), "b": stack("b", ("thunder",)), "c": stack("c", ("thunder", "eager"))}
    devices = {"a": "cpu", "b": "cuda", "c": "cuda"}
    plan = make_plan(load_suite("smoke"), stacks, device=devices)  # type: ignore[arg-type]
    assert {(cell.stack, cell.device) for cell in plan.cells if cell.role == "reference"} == {("c", "cuda")}


def test_many_workloads_of_one_model_are_cut_in_parts(tmp_path: Path) -> None:
    sizes = list(range(1, 2 * SUBJECTS_AT_MOST))
    suite = load_suite(str(write_suite(tmp_path, SUITE.replace("batch = 2", f"batch = {sizes}"))))
    plan = make_plan(suite, {"a": STACKS["a"]}, device="cpu", benchmarks=["forward"])
    parts = [len(cell.workload.subjects or ()) for cell in plan.cells if cell.role == "reference"]
    assert parts == [2, SUBJECTS_AT_MOST, SUBJECTS_AT_MOST - 1]  # the probe's; the rows'
    assert len({cell.key for cell in plan.cells}) == len(plan.cells)


def test_a_probe_is_no_row_of_the_same_workload() -> None:
    probe = next(cell for cell in note().cells if cell.role == "probe")
    assert probe.key != probe.model_copy(update={"role": "row"}).key


def test_plans_of_committed_runs_still_load_and_mean_the_same_workloads() -> None:
    runs = {folder.name: Run.open(folder) for folder in FOLDERS}
    assert all(run.plan.cells for run in runs.values())
    later = {"soak_s": None, "sustained_s": None}
    planned = [cell.workload for cell in note().cells if cell.role in ("ceilings", "row")]
    rows = {workload.model_copy(update=later).workload_id for workload in planned}
    whole = [runs[name] for name in ("h200-second", "h100-operators")]
    committed = [record for run in whole for record in run.records([]) if record.role in ("ceilings", "row")]
    assert {record.workload_id for record in committed} == rows
    assert [record.workload_id for record in committed] == [record.workload.workload_id for record in committed]


def test_the_ladder_of_engines_has_one_probe_of_several_rows_for_each_method() -> None:
    plan = make_plan(load_suite("engines"), STACKS, device="cuda", methods=["eager"])
    shapes = {
        (cell.workload.model.name, cell.workload.batch, cell.workload.prompt_tokens)
        for cell in plan.cells
        if cell.role == "row" and cell.workload.model
    }
    whole = {("llama_3_1_8b", batch, prompt) for batch in (1, 8, 32, 128) for prompt in (128, 1024)}
    part = {("open_llama_7b", batch, prompt) for batch in (1, 8, 32, 128) for prompt in (128, 1024)}
    assert shapes == whole | part - {("open_llama_7b", 128, 1024)}
    probes = [cell for cell in plan.cells if cell.role == "probe"]
    assert {(cell.workload.batch, cell.workload.prompt_tokens, cell.workload.prompt) for cell in probes} == {
        (4, 9, None)
    }
    heads = {cell.workload.model.heads // cell.workload.model.kv_heads for cell in probes if cell.workload.model}
    assert heads == {1, 4}, "one for each of the two models, whatever the batch"
