"""The plain LLaMA that a row is timed beside computes what the row does."""

from __future__ import annotations

import importlib.util

import torch
from places import ROOT

from bench.model import weights
from bench.model.gpt import build
from bench.operators import Operators
from bench.spec import named


def test_the_peers_model_gives_benchs_logits_from_the_same_weights() -> None:
    found = importlib.util.spec_from_file_location("llama", ROOT / "tests" / "benchmarks" / "peers" / "llama.py")
    llama = importlib.util.module_from_spec(found)
    found.loader.exec_module(llama)
    config = named("tiny")
    ours = build(config, Operators(), torch.float64, "cpu")
    weights.fill_probe(ours, 0)
    sizes = {name: getattr(config, name) for name in ("layers", "width", "heads", "mlp_width", "vocabulary")}
    theirs = llama.LLaMA(**sizes, norm_eps=config.norm_eps, length=64).to(torch.float64)
    state = {**dict(ours.named_parameters()), "cos": theirs.cos, "sin": theirs.sin}
    for old, new in (("norm_attention.weight", "first"), ("norm_mlp.weight", "second"), ("norm.weight", "norm")):
        state = {name.replace(old, new): value for name, value in state.items()}
    theirs.load_state_dict(state)
    tokens = torch.randint(config.vocabulary, (2, 64))
    torch.testing.assert_close(theirs(tokens), ours(tokens), rtol=1e-4, atol=1e-4)  # its norms are float32
