"""Known faults in the reference's precision, and the matched filter that finds their effect in an output's error.

With d the effect of a fault and e the error of what was timed, beta = <e, d> / <d, d> is near 1 where the fault is
there and near 0 where it is not, also where the effect is smaller than the precision's own rounding.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F  # noqa: N812  (torch's own habit)
from torch import Tensor

from bench import operators
from bench.model.gpt import Block
from bench.proof import layerwise, trait_faults
from bench.proof.layerwise import Layerwise

Head = Callable[[Tensor], Tensor]
"""hidden [..., width] -> logits [..., vocabulary]."""
# |beta| beyond this is a fault; right variants showed 0.39 at most, planted faults 0.93 at least.
BETA = 0.5
# A fault whose effect is below this share of eager's own error is not looked for.
SMALLEST_EFFECT = 0.1
# Rounding has a beta too: eager's own, twice, and this many standard errors of it are not a fault.
BIAS_FACTOR, STANDARD_ERRORS = 2.0, 8.0
# What a fault leaves unexplained is no more than this many times eager's own error, or less than what it explains.
REST = 3.0
SCALE = 1.01
SCALED = "attention scale off by 1 %"
# A fault is named where its effect has about the size that is expected: beyond these times of it it is another.
NAMED = (0.5, 2.0)
# Elements that have one scale in common, where weights are quantised in groups.
GROUP = 128
INT8_MOST, FP8_MOST = 127.0, 448.0


@dataclass(frozen=True)
class Match:
    """A fault that the error resembles: `share` of the error's square is explained by it."""

    name: str
    beta: float
    limit: float
    share: float

    @property
    def named(self) -> str | None:
        """The fault with its size, where it scales; None where the error is far from the fault's own size."""
        if NAMED[0] <= self.beta <= NAMED[1]:
            return self.name
        return f"attention scale off by about {self.beta:.2g} %" if self.name == SCALED else None


