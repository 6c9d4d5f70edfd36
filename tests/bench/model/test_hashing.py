"""Weights and inputs are the same bits on every torch, CPU and GPU."""

from __future__ import annotations

import pytest

torch = pytest.importorskip("torch")

from bench import spec as config  # noqa: E402
from bench.model import hashing, weights  # noqa: E402
from bench.model.gpt import build  # noqa: E402
from bench.operators import Operators  # noqa: E402

# Made once by torch 2.1.0, 2.13.0 (CPU) and 2.11.0 (H200): a change here makes every older record incomparable.
WORDS = [-1014177141, 1894471717, 260708536, -145644055]
TINY = "dc9cd19da5b29b25"
TINY_GQA = "3a93c00cbc147edc"


def reference_word(index: int, key: tuple[int, int]) -> int:
    """The hash in Python's own integers."""

    def mix(x: int) -> int:
        x = ((x ^ (x >> 16)) * 0x21F0AAAD) & 0xFFFFFFFF
        x = ((x ^ (x >> 15)) * 0x735A2D97) & 0xFFFFFFFF
        return x ^ (x >> 15)

    first, second = (k & 0xFFFFFFFF for k in key)
    x = mix((mix(index ^ first) + second) & 0xFFFFFFFF)
    return x - (1 << 32) if x >= 1 << 31 else x


def test_words_are_the_documented_hash():
    key = hashing.keys("a", 0)
    assert hashing.words(0, 4, key, "cpu").tolist() == WORDS
    assert hashing.words(0, 500, key, "cpu").tolist() == [reference_word(i, key) for i in range(500)]


def test_a_chunk_is_a_piece_of_the_whole():
    key = hashing.keys("blocks.0.qkv.weight", 3)
    whole = hashing.words(0, 1000, key, "cpu")
    assert torch.equal(torch.cat([hashing.words(s, 250, key, "cpu") for s in range(0, 1000, 250)]), whole)


def test_bell_and_unit_have_their_moments():
    x = hashing.words(0, 1 << 20, hashing.keys("moments", 0), "cpu")
    bell = hashing.bell(x.clone())
    assert abs(float(bell.mean())) < 1
    assert float(bell.std()) == pytest.approx(hashing.BELL_STD, rel=5e-3)
    unit = hashing.unit(x)
    assert 0 <= float(unit.min()) <= float(unit.max()) < 1
    assert float(unit.mean()) == pytest.approx(0.5, abs=2e-3)


def test_streams_are_no_permutations_of_each_other():
    a = hashing.words(0, 4096, hashing.keys("a", 0), "cpu").sort().values
    b = hashing.words(0, 4096, hashing.keys("b", 0), "cpu").sort().values
    assert not torch.equal(a, b)


def test_integers_stay_below():
    ids = hashing.integers("tokens/0", 0, (4, 100), 100, "cpu")
    assert ids.dtype == torch.int64
    assert ids.shape == (4, 100)
    assert 0 <= int(ids.min()) <= int(ids.max()) < 100
    assert not torch.equal(ids, hashing.integers("tokens/1", 0, (4, 100), 100, "cpu"))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32, torch.float64])
@pytest.mark.parametrize(("name", "known"), [("tiny", TINY), ("tiny_gqa", TINY_GQA)])
def test_weights_have_the_checksum_of_every_other_torch(name, known, dtype):
    model = build(config.named(name), Operators(), dtype, "cpu")
    weights.fill(model, 0)
    assert weights.checksum(model) == known


def test_checksum_sees_a_swap_a_bit_and_the_seed():
    x = hashing.bell(hashing.words(0, 100, hashing.keys("x", 0), "cpu")).to(torch.bfloat16)
    swapped = x.clone()
    swapped[[3, 70]] = x[[70, 3]]
    changed = x.clone()
    changed[5] *= 1.01
    sums = {hashing.checksum(t) for t in (x, swapped, changed)}
    assert len(sums) == 3


def test_norm_weights_are_spread_around_one():
    model = build(config.named("tiny"), Operators(), torch.float32, "cpu")
    weights.fill(model, 0)
    norms = torch.cat([p.detach() for n, p in model.named_parameters() if "norm" in n])
    assert 0.57 <= float(norms.min()) < 0.7
    assert 1.3 < float(norms.max()) <= 1.44


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_gpu_and_cpu_make_the_same_bits():
    for name in ("tiny", "tiny_gqa"):
        sums = set()
        for device in ("cpu", "cuda"):
            model = build(config.named(name), Operators(), torch.bfloat16, device)
            weights.fill(model, 0)
            sums.add(weights.checksum(model))
        assert len(sums) == 1
