"""What a workload has to do at the least, by count. Causal attention counts as half of the square."""

from __future__ import annotations

from bench.spec import ModelConfig, Workload

BYTES = {"bfloat16": 2, "float32": 4, "float64": 8}


def forward_flops(config: ModelConfig, batch: int, time: int) -> int:
    """A multiplication and an addition for each linear weight and token, and for each causal pair twice."""
    linear = 2 * config.linear_parameters * batch * time
    attention = 2 * batch * time * time * config.heads * config.head_size * config.layers
    return linear + attention


def training_flops(config: ModelConfig, batch: int, time: int) -> int:
    """Forward, and backward as two forwards."""
    return 3 * forward_flops(config, batch, time)


def generation_flops(config: ModelConfig, batch: int, prompt: int, new_tokens: int) -> int:
    """Every position but the last sampled one goes through the model once."""
    return forward_flops(config, batch, prompt + new_tokens - 1)


def generation_bytes(config: ModelConfig, workload: Workload, new_tokens: int) -> int:
    """Each step reads every linear weight once; the cache and the activations are small beside them."""
    return config.linear_parameters * BYTES[workload.dtype] * new_tokens
