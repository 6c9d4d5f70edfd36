"""A model written as a Hugging Face folder is the one that the reader of checkpoints reads, to the bit."""

from __future__ import annotations

import json

import bench_specs
import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("safetensors")

from bench.model import huggingface, weights  # noqa: E402
from bench.model.checkpoint import load_checkpoint  # noqa: E402
from bench.model.gpt import build  # noqa: E402
from bench.operators import Operators  # noqa: E402
from bench.spec import from_dict, named  # noqa: E402
from bench.status import Unsupported  # noqa: E402

TINY = {**bench_specs.MODELS["tiny"], "name": "tiny"}
EXPERTS = {"count": 4, "active": 2, "width": 48, "normalised": True}
LLAMA3 = bench_specs.MODELS["llama_3_1_8b"]["rope_scaling"]
GEMMA = {
    "activation": "gelu_tanh", "norm_plus_one": True, "post_norms": True, "embedding_scaled": True, "tied_head": True,
    "sliding_window": 24, "full_layers": [1],
}  # fmt: skip
FAMILIES = {
    "llama": {},
    "llama with scaling": {"rope_scaling": LLAMA3, "kv_heads": 2},
    "mistral": {"sliding_window": 24},
    "mixtral": {"experts": {**EXPERTS, "width": TINY["mlp_width"]}},
    "qwen2": {"qkv_bias": True, "tied_head": True, "kv_heads": 2},
    "qwen2 with a window": {"qkv_bias": True, "sliding_window": 24, "full_layers": [0]},
    "qwen2_moe": {"qkv_bias": True, "experts": {**EXPERTS, "shared_width": 32}},
    "qwen3": {"qk_norm": True},
    "qwen3_moe": {"qk_norm": True, "experts": EXPERTS},
    "gemma2": {**GEMMA, "attention_cap": 50.0, "logit_cap": 30.0, "query_scalar": 24.0},
    "gemma3_text": {**GEMMA, "qk_norm": True, "local_rope_base": 5000.0},
    "phi3": {"rotary_size": 8},
}


def made(changes, dtype=torch.bfloat16):
    model = build(from_dict({**TINY, **changes}), Operators(), dtype, "cpu")
    weights.fill(model, 3)
    return model


@pytest.mark.parametrize("family", FAMILIES)
def test_what_is_written_is_what_is_read(tmp_path, family):
    model = made(FAMILIES[family])
    assert huggingface.family_of(model.config) == family.partition(" ")[0]
    huggingface.write_folder(tmp_path, model.config, dict(model.named_parameters()))
    other = build(model.config, Operators(), torch.bfloat16, "cpu")
    load_checkpoint(str(tmp_path), dict(other.named_parameters()), model.config)
    assert weights.checksum(other) == weights.checksum(model)


@pytest.mark.parametrize("family", FAMILIES)
def test_its_configuration_is_the_models_own(family):
    pytest.importorskip("pydantic")
    from orchestrator.plan.models import from_huggingface
    from orchestrator.plan.workload import ModelConfig

    config = from_dict({**TINY, **FAMILIES[family]})
    raw = json.loads(json.dumps(huggingface.configuration(config, "bfloat16")))
    assert from_huggingface(raw, "tiny") == ModelConfig(**{**TINY, **FAMILIES[family]})


@pytest.mark.parametrize("name", [name for name in bench_specs.MODELS if not bench_specs.MODELS[name].get("experts")])
def test_the_built_in_models_have_a_configuration(name):
    pytest.importorskip("pydantic")
    from orchestrator.plan.models import from_huggingface, named_models

    raw = json.loads(json.dumps(huggingface.configuration(named(name), "bfloat16")))
    assert from_huggingface(raw, name) == named_models()[name]


def test_many_tensors_are_cut_into_files(tmp_path, monkeypatch):
    model = made({}, torch.float32)
    monkeypatch.setattr(huggingface, "SHARD_BYTES", 100_000)
    files = huggingface.write_folder(tmp_path, model.config, dict(model.named_parameters()))
    assert len([name for name in files if name.endswith(".safetensors")]) > 2
    assert {path.name: path.stat().st_size for path in tmp_path.iterdir()} == {n: f["bytes"] for n, f in files.items()}
    other = build(model.config, Operators(), torch.float32, "cpu")
    load_checkpoint(str(tmp_path), dict(other.named_parameters()), model.config)
    assert weights.checksum(other) == weights.checksum(model)


def test_experts_of_no_family_are_refused():
    with pytest.raises(Unsupported, match="no family of Hugging Face's has the experts of tiny"):
        huggingface.configuration(from_dict({**TINY, "experts": EXPERTS}), "bfloat16")
