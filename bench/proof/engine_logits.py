"""What is known of the logits that an engine's tokens came from, and the views in which they are compared."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import NamedTuple

import torch
from torch import Tensor


class Known(NamedTuple):
    """Logits [..., steps, vocabulary]: the reference's and eager's; and of near ties of a router what others come from.

    `changed`: the last norm's output [..., steps, width] of each other choice (see `bench.proof.ties`); none where no
    router chooses. `head` makes logits of one at a time: all of them at once are large.
    """

    truth: Tensor
    eager: Tensor
    changed: tuple[Tensor, ...]
    head: Callable[[Tensor], Tensor]

    @classmethod
    def joined(cls, join: Callable[[tuple[Tensor, ...]], Tensor], parts: Iterable[Known]) -> Known:
        """Each kind of all parts, put together by `torch.stack` or `torch.cat`."""
        truth, eager, changed, heads = zip(*parts)  # noqa: B905  (Python 3.10's zip)
        return cls(join(truth), join(eager), tuple(map(join, zip(*changed))), heads[0])  # noqa: B905

    def most(self, measure: Callable[[Tensor], Tensor]) -> Tensor | None:
        """The largest `measure` [...] of the logits of any other choice; None where there is none."""
        found = None
        for hidden in self.changed:
            one = measure(self.head(hidden))
            found = one if found is None else torch.maximum(found, one)
        return found

    @property
    def farthest(self) -> Tensor:
        """[..., steps]: how far from the truth any of them puts one logit at most."""
        truth = centred(self.truth)

        def far(logits: Tensor) -> Tensor:
            return (centred(logits) - truth).abs().amax(-1)

        eager, other = far(self.eager), self.most(far)
        return eager if other is None else torch.maximum(eager, other)


def centred(logits: Tensor) -> Tensor:
    """[..., n] without the constant that may be added to all logits of a step."""
    return logits - logits.mean(-1, keepdim=True)


def log_probabilities(logits: Tensor, ids: Tensor) -> Tensor:
    """[rows, steps, vocabulary] at ids [rows, steps, n]."""
    return torch.log_softmax(logits, dim=-1).gather(-1, ids)
