"""The model's own weights in the reference's precision, one block at a time: a 7B in float32 fits beside itself.

Everything is written out in plain operations: no fused attention, whose inner precision is the library's own choice.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import replace

import torch
from torch import Tensor

from bench.model.gpt import GPT, Block, band
from bench.model.rope import rotary_tables
from bench.operators import Operators


def attention(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None) -> Tensor:
    """As `operators.attention`, written out; the scores [batch, heads, time, slots] exist at once."""
    groups, time, slots = q.shape[2] // k.shape[2], q.shape[1], k.shape[1]
    if groups > 1:
        k, v = k.repeat_interleave(groups, dim=2), v.repeat_interleave(groups, dim=2)
    q, k, v = q.transpose(1, 2), k.transpose(1, 2), v.transpose(1, 2)
    scores = (q @ k.transpose(2, 3)) * q.shape[-1] ** -0.5
    if mask is None:
        hidden = torch.ones(time, slots, dtype=torch.bool, device=q.device).triu(1)
        scores = scores.masked_fill(hidden, float("-inf"))
    else:
        scores = scores + mask
    return (torch.softmax(scores, dim=-1) @ v).transpose(1, 2)


PLAIN = Operators(attention=attention)


class Layerwise:
    """A GPT's forward in another precision. One scratch block holds the cast weights of one block after the other."""

    def __init__(
        self,
        model: GPT,
        dtype: torch.dtype,
        operators: Operators = PLAIN,
        rotation: tuple[Tensor, Tensor] | None = None,
    ) -> None:
        self.model, self.dtype, self.operators, self.config = model, dtype, operators, model.config
        # Its own: the model's may have been changed in place by the method that is judged.
        self.rotation = rotation or _rotation(model)
        with torch.device("meta"):
            block = Block(model.config, operators)
        self.scratch: Block = block.to(dtype).to_empty(device=model.head.weight.device)

    def block(self, index: int) -> Block:
        """The scratch block, filled with block `index`'s weights; valid until the next call."""
        mine, theirs = dict(self.scratch.named_parameters()), dict(self.model.blocks[index].named_parameters())
        with torch.no_grad():
            for name, parameter in mine.items():
                parameter.copy_(theirs[name])
        return self.scratch

    def tables(self, time: int) -> tuple[Tensor, Tensor]:
        """Rotary cosine and sine of the first `time` positions, [time, head size / 2] in float32."""
        return self.rotation[0][:time], self.rotation[1][:time]

    def mask(self, time: int) -> Tensor | None:
        """[time, time] to be added to the scores where a sliding window cuts, else None (causal)."""
        return band(time, self.config.sliding_window, self.model.cos.new_empty((), dtype=self.dtype))

    def embed(self, tokens: Tensor) -> Tensor:
        """[batch, time] -> [batch, time, width]."""
        return torch.nn.functional.embedding(tokens, self.model.embedding.weight).to(self.dtype)

    def last_norm(self, x: Tensor) -> Tensor:
        """The norm before the head, on [..., width]."""
        return self.operators.norm(x, self.model.norm.weight.to(self.dtype), self.config.norm_eps)

    @torch.no_grad()
    def forward(self, tokens: Tensor, layers: Iterable[int] | None = None) -> Tensor:
        """[batch, time] -> hidden [batch, time, width] after the last norm, for `head`.

        Each block is cast once and takes the batch row by row. `layers`: those to go through, else all.
        """
        x, (cos, sin), mask = self.embed(tokens), self.tables(tokens.shape[1]), self.mask(tokens.shape[1])
        for index in range(self.config.layers) if layers is None else layers:
            block = self.block(index)
            for row in range(x.shape[0]):
                x[row : row + 1] = block(x[row : row + 1], cos, sin, mask, None)
        return self.last_norm(x)

    def head(self, hidden: Tensor) -> Tensor:
        """Logits [..., vocabulary] of hidden [..., width]; the head is cast at each call."""
        return torch.nn.functional.linear(hidden, self.model.head.weight.to(self.dtype))

    def with_operators(self, **changes: object) -> Layerwise:
        """The same model with some operators replaced."""
        changed = replace(self.operators, **changes)  # type: ignore[arg-type]
        return type(self)(self.model, self.dtype, changed, self.rotation)


def _rotation(model: GPT) -> tuple[Tensor, Tensor]:
    config = model.config
    device = model.head.weight.device
    return rotary_tables(config.block_size, config.head_size, config.rope_base, config.rope_scaling, device)


@contextmanager
def highest() -> Iterator[None]:
    """float32 products in full precision inside; what was set before afterwards."""
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("highest")
    try:
        yield
    finally:
        torch.set_float32_matmul_precision(before)
