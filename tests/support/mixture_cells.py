"""Cells of engines of tiny mixtures, whose own routers choose; and what is planted in transformers' model of one."""

from __future__ import annotations

import engine_cells
import torch
from bench_specs import MODELS

from bench.proof import faults

EXPERTS = {"count": 8, "active": 2, "width": 64, "normalised": True}
TINY = MODELS["tiny"]
SHAPES = {
    "mixtral": {"experts": {**EXPERTS, "width": TINY["mlp_width"]}},
    "qwen3_moe": {"qk_norm": True, "experts": EXPERTS},
    "qwen2_moe": {"qkv_bias": True, "experts": {**EXPERTS, "shared_width": 32, "normalised": False}},
}
TEXT = {"iterations": 3, "warmup": 1, "prompt": [1, 15, 29, 59, 300]}


def run(folder, shape, source="probe", seed=0, routing="router", **changes):
    """Return the record of a cell."""
    weights = {"source": source, "seed": seed, "fingerprint": None, "routing": routing}
    model = {**TINY, "name": shape, **SHAPES[shape]}
    return engine_cells.run(folder, model=model, weights=weights, **{**TEXT, **changes})


def planted(adapter, change):
    """The adapter's class, with its model changed."""

    class Changed(adapter):
        def __init__(self, *given, **more):
            super().__init__(*given, **more)
            change(self.model)

    return Changed


def other_weights(model):
    """The weights of a token's experts are normalised where they are not to be, or the other way."""
    for part in model.modules():
        if hasattr(part, "norm_topk_prob"):
            part.norm_topk_prob = not part.norm_topk_prob


def one_expert(model):
    """Of a token's two experts the second is lost."""
    for part in model.modules():
        if hasattr(part, "top_k"):
            part.top_k = 1


@torch.no_grad()
def int8(model):
    """The layers' matrices are rounded to eight bits, a scale for each row."""
    for name, weight in model.named_parameters():
        if weight.dim() > 1 and "layers" in name:
            weight.copy_(faults.int8(weight.float()))
