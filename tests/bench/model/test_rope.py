"""Rotary tables against the formula in Python's own floats, and to the bit against transformers."""

from __future__ import annotations

import math

import pytest

torch = pytest.importorskip("torch")

from bench.model.rope import rotary_tables  # noqa: E402

LLAMA3 = {
    "rope_type": "llama3",
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 8192,
}
LINEAR = {"rope_type": "linear", "factor": 4.0}
CASES = [
    (16, 10000.0, None),
    (100, 10000.0, None),
    (128, 500000.0, LLAMA3),
    (64, 1000000.0, None),
    (32, 10000.0, LINEAR),
    (64, 10000.0, LLAMA3 | {"factor": 32.0, "original_max_position_embeddings": 64}),
]


def frequency(j, head_size, base, scaling):
    """Return radians per position of column j, in double precision, from the papers' formulas."""
    plain = base ** (-2 * j / head_size)
    if scaling is None:
        return plain
    if scaling["rope_type"] == "linear":
        return plain / scaling["factor"]
    turns = scaling["original_max_position_embeddings"] * plain / (2 * math.pi)  # over the original context
    low, high = scaling["low_freq_factor"], scaling["high_freq_factor"]
    share = min(max((turns - low) / (high - low), 0.0), 1.0)
    return plain * (share + (1 - share) / scaling["factor"])


@pytest.mark.parametrize(("head_size", "base", "scaling"), CASES)
def test_formula(head_size, base, scaling):
    length = 512
    cos, sin = rotary_tables(length, head_size, base, scaling, "cpu")
    assert cos.shape == sin.shape == (length, head_size // 2)
    assert cos.dtype == sin.dtype == torch.float32
    for position in (0, 1, 17, length - 1):
        for j in range(head_size // 2):
            angle = position * frequency(j, head_size, base, scaling)
            bound = 1e-6 + 4e-7 * angle  # a float32 angle is off by its own last bits
            assert abs(cos[position, j].item() - math.cos(angle)) <= bound
            assert abs(sin[position, j].item() - math.sin(angle)) <= bound


@pytest.mark.parametrize(("head_size", "base", "scaling"), CASES)
def test_transformers_to_the_bit(head_size, base, scaling):
    llama = pytest.importorskip("transformers.models.llama.modeling_llama")
    config = llama.LlamaConfig(
        hidden_size=2 * head_size,
        num_attention_heads=2,
        max_position_embeddings=4096,
        rope_parameters={"rope_type": "default", **(scaling or {}), "rope_theta": base},
    )
    theirs = llama.LlamaRotaryEmbedding(config)(torch.zeros(1), torch.arange(3000)[None])
    ours = rotary_tables(3000, head_size, base, scaling, "cpu")
    for a, b in zip(theirs, ours, strict=True):
        assert torch.equal(a[0, :, : head_size // 2], b)
        assert torch.equal(a[0, :, head_size // 2 :], b)


def test_tables_do_not_depend_on_the_default_device_and_dtype():
    plain = rotary_tables(8, 4, 10000.0, None, "cpu")
    torch.set_default_dtype(torch.float64)
    try:
        with torch.device("meta"):
            other = rotary_tables(8, 4, 10000.0, None, "cpu")
    finally:
        torch.set_default_dtype(torch.float32)
    assert torch.equal(plain[0], other[0])
    assert torch.equal(plain[1], other[1])
    assert rotary_tables(8, 4, 10000.0, None, "meta")[0].device.type == "meta"


def test_refused():
    with pytest.raises(ValueError, match="odd"):
        rotary_tables(8, 5, 10000.0, None, "cpu")
    with pytest.raises(ValueError, match="su"):
        rotary_tables(8, 4, 10000.0, {"rope_type": "su", "factor": 2.0}, "cpu")
