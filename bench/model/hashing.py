"""Random numbers that are the same on every torch, CPU and GPU: a counter-based integer hash in torch operations.

torch's own generators differ between versions and devices. Here element i of a named stream is a pure function of
(name, i): 32-bit integer multiplications, shifts and exclusive ors, which every backend computes exactly.
Never compile these functions: a compiler may reorder what has to be exact.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterator

import torch
from torch import Tensor

# Chunks that stay in a cache while some thirty passes go over them.
CHUNK_CUDA, CHUNK_CPU = 1 << 22, 1 << 17


def keys(name: str, seed: int) -> tuple[int, int]:
    """Two 32-bit keys for a stream: with one alone, two streams could be permutations of each other."""
    raw = hashlib.sha256(f"{seed}/{name}".encode()).digest()
    return int.from_bytes(raw[:4], "little", signed=True), int.from_bytes(raw[4:8], "little", signed=True)


def mix(x: Tensor) -> Tensor:
    """Scramble int32 words in place; the shifts are logical, so the sign's copies are masked away."""
    x.bitwise_xor_((x >> 16).bitwise_and_(0xFFFF)).mul_(0x21F0AAAD)
    x.bitwise_xor_((x >> 15).bitwise_and_(0x1FFFF)).mul_(0x735A2D97)
    return x.bitwise_xor_((x >> 15).bitwise_and_(0x1FFFF))


def words(start: int, count: int, key: tuple[int, int], device: torch.device | str) -> Tensor:
    """Elements start..start+count of a stream as int32; start + count must stay below 2**31."""
    x = torch.arange(start, start + count, dtype=torch.int32, device=device)
    return mix(mix(x.bitwise_xor_(key[0])).add_(key[1]))


def chunks(count: int, device: torch.device) -> Iterator[tuple[int, int]]:
    """Cut `count` elements into (start, length) pieces that fit the device's cache."""
    size = CHUNK_CUDA if device.type == "cuda" else CHUNK_CPU
    for start in range(0, count, size):
        yield start, min(size, count - start)


def bell(x: Tensor) -> Tensor:
    """Sum of a word's four bytes minus its mean, float32 in [-510, 510]: variance 4 * (256**2 - 1) / 12."""
    low = (x & 255).add_((x >> 8).bitwise_and_(255))
    return low.add_((x >> 16).bitwise_and_(255)).add_((x >> 24).bitwise_and_(255)).sub_(510).to(torch.float32)


BELL_STD = (4 * (256**2 - 1) / 12) ** 0.5


def unit(x: Tensor) -> Tensor:
    """A word's upper half as float32 in [0, 1), exactly."""
    return (x >> 16).bitwise_and_(0xFFFF).to(torch.float32).mul_(2.0**-16)


def integers(name: str, seed: int, shape: tuple[int, ...], below: int, device: str) -> Tensor:
    """int64 in [0, below) of the stream `name`; the bias of the remainder is below / 2**31."""
    x = words(0, math.prod(shape), keys(name, seed), device)
    return x.bitwise_and_(0x7FFFFFFF).to(torch.int64).remainder_(below).view(shape)


def checksum(tensor: Tensor) -> int:
    """A 64-bit sum of the elements' bits, each times an odd number made from its place; exact in any order.

    Values that bfloat16 can hold are summed as bfloat16, so that a model in float32 has its bfloat16 twin's checksum.
    """
    flat, total = tensor.detach().reshape(-1), 0
    for start, length in chunks(flat.numel(), flat.device):
        piece = flat[start : start + length]
        if piece.dtype.is_floating_point:
            short = piece.to(torch.bfloat16)
            exact = piece.dtype == torch.bfloat16 or bool((short.to(piece.dtype) == piece).all())
            piece = short.view(torch.int16) if exact else piece.to(torch.float32).view(torch.int32)
        place = torch.arange(start, start + length, dtype=torch.int64, device=flat.device)
        place.mul_(-7046029254386353131).bitwise_or_(1)
        total += int((place * piece.to(torch.int64)).sum())
    return total & 0xFFFFFFFFFFFFFFFF
