"""Cells of bench on the probe model, run in this process."""

from __future__ import annotations

import json
from contextlib import nullcontext
from functools import cache

import pytest
from bench_specs import write_spec
from quick_products import quick_products

from bench import cell, environment
from bench.model.gpt import GPT
from bench.observe import dispatch
from bench.proof import again, make_references, sampler
from bench.spec import read_spec

PROBE = {"dtype": "float32", "weights": {"source": "probe", "seed": 0, "fingerprint": None}}

TEXT = {"new_tokens": 20, "iterations": 4, "warmup": 1}


@pytest.fixture(autouse=True)
def _without_dispatch(monkeypatch):
    monkeypatch.setattr(dispatch, "gather", lambda *arguments: None)
    monkeypatch.setattr(environment, "packages", PACKAGES)
    # Most tests are of other things than draws, and of what their fault makes of the logits even few are suspicious.
    monkeypatch.setattr(sampler, "LEAST_EXPECTED", 2.0)
    monkeypatch.setattr(sampler, "FIRST_DRAWS", 200)
    monkeypatch.setattr(sampler, "ALL_DRAWS", 220)
    # And of others than what a method does with an input that it has seen.
    monkeypatch.setattr(again, "LEAST_NS", 1)
    monkeypatch.setattr(again, "BLOCKS", 1)
    monkeypatch.setattr(make_references, "in_cell", reference)


PACKAGES = cache(environment.packages)
REFERENCES = {}
IN_CELL = make_references.in_cell


def reference(spec):
    """Eager's reference of a workload, made once for all tests: it does not depend on the method that is judged."""
    key = repr(spec.workload), GPT.make_routes
    if key not in REFERENCES:
        REFERENCES[key] = IN_CELL(spec)
    return REFERENCES[key]


def run(folder, benchmark, spec=None, **changes):
    path = write_spec(folder, benchmark, **changes)
    path.write_text(json.dumps({**json.loads(path.read_text()), **(spec or {})}))
    asked = read_spec(path)
    # A step of generation has so small products that calling others takes longer.
    large = asked.workload.dtype == "bfloat16" and asked.workload.sequence is not None
    with quick_products() if large else nullcontext():
        cell.run(asked)
    return json.loads((folder / "record.json").read_text(encoding="utf-8"))
