"""The plain LLaMA that a row is timed beside computes what the row does, with TinyLlama's operators too."""

from __future__ import annotations

import importlib
import sys
from types import SimpleNamespace

import pytest
from places import ROOT

torch = pytest.importorskip("torch")

from bench import operators  # noqa: E402
from bench.model import weights  # noqa: E402
from bench.model.gpt import build  # noqa: E402
from bench.spec import named  # noqa: E402


def apply_rotary(first, second, cos, sin, out_first, out_second, conjugate) -> None:  # noqa: PLR0917 - as it is
    assert not conjugate
    turned = first * cos - second * sin, second * cos + first * sin
    out_first.copy_(turned[0]), out_second.copy_(turned[1])


def flash_attn_func(q, k, v, *, causal):
    assert causal
    return operators.attention(q, k, v, None)


PACKAGES = {  # their operators are for a GPU
    "rotary_emb": SimpleNamespace(apply_rotary=apply_rotary),
    "flash_attn": SimpleNamespace(flash_attn_func=flash_attn_func),
    "xformers.ops": SimpleNamespace(swiglu=lambda x, gate, _g, up, _u, down, _d: operators.swiglu(x, gate, up, down)),
}


@pytest.mark.parametrize("method", ["eager", "tinyllama"])
def test_a_peer_gives_benchs_logits_from_the_same_weights(monkeypatch: pytest.MonkeyPatch, method: str) -> None:
    monkeypatch.syspath_prepend(str(ROOT / "tests" / "benchmarks" / "peers"))
    for name in ("llama", "methods", f"methods.{method}"):
        monkeypatch.delitem(sys.modules, name, raising=False)
    for name, module in {**PACKAGES, "xformers": SimpleNamespace()}.items():
        monkeypatch.setitem(sys.modules, name, module)
    llama = importlib.import_module("llama")
    config = named("tiny")
    ours = build(config, operators.Operators(), torch.float64, "cpu")
    weights.fill_probe(ours, 0)
    sizes = {name: getattr(config, name) for name in ("layers", "width", "heads", "mlp_width", "vocabulary")}
    theirs = llama.LLaMA(**sizes, norm_eps=config.norm_eps, length=64).to(torch.float64)
    state = {**dict(ours.named_parameters()), "cos": theirs.cos, "sin": theirs.sin}
    for old, new in (("norm_attention.weight", "first"), ("norm_mlp.weight", "second"), ("norm.weight", "norm")):
        state = {name.replace(old, new): value for name, value in state.items()}
    theirs.load_state_dict(state)
    plain = llama.rotary
    call = importlib.import_module(f"methods.{method}").prepare(theirs.requires_grad_(False))
    assert (llama.rotary is plain) == (method == "eager")
    tokens = torch.randint(config.vocabulary, (2, 64))
    torch.testing.assert_close(call(tokens), ours(tokens), rtol=1e-4, atol=1e-4)  # its norms are float32
