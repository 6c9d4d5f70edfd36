"""Methods with one fault each: what the proof has to find. Each is eager but for its fault."""

from __future__ import annotations

from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor

from bench import operators
from bench.methods import eager
from bench.operators import Operators

Wrap = Callable[[Callable[..., Any]], Callable[..., Any]]


def method(
    *,
    operators: Operators | None = None,
    model: Callable[[Any], Callable[..., Any]] | None = None,
    step: Wrap | None = None,
    gpt: Callable[[Any], None] | None = None,
) -> Any:
    """A method's module: eager with other operators, another model's call, another step, or a changed GPT."""

    def compile_model(target: Any, workload: Any) -> Callable[..., Any]:
        if gpt is not None:
            gpt(target)
        return model(target) if model is not None else target

    def compile_step(target: Callable[..., Any], workload: Any) -> Callable[..., Any]:
        if gpt is not None:
            gpt(target.__closure__[0].cell_contents)
        return step(target) if step is not None else target

    return SimpleNamespace(
        refuse=eager.refuse,
        settings=eager.settings,
        expects=eager.expects,
        operators=lambda: operators or Operators(),
        compile_model=compile_model,
        compile_step=compile_step,
    )


def stale_cache() -> Any:
    """Each position's keys and values become visible one step late, though the mask shows their slot."""

    def change(gpt: Any) -> None:
        for block in gpt.blocks:
            cache = block.cache

            def update(positions: Tensor, k: Tensor, v: Tensor, cache: Any = cache) -> tuple[Tensor, Tensor]:
                seen = cache.k.clone(), cache.v.clone()
                cache.k.index_copy_(1, positions, k)
                cache.v.index_copy_(1, positions, v)
                return seen if positions.shape[0] == 1 else (cache.k, cache.v)

            cache.update = update

    return method(gpt=change)


def cache_not_cleared() -> Any:
    """What an earlier generation left in the slots is visible: the mask hides none that was ever written."""

    def change(gpt: Any) -> None:
        written = 0

        def cache_mask(positions: Tensor, local: bool) -> Tensor:
            nonlocal written
            written = max(written, int(positions.max()) + 1)
            visible = (gpt.slots < written).expand(positions.shape[0], -1)
            return torch.where(visible, gpt.seen, gpt.unseen)

        gpt.cache_mask = cache_mask

    return method(gpt=change)


def stale_replay() -> Any:
    """A graph is replayed over the inputs that it was captured with."""

    def model(target: Any) -> Callable[..., Any]:
        captured: dict[Any, Tensor] = {}

        def replay(tokens: Tensor, *rest: Tensor) -> Any:
            return target(captured.setdefault(tokens.shape, tokens.clone()), *rest)

        return replay

    def step(target: Callable[..., Any]) -> Callable[..., Any]:
        captured: dict[Any, Tensor] = {}

        def replay(tokens: Tensor, positions: Tensor, temperature: Tensor) -> Any:
            return target(captured.setdefault(tokens.shape, tokens.clone()), positions, temperature)

        return replay

    return method(model=model, step=step)


def attention_scale() -> Any:
    """Scores are one percent too large."""

    def attention(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None) -> Tensor:
        return operators.attention(q * 1.01, k, v, mask)

    return method(operators=Operators(attention=attention))


def future_token() -> Any:
    """Each position sees one token after itself."""

    def attention(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None) -> Tensor:
        if mask is None:
            time = q.shape[1]
            hidden = torch.ones(time, time, dtype=torch.bool, device=q.device).triu(2)
            mask = torch.zeros(time, time, dtype=q.dtype, device=q.device).masked_fill(hidden, float("-inf"))
        return operators.attention(q, k, v, mask)

    return method(operators=Operators(attention=attention))


def deaf_sampler() -> Any:
    """The sampler takes the temperature as 1, whatever it is given."""
    return method(
        step=lambda target: (
            lambda tokens, positions, temperature: target(tokens, positions, torch.ones_like(temperature))
        )
    )


def noisy_logits(part: float = 0.02) -> Any:
    """The logits have noise of two percent."""

    def noisy(logits: Tensor) -> Tensor:
        return logits + part * logits.std() * torch.randn_like(logits)

    return method(model=lambda target: lambda *inputs: noisy(target(*inputs)))


def nan_in_one_row() -> Any:
    """One row of the batch is no number."""

    def model(target: Any) -> Callable[..., Any]:
        def call(*inputs: Tensor) -> Tensor:
            logits: Tensor = target(*inputs)
            poison = torch.zeros_like(logits)
            poison[-1, 3] = float("nan")
            return logits + poison

        return call

    return method(model=model)


def cached_by_identity() -> Any:
    """The output is kept, and given again whenever the same tensor object comes in, whatever it then holds."""

    def model(target: Any) -> Callable[..., Any]:
        kept: dict[int, tuple[Tensor, Any]] = {}

        def call(tokens: Tensor, *rest: Tensor) -> Any:
            if id(tokens) not in kept:
                kept[id(tokens)] = tokens, target(tokens, *rest)
            return kept[id(tokens)][1]

        return call

    return method(model=model)
