"""What a configuration asks for beyond Llama's: in words, and as keywords of the operators that compute it."""

from __future__ import annotations

from typing import Any

from bench.spec import ModelConfig

CAPPED, EXPERTS = "capped attention scores", "experts"


def traits(config: ModelConfig) -> tuple[str, ...]:
    """Name what is asked for, so that a method can say which of it it cannot do."""
    asked = {
        "q and k norms": config.qk_norm,
        "norm of 1 + weight": config.norm_plus_one,
        "norms after each branch": config.post_norms,
        "scaled embedding": config.embedding_scaled,
        "GeGLU": config.activation == "gelu_tanh",
        "attention scale of its own": config.query_scalar is not None,
        CAPPED: config.attention_cap is not None,
        "capped logits": config.logit_cap is not None,
        "sliding window": config.sliding_window is not None,
        "local and global layers": bool(config.full_layers),
        "two rotary bases": config.local_rope_base is not None,
        "partial rotary": config.rotary_size is not None,
        "scaled rotary": config.rope_scaling is not None,
        EXPERTS: config.experts is not None,
    }
    return tuple(name for name, wanted in asked.items() if wanted)


def keywords(config: ModelConfig) -> dict[str, dict[str, Any]]:
    """Return the keyword arguments of each operator beside its tensors: none for what is as Llama's."""
    scale = None if config.query_scalar is None else config.query_scalar**-0.5
    asked: dict[str, dict[str, Any]] = {
        "norm": {"plus": 1.0 if config.norm_plus_one else None},
        "rotary": {},
        "attention": {"scale": scale, "cap": config.attention_cap},
        "swiglu": {"activation": None if config.activation == "silu" else config.activation},
    }
    return {kind: {name: value for name, value in own.items() if value is not None} for kind, own in asked.items()}
