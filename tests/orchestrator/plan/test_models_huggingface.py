"""config.json as our ModelConfig: what is taken over, and what is refused by file, key and reason."""

from __future__ import annotations

import math

import pytest

from orchestrator.base.errors import EXIT_WRONG_USAGE, UsageError
from orchestrator.plan.models import from_huggingface, named_models

LLAMA2 = {
    "architectures": ["LlamaForCausalLM"],
    "hidden_act": "silu",
    "hidden_size": 4096,
    "intermediate_size": 11008,
    "max_position_embeddings": 4096,
    "num_attention_heads": 32,
    "num_hidden_layers": 32,
    "rms_norm_eps": 1e-05,
    "rope_scaling": None,
    "tie_word_embeddings": False,
    "vocab_size": 32000,
}
LLAMA3_SCALING = {
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 8192,
    "rope_type": "llama3",
}
LLAMA31 = LLAMA2 | {
    "attention_bias": False,
    "intermediate_size": 14336,
    "max_position_embeddings": 131072,
    "mlp_bias": False,
    "num_key_value_heads": 8,
    "rope_scaling": LLAMA3_SCALING,
    "rope_theta": 500000.0,
    "vocab_size": 128256,
}
MISTRAL = LLAMA2 | {
    "architectures": ["MistralForCausalLM"],
    "num_key_value_heads": 8,
    "sliding_window": 4096,
    "rope_theta": 10000.0,
}
QWEN2 = LLAMA2 | {
    "architectures": ["Qwen2ForCausalLM"],
    "hidden_size": 896,
    "num_attention_heads": 14,
    "num_key_value_heads": 2,
    "rope_theta": 1000000.0,
    "sliding_window": 32768,
    "max_window_layers": 24,
    "tie_word_embeddings": True,
    "use_sliding_window": False,
}


def without(raw, *keys):
    return {key: value for key, value in raw.items() if key not in keys}


PHI4 = LLAMA2 | {
    "architectures": ["Phi3ForCausalLM"],
    "full_attn_mod": 1,
    "hidden_size": 3072,
    "intermediate_size": 8192,
    "interpolate_factor": 1,
    "max_position_embeddings": 131072,
    "num_attention_heads": 24,
    "num_key_value_heads": 8,
    "original_max_position_embeddings": 4096,
    "partial_rotary_factor": 0.75,
    "rope_scaling": {"type": "longrope", "short_factor": [1.0] * 48, "long_factor": [2.0] * 48},
    "rope_theta": 10000.0,
    "sliding_window": 262144,
    "tie_word_embeddings": True,
    "vocab_size": 200064,
}
GEMMA3 = {
    "architectures": ["Gemma3ForConditionalGeneration"],
    "eos_token_id": [1, 106],
    "image_token_index": 262144,
    "text_config": {
        "hidden_size": 2560,
        "intermediate_size": 10240,
        "model_type": "gemma3_text",
        "num_hidden_layers": 34,
        "rope_scaling": {"factor": 8.0, "rope_type": "linear"},
        "sliding_window": 1024,
    },
    "vision_config": {"hidden_size": 1152},
}
QWEN3 = LLAMA2 | {
    "architectures": ["Qwen3ForCausalLM"],
    "attention_bias": False,
    "head_dim": 128,
    "intermediate_size": 12288,
    "max_position_embeddings": 40960,
    "max_window_layers": 36,
    "num_hidden_layers": 36,
    "num_key_value_heads": 8,
    "rms_norm_eps": 1e-6,
    "rope_theta": 1000000,
    "sliding_window": None,
    "use_sliding_window": False,
    "vocab_size": 151936,
}
QWEN3_MOE = QWEN3 | {
    "architectures": ["Qwen3MoeForCausalLM"],
    "decoder_sparse_step": 1,
    "hidden_size": 2048,
    "intermediate_size": 6144,
    "max_window_layers": 48,
    "mlp_only_layers": [],
    "moe_intermediate_size": 768,
    "norm_topk_prob": True,
    "num_experts": 128,
    "num_experts_per_tok": 8,
    "num_hidden_layers": 48,
    "num_key_value_heads": 4,
    "output_router_logits": False,
    "router_aux_loss_coef": 0.001,
}
PUBLISHED = {
    "llama_3_1_8b": LLAMA31,
    "qwen3_8b": QWEN3,
    "gemma_3_4b": GEMMA3,
    "phi_4_mini": PHI4,
    "mistral_7b": MISTRAL
    | {"intermediate_size": 14336, "max_position_embeddings": 32768, "vocab_size": 32768, "sliding_window": None}
    | {"rope_theta": 1000000.0},
    "qwen3_30b_a3b": QWEN3_MOE,
}


