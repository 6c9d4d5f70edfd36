"""Looks at logits so that they can be freed: those of a full batch are over a gigabyte.

What is kept of every position is a sketch, the largest entry and a checksum of the bits.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from bench.observe.sketch import sketch
from bench.operators import reference_dtype

BITS = {2: torch.int16, 4: torch.int32, 8: torch.int64}


@dataclass(frozen=True)
class LogitsDigest:
    """Of logits [batch, time, vocabulary]: sketch [batch, time, buckets], top and bits [batch, time] int64."""

    sketch: Tensor
    top: Tensor
    bits: Tensor


def observe(logits: Tensor) -> LogitsDigest:
    """Look at an output row by row; the caller may free it afterwards."""
    dtype = reference_dtype(logits.dtype)
    rows = [(sketch(row, dtype=dtype), row.argmax(-1), _bits(row)) for row in logits]
    return LogitsDigest(*(torch.stack(parts) for parts in zip(*rows)))  # noqa: B905  (Python 3.10's zip)


def _bits(row: Tensor) -> Tensor:
    """[time, vocabulary] -> int64 [time]: the bits of each position, each times an odd number made from its place."""
    place = torch.arange(row.shape[-1], dtype=torch.int64, device=row.device).mul_(-7046029254386353131).bitwise_or_(1)
    words = row.contiguous().view(BITS[row.element_size()])
    # In pieces: as int64 a whole row of 2048 positions would take half a gigabyte twice.
    return torch.cat([(piece.to(torch.int64) * place).sum(-1) for piece in words.split(256)])
