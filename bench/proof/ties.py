"""Near ties of a router's own choice: where a right method may choose another expert than the reference does.

A router's scores have an error too. Where the last expert that is chosen leads the next one by less than that, rounding
decides, and the token's logits are far from the reference's though nothing is wrong. Such a position is granted what
the other choice makes there: the model is computed once more, with the next expert taken at every near tie. Of those
that see it through attention this grants what reaches them.

Where the hash chooses the experts nothing of this is needed.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import replace
from functools import partial
from itertools import cycle
from typing import Any, NamedTuple

import torch
from torch import Tensor

from bench.model.gpt import GPT, Block
from bench.operators import Operators
from bench.operators.experts import route
from bench.proof.layerwise import Layerwise

# Of the router's error, a root of the mean square over the experts: the difference of two scores of a right method that
# rounds in another order stays below it. Measured by tests/benchmarks/near_ties.py in bfloat16 on a CPU, over 24 seeds
# of three small models (2 of 8 experts, the weights normalised or not, and 4 of 32) and ten right methods. Of 6,691
# tokens to which these gave another expert the reference's lead was below 2.4 times the usual error for 90 %, below
# 6.1 for 99.9 %, and 8.4 at most. Called wrong by the logits, of 720: 2 where it is 6, none at 8. By the gradients:
# none at either. Of 144 with a second expert dropped, or the softmax on the wrong side of the choice, logits and known
# faults miss none; gradients none at 6 (1.02 of the limit), 1 at 8.
NEAR, OF_GRADIENTS = 8.0, 6.0
# A token's own error counts, where it is larger than the usual one, up to so many times that.
MOST = 4.0
# An engine is granted so many other choices by chance, for its rounding is further from eager's: see `otherwise`. Of 40
# right cells of tests/benchmarks/engine_mixtures.py (Mixtral's shape) 4 were called wrong with none of them and the
# usual error alone at 6 times, 1 with 8 of them and MOST at 6 times, 1 with 4 at 8 times, none with this.
DRAWS, HALF = 8, 0.5


def routed(model: GPT) -> bool:
    """Whether the model's own routers choose."""
    return model.config.experts is not None and model.routes is None


class Once(Layerwise):
    """Lets go of its scratch blocks after a forward: their router would keep them, and there are many such models."""

    def forward(self, tokens: Tensor, layers: Iterable[int] | None = None) -> Tensor:
        """As the base does it."""
        try:
            return super().forward(tokens, layers)
        finally:
            self.scratch.clear()


class Watched(Once):
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


class OtherChoice(Once):
    """Takes at each near tie the expert that comes next, and not the last of those that lead.

    `right`: of a forward of the same tokens that takes none, by layer, the scores and below which lead, [tokens, 1],
    there is a near tie. What is one there is one here, though other choices before have moved the scores. `draw`: take
    it at about half of them, by this number, in a first forward; 0: at all.
    """

    def __init__(self, of: Layerwise, right: dict[int, list[tuple[Tensor, Tensor]]], draw: int = 0) -> None:
        super().__init__(of.model, of.dtype, of.operators, of.config, of.rotation)
        self.right = {index: cycle(rows) for index, rows in right.items()}
        self.chance = torch.Generator().manual_seed(draw) if draw else None

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
            right, limit = next(self.right[index])
            taken = self._taken(scores)
            own, _ = _swapped(scores, active, limit, taken)
            right, near = _swapped(right, active, limit, taken)
            chosen = torch.where(near, right, own)
        return route(scores, active, chosen, normalised=normalised)

    def _taken(self, scores: Tensor) -> Tensor:
        """Of which tokens a near tie is taken, [tokens, 1]."""
        if self.chance is None:
            return torch.ones_like(scores[:, :1], dtype=torch.bool)
        return (torch.rand(len(scores), 1, generator=self.chance) < HALF).to(scores.device)


def _swapped(scores: Tensor, active: int, limit: Tensor, taken: Tensor) -> tuple[Tensor, Tensor]:
    """(Experts of each token, [tokens, active], the last one swapped at a near tie `taken`; near ties, [tokens, 1])."""
    best, places = scores.topk(active + 1, dim=-1)
    near = best[:, active - 1 : active] - best[:, active:] < limit
    last = torch.where(near & taken, places[:, active:], places[:, active - 1 : active])
    return torch.cat((places[:, : active - 1], last), dim=-1), near


