"""The checks that have no planted fault in `test_proof_cells`: each has one here that it finds first, and by itself.

Without the check its fault passes, or has the name of another. Sizes are in units of eager's own error.
"""

from __future__ import annotations

import pytest

torch = pytest.importorskip("torch")

import planted  # noqa: E402
from bench_specs import SHAPES  # noqa: E402
from probe_cells import PROBE, TEXT, _without_dispatch, run  # noqa: E402, F401

from bench import methods  # noqa: E402

PROMPT = len(SHAPES["generation"]["prompt"])


def nudged(logits, sizes):
    """Logits [..., vocabulary] moved by `sizes` [...] of their norm, always in the same direction."""
    toward = torch.randn(logits.shape[-1], generator=torch.Generator().manual_seed(1)).to(logits.dtype)
    return logits + sizes[..., None] * logits.norm(dim=-1, keepdim=True) * toward / toward.norm()


def off_everywhere(error, text):
    """Every position is off by a little."""
    return planted.method(
        model=lambda target: lambda tokens: nudged(target(tokens), torch.full(tokens.shape, 3.3 * error))
    )


def off_at_one_position(error, text):
    """One position of the second batch row is off by much."""

    def call(target, tokens):
        sizes = torch.zeros(tokens.shape)
        sizes[1, 5] = 11 * error
        return nudged(target(tokens), sizes)

    return planted.method(model=lambda target: lambda tokens: call(target, tokens))


def second_best(error, text):
    """The two largest logits change places wherever they are so near that the error stays small."""

    def call(target, tokens):
        logits = target(tokens).clone()
        best, places = logits.topk(2, dim=-1)
        gap = (best[..., 0] - best[..., 1]).float() / logits.float().norm(dim=-1)
        near = (gap < 1.5 * error)[..., None]
        return logits.scatter(-1, places, torch.where(near, best.flip(-1), best))

    return planted.method(model=lambda target: lambda tokens: call(target, tokens))


def after_another_prompt(error, text):
    """The first prompt that follows another one is read with something left of that."""
    seen = {"prompt": None, "off": False}

    def call(target, tokens, positions, temperature):
        if tokens.shape[1] > 1:
            before, seen["prompt"] = seen["prompt"], tokens.clone()
            seen["off"] = before is not None and not torch.equal(before, tokens)
        token, logits = target(tokens, positions, temperature)
        return token, nudged(logits, torch.full(logits.shape[:-1], 30 * error * seen["off"]))

    return planted.method(step=lambda target: lambda *arguments: call(target, *arguments))


def off_on_its_own_text(sizes):
    """Where the step is given its own text's tokens, it is off by `sizes` (position among the new ones -> size)."""

    def fault(error, text):
        def call(target, tokens, positions, temperature):
            token, logits = target(tokens, positions, temperature)
            step = int(positions[-1]) + 1 - PROMPT
            if tokens.shape[1] == 1 and int(tokens[0, 0]) == text[step - 1]:
                logits = nudged(logits, torch.full(logits.shape[:-1], sizes(step) * error))
            return token, logits

        return planted.method(step=lambda target: lambda *arguments: call(target, *arguments))

    return fault


def impossible_token(error, text):
    """One new token is the least likely of all."""

    def call(target, tokens, positions, temperature):
        token, logits = target(tokens, positions, temperature)
        if int(positions[-1]) == PROMPT + 5:
            token = logits.argmin(-1, keepdim=True).reshape(token.shape)
        return token, logits

    return planted.method(step=lambda target: lambda *arguments: call(target, *arguments))


FAULTS = [
    ("forward", PROBE, off_everywhere, "logits"),
    ("forward", PROBE, off_at_one_position, "rows"),
    ("forward", {"dtype": "bfloat16", "batch": 4, "sequence": 64}, second_best, "top-1"),
    ("forward", {"dtype": "bfloat16", "sequence": 128}, lambda *_: planted.attention_scale(), "known faults"),
    ("generation", {**PROBE, **TEXT}, after_another_prompt, "other prompt"),
    ("generation", {**PROBE, **TEXT}, off_on_its_own_text(lambda step: 7), "logits"),
    ("generation", {**PROBE, **TEXT}, off_on_its_own_text(lambda step: 14 * (step == 5)), "worst step"),
    ("generation", {**PROBE, **TEXT, "temperature": 0.1}, impossible_token, "possible"),
]


@pytest.mark.parametrize("case", FAULTS, ids=lambda case: f"{case[0]} {case[3]}")
def test_a_check_finds_its_fault_first(tmp_path, monkeypatch, case):
    benchmark, changes, fault, check = case
    right = run(tmp_path / "right", benchmark, **changes)
    assert right["status"] == "ok", right["reason"]
    wrong = fault(right["proof"]["reference"]["eager_error"], right["proof"].get("generated"))
    monkeypatch.setattr(methods, "load", lambda _: wrong)
    record = run(tmp_path / "wrong", benchmark, **changes)
    failed = [item["name"] for item in record["proof"]["checks"] if item["status"] == "failed"]
    values = {item["name"]: (item["value"], item["limit"]) for item in record["proof"]["checks"]}
    assert (record["status"], failed[:1]) == ("incorrect", [check]), values
