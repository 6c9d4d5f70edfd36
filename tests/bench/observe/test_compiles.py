"""The ledger of what a compiler did: each sample in which it worked, and why."""

from __future__ import annotations

import contextlib
import itertools
import json
import sys
from types import ModuleType, SimpleNamespace

import pytest

torch = pytest.importorskip("torch")

from bench_specs import write_spec  # noqa: E402

from bench import cell  # noqa: E402
from bench.methods import eager  # noqa: E402
from bench.observe import compiles  # noqa: E402
from bench.spec import read_spec  # noqa: E402

dynamo = pytest.importorskip("torch._dynamo")
with contextlib.suppress(ImportError):
    import triton.language as tl


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


@pytest.fixture
def triton(monkeypatch):
    """Modules with the places that Triton of either kind asks for a hook: 3.4's and later, then the older."""
    monkeypatch.setattr(compiles, "TRITON", {"kernels": 0})

    def load(*, knobs, earlier=None):
        function = type("JITFunction", (), {"cache_hook": None if knobs else earlier})
        runtime = SimpleNamespace(jit_cache_hook=earlier)
        monkeypatch.setitem(sys.modules, "triton.runtime.jit", SimpleNamespace(JITFunction=function))
        monkeypatch.setitem(sys.modules, "triton.knobs", SimpleNamespace(runtime=runtime) if knobs else None)
        holder, name = (runtime, "jit_cache_hook") if knobs else (function, "cache_hook")

        def launch(**told):
            return getattr(holder, name)(**told)

        return launch

    return load


@pytest.mark.parametrize("knobs", [True, False])
def test_kernels_that_triton_compiles_at_launch_are_counted(triton, knobs):
    launch = triton(knobs=knobs)
    ledger = compiles.Ledger()
    for sample, kernels in enumerate([5, 0, 2, 0]):
        for _ in range(kernels):
            assert (
                launch(key="k", repr="r", fn=None, compile={}, is_manual_warmup=False, already_compiled=False) is None
            )
        ledger.after(sample, [2, 16 + sample])
    found = ledger.summary()
    assert (found["graphs"], found["kernels"], ledger.kernels) == (0, 7, [5, 5, 7, 7])
    assert [(entry["sample"], entry["kernels"]) for entry in found["ledger"]] == [(0, 5), (2, 2)]
    detail = {"graphs": ledger.graphs, "kernels": ledger.kernels}
    assert [compiles.worked(detail, place) for place in range(5)] == [False, False, True, False, False]
    fresh = compiles.Ledger()
    fresh.after(0, [2, 16])
    assert fresh.summary() is None, "those of a ledger before are not its own"


@pytest.mark.parametrize("knobs", [True, False])
def test_whoever_listens_to_triton_already_goes_on_listening(triton, knobs):
    heard = []
    launch = triton(knobs=knobs, earlier=lambda **told: heard.append(told["key"]) or "skip")
    for _ in range(3):
        compiles.count_kernels()
    assert launch(key="k") == "skip"
    assert (heard, compiles.TRITON["kernels"]) == (["k"], 1)


def test_triton_itself_tells_of_each_kind_of_arguments(monkeypatch, tmp_path):
    triton = pytest.importorskip("triton", minversion="3.4")
    from triton.backends.compiler import GPUTarget
    from triton.runtime.driver import driver

    named = {"device": lambda: 0, "stream": lambda _: 0, "target": lambda: GPUTarget("cuda", 90, 32)}
    nowhere = SimpleNamespace(**{f"get_current_{name}": tell for name, tell in named.items()})
    monkeypatch.setattr(compiles, "TRITON", {"kernels": 0})
    monkeypatch.setattr(triton.knobs.runtime, "jit_cache_hook", None)
    monkeypatch.setenv("TRITON_CACHE_DIR", str(tmp_path))
    compiles.count_kernels()
    monkeypatch.setattr(driver, "_active", nowhere)
    kernel, counts = triton.jit(add_one), []
    for size in (17, 19, 32, 48, 1, 21):  # nothing known of it; 16 divides it; it is 1
        kernel.warmup(torch.float32, size, BLOCK=16, grid=(1,))
        counts.append(compiles.TRITON["kernels"])
    assert counts == [1, 1, 2, 2, 3, 3]


def add_one(x, size, BLOCK: tl.constexpr):  # noqa: N803
    """A kernel for Triton to compile; it is never launched."""
    at = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    tl.store(x + at, tl.load(x + at, mask=at < size) + 1, mask=at < size)