def _replace(block: Block, operator: Callable[..., Any]) -> None:
    block.experts.operators = replace(block.experts.operators, route=operator)


@torch.no_grad()
def usual(model: GPT, dtype: torch.dtype, tokens: Tensor) -> list[float]:
    """Eager's usual error of each layer's scores on `tokens` [batch, time], against `dtype`; 0 without experts."""
    exact, eager = Watched(model, dtype), Watched(model, model.head.weight.dtype, Operators())
    exact.forward(tokens)
    eager.forward(tokens)
    return _usual(exact, eager)


def _usual(exact: Watched, eager: Watched) -> list[float]:
    found = [0.0] * exact.config.layers
    for index, truth in exact.scores.items():
        errors = torch.cat(eager.scores[index]).to(exact.dtype) - torch.cat(truth)
        # The median of the tokens: where eager chose otherwise before, its scores are others, and that is no rounding.
        found[index] = float(_rms(errors).median())
    return found


class Choices(NamedTuple):
    """The last norm's output by the model and by eager, [batch, time, width], and models that choose otherwise.

    `usual`: eager's usual error of each layer's scores.
    """

    right: Tensor
    eager: Tensor
    others: list[OtherChoice]
    usual: list[float]


@torch.no_grad()
def otherwise(
    model: Layerwise, tokens: Tensor, usual: list[float] | None = None, *, times: float = NEAR, draws: int = 0
) -> Choices:
    """Of these tokens, with the models that take the other choice where `model` has a near tie.

    The first takes it at all of them. Of `draws` more each takes it at half, by chance: what all make together may be
    less than what some do. `usual`: that of these tokens where none is given.
    """
    own = model.model.head.weight.dtype, Operators()
    exact = eager = Watched(model.model, model.dtype, model.operators, model.config, model.rotation)
    right = theirs = exact.forward(tokens)
    if (model.dtype, model.operators) != own:  # else the model is eager itself
        eager = Watched(model.model, *own, model.config, model.rotation)
        theirs = eager.forward(tokens)
    if usual is None:
        usual = _usual(exact, eager)
    seen = {}
    for index, rows in exact.scores.items():
        pairs = zip(rows, eager.scores[index])  # noqa: B905  (as many)
        seen[index] = [(one, times * unsure(one, other, usual[index])) for one, other in pairs]
    return Choices(right, theirs, [OtherChoice(model, seen, draw) for draw in range(1 + draws)], usual)


def unsure(scores: Tensor, eager: Tensor, usual: float) -> Tensor:
    """The error that counts of each token's scores, [tokens, 1]: the usual one, or eager's own where it is larger."""
    return _rms(eager.to(scores.dtype) - scores)[:, None].clamp(usual, MOST * usual)


def _rms(errors: Tensor) -> Tensor:
    return errors.square().mean(-1).sqrt()


@torch.no_grad()
def effects(
    model: Layerwise, tokens: Tensor, usual: list[float] | None = None, first: int = 0
) -> tuple[Tensor, list[float]]:
    """(How far the other choice moves the logits of `tokens` [batch, time], [batch, time - first]; the usual error).

    How far is relative. `first`: the position that is looked at first.
    """
    right, _, (changed,), usual = otherwise(model, tokens, usual)
    other = changed.forward(tokens)
    rows = [(model.head(a[first:]), model.head(b[first:])) for a, b in zip(right, other)]  # noqa: B905  (as many)
    return torch.stack([(a - b).norm(dim=-1) / a.norm(dim=-1) for a, b in rows]), usual


def here(model: GPT, tokens: Tensor, usual: list[float] | None) -> Tensor | None:
    """The same of other tokens than the reference's, in the model's own precision; None without `usual`.

    There eager has no error of its own, so that the usual one counts for every token.
    """
    return None if usual is None else effects(Layerwise(model, model.head.weight.dtype, Operators()), tokens, usual)[0]
