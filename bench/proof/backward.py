"""The gradients of one training step in the reference's precision, one block at a time.

The forward keeps each block's input alone; the backward casts block after block, runs it again, row by row, and hands
each parameter's gradient over before the next block is cast. Never at once: two blocks, or all the logits.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F  # noqa: N812  (torch's own habit)
from torch import Tensor

from bench.model.gpt import capped
from bench.model.shards import full
from bench.model.traits import keywords
from bench.proof.layerwise import Layerwise

IGNORED = -1
# Of one chunk's logits; some four such tensors exist at once.
LOGITS_BYTES = 1 << 28


@torch.enable_grad()
def gradients(
    layerwise: Layerwise, tokens: Tensor, targets: Tensor, consume: Callable[[str, Tensor], None], chunk: int = 0
) -> float:
    """Call `consume(name, gradient)` once for each of the model's parameters; a tied head's is in the embedding's.

    Returns the loss.
    Tokens and targets are [batch, time], targets of -1 do not count. A gradient is in the reference's precision and
    shaped as its parameter; it may be reused after `consume` returns. `chunk`: positions per chunk of logits.
    """
    kept = _inputs(layerwise, tokens)
    loss, dy, head = _head(layerwise, kept.pop(), targets, consume, chunk)
    views = layerwise.views(tokens.shape[1])
    for index in reversed(range(layerwise.config.layers)):
        block, x = layerwise.block(index).requires_grad_(), kept.pop()
        for row in range(x.shape[0]):
            part = x[row : row + 1].requires_grad_()
            block(part, *views[index]).backward(dy[row : row + 1])
            dy[row : row + 1] = part.grad
        for name, parameter in block.named_parameters():
            consume(f"blocks.{index}.{name}", parameter.grad)
            parameter.grad = None
    table = layerwise.model.embedding.weight
    embedding = dy.new_zeros(table.shape, dtype=layerwise.dtype) if head is None else head
    embedding.index_add_(0, tokens.reshape(-1), dy.reshape(-1, dy.shape[-1]) * layerwise.embedding_scale)
    consume("embedding.weight", embedding)
    return loss


@torch.no_grad()
def _inputs(layerwise: Layerwise, tokens: Tensor) -> list[Tensor]:
    """What goes into each block, and what comes out of the last: [batch, time, width] each."""
    views, kept = layerwise.views(tokens.shape[1]), [layerwise.embed(tokens)]
    for index in range(layerwise.config.layers):
        block, x = layerwise.block(index), kept[-1]
        kept.append(torch.cat([block(row, *views[index]) for row in x.split(1)]))
    return kept


def _head(
    layerwise: Layerwise, x: Tensor, targets: Tensor, consume: Callable[[str, Tensor], None], chunk: int
) -> tuple[float, Tensor, Tensor | None]:
    """Last norm, head and loss. Returns the loss, the gradient of x [batch, time, width], and a tied head's own."""
    model, config = layerwise.model, layerwise.config
    weight = full(model.head.weight.detach()).to(layerwise.dtype).clone().requires_grad_()
    scale = full(model.norm.weight.detach()).to(layerwise.dtype).clone().requires_grad_()
    flat, wanted = x.view(-1, config.width), targets.reshape(-1)
    dy, counted = torch.empty_like(flat), (wanted != IGNORED).sum()
    total = flat.new_zeros(())
    chunk = chunk or max(1, LOGITS_BYTES // (config.vocabulary * flat.element_size()))
    for start in range(0, flat.shape[0], chunk):
        part, goal = flat[start : start + chunk].clone().requires_grad_(), wanted[start : start + chunk]
        hidden = layerwise.operators.norm(part, scale, config.norm_eps, **keywords(config)["norm"])
        logits = capped(F.linear(hidden, weight), config.logit_cap)
        loss = F.cross_entropy(logits, goal, ignore_index=IGNORED, reduction="sum")
        (loss / counted).backward()
        dy[start : start + chunk] = part.grad
        total += loss.detach()
    consume("norm.weight", scale.grad)
    if not config.tied_head:
        consume("head.weight", weight.grad)
    return float(total / counted), dy.view_as(x), weight.grad if config.tied_head else None
