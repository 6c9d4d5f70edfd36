"""Parts of every timed output, kept untimed in memory of their own, so that all samples can be judged afterwards.

Which positions are kept is drawn after the sample was timed: no method can know them.
"""

from __future__ import annotations

import random
from dataclasses import dataclass

import torch
from torch import Tensor

POSITIONS = 64
"""Of each sample's logits, spread over its batch rows."""


@dataclass(frozen=True)
class Part:
    """Of one sample: `places` [batch, n] and the logits there, [batch, n, vocabulary]."""

    index: int
    places: Tensor
    logits: Tensor


class KeptLogits:
    """Logits [batch, time, vocabulary] of up to `samples` samples at a few positions each; later ones are not kept."""

    def __init__(self, samples: int, shape: tuple[int, int, int], dtype: torch.dtype, device: str) -> None:
        batch, time, vocabulary = shape
        self.time, self.each = time, min(time, max(1, POSITIONS // batch))
        # Memory before the first call: a copy in between must not move what a compiler or a graph has placed.
        self.room = torch.zeros(samples, batch, self.each, vocabulary, dtype=dtype, device=device)
        self.parts: list[Part] = []
        self.rows = torch.arange(batch, device=device)[:, None]
        self.chance = random.SystemRandom()

    def take(self, index: int, logits: Tensor) -> None:
        """Copy some positions of a sample's logits."""
        if len(self.parts) < len(self.room):
            drawn = [sorted(self.chance.sample(range(self.time), self.each)) for _ in self.rows]
            places = torch.tensor(drawn, device=self.room.device)
            room = self.room[len(self.parts)]
            room.copy_(logits[self.rows, places])
            self.parts.append(Part(index, places, room))
