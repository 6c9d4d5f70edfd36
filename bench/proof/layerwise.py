"""The model's own weights in the reference's precision, one block at a time: a 7B in float32 fits beside itself.

Everything is written out in plain operations: no fused attention, whose inner precision is the library's own choice.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from bench.model.gpt import GPT, Block, Tables, capped, embedding_scale, rotations, whole_views
from bench.model.shards import full
from bench.model.traits import keywords
from bench.operators import Operators
from bench.operators import capped_attention as written_out
from bench.spec import ModelConfig

View = tuple["Tensor | None", ...]
"""cos, sin, mask, positions and routes, as a block takes them."""


def attention(
    q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None, *, scale: float | None = None, cap: float | None = None
) -> Tensor:
    """As `operators.attention`, written out; the scores [batch, heads, time, slots] exist at once."""
    groups = q.shape[2] // k.shape[2]
    if groups > 1:
        k, v = k.repeat_interleave(groups, dim=2), v.repeat_interleave(groups, dim=2)
    q, k, v = q.transpose(1, 2), k.transpose(1, 2), v.transpose(1, 2)
    return written_out(q, k, v, mask, scale, cap).transpose(1, 2)


PLAIN = Operators(attention=attention)


class Layerwise:
    """A GPT's forward in another precision. A scratch block holds the cast weights of one block after the other.

    `config`: another than the model's own, to compute what a method would that took one of its values for another.
    """

    def __init__(
        self,
        model: GPT,
        dtype: torch.dtype,
        operators: Operators = PLAIN,
        config: ModelConfig | None = None,
        rotation: Tables | None = None,
    ) -> None:
        self.model, self.dtype, self.operators = model, dtype, operators
        self.config = config or model.config
        # Its own: the model's may have been changed in place by the method that is judged.
        self.rotation = rotation or rotations(self.config, model.head.weight.device)
        self.scratch: dict[bool, Block] = {}

    def block(self, index: int) -> Block:
        """The scratch block, filled with block `index`'s weights; valid until the next call."""
        theirs = self.model.blocks[index]
        if theirs.sparse not in self.scratch:
            with torch.device("meta"):
                block = Block(self.config, self.operators, index)
            self.scratch[theirs.sparse] = block.to(self.dtype).to_empty(device=self.model.head.weight.device)
        mine, own = self.scratch[theirs.sparse], dict(theirs.named_parameters())
        with torch.no_grad():
            for name, parameter in mine.named_parameters():
                parameter.copy_(full(own[name]))
        if theirs.sparse:
            mine.experts.order = theirs.experts.order
        return mine

    def views(self, time: int) -> list[View]:
        """What each layer's block takes beside its input for the first `time` positions."""
        views = whole_views(self.config, self.rotation, time, self.model.cos.new_empty((), dtype=self.dtype))
        routes = self.model.routes
        routes = None if routes is None else routes[:time]
        return [(*views[self.config.is_local(layer)], None, routes) for layer in range(self.config.layers)]

    def embed(self, tokens: Tensor) -> Tensor:
        """[batch, time] -> [batch, time, width]."""
        x = torch.nn.functional.embedding(tokens, full(self.model.embedding.weight)).to(self.dtype)
        return x * self.embedding_scale

    @property
    def embedding_scale(self) -> float:
        """What an embedding is multiplied with: as the tables, not the model's own, which may have been changed."""
        return embedding_scale(self.config, self.model.embedding.weight.dtype) or 1.0

    def last_norm(self, x: Tensor) -> Tensor:
        """The norm before the head, on [..., width]."""
        weight = full(self.model.norm.weight).to(self.dtype)
        return self.operators.norm(x, weight, self.config.norm_eps, **keywords(self.config)["norm"])

    @torch.no_grad()
    def forward(self, tokens: Tensor, layers: Iterable[int] | None = None) -> Tensor:
        """[batch, time] -> hidden [batch, time, width] after the last norm, for `head`.

        Each block is cast once and takes the batch row by row. `layers`: those to go through, else all.
        """
        x, views = self.embed(tokens), self.views(tokens.shape[1])
        for index in range(self.config.layers) if layers is None else layers:
            block = self.block(index)
            for row in range(x.shape[0]):
                x[row : row + 1] = block(x[row : row + 1], *views[index])
        return self.last_norm(x)

    def head(self, hidden: Tensor) -> Tensor:
        """Logits [..., vocabulary] of hidden [..., width]; the head is cast at each call."""
        logits = torch.nn.functional.linear(hidden, full(self.model.head.weight).to(self.dtype))
        return capped(logits, self.config.logit_cap)

    def with_operators(self, **changes: object) -> Layerwise:
        """The same model with some operators replaced."""
        changed = replace(self.operators, **changes)  # type: ignore[arg-type]
        return type(self)(self.model, self.dtype, changed, self.config, self.rotation)

    def with_config(self, **changes: Any) -> Layerwise:
        """The same weights, computed with by another configuration."""
        return type(self)(self.model, self.dtype, self.operators, replace(self.config, **changes))


@contextmanager
def highest() -> Iterator[None]:
    """float32 products in full precision inside; what was set before afterwards."""
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("highest")
    try:
        yield
    finally:
        torch.set_float32_matmul_precision(before)
