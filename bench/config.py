"""The shape of a Llama-family model."""

from __future__ import annotations

import json
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any


@dataclass(frozen=True)
class ModelConfig:
    """Sizes in elements. Llama 2 and 3, Mistral and Qwen2 differ in what stands from `kv_heads` on."""

    name: str
    layers: int
    width: int
    heads: int
    kv_heads: int
    head_size: int
    mlp_width: int
    vocabulary: int
    block_size: int
    norm_eps: float
    rope_base: float
    rope_scaling: dict[str, Any] | None
    tied_head: bool
    qkv_bias: bool
    sliding_window: int | None

    @property
    def qkv_width(self) -> int:
        """Rows of the fused projection: every query head, then every key head, then every value head."""
        return (self.heads + 2 * self.kv_heads) * self.head_size

    @property
    def linear_parameters(self) -> int:
        """Weights that every token is multiplied with: all but the embedding and the norms."""
        attention = self.width * self.qkv_width + self.heads * self.head_size * self.width
        mlp = 3 * self.width * self.mlp_width
        return self.layers * (attention + mlp) + self.width * self.vocabulary


def from_dict(content: dict[str, Any]) -> ModelConfig:
    """Make a config from a spec's `model`; ValueError names what is missing or unknown."""
    known = {field.name for field in fields(ModelConfig)}
    missing, unknown = sorted(known - set(content)), sorted(set(content) - known)
    if missing or unknown:
        raise ValueError(f"model: missing keys {missing}, unknown keys {unknown}")
    return ModelConfig(**content)


def named(name: str) -> ModelConfig:
    """One of the models in `models.json`; KeyError for others."""
    models = json.loads(Path(__file__).with_name("models.json").read_text(encoding="utf-8"))
    return from_dict({"name": name, **models[name]})
