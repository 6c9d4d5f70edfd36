"""Methods that are right but round in another order than eager: what the proof must not take for wrong."""

from __future__ import annotations

from typing import Any

import planted
import torch
import torch.nn.functional as F  # noqa: N812  (torch's own habit)
from torch import Tensor

from bench.operators import Operators, widen


def norm(x: Tensor, weight: Tensor, eps: float) -> Tensor:
    """RMSNorm with a root and a division, the weight applied before the one rounding."""
    wide = widen(x)
    return (wide * widen(weight) / torch.sqrt((wide * wide).mean(-1, keepdim=True) + eps)).to(x.dtype)


def rotary(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Rotated wide, rounded once."""
    half = x.shape[-1] // 2
    first, second = widen(x[..., :half]), widen(x[..., half:])
    cos, sin = cos[:, None], sin[:, None]
    return torch.cat([first * cos - second * sin, second * cos + first * sin], dim=-1).to(x.dtype)


def attention(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None) -> Tensor:
    """Written out: queries scaled first, the softmax's division last."""
    groups = q.shape[2] // k.shape[2]
    k, v = k.repeat_interleave(groups, 2), v.repeat_interleave(groups, 2)
    q, k, v = (x.transpose(1, 2) for x in (q * q.shape[-1] ** -0.5, k, v))
    scores = widen(q @ k.transpose(2, 3))
    if mask is None:
        hidden = torch.ones(scores.shape[-2:], dtype=torch.bool, device=q.device).triu(1)
        scores = scores.masked_fill(hidden, float("-inf"))
    else:
        scores = scores + widen(mask)
    power = torch.exp(scores - scores.amax(-1, keepdim=True))
    return ((power.to(q.dtype) @ v) / power.sum(-1, keepdim=True).to(q.dtype)).transpose(1, 2)


def swiglu(x: Tensor, gate: Tensor, up: Tensor, down: Tensor) -> Tensor:
    """The gate applied wide, the last product split in two."""
    hidden = (F.silu(widen(F.linear(x, gate))) * widen(F.linear(x, up))).to(x.dtype)
    half = hidden.shape[-1] // 2
    return F.linear(hidden[..., :half], down[:, :half]) + F.linear(hidden[..., half:], down[:, half:])


METHODS: dict[str, Any] = {
    "eager": planted.method(),
    "other norm": planted.method(operators=Operators(norm=norm)),
    "other rotary": planted.method(operators=Operators(rotary=rotary)),
    "other attention": planted.method(operators=Operators(attention=attention)),
    "other SwiGLU": planted.method(operators=Operators(swiglu=swiglu)),
    "all others": planted.method(operators=Operators(norm=norm, rotary=rotary, attention=attention, swiglu=swiglu)),
}
