"""Near ties of a router's own choice: where a right method may choose another expert than the reference does.

A router's scores have an error too. Where the last expert that is chosen leads the next one by less than that, rounding
decides, and the token's logits are far from the reference's though nothing is wrong. Such a position is granted what
the other choice makes there: the model is computed once more, with the next expert taken at every near tie. Of those
that see it through attention this grants what reaches them.

Where the hash chooses the experts nothing of this is needed.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from itertools import cycle
from typing import Any

import torch
from torch import Tensor

from bench.model.gpt import GPT, Block
from bench.operators import Operators
from bench.operators.experts import route
from bench.proof.layerwise import Layerwise

# Of the router's error, a root of the mean square over the experts: the difference of two scores of a right method that
# rounds in another order stays below it. Measured by tests/benchmarks/near_ties.py in bfloat16 on a CPU, over 24 seeds
# of three small models (2 of 8 experts, the weights normalised or not, and 4 of 32) and ten right methods. Of 6,691
# tokens to which these gave another expert the reference's lead was below 2.4 for 90 %, below 6.1 for 99.9 %, and 8.4
# at most. Called wrong by the logits, of 720: 60 where NEAR is 2, 7 at 4, none at 6 and at 8. By the gradients, of
# 720: 12, 4, 1 and 1 (1.07 of the limit at either). Of 144 with a second expert dropped, or the softmax on the wrong
# side of the choice, logits and known faults miss none at 4, 6 and 8; gradients none at 6 (1.02 of the limit), 1 at 8.
NEAR = 6.0


def routed(model: GPT) -> bool:
    """Whether the model's own routers choose."""
    return model.config.experts is not None and model.routes is None


class Watched(Layerwise):
    """Keeps each router's scores, [tokens, experts], by layer."""

    def __init__(self, *of: Any) -> None:
        super().__init__(*of)
        self.scores: dict[int, list[Tensor]] = {}

    def block(self, index: int) -> Block:
        """The scratch block, whose router is watched."""
        block = super().block(index)
        if block.sparse:
            _replace(block, partial(self._keep, index))
        return block

    def _keep(self, index: int, scores: Tensor, *rest: Any, **more: Any) -> tuple[Tensor, Tensor]:
        self.scores.setdefault(index, []).append(scores.detach())
        return route(scores, *rest, **more)


class OtherChoice(Layerwise):
    """Takes at each near tie the expert that comes next, and not the last of those that lead.

    `right`: the scores of a forward of the same tokens that takes none. What is a near tie there is one here, though
    other choices before have moved the scores.
    """

    def __init__(self, of: Layerwise, limits: list[float], right: dict[int, list[Tensor]]) -> None:
        super().__init__(of.model, of.dtype, of.operators, of.config, of.rotation)
        self.limits, self.right = limits, {index: cycle(rows) for index, rows in right.items()}

    def block(self, index: int) -> Block:
        """The scratch block, whose router takes the other choice."""
        block = super().block(index)
        if block.sparse:
            _replace(block, partial(self._other, index))
        return block

    def _other(
        self, index: int, scores: Tensor, active: int, chosen: Tensor | None, *, normalised: bool
    ) -> tuple[Tensor, Tensor]:
        assert chosen is None
        if active < scores.shape[-1]:
            own, _ = _swapped(scores, active, self.limits[index])
            right, near = _swapped(next(self.right[index]), active, self.limits[index])
            chosen = torch.where(near, right, own)
        return route(scores, active, chosen, normalised=normalised)


def _swapped(scores: Tensor, active: int, limit: float) -> tuple[Tensor, Tensor]:
    """(The experts of each token, [tokens, active], the last one swapped at a near tie; where, [tokens, 1])."""
    best, places = scores.topk(active + 1, dim=-1)
    near = best[:, active - 1 : active] - best[:, active:] < limit
    last = torch.where(near, places[:, active:], places[:, active - 1 : active])
    return torch.cat((places[:, : active - 1], last), dim=-1), near


def _replace(block: Block, operator: Callable[..., Any]) -> None:
    block.experts.operators = replace(block.experts.operators, route=operator)


@torch.no_grad()
def limits(model: GPT, dtype: torch.dtype, tokens: Tensor) -> list[float]:
    """Of each layer: two scores that are nearer than this are a near tie; 0 where there are no experts.

    NEAR times eager's error of the scores on `tokens` [batch, time], against a forward in `dtype`.
    """
    exact, eager = Watched(model, dtype), Watched(model, model.head.weight.dtype, Operators())
    exact.forward(tokens)
    eager.forward(tokens)
    found = [0.0] * model.config.layers
    for index, truth in exact.scores.items():
        errors = torch.cat(eager.scores[index]).to(dtype) - torch.cat(truth)
        # The median of the tokens: where eager chose otherwise before, its scores are others, and that is no rounding.
        found[index] = NEAR * float(errors.square().mean(-1).sqrt().median())
    return found


@torch.no_grad()
def otherwise(model: Layerwise, tokens: Tensor, limits: list[float]) -> tuple[Tensor, OtherChoice]:
    """(`model.forward` of these tokens, the model that takes the other choice where that one had a near tie)."""
    watched = Watched(model.model, model.dtype, model.operators, model.config, model.rotation)
    return watched.forward(tokens), OtherChoice(model, limits, watched.scores)


@torch.no_grad()
def effects(model: Layerwise, tokens: Tensor, limits: list[float], first: int = 0) -> Tensor:
    """How far the logits of `tokens` [batch, time] move with the other choice, relative: [batch, time - first].

    `first`: the position that is looked at first.
    """
    right, changed = otherwise(model, tokens, limits)
    other = changed.forward(tokens)
    rows = [(model.head(a[first:]), model.head(b[first:])) for a, b in zip(right, other)]  # noqa: B905  (as many)
    return torch.stack([(a - b).norm(dim=-1) / a.norm(dim=-1) for a, b in rows])


def here(model: GPT, tokens: Tensor, limits: list[float] | None) -> Tensor | None:
    """The same of other tokens than the reference's, in the model's own precision; None without `limits`."""
    return None if limits is None else effects(Layerwise(model, model.head.weight.dtype, Operators()), tokens, limits)