def logits(model: Layerwise, tokens: Tensor, prompt: int | None = None) -> Iterator[tuple[str, Tensor, Head]]:
    """(name, hidden [batch, time, width], the head to put behind it) with each known fault in turn.

    `prompt`: cache faults too, from there on.
    """
    for name, change in {**_of_operators(model), **(_of_the_cache(prompt) if prompt is not None else {})}.items():
        wrong = model.with_operators(**change)
        yield name, wrong.forward(tokens), wrong.head
    for name, wrong in trait_faults.variants(model):
        yield name, wrong.forward(tokens), wrong.head
    for name, hidden in _quantised(model, tokens, cached=prompt is not None):
        yield name, hidden, model.head
    if model.config.layers > 1:
        for dropped in sorted({0, model.config.layers // 2, model.config.layers - 1}):
            layers = [index for index in range(model.config.layers) if index != dropped]
            yield f"layer {dropped} dropped", model.forward(tokens, layers), model.head


def _of_operators(model: Layerwise) -> dict[str, dict[str, Any]]:
    """Operators that are wrong, by the fault's name."""
    config = model.config
    other = 1e-6 if config.norm_eps > 3e-6 else 1e-5  # noqa: PLR2004  (the two values that Llama models have)
    changes: dict[str, dict[str, Any]] = {
        SCALED: {"attention": lambda q, k, v, mask, **asked: layerwise.attention(q * SCALE, k, v, mask, **asked)},
        f"norm epsilon {other:g} for {config.norm_eps:g}": {
            "norm": lambda x, w, _, **asked: operators.norm(x, w, other, **asked)
        },
        "norm weights ignored": {"norm": lambda x, w, eps, **_: operators.norm(x, torch.ones_like(w), eps)},
        "rotary off by one in the queries alone": {"rotary": _Shift(queries=True)},
        "rotary off by one in the keys alone": {"rotary": _Shift(queries=False)},
        "rotary over neighbours instead of halves": {"rotary": _interleaved},
        "one future token visible": {"attention": _future},
        "no causal mask": {
            "attention": lambda q, k, v, _, **asked: layerwise.attention(q, k, v, q.new_zeros(()), **asked)
        },
        "SiLU for GELU" if config.activation == "gelu_tanh" else "GELU for SiLU": {"swiglu": _other_activation},
    }
    if config.kv_heads < config.heads:
        changes["key heads tiled instead of repeated"] = {"attention": _tiled}
    return changes


def _of_the_cache(prompt: int) -> dict[str, dict[str, Any]]:
    return {
        "cache one step late": {"attention": partial(_with_zeros, prompt=prompt, own=True)},
        "cache mask open by one slot": {"attention": partial(_with_zeros, prompt=prompt, own=False)},
    }


def _quantised(model: Layerwise, tokens: Tensor, *, cached: bool) -> Iterator[tuple[str, Tensor]]:
    """Precision lowered in secret: the blocks' weights, and keys and values where they are `cached`."""
    for name, quantise in {
        "int8 weights": int8,
        f"int8 weights in groups of {GROUP}": partial(int8, group=GROUP),
        "fp8 weights": fp8,
    }.items():
        yield (
            name,
            _Quantised(model.model, model.dtype, model.operators, model.config, model.rotation, quantise).forward(
                tokens
            ),
        )
    for name, quantise in {"int8 cache": int8, "fp8 cache": fp8}.items() if cached else ():
        yield name, with_cache(model, quantise).forward(tokens)


def without_chunk(model: Layerwise, end: int) -> Layerwise:
    """The model with the keys before place `end` dropped for all tokens from there on."""
    return model.with_operators(attention=partial(_without, end=end))


def with_cache(model: Layerwise, quantise: Callable[[Tensor], Tensor]) -> Layerwise:
    """The model with keys and values as `quantise` leaves them."""
    return model.with_operators(attention=partial(_with_quantised_cache, quantise=quantise))


def int8(x: Tensor, group: int | None = None) -> Tensor:
    """`x` [..., n] by its largest element over 127: one scale for each row, or for each `group` of its elements."""
    parts = x.unflatten(-1, (-1, group)) if group and x.shape[-1] % group == 0 else x
    scale = _scale(parts, INT8_MOST)
    return ((parts / scale).round() * scale).view(x.shape)


def fp8(x: Tensor) -> Tensor:
    """`x` [..., n] as e4m3, its largest element of each row as the largest that there is."""
    scale = _scale(x, FP8_MOST)
    return (x / scale).float().to(torch.float8_e4m3fn).to(x.dtype) * scale


def _scale(x: Tensor, most: float) -> Tensor:
    return x.abs().amax(-1, keepdim=True).clamp(min=torch.finfo(x.dtype).tiny * most) / most


class _Quantised(Layerwise):
    """With the blocks' linear weights as a quantiser leaves them."""

    def __init__(self, *of: Any) -> None:
        super().__init__(*of[:-1])
        self.quantise: Callable[[Tensor], Tensor] = of[-1]

    def block(self, index: int) -> Block:
        block = super().block(index)
        with torch.no_grad():
            for parameter in block.parameters():
                if parameter.dim() > 1:
                    parameter.copy_(self.quantise(parameter))
        return block


def match(error: Tensor, eager: Tensor, effects: Mapping[str, Tensor], floor: float) -> Match | None:
    """The fault that explains most of `error`, or None. All are [positions, n]; `floor` is a norm, eager's at least."""
    found: list[Match] = []
    level = max(float(eager.norm()), floor)
    for name, effect in effects.items():
        square = float(effect.square().sum())
        if not square**0.5 > SMALLEST_EFFECT * level:
            continue
        noise = (eager * effect).sum(-1) / square
        limit = max(BETA, BIAS_FACTOR * abs(float(noise.sum())) + STANDARD_ERRORS * float(noise.norm()))
        along, whole = float((error * effect).sum()), max(float(error.square().sum()), 1e-300)
        share = along**2 / square / whole
        explained = share > 0.5 or (1 - share) * whole <= (REST * level) ** 2  # noqa: PLR2004  (more than the rest)
        if abs(along / square) > limit and explained:
            found.append(Match(name, along / square, limit, share))
    return max(found, key=lambda one: one.share, default=None)


class _Shift:
    """Turns one of queries and keys by one position more; a block turns its queries first, then its keys."""

    def __init__(self, *, queries: bool) -> None:
        self.now = queries

    def __call__(self, x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
        if self.now:
            # Position 0 turns nothing: what stands there is the factor that some tables have.
            one_cos, one_sin = cos[1] / cos[0], sin[1] / cos[0]
            cos, sin = cos * one_cos - sin * one_sin, sin * one_cos + cos * one_sin
        self.now = not self.now
        return operators.rotary(x, cos, sin)


def _interleaved(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    cos, sin, first, second = cos[:, None, :], sin[:, None, :], x[..., 0::2], x[..., 1::2]
    return torch.stack((first * cos - second * sin, second * cos + first * sin), dim=-1).flatten(-2).to(x.dtype)


def _other_activation(x: Tensor, gate: Tensor, up: Tensor, down: Tensor, *, activation: str = "silu") -> Tensor:
    other = F.gelu if activation == "silu" else F.silu
    return F.linear(other(F.linear(x, gate)) * F.linear(x, up), down)


def _future(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None, **asked: Any) -> Tensor:
    if mask is None:
        mask = torch.full((q.shape[1], k.shape[1]), float("-inf"), dtype=q.dtype, device=q.device).triu(2)
    else:
        mask = torch.cat([mask[1:], mask[-1:]])
    return layerwise.attention(q, k, v, mask, **asked)


def _tiled(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None, **asked: Any) -> Tensor:
    groups = q.shape[2] // k.shape[2]
    return layerwise.attention(q, k.repeat(1, 1, groups, 1), v.repeat(1, 1, groups, 1), mask, **asked)


def _with_quantised_cache(
    q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None, quantise: Callable[[Tensor], Tensor], **asked: Any
) -> Tensor:
    return layerwise.attention(q, quantise(k), quantise(v), mask, **asked)


def _without(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None, end: int, **asked: Any) -> Tensor:
    place = torch.arange(q.shape[1], device=q.device)
    visible = (place <= place[:, None]) & ((place >= end) | (place[:, None] < end))
    zero = q.new_zeros(())
    hidden = torch.where(visible, zero if mask is None else mask, zero - float("inf"))
    return layerwise.attention(q, k, v, hidden, **asked)


def _with_zeros(
    q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None, prompt: int, *, own: bool, **asked: Any
) -> Tensor:
    """Attention with one more slot, of zeros, which those see whose slot is not written yet.

    `own`: from position `prompt` on, a token's own slot still holds zeros, and is seen. Else the slot after its own is
    seen: the next of the prompt, or one that still holds zeros.
    """
    time = q.shape[1]
    place = torch.arange(time, device=q.device)
    visible = place <= place[:, None]
    if own:
        visible = visible & ((place != place[:, None]) | (place[:, None] < prompt))
        zeros = place >= prompt
    else:
        visible = visible | ((place == place[:, None] + 1) & (place < prompt))
        zeros = place >= prompt - 1
    zero = q.new_zeros(())
    opened = torch.where(torch.cat([visible, zeros[:, None]], dim=1), zero, zero - float("inf"))
    if mask is not None:
        opened[:, :time] += torch.where(mask.isinf() & (place <= place[:, None]), mask, zero)
    nothing = k.new_zeros(k.shape[0], 1, *k.shape[2:])
    return layerwise.attention(q, torch.cat([k, nothing], dim=1), torch.cat([v, nothing], dim=1), opened, **asked)
