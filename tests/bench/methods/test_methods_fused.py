"""Today's operators: what stands in on a CPU, and that a compiler meets no choice and no import."""

from __future__ import annotations

import json

import pytest

torch = pytest.importorskip("torch")

from bench_specs import SHAPES, workload, write_spec  # noqa: E402

from bench import cell, operators  # noqa: E402
from bench.environment import torch_version  # noqa: E402
from bench.methods import fused, fused_inductor  # noqa: E402
from bench.operators import fallbacks  # noqa: E402
from bench.operators.fallbacks import Given  # noqa: E402
from bench.spec import read_spec, read_workload  # noqa: E402

MEASURED = [name for name in SHAPES if name != "ceilings"]
NEW = torch_version() >= fused.OLDEST
new = pytest.mark.skipif(not NEW, reason=f"torch {torch.__version__} is older than 2.5")


def run(folder, benchmark, method, **changes):
    cell.run(read_spec(write_spec(folder, benchmark, method, **changes)))
    return json.loads((folder / "record.json").read_text())


@new
@pytest.mark.parametrize("benchmark", MEASURED)
def test_on_a_cpu_every_benchmark_runs_and_says_what_stood_in(tmp_path, benchmark):
    record = run(tmp_path, benchmark, "fused", iterations=2, warmup=0)
    assert (record["status"], record["reason"]) == ("ok", None)
    assert "not_fused" in record["flags"]
    told = record["detail"]["operators"]
    assert told["norm"].startswith("torch rms_norm (liger RMSNorm: ")
    assert told["rotary"].startswith("eager (liger rope: ")
    attention = [told[name] for name in ("attention", "attention with a mask") if name in told]
    assert attention == ["scaled_dot_product_attention"]


@pytest.mark.parametrize("method", [fused, fused_inductor])
def test_liger_is_loaded_before_the_first_call(monkeypatch, method):
    """Else Triton is not there when its hook is set, and what it compiles in the first call is not counted."""
    loaded = []
    monkeypatch.setattr(fallbacks, "missing", lambda *modules: loaded.extend(modules))
    method.operators()
    assert loaded == ["liger_kernel.ops"]


def test_a_torch_that_takes_no_choice_of_attention_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(fused, "torch_version", lambda: (2, 4))
    for method in ("fused", "fused_inductor"):
        record = run(tmp_path / method, "forward", method)
        assert record["status"] == "unsupported"
        assert "2.5" in record["reason"]


@new
@pytest.mark.parametrize("heads", [2, 4])
@pytest.mark.parametrize("masked", [False, True])
def test_groups_of_queries_share_their_keys(heads, masked):
    q, k, v, _ = fallbacks.example("attention", Given("cpu", torch.float64, 8))
    k, v = k[:, :, :1].expand(-1, -1, heads, -1), v[:, :, :1].expand(-1, -1, heads, -1)
    time = q.shape[1]
    mask = torch.full((time, time), float("-inf"), dtype=q.dtype).triu(1) if masked else None
    torch.testing.assert_close(fused.grouped_attention(q, k, v, mask), operators.attention(q, k, v, mask))


@new
def test_settled_operators_make_no_choice_while_traced(monkeypatch):
    told = read_workload(workload("forward"))
    fused_inductor.operators()
    seen = []
    monkeypatch.setattr(fused_inductor.inductor, "compile_model", lambda target, *_: target)

    def target(tokens):
        seen.extend(name for name, each in vars(fused_inductor.OPERATORS).items() if getattr(each, "settled", None))
        assert fused_inductor.OPERATORS.attention.causal.settled
        return tokens

    fused_inductor.compile_step(target, told)(torch.zeros(1))
    assert seen == ["norm", "rotary", "swiglu"]
    monkeypatch.setattr(fallbacks.WithFallbacks, "decide", lambda *_: pytest.fail("a choice while traced"))
    x, weight, eps = fallbacks.example("norm", Given("cpu", torch.bfloat16, 64))
    fused_inductor.OPERATORS.norm(x, weight, eps)
    fused_inductor.OPERATORS.norm.forget()
    assert fused_inductor.OPERATORS.norm.settled is None


def test_attention_asks_for_cudnn_first_only_where_the_shape_stays():
    first = {name: fused.backends(read_workload(workload(name)))[0] for name in MEASURED}
    assert first["train_static"] == first["forward"] == "CUDNN_ATTENTION"
    assert first["train_dynamic"] == first["generation"] == "FLASH_ATTENTION"


def test_expectations_name_each_operator():
    def expected(method, benchmark, **changes):
        return method.expects(read_workload(workload(benchmark, **changes)), "cuda")

    signs = expected(fused_inductor, "train_static")
    assert {"Triton", "kernel:liger_cross_entropy", "kernel:triton_rope"} <= set(signs)
    assert len(signs) == len(set(signs))
    assert "kernel:liger_cross_entropy" not in expected(fused, "forward")
    assert expected(fused, "forward", dtype="float64") == ("matrix product",)


def test_what_a_family_asks_for_and_an_implementation_lacks_falls_back_and_is_said():
    norms = fallbacks.WithFallbacks("norm", [fallbacks.Implementation("theirs", lambda _: None, lambda *_: 1 / 0)])
    x, weight = torch.ones(2, 4), torch.zeros(4)
    assert torch.allclose(norms(x, weight, 0.0, plus=1.0), x)
    assert norms.report() == "eager (theirs: has no norm of 1 + weight)"
    takes = fallbacks.Implementation("theirs", lambda _: None, operators.norm, needs_trial=True, takes=("plus",))
    norms = fallbacks.WithFallbacks("norm", [takes])
    assert torch.allclose(norms(x, weight, 0.0, plus=1.0), x)
    assert norms.report() == "theirs"
    mlps = fallbacks.WithFallbacks("swiglu", [fallbacks.Implementation("theirs", lambda _: None, lambda *_: 1 / 0)])
    mlps.settle(fallbacks.Given("cpu", torch.float32, 4, ("activation",)))
    assert mlps.report() == "eager (theirs: has no GeGLU)"
