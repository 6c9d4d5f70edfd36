"""TinyLlama's operators: what they compute, in place or not, and what the record says where they cannot run.

The CUDA extensions are stood in for by functions of the same names that work on a CPU, so that all that lies around
them is really run. With the real ones: `python -m bench.operator_check tinyllama_full` on a GPU.
"""

from __future__ import annotations

import json
import sys
from types import ModuleType, SimpleNamespace

import pytest

torch = pytest.importorskip("torch")

from bench_specs import SHAPES, write_spec  # noqa: E402

from bench import cell, operators  # noqa: E402
from bench.methods import tinyllama, tinyllama_full  # noqa: E402
from bench.model import weights  # noqa: E402
from bench.model.gpt import build  # noqa: E402
from bench.operators import Operators, fallbacks  # noqa: E402
from bench.operators.fallbacks import Given, Implementation, WithFallbacks  # noqa: E402
from bench.spec import named, read_spec, read_workload  # noqa: E402

MEASURED = [name for name in SHAPES if name != "ceilings"]


def module(monkeypatch, name: str, **content) -> None:
    made = ModuleType(name)
    vars(made).update(content)
    monkeypatch.setitem(sys.modules, name, made)


@pytest.fixture
def extensions(monkeypatch):
    """The CUDA extensions' functions, on a CPU."""

    def apply_rotary(first, second, cos, sin, out_first, out_second, back):  # noqa: PLR0917
        assert first.dtype == cos.dtype == sin.dtype == out_first.dtype
        with torch.no_grad():
            one = first * cos + second * sin if back else first * cos - second * sin
            two = second * cos - first * sin if back else second * cos + first * sin
            out_first.copy_(one)
            out_second.copy_(two)

    def apply_unseen(*arguments):
        # As a kernel does: autograd's count of changes does not move.
        apply_rotary(*[x.data if isinstance(x, torch.Tensor) else x for x in arguments])

    def flash_attn_func(q, k, v, softmax_scale=None, causal=False):
        assert causal
        return operators.attention(q, k, v, None, scale=softmax_scale)

    module(monkeypatch, "rotary_emb", apply_rotary=apply_unseen)
    module(monkeypatch, "flash_attn")
    module(monkeypatch, "flash_attn.flash_attn_interface", flash_attn_func=flash_attn_func)


def model_of(chosen: Operators, dtype=torch.float64):
    model = build(named("tiny_gqa"), chosen, dtype, "cpu")
    weights.fill(model, 0)
    return model


def step(model, tokens):
    logits = model(tokens)
    model.operators.loss(logits, tokens).backward()
    return [logits.detach(), *(parameter.grad for parameter in model.parameters())]


@pytest.mark.usefixtures("extensions")
def test_the_model_learns_the_same_with_rotary_in_place():
    tokens = torch.arange(2 * 12).reshape(2, 12) * 7 % 500
    fused = Operators(rotary=tinyllama.Rotary(), attention=tinyllama.flash)
    for mine, plain in zip(step(model_of(fused), tokens), step(model_of(Operators()), tokens), strict=True):
        torch.testing.assert_close(mine, plain, rtol=1e-9, atol=1e-12)


@pytest.mark.usefixtures("extensions")
def test_rotary_changes_its_own_part_and_no_more():
    x, cos, sin = fallbacks.example("rotary", Given("cpu", torch.float64, 16))
    whole = torch.cat([x, x], dim=2)
    beside = whole[:, :, 4:].clone()
    with torch.inference_mode():
        turned = tinyllama.Rotary()(whole[:, :, :4], cos, sin)
    assert turned.data_ptr() == whole.data_ptr()
    assert torch.equal(whole[:, :, 4:], beside)
    torch.testing.assert_close(turned, operators.rotary(x, cos, sin))


@pytest.mark.usefixtures("extensions")
def test_rotary_leaves_the_gradient_that_comes_in_alone():
    x, cos, sin = fallbacks.example("rotary", Given("cpu", torch.float32, 16))
    leaf = x.clone().requires_grad_()
    turned = tinyllama.Rotary()(leaf * 1, cos, sin)
    gradient = torch.ones(()).expand(turned.shape)  # one number that stands for all: writing there would spread
    turned.backward(gradient)
    assert float(gradient.sum()) == turned.numel()
    other = x.clone().requires_grad_()
    operators.rotary(other, cos, sin).backward(gradient)
    torch.testing.assert_close(leaf.grad, other.grad)


@pytest.mark.usefixtures("extensions")
def test_rotary_rounds_tables_once_and_never_takes_old_ones():
    rotary = tinyllama.Rotary()
    x, cos, sin = fallbacks.example("rotary", Given("cpu", torch.bfloat16, 16))
    rotary(x.clone(), cos, sin)
    kept = rotary.last
    rotary(x.clone(), cos, sin)
    assert rotary.last is kept
    torch.testing.assert_close(rotary(x.clone(), sin, cos), operators.rotary(x, sin, cos), rtol=0.02, atol=0.02)


def test_side_by_side_keeps_values_and_parameters_and_still_trains():
    model, other = model_of(Operators(), torch.float32), model_of(Operators(), torch.float32)
    before = [id(parameter) for parameter in model.parameters()]
    for block in model.blocks:
        tinyllama_full.lay_side_by_side(block.gate.weight, block.up.weight)
        gate, up = block.gate.weight, block.up.weight
        assert up.data_ptr() - gate.data_ptr() == gate.numel() * gate.element_size()
        assert gate.untyped_storage().data_ptr() == up.untyped_storage().data_ptr()
    assert [id(parameter) for parameter in model.parameters()] == before
    assert weights.checksum(model) == weights.checksum(other)
    tokens = torch.arange(12)[None]
    for each in (model, other):
        step(each, tokens)
        torch.optim.SGD(each.parameters(), lr=0.1, foreach=False).step()
    assert weights.checksum(model) == weights.checksum(other)


