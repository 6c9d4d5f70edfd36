"""Every timed sample is judged, not the last alone: methods that are right where it was looked at before."""

from __future__ import annotations

import pytest

torch = pytest.importorskip("torch")

import planted  # noqa: E402
from probe_cells import PROBE, TEXT, _without_dispatch, run  # noqa: E402, F401

from bench import methods  # noqa: E402
from bench.benchmarks import read_element  # noqa: E402
from bench.status import Incorrect  # noqa: E402

FORWARD = {**PROBE, "iterations": 6, "warmup": 1}
SAMPLES = FORWARD["iterations"]


def calls(model, right):
    """A model that calls `model` but where `right(number)` of the call; there it is itself."""
    number = -1

    def compile_model(target):
        def call(tokens):
            nonlocal number
            number += 1
            return target(tokens) if right(number) else model(target, tokens)

        return call

    return planted.method(model=compile_model)


def half_the_layers(target, tokens):
    blocks = target.blocks
    try:
        target.blocks = blocks[: len(blocks) // 2]
        return target(tokens)
    finally:
        target.blocks = blocks


def of_the_call_before():
    kept = {}

    def model(target, tokens):
        kept["before"], kept["now"] = kept.get("now"), target(tokens)
        return kept["now"] if kept["before"] is None else kept["before"]

    return model


def without_the_last_row(target, tokens):
    logits = target(tokens[:-1])
    return torch.cat([logits, logits[-1:]])


def zeros(target, tokens):
    return torch.zeros(*tokens.shape, target.config.vocabulary, dtype=target.head.weight.dtype)


def nothing(target, tokens):
    return zeros(target, tokens) * float("nan")


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("model", [half_the_layers, of_the_call_before(), without_the_last_row, zeros, nothing])
def test_a_forward_that_is_right_from_its_last_sample_on(tmp_path, monkeypatch, model, dtype):
    wrong = calls(model, lambda number: number >= SAMPLES - 1 or number == 0)
    monkeypatch.setattr(methods, "load", lambda _: wrong)
    record = run(tmp_path, "forward", **{**FORWARD, "dtype": dtype})
    failed = [check for check in record["proof"]["checks"] if check["status"] == "failed"]
    assert (record["status"], [check["name"] for check in failed]) == ("incorrect", ["samples"]), failed
    assert "of 6 kept" in record["reason"]


@pytest.mark.parametrize("which", range(1, SAMPLES - 1))
def test_one_wrong_sample_of_a_forward_is_named(tmp_path, monkeypatch, which):
    wrong = calls(half_the_layers, lambda number: number != which)
    monkeypatch.setattr(methods, "load", lambda _: wrong)
    record = run(tmp_path, "forward", **FORWARD)
    assert record["reason"].startswith(f"forward: samples: sample {which} is ")


@pytest.mark.parametrize("model", ["half the layers", "uniform logits", "of the first text"])
def test_a_generation_that_is_right_from_its_last_sample_on(tmp_path, monkeypatch, model):
    changes = {**PROBE, **TEXT}
    generations = -1
    seen = {}

    def call(gpt, tokens, positions):
        nonlocal generations
        generations += tokens.shape[1] > 1
        if generations in (0, *range(changes["iterations"] - 1, 1000)):
            logits = gpt(tokens, positions)
            if generations == 0:
                seen[int(positions[-1])] = logits
            return logits
        if model == "half the layers":
            blocks = gpt.blocks
            try:
                gpt.blocks = blocks[: len(blocks) // 2]
                return gpt(tokens, positions)
            finally:
                gpt.blocks = blocks
        logits = gpt(tokens, positions)
        return logits * 0 if model == "uniform logits" else seen[int(positions[-1])]

    def model_call(gpt):
        return lambda tokens, positions: call(gpt, tokens, positions)

    wrong = planted.method(model=model_call)
    monkeypatch.setattr(methods, "load", lambda _: wrong)
    record = run(tmp_path, "model_inference", **changes)
    failed = [check["name"] for check in record["proof"]["checks"] if check["status"] == "failed"]
    assert record["status"] == "incorrect"
    assert "samples" in failed


class Lazy(torch.Tensor):
    """Computes when it is read."""


@pytest.mark.parametrize("output", [torch.ones(2, 3).as_subclass(Lazy), None, [torch.ones(2)], 1.0])
def test_what_is_no_plain_tensor_is_no_output(output):
    with pytest.raises(Incorrect, match="not a plain tensor"):
        read_element(output)


def test_a_lazy_output_is_incorrect(tmp_path, monkeypatch):
    wrong = planted.method(model=lambda target: lambda tokens: target(tokens).as_subclass(Lazy))
    monkeypatch.setattr(methods, "load", lambda _: wrong)
    record = run(tmp_path, "forward", **FORWARD)
    assert (record["status"], record["reason"]) == ("incorrect", "the output is a Lazy, not a plain tensor")


@pytest.mark.parametrize("shape", ["last position alone", "fewer ids"])
def test_an_output_of_another_shape_is_incorrect(tmp_path, monkeypatch, shape):
    cut = (lambda x: x[:, -1:]) if shape == "last position alone" else (lambda x: x[..., :-1])
    wrong = planted.method(model=lambda target: lambda tokens: cut(target(tokens)))
    monkeypatch.setattr(methods, "load", lambda _: wrong)
    record = run(tmp_path, "forward", **FORWARD)
    assert record["status"] == "incorrect"
    assert record["reason"].startswith("the logits are [")


@pytest.mark.parametrize("benchmark", ["generation", "model_inference"])
def test_each_sample_has_a_prompt_of_its_own_and_the_first_the_workloads(tmp_path, monkeypatch, benchmark):
    seen = []

    def watch(call):
        def watched(tokens, *rest):
            if tokens.shape[1] > 1:
                seen.append((tokens.data_ptr(), tuple(tokens[0].tolist())))
            return call(tokens, *rest)

        return watched

    monkeypatch.setattr(methods, "load", lambda _: planted.method(model=watch, step=watch))
    record = run(tmp_path, benchmark, **PROBE, **TEXT)
    timed = seen[: TEXT["iterations"]]
    assert record["status"] == "ok"
    assert timed[0][1] == tuple(record["workload"]["prompt"])
    assert len({prompt for _, prompt in timed}) == len(timed)
    assert len({address for address, _ in seen}) == 1  # the one tensor, in the proof too


@pytest.mark.parametrize("benchmark", ["generation", "model_inference"])
@pytest.mark.parametrize("key", ["all ids", "first id", "length"])
def test_a_prefill_that_is_remembered_is_found(tmp_path, monkeypatch, benchmark, key):
    kept = {}

    def remembered(call):
        def model(tokens, *rest):
            if tokens.shape[1] == 1:
                return call(tokens, *rest)
            name = {"all ids": tuple(tokens.flatten().tolist()), "first id": int(tokens[0, 0]), "length": 0}[key]
            if name not in kept:
                kept[name] = call(tokens, *rest)
            return kept[name]

        return model

    monkeypatch.setattr(methods, "load", lambda _: planted.method(model=remembered, step=remembered))
    record = run(tmp_path, benchmark, **PROBE, **TEXT)
    # One that is remembered by all of its ids is remembered for the proof's calls alone: no timed sample has had it.
    assert record["status"] == "incorrect", [c["what"] for c in record["proof"]["checks"]]
