"""What a method computes that forgot one of the things in which a family differs from Llama: a trait left out."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from bench.model.gpt import Block
from bench.operators.experts import route
from bench.proof.layerwise import Layerwise
from bench.spec import ModelConfig


def variants(model: Layerwise) -> Iterator[tuple[str, Layerwise]]:
    """(name, the model with that fault) for each trait that its configuration has."""
    for name, changes in _configurations(model.config).items():
        yield name, model.with_config(**changes)
    if model.config.qk_norm:
        yield "the k norm skipped", _WithoutKNorm(model.model, model.dtype, model.operators, model.config)
    if model.config.experts is not None and model.config.experts.active > 1:
        yield "a token's second expert dropped", model.with_operators(route=_without_the_second)


def _configurations(config: ModelConfig) -> dict[str, dict[str, Any]]:
    """Changes of a configuration that its weights still fit, by the name of the fault."""
    local = [layer for layer in range(config.layers) if config.is_local(layer)]
    experts, scaling = config.experts, config.rope_scaling
    # Factors for each pair of the part that is rotated say nothing of the other pairs.
    whole = None if scaling is not None and "short_factor" in scaling else scaling
    found: dict[str, tuple[bool, dict[str, Any]]] = {
        "the norm's 1 forgotten": (config.norm_plus_one, {"norm_plus_one": False}),
        "the embedding unscaled": (config.embedding_scaled, {"embedding_scaled": False}),
        "the scores' cap left out": (config.attention_cap is not None, {"attention_cap": None}),
        "the logits' cap left out": (config.logit_cap is not None, {"logit_cap": None}),
        "scores scaled by the head size": (config.query_scalar is not None, {"query_scalar": None}),
        "the window left out": (bool(local), {"sliding_window": None}),
        "the window on every layer": (bool(local and config.full_layers), {"full_layers": ()}),
        "local and global layers swapped": (bool(local and config.full_layers), {"full_layers": tuple(local)}),
        "one rotary base for all layers": (config.local_rope_base is not None, {"local_rope_base": None}),
        "the rotary scaling left out": (config.rope_scaling is not None, {"rope_scaling": None}),
        "rotary on the whole head": (config.rotary_size is not None, {"rotary_size": None, "rope_scaling": whole}),
        "the router's weights not normalised": (
            experts is not None and experts.normalised,
            {"experts": None if experts is None else replace(experts, normalised=False)},
        ),
    }
    return {name: changes for name, (there, changes) in found.items() if there}


class _WithoutKNorm(Layerwise):
    def block(self, index: int) -> Block:
        block = super().block(index)
        unscaled = nn.Identity()
        block.norm_k = unscaled
        return block


def _without_the_second(
    scores: Tensor, active: int, chosen: Tensor | None, *, normalised: bool
) -> tuple[Tensor, Tensor]:
    weights, chosen = route(scores, active, chosen, normalised=normalised)
    dropped = torch.ones_like(weights)
    dropped[:, 1] = 0
    return weights * dropped, chosen
