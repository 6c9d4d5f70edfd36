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
    checkpoints). `scaling` is None, or an object with `rope_type` `linear` (Chen et al., 2023), `llama3` (Llama
    3.1's), `yarn` (Peng et al., 2023), `longrope` (Ding et al., 2024; within the original context), or `dynamic`,
    which changes nothing within it. Raises ValueError for an odd head and for another type.
    """
    if head_size % 2:
        raise ValueError(f"head size {head_size} is odd: its halves cannot be rotated")
    # On the CPU always: a GPU's cosine differs in the last bit, and every device should rotate by the same tables.
    exponents = torch.arange(0, head_size, 2, dtype=torch.float32, device="cpu") / head_size
    frequencies = _scaled(base**exponents, base, scaling)
    positions = torch.arange(length, dtype=torch.float32, device="cpu")
    angles = positions[:, None] * frequencies
    longer = (scaling or {}).get("attention_factor", 1.0)
    return (angles.cos() * longer).to(device), (angles.sin() * longer).to(device)


def _scaled(wavelengths: torch.Tensor, base: float, scaling: Mapping[str, Any] | None) -> torch.Tensor:
    """Return the frequencies, in radians per position, of a context that was stretched after pre-training.

    `wavelengths`: positions per radian before. The order of the operations decides the last bit; it is everywhere that
    of transformers.
    """
    frequencies = 1.0 / wavelengths
    kind = "default" if scaling is None else scaling.get("rope_type", scaling.get("type"))
    if scaling is None or kind == "dynamic":
        return frequencies
    if kind == "linear":
        return frequencies / scaling["factor"]
    if kind == "llama3":
        return _llama3(frequencies, scaling)
    if kind == "yarn":
        return _yarn(wavelengths, base, scaling)
    if kind == "longrope":
        factors = torch.tensor(scaling["short_factor"], dtype=torch.float32, device="cpu")
        return 1.0 / (factors * wavelengths)
    raise ValueError(f"rotary scaling {kind!r} is not supported: only linear, llama3, dynamic, yarn and longrope are")


def _yarn(wavelengths: torch.Tensor, base: float, scaling: Mapping[str, Any]) -> torch.Tensor:
    """Keep what turns often within the original context, slow what turns seldom, and blend linearly between."""
    half, context = len(wavelengths), scaling["original_max_position_embeddings"]
    fast, slow = (
        2 * half * math.log(context / (scaling[key] * 2 * math.pi)) / (2 * math.log(base))
        for key in ("beta_fast", "beta_slow")
    )
    if scaling["truncate"]:
        fast, slow = math.floor(fast), math.ceil(slow)
    fast, slow = max(fast, 0), min(slow, 2 * half - 1)
    if fast == slow:
        slow += 0.001  # as transformers does, where no blend is left
    ramp = ((torch.arange(half, dtype=torch.float32, device="cpu") - fast) / (slow - fast)).clamp(0, 1)
    kept = 1 - ramp
    return 1.0 / (scaling["factor"] * wavelengths) * (1 - kept) + 1.0 / wavelengths * kept


def _llama3(frequencies: torch.Tensor, scaling: Mapping[str, Any]) -> torch.Tensor:
    """Keep waves shorter than context / high, slow those longer than context / low, blend between."""
    factor, context = scaling["factor"], scaling["original_max_position_embeddings"]
    low, high = scaling["low_freq_factor"], scaling["high_freq_factor"]
    wavelengths = 2 * math.pi / frequencies
    blend = (context / wavelengths - low) / (high - low)
    blended = (1 - blend) * frequencies / factor + blend * frequencies
    slow = wavelengths > context / low
    fast = wavelengths < context / high
    return torch.where(fast, frequencies, torch.where(slow, frequencies / factor, blended))