def nested(**more):
    return GEMMA3 | {"text_config": GEMMA3["text_config"] | more}


@pytest.mark.parametrize("name", PUBLISHED)
def test_built_in_models_are_as_published(name):
    published = PUBLISHED[name]
    found, built_in = from_huggingface(published, name), named_models()[name]
    if name == "phi_4_mini":  # whose factors for each pair are here without the long ones
        assert built_in.rope_scaling is not None
        assert built_in.rope_scaling["short_factor"] == [1.0] * 48
    assert built_in == found


def test_gemma_3_of_several_inputs_is_its_text_model():
    model = from_huggingface(GEMMA3, "m")
    assert (model.width, model.heads, model.head_size, model.vocabulary) == (2560, 8, 256, 262208)
    assert (model.rope_base, model.local_rope_base) == (1e6, 1e4)
    assert model.rope_scaling == {"rope_type": "linear", "factor": 8.0}
    assert model.full_layers == (5, 11, 17, 23, 29)
    assert model.tied_head
    text = GEMMA3["text_config"] | {"architectures": ["Gemma3ForCausalLM"]}
    assert from_huggingface(text, "m") == model


def test_longrope_ends_where_its_short_factors_do():
    model = from_huggingface(PHI4, "m")
    assert (model.block_size, model.rotary_size) == (4096, 96)
    assert model.rope_scaling is not None
    assert model.rope_scaling["attention_factor"] == pytest.approx((1 + math.log(32) / math.log(4096)) ** 0.5)


def test_what_is_not_known_is_named_and_what_is_taken_listed():
    with pytest.raises(UsageError, match=r"key use_parallel_residual: True may change what Llama.* computes") as caught:
        from_huggingface(LLAMA2 | {"use_parallel_residual": True}, "m")
    assert "hidden_size, intermediate_size" in str(caught.value.remedy)
    off = LLAMA2 | {"use_parallel_residual": False, "_own": 3, "torch_dtype": "bfloat16", "dtype": "bfloat16"}
    assert from_huggingface(off, "m") == from_huggingface(LLAMA2, "m")


def test_experts_of_both_generations_of_keys():
    new = without(QWEN3_MOE, "num_experts") | {"num_local_experts": 128}
    model = from_huggingface(new, "m")
    assert model == from_huggingface(QWEN3_MOE, "m")
    assert model.experts is not None
    assert (model.experts.count, model.experts.active, model.experts.width) == (128, 8, 768)
    some = from_huggingface(QWEN3_MOE | {"decoder_sparse_step": 2, "mlp_only_layers": [1]}, "m")
    assert [layer for layer in range(6) if some.has_experts(layer)] == [3, 5]
    assert from_huggingface(QWEN3_MOE | {"mlp_only_layers": list(range(48))}, "m").experts is None


def test_llama_2_without_the_optional_keys():
    model = from_huggingface(LLAMA2, "mine")
    assert model.model_dump(exclude_defaults=True) == {
        "name": "mine",
        "layers": 32,
        "width": 4096,
        "heads": 32,
        "kv_heads": 32,
        "head_size": 128,
        "mlp_width": 11008,
        "vocabulary": 32000,
        "block_size": 4096,
        "norm_eps": 1e-5,
        "rope_base": 10000.0,
        "rope_scaling": None,
        "tied_head": False,
        "qkv_bias": False,
        "sliding_window": None,
    }


def test_llama_3_1_and_the_new_keys_mean_the_same():
    new = without(LLAMA31, "rope_theta", "rope_scaling")
    new["rope_parameters"] = {"rope_theta": 500000.0, **LLAMA3_SCALING}
    model = from_huggingface(LLAMA31, "m")
    assert model == from_huggingface(new, "m")
    assert (model.kv_heads, model.rope_base, model.rope_scaling) == (8, 500000.0, LLAMA3_SCALING)


