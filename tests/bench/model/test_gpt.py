"""The GPT: its size, causality, and a cache that changes nothing."""

from __future__ import annotations

import dataclasses

import pytest

torch = pytest.importorskip("torch")

from bench import operators  # noqa: E402
from bench import spec as config  # noqa: E402
from bench.model import weights, work  # noqa: E402
from bench.model.gpt import GPT, build  # noqa: E402
from bench.spec import Workload  # noqa: E402

VARIANTS = {
    "plain": config.named("tiny"),
    "grouped, tied, biased": config.named("tiny_gqa"),
    "windowed": dataclasses.replace(config.named("tiny_gqa"), sliding_window=5),
    "Gemma's": dataclasses.replace(
        config.named("tiny_gqa"),
        activation="gelu_tanh",
        norm_plus_one=True,
        qk_norm=True,
        post_norms=True,
        embedding_scaled=True,
        query_scalar=9.0,
        attention_cap=2.0,
        logit_cap=3.0,
        sliding_window=5,
        full_layers=(1,),
        local_rope_base=100.0,
    ),
    "a part rotated": dataclasses.replace(config.named("tiny"), rotary_size=6),
    "experts": dataclasses.replace(
        config.named("tiny"), experts=config.Experts(5, 2, 24, normalised=True, dense_layers=(0,), shared_width=16)
    ),
    "head size 12": dataclasses.replace(config.named("tiny"), head_size=12),
}


def filled(shape: config.ModelConfig) -> GPT:
    model = build(shape, operators.Operators(), torch.float64, "cpu")
    weights.fill(model, 0)
    return model


@pytest.mark.parametrize(("name", "parameters"), [("open_llama_7b", 6_738_415_616), ("open_llama_3b", 3_426_473_600)])
def test_full_size_models_have_the_published_parameters(name, parameters):
    with torch.device("meta"):
        model = GPT(config.named(name))
    assert sum(p.numel() for p in model.parameters()) == parameters


def test_work_is_the_published_count():
    seven, three = config.named("open_llama_7b"), config.named("open_llama_3b")
    assert work.forward_flops(seven, 10, 2048) / 1e12 == pytest.approx(281.6, abs=0.05)
    assert work.training_flops(three, 2, 2048) / 1e12 == pytest.approx(85.9, abs=0.05)
    one = Workload("generation", seven, None, "bfloat16", 0, 1, 0)
    assert work.generation_bytes(seven, one, 1) / 1e9 == pytest.approx(13.214, abs=5e-4)


def test_work_is_within_windows_and_of_the_experts_that_a_token_meets():
    plain = config.named("tiny")
    pairs = sum(min(place + 1, 4) for place in range(100))  # causal, its own position counted whole
    windowed = dataclasses.replace(plain, sliding_window=4, full_layers=(1,))
    saved = work.forward_flops(plain, 1, 100) - work.forward_flops(windowed, 1, 100)
    whole = 100 * 101 // 2
    assert saved == pytest.approx(4 * (whole - pairs) * plain.heads * plain.head_size, rel=0.05)
    mixture = config.named("qwen3_30b_a3b")
    embedding = mixture.vocabulary * mixture.width
    assert (mixture.linear_parameters + embedding) / 1e9 == pytest.approx(3.35, rel=2e-3)
    one = Workload("generation", mixture, {"source": "hash"}, "bfloat16", 0, 1, 0, prompt=tuple(range(128)))
    every = mixture.linear_parameters + 48 * 3 * 120 * 768 * 2048
    assert work.generation_bytes(mixture, one, 1) == 2 * every
    assert work.generation_bytes(mixture, one, 2) == 2 * (every + mixture.linear_parameters)


@pytest.mark.parametrize("shape", VARIANTS.values(), ids=VARIANTS)
def test_a_later_token_changes_no_earlier_logit(shape):
    model = filled(shape)
    tokens = torch.arange(24).view(2, 12) * 7 % shape.vocabulary
    changed = tokens.clone()
    changed[:, 8] = 3
    with torch.inference_mode():
        before, after = model(tokens), model(changed)
    assert torch.equal(before[:, :8], after[:, :8])
    assert not torch.equal(before[:, 8:], after[:, 8:])


@pytest.mark.parametrize("shape", VARIANTS.values(), ids=VARIANTS)
def test_the_cache_changes_nothing(shape):
    model = filled(shape)
    tokens = torch.arange(13)[None] * 11 % shape.vocabulary
    with torch.inference_mode():
        full = model(tokens)
        model.make_cache(1, 13)
        pieces = [model(tokens[:, :5], torch.arange(5))]
        pieces += [model(tokens[:, i : i + 1], torch.tensor([i])) for i in range(5, 13)]
    assert torch.allclose(torch.cat(pieces, dim=1), full, rtol=0, atol=1e-10)


def test_what_lies_in_unused_slots_does_not_matter():
    model = filled(VARIANTS["plain"])
    tokens, positions = torch.arange(5)[None], torch.arange(5)
    with torch.inference_mode():
        model.make_cache(1, 40)
        clean = model(tokens, positions)
        for block in model.blocks:
            block.cache.k.fill_(100.0)
            block.cache.v.fill_(-100.0)
        assert torch.equal(model(tokens, positions), clean)


def test_a_cache_beyond_the_block_size_is_refused():
    with pytest.raises(ValueError, match="block size"):
        filled(VARIANTS["plain"]).make_cache(1, 257)


def test_head_and_embedding_are_one_where_tied():
    model = filled(VARIANTS["grouped, tied, biased"])
    assert model.head.weight is model.embedding.weight
    assert "head.weight" not in dict(model.named_parameters())
