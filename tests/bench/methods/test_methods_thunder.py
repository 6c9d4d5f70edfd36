"""Thunder: what it refuses becomes `unsupported` in its own words; the real one runs where it is installed."""

from __future__ import annotations

import json
import sys
from importlib import metadata, util

import pytest

torch = pytest.importorskip("torch")

from bench_specs import SHAPES, workload, write_spec  # noqa: E402

from bench import cell, operators  # noqa: E402
from bench.methods import thunder, thunder_dynamo  # noqa: E402
from bench.observe import compiles  # noqa: E402
from bench.spec import read_spec, read_workload  # noqa: E402

MEASURED = [name for name in SHAPES if name != "ceilings"]
REAL = util.find_spec("thunder") is not None
FAKE = """
def jit(target, *, executors, cache):
    def compiled(*arguments):
        compiled.calls += 1
        {body}
        return target(*arguments)
    compiled.calls = 0
    return compiled
def cache_misses(compiled): return 1
def cache_hits(compiled): return compiled.calls - 1
def last_traces(compiled): return []
def last_backward_traces(compiled): return []
"""


def run(folder, benchmark, method="thunder", **changes):
    cell.run(read_spec(write_spec(folder, benchmark, method, iterations=2, warmup=0, **changes)))
    return json.loads((folder / "record.json").read_text())


@pytest.fixture
def fake(tmp_path, monkeypatch):
    """A package of Thunder's name whose compiled function begins with `body`."""
    known = {name for name in sys.modules if name.split(".")[0] == "thunder"}
    for name in known:
        monkeypatch.delitem(sys.modules, name)
    version = metadata.version
    monkeypatch.setattr(metadata, "version", lambda name: "0.2.9" if name == "lightning-thunder" else version(name))
    monkeypatch.setattr(compiles, "OTHERS", [])

    def make(body):
        package = tmp_path / "packages" / "thunder"
        package.mkdir(parents=True)
        (package / "__init__.py").write_text(FAKE.format(body=body))
        (package / "extend.py").write_text("def get_executor(name): return name if name == 'sdpa' else None")
        monkeypatch.syspath_prepend(str(package.parent))

    yield make
    for name in [name for name in sys.modules if name.split(".")[0] == "thunder"]:
        del sys.modules[name]


@pytest.mark.parametrize("method", [thunder, thunder_dynamo])
def test_its_mask_has_batch_and_heads_and_says_the_same(method, monkeypatch):
    q, k, v = (torch.randn(3, time, 4, 8) for time in (2, 5, 5))
    mask = torch.tensor([[0.0, 0.0, -torch.inf, -torch.inf, -torch.inf], [0.0, 0.0, 0.0, -torch.inf, -torch.inf]])
    seen = []
    real = torch.nn.functional.scaled_dot_product_attention

    def watched(*tensors, attn_mask, **options):
        seen.append(attn_mask if attn_mask is None else tuple(attn_mask.shape))
        return real(*tensors, attn_mask=attn_mask, **options)

    monkeypatch.setattr(torch.nn.functional, "scaled_dot_product_attention", watched)
    attention = method.operators().attention
    assert torch.equal(attention(q, k, v, mask), operators.attention(q, k, v, mask))
    assert torch.equal(attention(k, k, v, None), operators.attention(k, k, v, None))
    assert seen == [(3, 1, 2, 5), (2, 5), None, None]


@pytest.mark.parametrize("method", ["thunder", "thunder_dynamo"])
def test_without_thunder_it_is_unsupported_before_any_weight_is_made(tmp_path, monkeypatch, method):
    monkeypatch.setitem(sys.modules, "thunder", None)
    record = run(tmp_path, "forward", method)
    assert record["status"] == "unsupported"
    assert "thunder" in record["reason"]
    assert "model" not in [phase["name"] for phase in record["phases"]]


@pytest.mark.parametrize("benchmark", ["forward", "train_static"])
def test_what_thunder_refuses_is_unsupported_in_its_own_words(tmp_path, fake, benchmark):
    fake("raise NotImplementedError('the frobnicate operation, in place,\\n is hard')")
    record = run(tmp_path, benchmark)
    assert record["status"] == "unsupported"
    expected = "Thunder 0.2.9: NotImplementedError: the frobnicate operation, in place, is hard"
    assert record["reason"] == expected


def test_a_lack_of_a_method_is_a_refusal_and_a_bug_is_a_crash(tmp_path, fake):
    fake("raise AttributeError('The torch language context has no method index_copy_')")
    assert run(tmp_path / "a", "forward")["status"] == "unsupported"


