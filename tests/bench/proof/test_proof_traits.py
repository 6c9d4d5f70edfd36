"""Each thing in which a family differs from Llama: proved where it is right, found and named where it is left out."""

from __future__ import annotations

import dataclasses

import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("pydantic")

import planted  # noqa: E402
from probe_cells import PROBE, TEXT, _without_dispatch, run  # noqa: E402, F401

from bench import methods, operators  # noqa: E402
from bench.model import rope, weights  # noqa: E402
from bench.model.gpt import build  # noqa: E402
from bench.model.traits import traits  # noqa: E402
from bench.operators import Operators  # noqa: E402
from bench.spec import from_dict  # noqa: E402
from orchestrator.plan.models import named_models  # noqa: E402
from orchestrator.plan.proof_cells import probe_model  # noqa: E402
from orchestrator.plan.workload import Experts  # noqa: E402

NAMED = named_models()
GEMMA_2 = {"qk_norm": False, "local_rope_base": None, "rope_scaling": None, "query_scalar": 144.0}
MODELS = {
    "Qwen3": NAMED["qwen3_8b"],
    "Gemma 2": NAMED["gemma_3_4b"].model_copy(update={**GEMMA_2, "attention_cap": 50.0, "logit_cap": 30.0}),
    "Gemma 3": NAMED["gemma_3_4b"],
    "Phi-4-mini": NAMED["phi_4_mini"],
    "Qwen3 mixture": NAMED["qwen3_30b_a3b"],
    "Qwen2 mixture": NAMED["qwen3_30b_a3b"].model_copy(
        update={
            "qk_norm": False,
            "qkv_bias": True,
            "experts": Experts(count=60, active=4, width=1408, dense_layers=(1,), shared_width=5632),
        }
    ),
}


def probe(name):
    return probe_model(MODELS[name]).model_dump(mode="json")


def swapped(gpt):
    for block in gpt.blocks:
        block.local = not block.local


def unscaled(gpt):
    gpt.embedding_scale = None


def skipped(gpt):
    for block in gpt.blocks:
        block.norm_k.forward = lambda x: x


def uncapped(gpt):
    gpt.logits = gpt.head.forward


def on_the_whole_head(gpt):
    config = gpt.config
    gpt.cos, gpt.sin = rope.rotary_tables(config.block_size, config.head_size, config.rope_base, None, "cpu")
    for block in gpt.blocks:
        block.rotate = operators.rotary


def one_base(gpt):
    gpt.cos_local, gpt.sin_local = gpt.cos, gpt.sin


def every_layer(gpt):
    for block in gpt.blocks:
        block.local = True


def without_cap(q, k, v, mask, *, scale=None, cap=None):
    return operators.attention(q, k, v, mask, scale=scale)


def without_scale(q, k, v, mask, *, scale=None, cap=None):
    return operators.attention(q, k, v, mask, cap=cap)


def forgotten(x, weight, eps, *, plus=None):
    return operators.norm(x, weight, eps)


def silu(x, gate, up, down, *, activation="silu"):
    return operators.swiglu(x, gate, up, down)


def not_normalised(scores, active, chosen, *, normalised):
    return operators.route(scores, active, chosen, normalised=False)


def second_dropped(scores, active, chosen, *, normalised):
    found, chosen = operators.route(scores, active, chosen, normalised=normalised)
    return torch.cat([found[:, :1], 0 * found[:, 1:2], found[:, 2:]], dim=1), chosen


FAULTS = {
    "the k norm skipped": ("Qwen3", {"gpt": skipped}),
    "the norm's 1 forgotten": ("Gemma 3", {"operators": Operators(norm=forgotten)}),
    "the embedding unscaled": ("Gemma 3", {"gpt": unscaled}),
    "SiLU for GELU": ("Gemma 2", {"operators": Operators(swiglu=silu)}),
    "the scores' cap left out": ("Gemma 2", {"operators": Operators(attention=without_cap)}),
    "scores scaled by the head size": ("Gemma 2", {"operators": Operators(attention=without_scale)}),
    "the logits' cap left out": ("Gemma 2", {"gpt": uncapped}),
    "local and global layers swapped": ("Gemma 3", {"gpt": swapped}),
    "the window on every layer": ("Gemma 2", {"gpt": every_layer}),
    "one rotary base for all layers": ("Gemma 3", {"gpt": one_base}),
    "rotary on the whole head": ("Phi-4-mini", {"gpt": on_the_whole_head}),
    "the router's weights not normalised": ("Qwen3 mixture", {"operators": Operators(route=not_normalised)}),
    "a token's second expert dropped": ("Qwen2 mixture", {"operators": Operators(route=second_dropped)}),
}
LONG = {"forward": {"sequence": 64}, "generation": {**TEXT, "new_tokens": 30}}


@pytest.mark.parametrize("benchmark", LONG)
@pytest.mark.parametrize("fault", FAULTS)
def test_a_trait_left_out_is_found_and_named(tmp_path, monkeypatch, fault, benchmark):
    name, how = FAULTS[fault]
    monkeypatch.setattr(methods, "load", lambda _: planted.method(**how))
    record = run(tmp_path, benchmark, model=probe(name), **PROBE, **LONG[benchmark])
    assert record["status"] == "incorrect", record["reason"]
    known = next(check for check in record["proof"]["checks"] if check["name"] == "known faults")
    assert fault in known["what"], known
    assert record["proof"]["resembles"] == fault


# Training on shapes that change goes every way that training on one shape goes.
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("benchmark", ["forward", "generation", "train_dynamic"])
@pytest.mark.parametrize("name", MODELS)
def test_a_right_method_of_each_family_is_proved(tmp_path, name, benchmark, dtype):
    own = {**PROBE, "dtype": dtype, **LONG.get(benchmark, {"sequence": 40})}
    record = run(tmp_path, benchmark, model=probe(name), **own)
    assert (record["status"], record["reason"]) == ("ok", None)
    assert "unchecked" not in record["flags"], record["proof"]["checks"]


@pytest.mark.parametrize("name", ["Qwen3 mixture", "Qwen2 mixture"])
def test_the_hash_loads_all_experts_alike(name):
    config = from_dict(probe(name))
    model = build(config, Operators(), torch.float32, "cpu")
    weights.fill(model, 0)
    seen = []
    for block in model.blocks:
        if block.sparse:
            chosen = block.experts.order[model.routes[:100]]
            assert all(len(set(row)) == config.experts.active for row in chosen.tolist())
            seen.append(torch.bincount(chosen.flatten(), minlength=config.experts.count).tolist())
    assert seen
    for load in seen:
        assert max(load) - min(load) <= 1
    with torch.inference_mode():
        before = model(torch.arange(20)[None])
        for block in model.blocks:
            if block.sparse:
                block.experts.order = None
        model.routes = None
        assert not torch.allclose(model(torch.arange(20)[None]), before)


def test_traits_are_named():
    assert traits(from_dict(NAMED["llama_3_1_8b"].model_dump(mode="json"))) == ("scaled rotary",)
    gemma = traits(from_dict(MODELS["Gemma 2"].model_dump(mode="json")))
    assert {"norm of 1 + weight", "GeGLU", "capped attention scores", "local and global layers"} <= set(gemma)
    plain = from_dict(NAMED["open_llama_7b"].model_dump(mode="json"))
    assert not traits(plain)
    assert not traits(dataclasses.replace(plain, tied_head=True))