def test_default_rope_of_transformers_5():
    new = without(LLAMA2, "rope_scaling") | {"rope_parameters": {"rope_theta": 5000, "rope_type": "default"}}
    model = from_huggingface(new, "m")
    assert (model.rope_base, model.rope_scaling) == (5000.0, None)


@pytest.mark.parametrize("key", ["type", "rope_type"])
def test_linear_scaling(key):
    model = from_huggingface(LLAMA2 | {"rope_scaling": {key: "linear", "factor": 2}}, "m")
    assert model.rope_scaling == {"rope_type": "linear", "factor": 2.0}


def test_head_size_of_its_own():
    assert from_huggingface(LLAMA2 | {"head_dim": 64}, "m").head_size == 64
    assert from_huggingface(LLAMA2 | {"head_dim": None}, "m").head_size == 128


def test_mistral_keeps_its_window():
    assert from_huggingface(MISTRAL, "m").sliding_window == 4096
    assert from_huggingface(MISTRAL | {"sliding_window": None}, "m").sliding_window is None


def test_qwen2_has_biases_and_no_window_unless_used():
    model = from_huggingface(QWEN2, "m")
    assert (model.qkv_bias, model.tied_head, model.head_size, model.sliding_window) == (True, True, 64, None)
    used = QWEN2 | {"use_sliding_window": True, "max_window_layers": 0}
    assert from_huggingface(used, "m").sliding_window == 32768
    assert from_huggingface(used | {"max_window_layers": 32}, "m").sliding_window is None
    assert from_huggingface(used | {"layer_types": ["full_attention"] * 32}, "m").sliding_window is None


