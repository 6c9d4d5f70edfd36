"""Linear sketches: short stand-ins for long tensors, so that a difference can be measured without keeping both.

Elements are shuffled into buckets of one size, each element with a sign of its own, and each bucket is summed. The
norm of a difference of two sketches estimates the norm of the difference, to about sqrt(1 / (2 * buckets)) of it:
4 % at 256 buckets, less over many rows. Shuffle and signs come from the hash: every stack makes the same sketch.
"""

from __future__ import annotations

from functools import lru_cache

import torch
from torch import Tensor

from bench.model import hashing

BUCKETS = 256
PIECE = 1 << 20
# So many at once; a GPU would else wait for launches. Powers of two, so that a part's signs have one key.
PIECES = {"cuda": 8, "cpu": 1}


def sketch(x: Tensor, buckets: int = BUCKETS, dtype: torch.dtype | None = None) -> Tensor:
    """[..., n] -> [..., buckets] in `dtype` (x's own where None); x itself, cast, where n is no more than `buckets`."""
    size = x.shape[-1]
    if size <= buckets:
        return x.to(dtype or x.dtype)
    order, sign = _shuffle(size, buckets, str(x.device))
    padded = torch.nn.functional.pad(x, (0, order.numel() - size))
    signed = padded.to(dtype or x.dtype)[..., order].mul_(sign)
    return signed.view(*x.shape[:-1], buckets, -1).sum(-1)


def flat(x: Tensor, buckets: int = BUCKETS, dtype: torch.dtype | None = None) -> Tensor:
    """A tensor of any shape -> [buckets], piece by piece; flattened and cast only where it is no longer than that."""
    whole, dtype = x.detach().reshape(-1), dtype or x.dtype
    if whole.numel() <= buckets:
        return whole.to(dtype)
    total = torch.zeros(buckets, dtype=dtype, device=x.device)
    size = min(PIECE, whole.numel())
    several = size * PIECES[x.device.type]
    for start in range(0, whole.numel(), several):
        part = whole[start : start + several]
        part = torch.nn.functional.pad(part, (0, -part.numel() % size)).to(dtype)
        # The shuffle repeats from piece to piece, the signs do not.
        turn = _signs(start, part.numel(), x.device)
        total += sketch((part * turn).view(-1, size), buckets).sum(0)
    return total


def _signs(start: int, count: int, device: torch.device) -> Tensor:
    low = hashing.words(start % (1 << 30), count, hashing.keys("sketch/sign", start >> 30), device)
    return low.bitwise_and_(1).mul_(2).sub_(1)


@lru_cache(maxsize=16)
def _shuffle(size: int, buckets: int, device: str) -> tuple[Tensor, Tensor]:
    """(order, sign), both as long as `size` rounded up to whole buckets."""
    with torch.inference_mode(mode=False), torch.no_grad():  # kept for callers in any grad mode
        padded = -(-size // buckets) * buckets
        words = hashing.words(0, padded, hashing.keys("sketch/order", size), device)
        # As float64, exactly: torch 2.1's radix sort of a million integers crashes on one thread.
        order = torch.sort(words.to(torch.float64), stable=True)[1]
        return order, _signs(0, padded, torch.device(device)).to(torch.int8)
