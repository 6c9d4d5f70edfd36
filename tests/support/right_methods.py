"""Methods that are right but round in another order than eager: what the proof must not take for wrong."""

from __future__ import annotations

import random
from typing import Any

import planted
import torch
import torch.nn.functional as F  # noqa: N812  (torch's own habit)
from torch import Tensor

from bench.operators import Operators, widen
from bench.operators.experts import activate


def norm(x: Tensor, weight: Tensor, eps: float, *, plus: float = 0.0) -> Tensor:
    """RMSNorm with a root and a division, the weight applied before the one rounding."""
    wide = widen(x)
    return (wide * (widen(weight) + plus) / torch.sqrt((wide * wide).mean(-1, keepdim=True) + eps)).to(x.dtype)


def rotary(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Rotated wide, rounded once."""
    half = x.shape[-1] // 2
    first, second = widen(x[..., :half]), widen(x[..., half:])
    cos, sin = cos[:, None], sin[:, None]
    return torch.cat([first * cos - second * sin, second * cos + first * sin], dim=-1).to(x.dtype)


def attention(
    q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None, *, scale: float | None = None, cap: float | None = None
) -> Tensor:
    """Written out: queries scaled first, the softmax's division last."""
    groups = q.shape[2] // k.shape[2]
    k, v = k.repeat_interleave(groups, 2), v.repeat_interleave(groups, 2)
    q, k, v = (x.transpose(1, 2) for x in (q * (scale or q.shape[-1] ** -0.5), k, v))
    scores = widen(q @ k.transpose(2, 3))
    if cap is not None:
        scores = cap * torch.tanh(scores * (1 / cap))
    if mask is None:
        hidden = torch.ones(scores.shape[-2:], dtype=torch.bool, device=q.device).triu(1)
        scores = scores.masked_fill(hidden, float("-inf"))
    else:
        scores = scores + widen(mask)
    power = torch.exp(scores - scores.amax(-1, keepdim=True))
    return ((power.to(q.dtype) @ v) / power.sum(-1, keepdim=True).to(q.dtype)).transpose(1, 2)


def swiglu(x: Tensor, gate: Tensor, up: Tensor, down: Tensor, *, activation: str = "silu") -> Tensor:
    """The gate applied wide, the last product split in two."""
    hidden = (activate(widen(F.linear(x, gate)), activation) * widen(F.linear(x, up))).to(x.dtype)
    half = hidden.shape[-1] // 2
    return F.linear(hidden[..., :half], down[:, :half]) + F.linear(hidden[..., half:], down[:, half:])


def joined_swiglu(x: Tensor, gate: Tensor, up: Tensor, down: Tensor, *, activation: str = "silu") -> Tensor:
    """Gate and up in one product."""
    both = F.linear(x, torch.cat([gate, up]))
    first, second = both.chunk(2, dim=-1)
    return F.linear(activate(first, activation) * second, down)


def chunked_loss(logits: Tensor, targets: Tensor) -> Tensor:
    """Over a few positions at a time."""
    flat, wanted = logits.reshape(-1, logits.shape[-1]), targets.reshape(-1)
    parts = zip(flat.split(7), wanted.split(7), strict=True)
    sums = [F.cross_entropy(widen(part), goal, ignore_index=-1, reduction="sum") for part, goal in parts]
    return torch.stack(sums).sum() / (wanted != -1).sum()


def split_projections(gpt: Any) -> None:
    """Queries, keys and values each by a product of its own."""
    for block in gpt.blocks:

        def qkv(x: Tensor, block: Any = block) -> Tensor:
            sizes = [heads * block.config.head_size for heads in (block.config.heads, *[block.config.kv_heads] * 2)]
            bias = block.qkv.bias.split(sizes) if block.qkv.bias is not None else [None] * 3
            parts = zip(block.qkv.weight.split(sizes), bias, strict=True)
            return torch.cat([F.linear(x, weight, one) for weight, one in parts], dim=-1)

        block.qkv.forward = qkv


def split_k(gpt: Any) -> None:
    """Products summed up in an order that chance decides at each call, as atomic additions do."""
    chance = random.Random(0)  # noqa: S311 - it only has to differ from call to call
    for block in gpt.blocks:
        for linear in (block.qkv, block.out):

            def product(x: Tensor, linear: Any = linear) -> Tensor:
                size = linear.weight.shape[1]
                cuts = list(range(0, size, -(-size // 4)))
                chance.shuffle(cuts)
                pieces = [slice(cut, cut + -(-size // 4)) for cut in cuts]
                parts = [widen(F.linear(x[..., piece], linear.weight[:, piece])) for piece in pieces]
                whole = parts[0]
                for part in parts[1:]:
                    whole = whole + part
                return whole.to(x.dtype) if linear.bias is None else whole.to(x.dtype) + linear.bias

            linear.forward = product


METHODS: dict[str, Any] = {
    "eager": planted.method(),
    "other norm": planted.method(operators=Operators(norm=norm)),
    "other rotary": planted.method(operators=Operators(rotary=rotary)),
    "other attention": planted.method(operators=Operators(attention=attention)),
    "other SwiGLU": planted.method(operators=Operators(swiglu=swiglu)),
    "joined SwiGLU": planted.method(operators=Operators(swiglu=joined_swiglu)),
    "chunked loss": planted.method(operators=Operators(loss=chunked_loss)),
    "split projections": planted.method(gpt=split_projections),
    "split-K": planted.method(gpt=split_k),
    "all others": planted.method(operators=Operators(norm=norm, rotary=rotary, attention=attention, swiglu=swiglu)),
}
