"""Engines of a mixture: their router chooses, and is judged against a reference in which it does so too."""

from __future__ import annotations

import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("transformers")

import mixture_cells  # noqa: E402

from bench.methods import transformers as adapter  # noqa: E402
from bench.observe import dispatch  # noqa: E402
from bench.proof import engine  # noqa: E402

SHAPES = ["mixtral", "qwen3_moe"]


@pytest.fixture(autouse=True)
def _quick(monkeypatch):
    monkeypatch.setattr(dispatch, "gather", lambda *arguments: None)
    monkeypatch.setattr(engine, "seen_again", lambda *arguments: 1.0)


def run(folder, shape, *which, **changes):
    return mixture_cells.run(folder, shape, *which, **{"dtype": "float32", "new_tokens": 20, **changes})


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


def plant(monkeypatch, change):
    monkeypatch.setattr(adapter, "Transformers", mixture_cells.planted(adapter.Transformers, change))


FAULTS = [(mixture_cells.other_weights, "the router's weights not normalised"), (mixture_cells.one_expert, "")]


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize(("fault", "named"), FAULTS, ids=[fault.__name__ for fault, _ in FAULTS])
def test_a_wrong_router_is_found(tmp_path, monkeypatch, fault, named, dtype):
    plant(monkeypatch, fault)
    record = run(tmp_path, "qwen3_moe", dtype=dtype)
    assert record["status"] == "incorrect"
    # In half precision near ties leave few positions by which a fault could be told from another.
    assert dtype == "bfloat16" or named in (record["proof"]["resembles"] or "")


# Of 288 steps near ties reach most, and what they may make there is more than eight bits do.
@pytest.mark.parametrize("shape", SHAPES)
def test_what_near_ties_hide_is_found_by_the_median(tmp_path, monkeypatch, shape):
    plant(monkeypatch, mixture_cells.int8)
    record = run(tmp_path, shape, "hash", dtype="bfloat16", batch=2, new_tokens=24)
    assert record["status"] == "incorrect"
    assert "the median error of the scores is" in record["reason"]


def test_the_hash_chooses_no_experts_of_an_engine(tmp_path):
    record = run(tmp_path, "mixtral", routing="hash")
    said = "the hash is to choose the experts of mixtral, and in an engine the router does"
    assert (record["status"], record["reason"]) == ("unsupported", said)
