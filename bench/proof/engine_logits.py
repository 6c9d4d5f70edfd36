"""What is known of the logits that an engine's tokens came from, and the views in which they are compared."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import NamedTuple

import torch
from torch import Tensor


class Known(NamedTuple):
    """Logits [..., steps, vocabulary]: the reference's, eager's, and those of the other choice at near ties.

    The last are None where no router chooses (see `bench.proof.ties`).
    """

    truth: Tensor
    eager: Tensor
    other: Tensor | None

    @classmethod
    def joined(cls, join: Callable[[tuple[Tensor, ...]], Tensor], parts: Iterable[Known]) -> Known:
        """Each kind of logits of all parts, put together by `torch.stack` or `torch.cat`."""
        truth, eager, other = zip(*parts)  # noqa: B905  (Python 3.10's zip)
        return cls(join(truth), join(eager), None if other[0] is None else join(other))

    @property
    def farthest(self) -> Tensor:
        """[..., steps]: how far from the truth either puts one logit at most."""
        truth = centred(self.truth)
        eager = (centred(self.eager) - truth).abs().amax(-1)
        return eager if self.other is None else torch.maximum(eager, (centred(self.other) - truth).abs().amax(-1))


def centred(logits: Tensor) -> Tensor:
    """[..., n] without the constant that may be added to all logits of a step."""
    return logits - logits.mean(-1, keepdim=True)


def log_probabilities(logits: Tensor, ids: Tensor) -> Tensor:
    """[rows, steps, vocabulary] at ids [rows, steps, n]."""
    return torch.log_softmax(logits, dim=-1).gather(-1, ids)
