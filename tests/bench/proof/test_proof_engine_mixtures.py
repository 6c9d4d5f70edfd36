"""Engines of a mixture: their router chooses, and is judged against a reference in which it does so too."""

from __future__ import annotations

import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("transformers")

import engine_cells  # noqa: E402
from bench_specs import MODELS  # noqa: E402

from bench.methods import transformers as adapter  # noqa: E402
from bench.observe import dispatch  # noqa: E402
from bench.proof import engine, faults  # noqa: E402

EXPERTS = {"count": 8, "active": 2, "width": 64, "normalised": True}
TINY = MODELS["tiny"]
SHAPES = {
    "mixtral": {"experts": {**EXPERTS, "width": TINY["mlp_width"]}},
    "qwen3_moe": {"qk_norm": True, "experts": EXPERTS},
}
TEXT = {"new_tokens": 20, "iterations": 3, "warmup": 1, "prompt": [1, 15, 29, 59, 300]}


@pytest.fixture(autouse=True)
def _quick(monkeypatch):
    monkeypatch.setattr(dispatch, "gather", lambda *arguments: None)
    monkeypatch.setattr(engine, "seen_again", lambda *arguments: 1.0)


def run(folder, shape, source="probe", seed=0, routing="router", **changes):
    weights = {"source": source, "seed": seed, "fingerprint": None, "routing": routing}
    model = {**TINY, "name": shape, **SHAPES[shape]}
    return engine_cells.run(folder, model=model, weights=weights, **{"dtype": "float32", **TEXT, **changes})


@pytest.mark.parametrize("shape", SHAPES)
def test_a_right_engine_passes_every_check(tmp_path, shape):
    record = run(tmp_path, shape, batch=2)
    assert (record["status"], record["reason"], record["flags"]) == ("ok", None, ["cold"])
    assert {check["status"] for check in record["proof"]["checks"]} == {"passed"}


# With the other choice at all near ties alone hash/18 was called wrong, for one step at 7.3 times eager's error, and
# probe/13 in most runs, for one at 11.5 times; hash/2 in most, for another attention scale that it resembled at the two
# steps which no near tie reached.
@pytest.mark.parametrize(("source", "seed"), [("hash", 2), ("hash", 18), ("probe", 13)])
def test_rounding_decides_between_two_experts_in_bfloat16(tmp_path, source, seed):
    record = run(tmp_path, "mixtral", source, seed=seed, dtype="bfloat16", batch=2, new_tokens=24)
    assert (record["status"], record["reason"], record["flags"]) == ("ok", None, ["cold"])
    said = next(check["what"] for check in record["proof"]["checks"] if check["name"] == "logits")
    assert "positions have a near tie of a router" in said


class NotNormalised(adapter.Transformers):
    """The weights of a token's experts are those of all of them."""

    def __init__(self, *args, **more):
        super().__init__(*args, **more)
        for part in self.model.modules():
            if hasattr(part, "norm_topk_prob"):
                part.norm_topk_prob = False


class OneExpert(adapter.Transformers):
    """Of a token's two experts the second is lost."""

    def __init__(self, *args, **more):
        super().__init__(*args, **more)
        for part in self.model.modules():
            if hasattr(part, "top_k"):
                part.top_k = 1


FAULTS = [(NotNormalised, "the router's weights not normalised"), (OneExpert, "")]


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize(("fault", "named"), FAULTS, ids=[fault.__name__ for fault, _ in FAULTS])
def test_a_wrong_router_is_found(tmp_path, monkeypatch, fault, named, dtype):
    monkeypatch.setattr(adapter, "Transformers", fault)
    record = run(tmp_path, "qwen3_moe", dtype=dtype)
    assert record["status"] == "incorrect"
    # In half precision near ties leave few positions by which a fault could be told from another.
    assert dtype == "bfloat16" or named in (record["proof"]["resembles"] or "")


class EightBits(adapter.Transformers):
    """The layers' weights are rounded to eight bits, a scale for each row."""

    def __init__(self, *args, **more):
        super().__init__(*args, **more)
        with torch.no_grad():
            for name, weight in self.model.named_parameters():
                if weight.dim() > 1 and "layers" in name:
                    weight.copy_(faults.int8(weight.float()))


# Of 288 steps near ties reach most, and what they may make there is more than eight bits do.
@pytest.mark.parametrize("shape", SHAPES)
def test_what_near_ties_hide_is_found_by_the_median(tmp_path, monkeypatch, shape):
    monkeypatch.setattr(adapter, "Transformers", EightBits)
    record = run(tmp_path, shape, "hash", dtype="bfloat16", batch=2, new_tokens=24)
    assert record["status"] == "incorrect"
    assert "the median error of the scores is" in record["reason"]


def test_the_hash_chooses_no_experts_of_an_engine(tmp_path):
    record = run(tmp_path, "mixtral", routing="hash")
    said = "the hash is to choose the experts of mixtral, and in an engine the router does"
    assert (record["status"], record["reason"]) == ("unsupported", said)