def test_a_bug_in_thunder_is_a_crash(tmp_path, fake):
    fake("raise ZeroDivisionError('by zero')")
    record = run(tmp_path, "forward")
    assert record["status"] == "crashed"
    assert "ZeroDivisionError" in record["reason"]


def test_what_others_raise_through_thunder_is_not_its_refusal(tmp_path, fake):
    fake("import json; json.JSONEncoder().default(object()) if arguments else None")
    assert run(tmp_path / "a", "forward")["status"] == "crashed"
    assert thunder.refusal(RuntimeError("not supported")) is None


def test_the_record_says_how_often_thunder_compiled_and_with_what(tmp_path, fake):
    fake("pass")
    record = run(tmp_path, "forward")
    assert (record["status"], record["reason"]) == ("ok", None)
    assert record["detail"]["thunder"] == {"compiled": 1, "reused": 1, "executors": {}}
    assert record["detail"]["method"]["executors"] == ["sdpa"]
    assert record["detail"]["method"]["without"] == ["nvfuser"]
    assert record["detail"]["method"]["cache"] == "constant values"


def test_compilers_other_than_dynamo_are_in_the_ledger(monkeypatch):
    made = [0]
    monkeypatch.setattr(compiles, "OTHERS", [lambda: made[0]])
    ledger = compiles.Ledger()
    for sample, count in enumerate((1, 1, 3)):
        made[0] = count
        ledger.after(sample, [1, sample])
    summary = ledger.summary()
    assert (ledger.graphs, summary["graphs"], summary["recompiles"]) == ([1, 1, 3], 3, 2)
    assert [entry["sample"] for entry in summary["ledger"]] == [0, 2]


class Build:
    def __init__(self, name, version):
        self.metadata, self.version = {"Name": name}, version


@pytest.mark.parametrize("name", ["nvfuser-cu128-torch210", "nvfuser_cu128_torch210"])
def test_nvfuser_built_for_another_torch_is_refused_on_a_gpu(fake, monkeypatch, name):
    fake("pass")
    monkeypatch.setattr(metadata, "distributions", lambda: [Build("torch", "1"), Build(name, "0.2.36")])
    monkeypatch.setattr(torch, "__version__", "2.11.0+cu130")
    assert thunder.refuse(None, "cpu") is None
    reason = thunder.refuse(None, "cuda")
    assert "torch 2.10" in reason
    assert "2.11.0" in reason
    monkeypatch.setenv("NVFUSER_ANY_TORCH", "1")
    assert thunder.refuse(None, "cuda") is None
    monkeypatch.delenv("NVFUSER_ANY_TORCH")
    monkeypatch.setattr(torch, "__version__", "2.10.0+cu128")
    assert thunder.refuse(None, "cuda") is None
    assert thunder.nvfuser() == "0.2.36"


def test_sizes_stay_unknown_only_where_they_change_and_thunder_can(monkeypatch):
    versions = {"lightning-thunder": "0.2.7.dev20260201"}
    monkeypatch.setattr(metadata, "version", versions.__getitem__)
    dynamic, static = (read_workload(workload(name)) for name in ("train_dynamic", "train_static"))
    assert (thunder.cache(dynamic), thunder.cache(static)) == ("symbolic values", "constant values")
    versions["lightning-thunder"] = "0.1.0"
    assert thunder.cache(dynamic) == "constant values"


def test_expectations():
    forward = read_workload(workload("forward"))
    assert thunder.expects(forward, "cpu") == ("matrix product",)
    assert "nvFuser" in thunder_dynamo.expects(forward, "cuda")


@pytest.mark.skipif(not REAL, reason="lightning-thunder is not installed here")
@pytest.mark.parametrize("benchmark", MEASURED)
def test_the_real_thunder(tmp_path, benchmark):
    record = run(tmp_path, benchmark)
    old = metadata.version("lightning-thunder").startswith("0.1.")
    if old and benchmark in ("generation", "model_inference"):
        assert record["status"] == "unsupported"
        assert "index_copy_" in record["reason"]
    elif benchmark == "train_dynamic" and record["status"] == "unsupported":
        # Sizes that stay unknown are "highly experimental" to Thunder, and 0.2.6 may refuse them (its issue 2653).
        assert record["reason"].startswith("Thunder 0.2.6: NotImplementedError: ")
    else:
        assert (record["status"], record["reason"]) == ("ok", None)
        assert record["detail"]["thunder"]["executors"]["torch"] > 0
