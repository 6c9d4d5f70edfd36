"""What a training step is checked against: the gradients of the reference and the losses of eager's own steps.

Eager's step is taken several times, each with other roundings: what it shows then is what a right method may.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager, nullcontext
from typing import Any

import torch
from torch import Tensor

from bench.benchmarks import Context
from bench.model.gpt import GPT, Norm
from bench.operators import reference_dtype, widen
from bench.proof import IN_CELL, backward, effort, ties
from bench.proof.checks import finite
from bench.proof.gradients import FACTOR
from bench.proof.layerwise import Layerwise, highest
from bench.proof.optimizer import reduced, sketches

# Of the timed samples so many, from the first weights on: rounding grows about threefold from step to step.
CURVE = 6


def make_one(context: Context, task: Any, sample: int) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """The truth about one sample.

    Tensors: `gradient/NAME`, sketches of up to 4096 numbers; `ignored/NAME`, the same as they would be if targets that
    are to be ignored were the id 0, where there are such; and in the order of `facts["parameters"]` the gradients'
    `norms` and eager's `errors`, the larger of two draws where memory allows them, with what the other choice makes at
    near ties (see `bench.proof.ties`). Facts: eager's error over all parameters together, both losses, the share of
    targets that count, which sample was taken, and its shape.
    """
    model, precision = context.model, reference_dtype(getattr(torch, context.workload.dtype))
    tokens, targets = task.inputs(sample)
    tensors: dict[str, Tensor] = {}

    def truth(kind: str, targets: Tensor, *, otherwise: bool = False) -> float:
        def keep(name: str, gradient: Tensor) -> None:
            tensors[f"{kind}/{name}"] = reduced(gradient, precision)

        with highest():
            layerwise: Layerwise = Layerwise(model, precision)
            if otherwise:
                (layerwise,) = ties.otherwise(layerwise, tokens, times=ties.OF_GRADIENTS).others
            return backward.gradients(layerwise, tokens, targets, keep)

    true_loss, counted = truth("gradient", targets), targets != backward.IGNORED
    if not bool(counted.all()):
        truth("ignored", targets.clamp(min=0))
    parameters, tied = dict(model.named_parameters()), None
    if ties.routed(model):
        truth("tied", targets, otherwise=True)
        moved = [tensors.pop(f"tied/{name}") - tensors[f"gradient/{name}"] for name in parameters]
        tied = torch.stack([difference.double().norm() for difference in moved])
    norms = torch.stack([tensors[f"gradient/{name}"].double().norm() for name in parameters])
    draws, losses = eager_draws(model, tokens, targets, {name: tensors[f"gradient/{name}"] for name in parameters})
    facts = {
        "sample": sample,
        "shape": task.shape((tokens, targets)),
        "parameters": list(parameters),
        "loss": finite(true_loss),
        "eager_loss": finite(max(losses, key=lambda loss: abs(loss - true_loss))),
        "eager_error": finite(float(draws[0].norm() / norms.norm())),
        "counted": float(counted.double().mean()),
    }
    errors = torch.stack(draws).amax(0)
    if tied is not None:  # so that the limit is at least what all near ties make together, and few go the other way
        errors = torch.hypot(errors, tied / FACTOR)
    return {**tensors, "norms": norms, "errors": errors}, facts


def eager_draws(
    model: GPT, tokens: Tensor, targets: Tensor, true: Mapping[str, Tensor]
) -> tuple[list[Tensor], list[float]]:
    """Eager's errors, [parameters], against the sketches of `true` gradients, and its losses: of one draw or two."""
    parameters = dict(model.named_parameters())
    draws: list[Tensor] = []
    losses: list[float] = []
    for rounding in (nullcontext, other_rounding):
        try:
            with rounding(model):
                loss = eager_step(model, tokens, targets)
        except torch.cuda.OutOfMemoryError:
            if not draws:
                raise
        else:
            eager = sketches(parameters, next(iter(true.values())).dtype)
            draws.append(torch.stack([(eager[name] - one).double().norm() for name, one in true.items()]))
            losses.append(loss)
        for parameter in parameters.values():
            parameter.grad = None
    return draws, losses


def eager_step(model: GPT, tokens: Tensor, targets: Tensor) -> float:
    """Leave eager's gradients of a batch in the parameters; return its loss.

    Of several devices together the batch may be more than one has memory for: then in parts, as they take it.
    """
    parts = 1
    while True:
        try:
            return step_in_parts(model, tokens, targets, parts)
        except torch.cuda.OutOfMemoryError:
            if parts >= len(tokens):
                raise
        for parameter in model.parameters():
            parameter.grad = None
        parts *= 2


def step_in_parts(model: GPT, tokens: Tensor, targets: Tensor, parts: int) -> float:
    """The same in so many parts of the batch, each weighted by its targets that count."""
    if parts == 1:
        loss = model.operators.loss(model(tokens), targets)
        loss.backward()
        return float(loss.detach())
    total, counted = 0.0, (targets != backward.IGNORED).sum()
    for own, goal in zip(tokens.chunk(parts), targets.chunk(parts), strict=True):
        loss = model.operators.loss(model(own), goal) * ((goal != backward.IGNORED).sum() / counted)
        loss.backward()
        total += float(loss.detach())
    return total


@contextmanager
def other_rounding(model: GPT) -> Iterator[None]:
    """Norms that round once, not twice: eager's errors drawn a second time.

    Where attention is sharp one rounding may decide the whole error, and a single draw be small by chance.
    """

    def once(x: Tensor, weight: Tensor, eps: float, *, plus: float = 0.0) -> Tensor:
        exact = widen(x)
        return (exact * (torch.rsqrt(exact.pow(2).mean(-1, keepdim=True) + eps) * (plus + widen(weight)))).to(x.dtype)

    norms = [module for module in model.modules() if isinstance(module, Norm)]
    before = [module.operator for module in norms]
    try:
        for module in norms:
            module.operator = once
        yield
    finally:
        for module, operator in zip(norms, before, strict=True):
            module.operator = operator


def small(context: Context) -> bool:
    """Whether a few more gradients in the reference's precision cost next to nothing."""
    return CURVE * effort(context) <= IN_CELL


def chosen_samples(context: Context, task: Any) -> list[int]:
    """The samples whose gradients are compared: 0; of many shapes the longest and the shortest.

    Also the first in which a target is to be ignored, so that a loss which counts it is seen: of a large model only
    where the longest has none.
    """
    if context.workload.shortest is None:
        return [0]
    batches = map(task.inputs, range(context.workload.iterations))
    seen = [(tokens.shape[1], bool((targets == backward.IGNORED).any())) for tokens, targets in batches]
    longest, shortest = seen.index(max(seen)), seen.index(min(seen))
    padded = next((index for index, (_, ignored) in enumerate(seen) if ignored), 0)
    if not small(context) and seen[padded][1] <= seen[longest][1]:
        padded = longest
    return list(dict.fromkeys((longest, shortest, padded)))
