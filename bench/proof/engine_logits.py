"""What is known of the logits that an engine's tokens came from, and the views in which they are compared."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor


class Known(NamedTuple):
    """Logits [..., steps, vocabulary]: the reference's, eager's, and those of the other choice at near ties.

    The last are the reference's where no router chooses (see `bench.proof.ties`).
    """

    truth: Tensor
    eager: Tensor
    other: Tensor

    @property
    def farthest(self) -> Tensor:
        """[..., steps]: how far from the truth either puts one logit at most."""
        truth = centred(self.truth)
        far = ((centred(one) - truth).abs().amax(-1) for one in (self.eager, self.other))
        return torch.maximum(*far)


def centred(logits: Tensor) -> Tensor:
    """[..., n] without the constant that may be added to all logits of a step."""
    return logits - logits.mean(-1, keepdim=True)


def log_probabilities(logits: Tensor, ids: Tensor) -> Tensor:
    """[rows, steps, vocabulary] at ids [rows, steps, n]."""
    return torch.log_softmax(logits, dim=-1).gather(-1, ids)
