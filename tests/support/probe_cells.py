"""Cells of bench on the probe model, run in this process."""

from __future__ import annotations

import json

import pytest
from bench_specs import write_spec

from bench import cell
from bench.observe import dispatch
from bench.proof import sampler
from bench.spec import read_spec

PROBE = {"dtype": "float32", "weights": {"source": "probe", "seed": 0, "fingerprint": None}}

TEXT = {"new_tokens": 20, "iterations": 4, "warmup": 1}


@pytest.fixture(autouse=True)
def _without_dispatch(monkeypatch):
    monkeypatch.setattr(dispatch, "gather", lambda *arguments: None)
    # As few as let each set of ids be expected often enough: most tests are of other things, and what their fault makes
    # of the logits is suspicious, whatever is drawn.
    monkeypatch.setattr(sampler, "FIRST_DRAWS", 1_650)
    monkeypatch.setattr(sampler, "ALL_DRAWS", 1_700)


def run(folder, benchmark, spec=None, **changes):
    path = write_spec(folder, benchmark, **changes)
    path.write_text(json.dumps({**json.loads(path.read_text()), **(spec or {})}))
    cell.run(read_spec(path))
    return json.loads((folder / "record.json").read_text(encoding="utf-8"))
