"""The ledger of what a compiler did: each sample in which it worked, and why."""

from __future__ import annotations

import itertools
import json
import sys
from types import ModuleType

import pytest

torch = pytest.importorskip("torch")

from bench_specs import write_spec  # noqa: E402

from bench import cell, compiles  # noqa: E402
from bench.methods import eager  # noqa: E402
from bench.spec import read_spec  # noqa: E402

dynamo = pytest.importorskip("torch._dynamo")


@pytest.fixture(autouse=True)
def _fresh_compiler():
    dynamo.reset()
    yield
    dynamo.reset()


def method(monkeypatch, compile_model):
    made = ModuleType("bench.methods.planted")
    for name in ("refuse", "operators", "settings", "compile_step", "expects"):
        setattr(made, name, getattr(eager, name))
    made.compile_model = compile_model
    monkeypatch.setitem(sys.modules, "bench.methods.planted", made)


def run(folder, benchmark="forward", *, only_first=False, **changes):
    path = write_spec(folder, benchmark, "planted", **changes)
    path.write_text(json.dumps({**json.loads(path.read_text()), "only_first": only_first}))
    cell.run(read_spec(path))
    return json.loads((folder / "record.json").read_text(encoding="utf-8"))


def capture(model, **settings):
    return torch.compile(model, backend="eager", **settings)


def test_a_method_that_compiles_once_has_one_entry(tmp_path, monkeypatch):
    method(monkeypatch, lambda model, _: capture(model))
    found = run(tmp_path)["compiles"]
    assert (found["graphs"], found["recompiles"], found["breaks"]) == (1, 0, [])
    (entry,) = found["ledger"]
    assert (entry["sample"], entry["shape"], entry["graphs"], entry["recompiles"]) == (0, [2, 16], 1, 0)
    assert entry["reasons"] == []
    assert found["cache_hits"] is None
    assert found["cache_misses"] is None


def test_a_method_that_compiles_nothing_has_no_ledger(tmp_path, monkeypatch):
    method(monkeypatch, lambda model, _: model)
    record = run(tmp_path)
    assert record["compiles"] is None
    assert record["detail"]["graphs"] == [0] * 5


def test_planted_a_recompile_at_each_iteration(tmp_path, monkeypatch):
    class Counts(torch.nn.Module):
        def __init__(self, model):
            super().__init__()
            self.model = model

        def forward(self, tokens, calls):
            return self.model(tokens) * (1 if calls > 0 else 0)

    def every_time(model, _):
        compiled, calls = capture(Counts(model), dynamic=False), itertools.count(0.5)

        def call(tokens):
            return compiled(tokens, next(calls))

        return call

    method(monkeypatch, every_time)
    record = run(tmp_path, iterations=6, warmup=2)
    found = record["compiles"]
    assert record["detail"]["graphs"] == [1, 2, 3, 4, 5, 6]
    assert (found["graphs"], found["recompiles"]) == (6, 5)
    assert [entry["sample"] for entry in found["ledger"]] == list(range(6))
    assert [entry["recompiles"] for entry in found["ledger"]] == [0, 1, 1, 1, 1, 1]
    for entry in found["ledger"][1:]:
        assert entry["reasons"]
        assert "calls" in entry["reasons"][0]
        assert "test_compiles.py" not in entry["reasons"][0] or "tests/" not in entry["reasons"][0]


def test_each_new_shape_stands_in_the_ledger(tmp_path, monkeypatch):
    method(monkeypatch, lambda model, _: capture(model, dynamic=False))
    record = run(tmp_path, "train_dynamic", iterations=4, warmup=1, sequence=40)
    shapes = [sample["shape"] for sample in record["samples"]]
    found = record["compiles"]
    assert len({tuple(shape) for shape in shapes}) == len(found["ledger"]) == found["graphs"] > 2
    assert [entry["shape"] for entry in found["ledger"]] == [shapes[entry["sample"]] for entry in found["ledger"]]
    assert all("mismatch" in " ".join(entry["reasons"]) for entry in found["ledger"][1:])


def test_a_graph_that_was_cut_says_why(tmp_path, monkeypatch):
    class Cut(torch.nn.Module):
        def __init__(self, model):
            super().__init__()
            self.model = model

        def forward(self, tokens):
            tokens = tokens + 0
            torch._dynamo.graph_break()
            return self.model(tokens)

    method(monkeypatch, lambda model, _: capture(Cut(model)))
    found = run(tmp_path)["compiles"]
    assert found["graphs"] == 2
    assert found["recompiles"] == 0
    assert any("graph" in reason for reason in found["breaks"])


def test_only_the_first_call_is_made_where_no_more_is_asked(tmp_path, monkeypatch):
    method(monkeypatch, lambda model, _: capture(model))
    record = run(tmp_path, iterations=5, only_first=True)
    assert record["status"] == "ok"
    assert [sample["phase"] for sample in record["samples"]] == ["first"]
    assert record["compiles"]["graphs"] == 1
    assert "dispatch" not in record
    assert record["phases"][-2]["name"] == "first call"


def test_a_long_ledger_stays_small(monkeypatch):
    state = {"graphs": 0, "failures": []}
    monkeypatch.setattr(compiles, "graph_count", lambda: state["graphs"])
    monkeypatch.setattr(compiles, "frame_attempts", lambda: compiles.Counter({0: state["graphs"]}))
    monkeypatch.setattr(
        compiles, "guard_failures", lambda: {test_a_long_ledger_stays_small.__code__: state["failures"]}
    )
    ledger = compiles.Ledger()
    for sample in range(200):
        state["graphs"] += 1
        state["failures"].append(f"guard {sample} in /home/somebody/code/file.py " + "x" * 2000)
        ledger.after(sample, [2, sample])
    found = ledger.summary()
    assert (found["graphs"], found["recompiles"], len(found["ledger"])) == (200, 199, 40)
    text = json.dumps(found)
    assert len(text) < 20_000
    assert "guard 1 in .../file.py" in text
    assert "somebody" not in text
