"""Draws the next token. Probabilities are in float32 at least: bfloat16 would tie at the maximum."""

from __future__ import annotations

import torch
from torch import Tensor

from bench.operators import widen
from bench.status import Incorrect


def probabilities(logits: Tensor, temperature: Tensor) -> Tensor:
    """Softmax of logits [batch, vocabulary] over a temperature (a tensor without axes)."""
    return torch.softmax(widen(logits) / temperature, dim=-1)


def multinomial(logits: Tensor, temperature: Tensor) -> Tensor:
    """One token id for each row, [batch, 1], by torch.multinomial; Incorrect where the logits make no distribution."""
    try:
        return torch.multinomial(probabilities(logits, temperature), 1)
    except RuntimeError as error:
        if "probability tensor" in str(error):
            raise Incorrect("sampling: a logit is not finite") from error
        raise


def exponential(logits: Tensor, temperature: Tensor) -> Tensor:
    """One token id for each row, [batch, 1], as argmax(p / e) with e ~ Exp(1): nothing waits for the host."""
    p = probabilities(logits, temperature)
    return torch.argmax(p / torch.empty_like(p).exponential_(1), dim=-1, keepdim=True)
