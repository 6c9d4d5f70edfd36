"""Fills a model's parameters: from the hash, or from a user's checkpoint; and says by a checksum what they are."""

from __future__ import annotations

import hashlib
import math
from typing import Any

import torch

from bench.model import hashing
from bench.model.gpt import GPT, Norm
from bench.model.shards import full

# Norm weights are spread around 1, so that a method which ignores them is found out.
NORM_LOW, NORM_SPREAD = 0.57, 0.86
# Standard deviation of every linear and embedding weight, times sqrt(width): 0.02 at width 4096.
GAIN = 1.28

# Of queries times keys on a probe, at a head size of 32: four times this makes deep models chaotic.
PROBE_GAIN, PROBE_HEAD_SIZE = 4.0, 32


def fill(model: GPT, seed: int, *, routed: bool = False) -> None:
    """Give every parameter its hash values, rounded to bfloat16 whatever the dtype that then holds them.

    A router of such weights loads some experts far more than others: the hash chooses them instead, unless `routed`.
    """
    config = model.config
    scale, low = GAIN / config.width**0.5 / hashing.BELL_STD, NORM_LOW - (1.0 if config.norm_plus_one else 0.0)
    for name, parameter in model.named_parameters():
        fill_tensor(parameter, name, seed, scale=None if "norm" in name else scale, low=low)
    if config.experts is not None and model.routes is None and not routed:
        layers = filter(config.has_experts, range(config.layers))
        model.make_routes({layer: order_of(config.experts.count, f"blocks.{layer}.experts", seed) for layer in layers})


def order_of(count: int, name: str, seed: int) -> torch.Tensor:
    """The numbers below `count` in the order of the stream `name`, made on the CPU whatever the device."""
    return torch.argsort(hashing.words(0, count, hashing.keys(f"{name}/order", seed), "cpu"), stable=True)


@torch.no_grad()
def fill_tensor(tensor: torch.Tensor, name: str, seed: int, scale: float | None, low: float = NORM_LOW) -> None:
    """Bell-shaped values times `scale`, or norm weights where `scale` is None, uniform from `low` on."""
    flat, key = tensor.view(-1), hashing.keys(name, seed)
    for start, length in hashing.chunks(flat.numel(), flat.device):
        x = hashing.words(start, length, key, flat.device)
        spread = hashing.unit(x).mul_(NORM_SPREAD).add_(low) if scale is None else hashing.bell(x).mul_(scale)
        flat[start : start + length].copy_(spread.to(torch.bfloat16))


@torch.no_grad()
def fill_probe(model: GPT, seed: int, *, routed: bool = False) -> None:
    """The hash's values, times powers of two, so that they stay exact.

    Queries and keys grow: attention is almost uniform otherwise, and neither rotary, mask nor scale matter much.
    What goes into the residual stream shrinks until the norms' epsilon matters.
    """
    fill(model, seed, routed=routed)
    config = model.config
    # A tied head needs its size: the logits come from it.
    embedding, branch = (1.0, 2.0**-2) if config.tied_head else (2.0**-4, 2.0**-6)
    if config.embedding_scaled:
        embedding = 2.0 ** -round(math.log2(config.width) / 2)
    model.embedding.weight.mul_(embedding)
    # Scores grow with the root of the head's size; a power of two is left for each of queries and keys.
    power = round(math.log2(PROBE_GAIN * (PROBE_HEAD_SIZE / config.head_size) ** 0.5))
    gains = 2.0 ** (power // 2), 2.0 ** (power - power // 2)
    queries, both = (heads * config.head_size for heads in (config.heads, config.heads + config.kv_heads))
    for block in model.blocks:
        if config.qk_norm:  # whatever goes into these norms, what comes out has the size that they give it
            times(block.norm_q, PROBE_GAIN**0.5)
            times(block.norm_k, PROBE_GAIN**0.5)
        else:
            block.qkv.weight[:queries].mul_(gains[0])
            block.qkv.weight[queries:both].mul_(gains[1])
        if config.post_norms:
            times(block.norm_after_attention, branch)
            times(block.norm_after_mlp, branch)
        else:
            block.out.weight.mul_(branch)
            (block.experts.down if block.sparse else block.down.weight).mul_(branch)
            if block.sparse and block.experts.config.shared_width is not None:
                block.experts.shared_down.weight.mul_(branch)


def times(norm: Norm, factor: float) -> None:
    """Scale what a norm gives, which may multiply by 1 more than its weight."""
    plus = norm.asked.get("plus", 0.0)
    norm.weight.copy_(((norm.weight.double() + plus) * factor - plus).to(torch.bfloat16))


def checksum(model: GPT) -> str:
    """Sixteen hex digits over every parameter's name, shape and bits."""
    whole = hashlib.sha256()
    for name, parameter in model.named_parameters():
        whole.update(f"{name} {tuple(parameter.shape)} {hashing.checksum(full(parameter.detach()))}\n".encode())
    return whole.hexdigest()[:16]


def facts(model: GPT) -> dict[str, Any]:
    """What a record's `proof` says of them: checksum and count."""
    count = sum(parameter.numel() for parameter in model.parameters())
    return {"weights_checksum": checksum(model), "parameters": count}
