"""Rotary position tables. The angles are float32, as transformers' are, whatever the model's dtype."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import torch


def rotary_tables(
    length: int, head_size: int, base: float, scaling: Mapping[str, Any] | None, device: torch.device | str
) -> tuple[torch.Tensor, torch.Tensor]:
    """Return cosine and sine, each float32 `[length, head_size // 2]`, for positions 0 to `length - 1`.

    Column j turns element j of a head with element `j + head_size // 2` (the halves' convention of Hugging Face
    checkpoints). `scaling` is None, or an object with `rope_type` `linear` (Chen et al., 2023) or `llama3`
    (Llama 3.1's). Raises ValueError for an odd head and for another type.
    """
    if head_size % 2:
        raise ValueError(f"head size {head_size} is odd: its halves cannot be rotated")
    # On the CPU always: a GPU's cosine differs in the last bit, and every device should rotate by the same tables.
    exponents = torch.arange(0, head_size, 2, dtype=torch.float32, device="cpu") / head_size
    frequencies = _scaled(1.0 / (base**exponents), scaling)
    positions = torch.arange(length, dtype=torch.float32, device="cpu")
    angles = positions[:, None] * frequencies
    return angles.cos().to(device), angles.sin().to(device)


def _scaled(frequencies: torch.Tensor, scaling: Mapping[str, Any] | None) -> torch.Tensor:
    """Return the frequencies, in radians per position, of a context that was stretched after pre-training."""
    if scaling is None:
        return frequencies
    kind = scaling.get("rope_type", scaling.get("type"))
    if kind == "linear":
        return frequencies / scaling["factor"]
    if kind == "llama3":
        return _llama3(frequencies, scaling)
    raise ValueError(f"rotary scaling {kind!r} is not supported: only linear and llama3 are")


def _llama3(frequencies: torch.Tensor, scaling: Mapping[str, Any]) -> torch.Tensor:
    """Keep waves shorter than context / high, slow those longer than context / low, blend between.

    The order of the operations decides the last bit; it is that of transformers.
    """
    factor, context = scaling["factor"], scaling["original_max_position_embeddings"]
    low, high = scaling["low_freq_factor"], scaling["high_freq_factor"]
    wavelengths = 2 * math.pi / frequencies
    blend = (context / wavelengths - low) / (high - low)
    blended = (1 - blend) * frequencies / factor + blend * frequencies
    slow = wavelengths > context / low
    fast = wavelengths < context / high
    return torch.where(fast, frequencies, torch.where(slow, frequencies / factor, blended))
