"""Faults that only a probe with the row's own traits, or in the row's own precision, can show."""

from __future__ import annotations

import dataclasses

import pytest

torch = pytest.importorskip("torch")

import planted  # noqa: E402
import right_methods  # noqa: E402
from bench_specs import workload  # noqa: E402
from probe_cells import _without_dispatch, run  # noqa: E402, F401

from bench import methods, operators  # noqa: E402
from bench import spec as config  # noqa: E402
from bench.operators import Operators  # noqa: E402

SHRUNK = {"layers": 2, "width": 128, "mlp_width": 352, "vocabulary": 512, "block_size": 256}
TRAITS = {
    "plain": {"heads": 2, "kv_heads": 2, "head_size": 128, "norm_eps": 1e-6},
    "other epsilon": {"heads": 2, "kv_heads": 2, "head_size": 128, "norm_eps": 1e-5},
    "grouped": {"heads": 8, "kv_heads": 2, "head_size": 64, "norm_eps": 1e-5},
    "one key head": {"heads": 8, "kv_heads": 1, "head_size": 64, "norm_eps": 1e-6},
    "other base": {"heads": 2, "kv_heads": 2, "head_size": 128, "norm_eps": 1e-6, "rope_base": 500000.0},
    "tied": {"heads": 2, "kv_heads": 2, "head_size": 128, "norm_eps": 1e-6, "tied_head": True},
    "bias": {"heads": 2, "kv_heads": 2, "head_size": 128, "norm_eps": 1e-6, "qkv_bias": True},
    "window": {"heads": 2, "kv_heads": 2, "head_size": 128, "norm_eps": 1e-6, "sliding_window": 24},
}
SHAPES = {
    "forward": {"batch": 2, "sequence": 64, "iterations": 2, "warmup": 0},
    "generation": {"prompt": list(range(1, 7)), "new_tokens": 24, "iterations": 3, "warmup": 0},
    "train_static": {"batch": 2, "sequence": 64, "ids_below": 512, "iterations": 6, "warmup": 1},
}


def probe(folder, benchmark, traits, dtype):
    model = dataclasses.asdict(dataclasses.replace(config.named("tiny"), **SHRUNK, **TRAITS[traits]))
    changes = {**SHAPES[benchmark], "model": "tiny", "dtype": dtype, "weights": {"source": "probe", "seed": 0}}
    if benchmark.startswith("train") and dtype == "bfloat16":
        changes["learning_rate"] = 0.05
    return run(folder, benchmark, **{**changes, "model": {**workload(benchmark)["model"], **model}})


def scaled(factor):
    return Operators(attention=lambda q, k, v, mask: operators.attention(q * factor, k, v, mask))


def scaled_in_half(factor):
    def attention(q, k, v, mask):
        return operators.attention(q if q.dtype == torch.float32 else q * factor, k, v, mask)

    return Operators(attention=attention)


def eps(value):
    return Operators(norm=lambda x, weight, _: operators.norm(x, weight, value))


def eps_in_half(value):
    def norm(x, weight, right):
        return operators.norm(x, weight, right if x.dtype == torch.float32 else value)

    return Operators(norm=norm)


def tiled(q, k, v, mask):
    groups = q.shape[2] // k.shape[2]
    return operators.attention(q, k.repeat(1, 1, groups, 1), v.repeat(1, 1, groups, 1), mask)


def rotated(base):
    def rotary(x, cos, sin):
        size = cos.shape[-1]
        angles = torch.arange(cos.shape[0])[:, None] * base ** (-torch.arange(size) / size)
        return operators.rotary(x, angles.cos(), angles.sin()) if x.shape[1] > 1 else operators.rotary(x, cos, sin)

    return Operators(rotary=rotary)


def without_window(q, k, v, mask):
    return operators.attention(q, k, v, None if q.shape[1] > 1 else mask)


FAULTS = [
    # What a method has hard-coded is right on a model that happens to have it.
    ("epsilon of 1e-6", "float32", eps(1e-6), "plain", "other epsilon"),
    ("epsilon of 1e-5", "float32", eps(1e-5), "other epsilon", "plain"),
    ("heads tiled", "float32", Operators(attention=tiled), "one key head", "grouped"),
    ("rotary base of 10000", "float32", rotated(10000.0), "plain", "other base"),
    ("window ignored", "float32", Operators(attention=without_window), "plain", "window"),
    # And what goes wrong in half precision alone is right in float32.
    ("epsilon in half precision", "bfloat16", eps_in_half(1e-6), "plain", "other epsilon"),
    ("scale in half precision", "bfloat16", scaled_in_half(1.1), None, "plain"),
]


@pytest.mark.parametrize("benchmark", ["forward", "train_static"])
@pytest.mark.parametrize("fault", FAULTS, ids=lambda fault: fault[0])
def test_a_fault_that_only_such_a_probe_shows(tmp_path, monkeypatch, benchmark, fault):
    _, dtype, wrong, right, traits = fault
    monkeypatch.setattr(methods, "load", lambda _: planted.method(operators=wrong))
    if right is not None and benchmark == "forward":  # once shown, it is hidden from training as well
        assert probe(tmp_path / "hidden", benchmark, right, dtype)["status"] == "ok"
    if dtype == "bfloat16":
        assert probe(tmp_path / "float32", benchmark, traits, "float32")["status"] == "ok"
    assert probe(tmp_path / "found", benchmark, traits, dtype)["status"] == "incorrect"


# Another epsilon or base is another number, and takes no other way through the proof.
WAYS = [traits for traits in TRAITS if not traits.startswith("other")]


@pytest.mark.parametrize("benchmark", SHAPES)
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("traits", WAYS)
def test_a_right_method_passes_on_each_probe(tmp_path, monkeypatch, benchmark, dtype, traits):
    monkeypatch.setattr(methods, "load", lambda _: right_methods.METHODS["all others"])
    record = probe(tmp_path, benchmark, traits, dtype)
    assert (record["status"], record["flags"]) == ("ok", ["cold"]), (record["reason"], record["proof"])
