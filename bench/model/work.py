"""What a workload has to do at the least, by count. Causal attention counts as half of the square."""

from __future__ import annotations

from bench.spec import ModelConfig, Workload

BYTES = {"bfloat16": 2, "float32": 4, "float64": 8}


def forward_flops(config: ModelConfig, batch: int, time: int) -> int:
    """A multiplication and an addition for each linear weight and token, and for each causal pair twice."""
    linear = 2 * config.linear_parameters * batch * time
    # Of a layer with a window, only the pairs within it: the others are a triangle too.
    beyond = max(0, time - config.sliding_window) if config.sliding_window is not None else 0
    local = sum(map(config.is_local, range(config.layers)))
    squares = config.layers * time * time - local * beyond * beyond
    return linear + 2 * batch * squares * config.heads * config.head_size


def training_flops(config: ModelConfig, batch: int, time: int) -> int:
    """Forward, and backward as two forwards."""
    return 3 * forward_flops(config, batch, time)


def generation_flops(config: ModelConfig, batch: int, prompt: int, new_tokens: int) -> int:
    """Every position but the last sampled one goes through the model once."""
    return forward_flops(config, batch, prompt + new_tokens - 1)


def generation_bytes(config: ModelConfig, workload: Workload, new_tokens: int) -> int:
    """Each step reads every linear weight once; the cache and the activations are small beside them.

    Of experts it reads those of one token, and the prompt's step at least as many as its tokens can spread over where
    the hash chooses them; the rows of a batch may all take the same ones.
    """
    elements = config.linear_parameters * new_tokens
    if (experts := config.experts) is not None and workload.weights and workload.weights["source"] != "checkpoint":
        seen = min(experts.count, experts.active * (workload.prompt_length or 1))
        sparse = sum(map(config.has_experts, range(config.layers)))
        elements += sparse * 3 * config.width * experts.width * (seen - experts.active)
    return elements * BYTES[workload.dtype]


def batched_flops(config: ModelConfig, batch: int, prompt: int, new_tokens: int) -> int:
    """As of a generation, but the head is computed for each new token alone."""
    head = 2 * config.width * config.vocabulary * batch * (prompt - 1)
    return generation_flops(config, batch, prompt, new_tokens) - head


def batched_bytes(config: ModelConfig, workload: Workload, prompt: int, new_tokens: int) -> int:
    """Each step reads every linear weight once and, after the first one, all keys and values of the positions before.

    A layer with a window reads no more than that of them.
    """
    window, elements = config.sliding_window, 0
    for layer in range(config.layers):
        most = window if window is not None and config.is_local(layer) else prompt + new_tokens
        elements += sum(min(position, most) for position in range(prompt, prompt + new_tokens - 1))
    cached = 2 * (workload.batch or 1) * elements * config.kv_heads * config.head_size
    return generation_bytes(config, workload, new_tokens) + cached * BYTES[workload.dtype]
