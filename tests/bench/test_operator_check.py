"""The comparison of operators with plain ones in float64: it passes what is right and finds what is planted."""

from __future__ import annotations

import importlib
import json
import os
import shutil
import subprocess
import sys
from types import SimpleNamespace

import pytest
from places import ROOT

torch = pytest.importorskip("torch")

from bench import methods, operator_check, operators  # noqa: E402
from bench.methods import fused, fused_inductor  # noqa: E402
from bench.operators import Operators, fallbacks  # noqa: E402


def findings(method, **options):
    return list(operator_check.check(method, "cpu", ["bfloat16", "float32"], **options))


def of(**changed):
    return SimpleNamespace(operators=lambda: Operators(**changed))


def test_plain_operators_pass():
    found = findings(of())
    assert [item["operator"] for item in found[:6]] == [
        "norm", "rotary", "attention", "attention with a mask", "swiglu", "loss",
    ]  # fmt: skip
    assert {item["status"] for item in found} == {"passed"}
    assert all(0 < item["forward"] < item["limit"] for item in found)


PLANTED = {
    "norm": lambda x, weight, eps: operators.norm(x, weight * 1.02, eps),
    "rotary": lambda x, cos, sin: operators.rotary(x, cos, sin * 1.05),
    "attention": lambda q, k, v, mask: operators.attention(q, k, v.detach() * 1.0 + 0 * v, mask),
    "swiglu": lambda x, gate, up, down: operators.swiglu(x, up, gate, down),
    "loss": lambda logits, targets: operators.loss(logits, targets.clamp(min=0)),
}


@pytest.mark.skipif(shutil.which("g++") is None, reason="Inductor needs a C++ compiler")
def test_each_operator_is_compiled_at_its_own_sizes():
    # The second of them would meet symbols in place of sizes if what was compiled for the first were kept.
    found = [
        operator_check.check_one(fused, kind, fallbacks.Given("cpu", torch.float32, 16), "", 1e-5, compiled=True)
        for kind in ("norm", "rotary", "attention")
    ]
    assert [(item["status"], item.get("error")) for item in found] == [("passed", None)] * 3


@pytest.mark.parametrize("kind", sorted(PLANTED))
def test_a_planted_fault_is_found(kind):
    failed = {
        item["operator"].split()[0] for item in findings(of(**{kind: PLANTED[kind]})) if item["status"] == "failed"
    }
    assert failed == {kind}


def test_an_operator_that_raises_or_spills_is_a_finding():
    def spill(x, cos, sin):
        x._base.mul_(2)
        return operators.rotary(x.detach(), cos, sin)

    def broken(*_):
        raise RuntimeError("no kernel image\nis available")

    found = {item["operator"]: item for item in findings(of(norm=broken, rotary=spill))}
    assert found["norm"]["error"] == "RuntimeError: no kernel image"
    assert found["rotary"]["status"] == "failed"


def test_the_command_prints_json():
    command = [sys.executable, "-m", "bench.operator_check", "eager", "--device", "cpu", "--dtype", "float32"]
    done = subprocess.run(
        command, capture_output=True, text=True, check=False, env={**os.environ, "PYTHONPATH": str(ROOT)}
    )
    assert done.returncode == 0, done.stderr
    told = json.loads(done.stdout)
    assert len(told["findings"]) == 6
    assert told["environment"]["packages"]["torch"]
    done = subprocess.run([*command[:3], "warp_drive"], capture_output=True, text=True, check=False,
                          env={**os.environ, "PYTHONPATH": str(ROOT)})  # fmt: skip
    assert done.returncode == 4
    assert len(done.stderr.splitlines()) == 1


@pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no CUDA device here")
@pytest.mark.parametrize("name", ["tinyllama", "tinyllama_full", "fused"])
def test_on_a_gpu(name):
    method = methods.load(name)
    if reason := method.refuse(None, "cuda"):
        pytest.skip(reason)
    found = list(operator_check.check(method, "cuda", ["bfloat16", "float32"]))
    assert [item for item in found if item["status"] == "failed"] == []


@pytest.mark.parametrize(("method", "compiled"), [(fused, False), (fused_inductor, False), (fused_inductor, True)])
def test_ligers_kernels_in_tritons_interpreter(monkeypatch, method, compiled):
    pytest.importorskip("liger_kernel")
    if os.environ.get("TRITON_INTERPRET") != "1":
        pytest.skip("Triton interprets only when it is told before it is imported: TRITON_INTERPRET=1")
    make_the_interpreter_work(monkeypatch)
    found = list(operator_check.check(method, "cpu", ["float32"], compiled=compiled))
    told = {item["operator"]: item["dispatched"].partition(" (")[0] for item in found}
    assert (told["norm"], told["rotary"], told["swiglu"], told["loss"]) == (
        "liger RMSNorm", "liger rope", "liger SiLUMul", "liger CrossEntropy",
    )  # fmt: skip
    assert [item for item in found if item["status"] == "failed"] == []


def make_the_interpreter_work(monkeypatch):
    numpy, language = pytest.importorskip("numpy"), pytest.importorskip("triton.language")
    interpreter = pytest.importorskip("triton.runtime.interpreter")
    convert, patch = interpreter._implicit_cvt, interpreter._patch_lang_tensor

    def with_floats(value):
        # A compiled kernel's float arguments are scalars of Triton's; the interpreter forgets to make them so.
        if not isinstance(value, float):
            return convert(value)
        handle = interpreter.TensorHandle(numpy.array([value], dtype=numpy.float32), language.float32)
        return language.tensor(handle, language.float32)

    def with_indices(tensor, scope):
        # It makes numbers of arrays of one element, which NumPy no longer does.
        patch(tensor, scope)
        scope.set_attr(tensor, "__index__", lambda self: int(self.handle.data.item()))

    monkeypatch.setattr(interpreter, "_implicit_cvt", with_floats)
    monkeypatch.setattr(interpreter, "_patch_lang_tensor", with_indices)
    # Of the CUDA library's functions the interpreter has none.
    library = importlib.import_module("liger_kernel.ops.rms_norm")
    semantic = interpreter.interpreter_semantic
    monkeypatch.setattr(library, "rsqrt", lambda x: language.rsqrt(x, _semantic=semantic))