def test_the_first_that_can_is_taken_and_the_others_reasons_are_kept():
    def broken(*_):
        raise RuntimeError("FWD: Unsupported hidden_size\nand more")

    never = Implementation("never", lambda _: "is not for this", operators.norm)
    fails = Implementation("fails", lambda _: None, broken, needs_trial=True)
    works = Implementation("works", lambda _: None, operators.norm, needs_trial=True)
    norm = WithFallbacks("norm", [never, fails, works])
    x, weight, eps = fallbacks.example("norm", Given("cpu", torch.float32, 8))
    with torch.inference_mode():
        assert torch.equal(norm(x, weight, eps), operators.norm(x, weight, eps))
    assert norm.report() == (
        "works (never: is not for this; fails: fails a trial: RuntimeError: FWD: Unsupported hidden_size)"
    )
    assert WithFallbacks("norm", [fails]).report() == "not called"


def test_without_any_of_its_packages_a_gpu_is_refused_and_a_cpu_is_not(monkeypatch):
    for name in ("flash_attn", tinyllama.FLASH, tinyllama.ROTARY, "xformers", tinyllama.XFORMERS):
        monkeypatch.setitem(sys.modules, name, None)  # importing it raises ModuleNotFoundError
    assert tinyllama.refuse(None, "cpu") is None
    reason = tinyllama.refuse(None, "cuda")
    assert "attention: " in reason
    assert "swiglu: " in reason
    module(monkeypatch, "rotary_emb")
    assert tinyllama.refuse(None, "cuda") is None


def test_a_package_that_cannot_be_loaded_says_so(monkeypatch, tmp_path):
    (tmp_path / "broken_extension.py").write_text("raise ImportError('undefined symbol: x')")
    monkeypatch.syspath_prepend(str(tmp_path))
    assert fallbacks.missing("json", "broken_extension") == (
        "broken_extension cannot be loaded: ImportError: undefined symbol: x"
    )


@pytest.mark.parametrize("method", ["tinyllama", "tinyllama_full"])
@pytest.mark.parametrize("benchmark", MEASURED)
def test_on_a_cpu_every_benchmark_runs_and_says_what_stood_in(tmp_path, benchmark, method):
    cell.run(read_spec(write_spec(tmp_path, benchmark, method, iterations=2, warmup=0)))
    record = json.loads((tmp_path / "record.json").read_text())
    assert (record["status"], record["reason"]) == ("ok", None)
    assert "not_fused" in record["flags"]
    told = record["detail"]["operators"]
    assert "runs on CUDA only" in told["rotary"]
    masked = record["workload"]["new_tokens"] is not None
    assert ("attention with a mask" in told) == masked
    assert ("attention" in told) != masked
    assert set(told) >= {"norm", "rotary", "swiglu", "loss"}


def test_expectations_name_each_operator():
    def expected(benchmark, **changes):
        from bench_specs import workload

        return tinyllama_full.expects(read_workload(workload(benchmark, **changes)), "cuda")

    assert any("flash_fwd" in sign for sign in expected("forward"))
    assert any("XEntropy" in sign for sign in expected("train_static"))
    assert not any("XEntropy" in sign for sign in expected("forward"))
    assert not any("flash_fwd" in sign for sign in expected("forward", dtype="float32"))


def test_xformers_is_asked_what_it_dispatches_to(monkeypatch):
    pytest.importorskip("xformers.ops.swiglu_op")
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda *_: (9, 0))
    x, gate, up, down = fallbacks.example("swiglu", Given("cpu", torch.bfloat16, 16))
    torch.testing.assert_close(tinyllama.swiglu(x, gate, up, down), operators.swiglu(x, gate, up, down))
    told = tinyllama.swiglu_called(x, gate, up, down)
    assert told == "xformers SwiGLUOp:eager (its fused ones run on CUDA only)"
    # As on a GPU: what decides is the dispatch object itself, of which only the device is another.
    dispatch = sys.modules["xformers.ops.swiglu_op"].SwiGLUOpDispatch
    assert str(of(dispatch, packed=False).op) == "SwiGLUOp:eager"
    assert str(of(dispatch, packed=True).op) == "SwiGLUOp:fused.p.cpp"
    tinyllama_full.lay_side_by_side(block := SimpleParameter(gate), other := SimpleParameter(up))
    assert dispatch.from_arguments(x[0], block, None, other, None, down, None).packed_weights


@pytest.mark.parametrize(
    ("is_cuda", "dtype", "why"),
    [
        (False, torch.bfloat16, "run on CUDA only"),
        (True, torch.float32, "take no float32"),
        (True, torch.bfloat16, "take bfloat16 only where gate and up lie side by side"),
    ],
)
def test_why_swiglu_is_plain_is_said(is_cuda, dtype, why):
    assert tinyllama.why_plain(SimpleNamespace(is_cuda=is_cuda, dtype=dtype)) == f"its fused ones {why}"


def of(dispatch, *, packed):
    return dispatch(
        device=SimpleNamespace(type="cuda"), dtype=torch.bfloat16, dtype_autocast_gpu=torch.bfloat16,
        packed_weights=packed, bias_enabled=False,
    )  # fmt: skip


def SimpleParameter(x):  # noqa: N802
    return torch.nn.Parameter(x)
