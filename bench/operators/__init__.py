"""The operators that a method may replace, as plain PyTorch. Shapes are the contract for every replacement.

Keyword arguments are what some families ask for beyond Llama's (bench/model/traits.py): a model that does not need
them never gives them, so a replacement that has none is right for it.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F  # noqa: N812  (torch's own habit)
from torch import Tensor

from bench.operators.experts import activate, experts, route


def widen(x: Tensor) -> Tensor:
    """float64 as it is, everything else as float32; torch 2.1 cannot compile `promote_types`."""
    return x if x.dtype == torch.float64 else x.float()


def norm(x: Tensor, weight: Tensor, eps: float, *, plus: float | None = None) -> Tensor:
    """RMSNorm over the last axis, [..., width] -> [..., width]; the mean square is taken in float32 at least.

    With `plus`, the weight is that much more than it says, and applied before the one rounding.
    """
    exact = widen(x)
    scale = torch.rsqrt(exact.pow(2).mean(-1, keepdim=True) + eps)
    if plus is not None:
        return (exact * scale * (plus + widen(weight))).to(x.dtype)
    return (exact * scale).to(x.dtype) * weight


def rotary(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Rotate x [batch, time, heads, size] by float32 tables [time, size / 2]; the halves of a head form the pairs."""
    half = x.shape[-1] // 2
    first, second = x[..., :half], x[..., half:]
    cos, sin = cos[:, None, :], sin[:, None, :]
    # Rounded before they are joined: the float32 halves of a whole layer's queries and keys never stand side by side.
    turned = (first * cos - second * sin).to(x.dtype), (second * cos + first * sin).to(x.dtype)
    return torch.cat(turned, dim=-1)


def attention(
    q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None, *, scale: float | None = None, cap: float | None = None
) -> Tensor:
    """Attend, scale 1/sqrt(size). q [batch, time, heads, size], k and v [batch, slots, kv heads, size].

    `mask` is added to the scores, [time, slots]; without one, attention is causal and slots = time. With `cap`, a
    score s becomes cap * tanh(s / cap) before the mask: none of torch's own attentions does that.
    """
    groups = q.shape[2] // k.shape[2]
    if groups > 1:
        k, v = k.repeat_interleave(groups, dim=2), v.repeat_interleave(groups, dim=2)
    q, k, v = heads_first(q), k.transpose(1, 2), v.transpose(1, 2)
    if cap is not None:
        return capped_attention(q, k, v, mask, scale, cap).transpose(1, 2)
    mixed = F.scaled_dot_product_attention(q, k, v, attn_mask=mask, is_causal=mask is None, scale=scale)
    return mixed.transpose(1, 2)


def capped_attention(  # noqa: PLR0917  (as `attention`)
    q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None, scale: float | None, cap: float | None
) -> Tensor:
    """Attention written out, all [batch, heads, time or slots, size]; the scores [batch, heads, time, slots] exist.

    Products in the dtype that comes; scale, cap and softmax in float32 at least.
    """
    scores = widen(q @ k.transpose(2, 3)) * (q.shape[-1] ** -0.5 if scale is None else scale)
    if cap is not None:
        scores = torch.tanh(scores / cap) * cap
    if mask is None:
        hidden = torch.ones(scores.shape[-2:], dtype=torch.bool, device=q.device).triu(1)
        scores = scores.masked_fill(hidden, float("-inf"))
    else:
        scores = scores + mask
    return torch.softmax(scores, dim=-1).to(q.dtype) @ v


def heads_first(q: Tensor) -> Tensor:
    """[batch, time, heads, size] as [batch, heads, time, size], a view.

    Of a single token, whose time has any stride, it gets one that kernels accept: compilers may choose 1 for it, which
    torch's efficient attention refuses as not aligned.
    """
    return q.squeeze(1).unsqueeze(2) if q.shape[1] == 1 else q.transpose(1, 2)


def swiglu(x: Tensor, gate: Tensor, up: Tensor, down: Tensor, *, activation: str = "silu") -> Tensor:
    """The whole MLP on [..., width]: down(silu(gate x) * up x), weights as torch keeps them, [out, in].

    With `activation` gelu_tanh it is a GeGLU: GELU by tanh stands for silu.
    """
    return F.linear(activate(F.linear(x, gate), activation) * F.linear(x, up), down)


def loss(logits: Tensor, targets: Tensor) -> Tensor:
    """Mean cross entropy of [batch, time, vocabulary] against [batch, time]; targets of -1 do not count."""
    return F.cross_entropy(logits.reshape(-1, logits.shape[-1]), targets.reshape(-1), ignore_index=-1)


@dataclass(frozen=True)
class Operators:
    """What the GPT computes with."""

    norm: Callable[..., Tensor] = norm
    rotary: Callable[[Tensor, Tensor, Tensor], Tensor] = rotary
    attention: Callable[..., Tensor] = attention
    swiglu: Callable[..., Tensor] = swiglu
    loss: Callable[[Tensor, Tensor], Tensor] = loss
    route: Callable[..., tuple[Tensor, Tensor]] = route
    experts: Callable[..., Tensor] = experts


def reference_dtype(dtype: torch.dtype) -> torch.dtype:
    """float32 judges bfloat16, float64 everything else."""
    return torch.float32 if dtype == torch.bfloat16 else torch.float64