@pytest.mark.parametrize(
    ("raw", "key", "word"),
    [
        *[
            (without(LLAMA2, key), key, "missing")
            for key in LLAMA2
            if key not in ("hidden_act", "rope_scaling", "tie_word_embeddings")
        ],
        (without(MISTRAL, "sliding_window"), "sliding_window", "missing"),
        (without(MISTRAL, "num_key_value_heads"), "num_key_value_heads", "missing"),
        (LLAMA2 | {"architectures": ["GPT2LMHeadModel"]}, "architectures", "not supported"),
        (LLAMA2 | {"architectures": "LlamaForCausalLM"}, "architectures", "not supported"),
        (LLAMA2 | {"architectures": [["LlamaForCausalLM"]]}, "architectures", "not supported"),
        (LLAMA2 | {"attention_bias": True}, "attention_bias", "o_proj"),
        (LLAMA2 | {"mlp_bias": True}, "mlp_bias", "MLP"),
        *[
            (LLAMA2 | {key: zero}, key, f"{zero} is neither true nor false")
            for key in ("attention_bias", "mlp_bias")
            for zero in (0, 0.0)
        ],
        (LLAMA2 | {"hidden_act": "gelu"}, "hidden_act", "silu"),
        (LLAMA2 | {"quantization_config": {"bits": 4}}, "quantization_config", "quantised"),
        (LLAMA2 | {"hidden_size": -1}, "hidden_size", "positive integer"),
        (LLAMA2 | {"hidden_size": True}, "hidden_size", "positive integer"),
        (LLAMA2 | {"hidden_size": 4096.0}, "hidden_size", "positive integer"),
        (LLAMA2 | {"hidden_size": 10**4000}, "hidden_size", "positive integer"),
        (LLAMA2 | {"hidden_size": 100}, "hidden_size", "multiple"),
        (LLAMA2 | {"head_dim": 33}, "head_dim", "odd"),
        (LLAMA2 | {"head_dim": "64"}, "head_dim", "positive integer"),
        (MISTRAL | {"sliding_window": 0}, "sliding_window", "positive integer"),
        (QWEN2 | {"use_sliding_window": 1}, "use_sliding_window", "true nor false"),
        (QWEN2 | {"use_sliding_window": True, "max_window_layers": 0, "sliding_window": None}, "window", "missing"),
        (LLAMA2 | {"num_key_value_heads": 5}, "num_key_value_heads", "divide"),
        (LLAMA2 | {"rms_norm_eps": float("nan")}, "rms_norm_eps", "finite"),
        (LLAMA2 | {"rope_theta": float("inf")}, "rope_theta", "finite"),
        (LLAMA2 | {"rope_theta": "x" * 10000}, "rope_theta", "finite"),
        (LLAMA2 | {"tie_word_embeddings": "no"}, "tie_word_embeddings", "true nor false"),
        (LLAMA2 | {"partial_rotary_factor": 0.5}, "partial_rotary_factor", "part"),
        (LLAMA2 | {"partial_rotary_factor": True}, "partial_rotary_factor", "True is not a finite number"),
        (LLAMA2 | {"rope_scaling": {"partial_rotary_factor": True}}, "rope_scaling.partial", "True is not a finite"),
        (LLAMA2 | {"rope_scaling": [1]}, "rope_scaling", "object"),
        (LLAMA2 | {"rope_scaling": {"type": "linear"}}, "rope_scaling.factor", "missing"),
        (LLAMA2 | {"rope_scaling": {"factor": 2.0}}, "rope_scaling.rope_type", "not supported"),
        (LLAMA2 | {"rope_scaling": LLAMA3_SCALING | {"low_freq_factor": 4.0}}, "low_freq_factor", "below"),
        (LLAMA2 | {"rope_parameters": {"full_attention": {"rope_theta": 1}}}, "rope_parameters", "layer type"),
        *[
            (LLAMA2 | {"rope_scaling": {key: kind, "factor": 2.0}}, f"rope_scaling.{key}", kind)
            for key in ("type", "rope_type")
            for kind in ("su", "proportional")
        ],
        (QWEN2 | {"use_sliding_window": True, "layer_types": 3}, "layer_types", "3 is not a list"),
        (QWEN2 | {"use_sliding_window": True, "layer_types": ["chunked"] * 32}, "layer_types", "is not a list"),
        (QWEN2 | {"use_sliding_window": True, "layer_types": ["full_attention"]}, "layer_types", "1 layers of 32"),
        (LLAMA2 | {"rope_scaling": {"rope_type": "yarn", "factor": 2.0}}, "original_max", "missing"),
        (
            LLAMA2 | {"rope_scaling": {"rope_type": "dynamic", "factor": 2.0, "alpha": 8}},
            "alpha",
            "not known for dynamic",
        ),
        (LLAMA2 | {"attention_dropout": 0.1}, "attention_dropout", "dropout"),
        (without(PHI4, "rope_scaling") | {"partial_rotary_factor": 0.76}, "partial_rotary", "not pairs"),
        (PHI4 | {"rope_scaling": PHI4["rope_scaling"] | {"short_factor": [1.0]}}, "short_factor", "1 numbers"),
        (GEMMA3 | {"text_config": None}, "text_config", "not an object"),
        (nested(attn_logit_softcapping=50.0), "text_config: key attn_logit", "cap on the scores"),
        (nested(hidden_activation="gelu"), "hidden_activation", "GeGLU"),
        (nested(use_bidirectional_attention=True), "use_bidirectional_attention", "later tokens"),
        (QWEN3_MOE | {"output_router_logits": True}, "output_router_logits", "loss of the router"),
        (QWEN3_MOE | {"num_experts_per_tok": 200}, "num_experts_per_tok", "200 of 128"),
        (QWEN3_MOE | {"mlp_only_layers": [-1]}, "mlp_only_layers", "not a list of layers"),
    ],
)
def test_refused_in_one_line(raw, key, word):
    with pytest.raises(UsageError) as caught:
        from_huggingface(raw, "m", file="mine/config.json")
    line = str(caught.value)
    assert line.startswith("mine/config.json: ")
    assert key in line
    assert word in line
    assert caught.value.remedy
    assert "\n" not in line
    assert len(line) < 300
    assert caught.value.exit_code == EXIT_WRONG_USAGE


def test_not_an_object():
    with pytest.raises(UsageError, match="not a JSON object"):
        from_huggingface([], "m")  # type: ignore[arg-type]
