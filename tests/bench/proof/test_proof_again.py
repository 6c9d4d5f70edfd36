"""A row that is faster on an input that it has just seen has the flag `memoised`, and is not called wrong for it."""

from __future__ import annotations

import random

import pytest

torch = pytest.importorskip("torch")

import planted  # noqa: E402
from probe_cells import PROBE, _without_dispatch, run  # noqa: E402, F401

from bench import methods  # noqa: E402
from bench.proof import again  # noqa: E402

FORWARD = {**PROBE, "iterations": 4, "warmup": 1, "batch": 4, "sequence": 64}
PROMPT = {**PROBE, "iterations": 4, "warmup": 1, "prompt": list(range(1, 200)), "new_tokens": 6}

LOOKS = {name: getattr(again, name) for name in ("LEAST_NS", "BLOCKS")}


@pytest.fixture(autouse=True)
def _all_looks(_without_dispatch, monkeypatch):  # noqa: F811
    for name, value in LOOKS.items():
        monkeypatch.setattr(again, name, value)


def whole(target):
    """The logits of every input are kept, by its content."""
    kept = {}

    def call(tokens, *rest):
        key = tuple(tokens.flatten().tolist())
        if key not in kept:
            kept[key] = target(tokens, *rest)
        return kept[key].clone()

    return call


def newest(target):
    """Those of the newest input alone are kept."""
    kept = {}

    def call(tokens):
        if "tokens" not in kept or not torch.equal(kept["tokens"], tokens):
            kept.update(tokens=tokens.clone(), logits=target(tokens))
        return kept["logits"].clone()

    return call


def rows(target):
    """Those of most batch rows are kept; the first row is computed."""
    kept = {}

    def call(tokens):
        key = tuple(tokens[1:].flatten().tolist())
        if key not in kept:
            kept[key] = target(tokens[1:])
        return torch.cat([target(tokens[:1]), kept[key]])

    return call


def prefill(gpt):
    """Keys, values and logits of every prompt are kept, as engines do."""
    kept = {}
    caches = [block.cache for block in gpt.blocks]

    def call(tokens, positions):
        if tokens.shape[1] == 1:
            return gpt(tokens, positions)
        key, n = tuple(tokens.flatten().tolist()), tokens.shape[1]
        if key not in kept:
            logits = gpt(tokens, positions)
            kept[key] = logits, [(cache.k[:, :n].clone(), cache.v[:, :n].clone()) for cache in caches]
        logits, slots = kept[key]
        for cache, (k, v) in zip(caches, slots, strict=True):
            cache.k[:, :n], cache.v[:, :n] = k, v
        return logits.clone()

    return call


@pytest.mark.parametrize(
    ("memo", "benchmark"),
    [(whole, "forward"), (newest, "forward"), (rows, "forward"), (prefill, "model_inference")],
)
def test_what_is_kept_of_an_input_is_a_flag(tmp_path, monkeypatch, memo, benchmark):
    changes = FORWARD if benchmark == "forward" else PROMPT
    monkeypatch.setattr(methods, "load", lambda _: planted.method(model=memo))
    record = run(tmp_path, benchmark, **changes)
    assert record["status"] == "ok", record["reason"]
    assert record["proof"]["seen_again"] < again.FASTER
    assert "memoised" in record["flags"]


@pytest.mark.parametrize(("seen", "calls", "flag"), [(1.0, 2, False), (0.92, 2, False), (0.85, 50, True)])
def test_of_long_calls_one_pair_is_made_where_nothing_is_to_be_seen(monkeypatch, seen, calls, flag):
    made = []

    def brief(context, task, number):
        made.append(number)
        return int(500_000_000 * (seen if made.count(number) > 1 else 1))

    monkeypatch.setattr(again, "brief", brief)
    task = type("Task", (), {"inference": True, "inputs": lambda *_: 0})()
    context = type("Context", (), {"workload": type("Workload", (), {"iterations": 5})})()
    found = again.seen_again(context, task)
    assert found == pytest.approx(seen)
    assert (len(made), found < again.FASTER) == (calls, flag)


def quiet_but_for_every_third(chance):
    """2 % of noise, and other work that makes every third call up to three times as long."""
    return 1 + 0.02 * chance.random() + (chance.random() < 1 / 3) * 2 * chance.random()


def seldom_undisturbed(chance):
    """Nine calls in ten are up to 60 % longer: the shortest of few is found by luck."""
    return 1 + (chance.random() < 0.9) * 0.6 * chance.random()


def two_states(chance):
    """Another process on the same core or not: 40 % longer, or nothing."""
    return 1 + 0.02 * chance.random() + 0.4 * (chance.random() < 0.7)


@pytest.mark.parametrize("noise", [quiet_but_for_every_third, seldom_undisturbed, two_states])
@pytest.mark.parametrize("base_ns", [2_000_000, 500_000_000])
def test_noise_is_no_flag(monkeypatch, base_ns, noise):
    chance = random.Random(1)  # noqa: S311
    monkeypatch.setattr(again, "brief", lambda *_: int(base_ns * noise(chance)))
    task = type("Task", (), {"inference": True, "brief": lambda *_: "", "inputs": lambda *_: 0})()
    context = type("Context", (), {"workload": type("Workload", (), {"iterations": 5})})()
    found = [again.seen_again(context, task) for _ in range(5000)]
    assert sum(ratio < again.FASTER for ratio in found) == 0
    assert sum(ratio < 1 for ratio in found) > 1000
