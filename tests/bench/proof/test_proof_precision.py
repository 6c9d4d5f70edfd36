"""Precision lowered in secret, faults of other sizes than the known ones, and tables changed in place."""

from __future__ import annotations

import pytest

torch = pytest.importorskip("torch")

import planted  # noqa: E402
import right_methods  # noqa: E402
from probe_cells import PROBE, TEXT, _without_dispatch, run  # noqa: E402, F401

from bench import methods, operators  # noqa: E402
from bench.observe.kernels import precisions_of  # noqa: E402
from bench.operators import Operators  # noqa: E402
from bench.proof import faults, levels  # noqa: E402

BF16 = {**TEXT, "dtype": "bfloat16"}
SHAPES = {"generation": TEXT, "forward": {"batch": 4, "sequence": 128}, "train_static": {}}


def quantised(quantise):
    """The linear weights as the method keeps them, in copies of its own."""

    def change(gpt):
        for name, module in gpt.named_modules():
            if isinstance(module, torch.nn.Linear):
                weight = quantise(module.weight.float()).to(module.weight.dtype)
                if name.endswith(("gate", "up", "down")):
                    kept = torch.nn.Linear(1, 1)
                    kept.weight = torch.nn.Parameter(weight)
                    setattr(gpt.get_submodule(name.rpartition(".")[0]), name.rpartition(".")[2], kept)
                else:
                    module.forward = lambda x, w=weight, m=module: torch.nn.functional.linear(x, w, m.bias)

    return planted.method(gpt=change)


def int8(x):
    return faults.int8(x)


def by_32(x):
    return faults.int8(x, group=32)


def quantised_cache(quantise):
    def attention(q, k, v, mask):
        return operators.attention(q, quantise(k.float()).to(k.dtype), quantise(v.float()).to(v.dtype), mask)

    return planted.method(operators=Operators(attention=attention))


LOWERED = {
    "int8 weights": quantised(int8),
    "int8 weights, grouped": quantised(by_32),
    "fp8 weights": quantised(faults.fp8),
    "fp8 cache": quantised_cache(faults.fp8),
}


def failed(record):
    return [check["name"] for check in record["proof"]["checks"] if check["status"] == "failed"]


@pytest.mark.parametrize("seed", [0, 1])
@pytest.mark.parametrize("name", LOWERED)
def test_a_lower_precision_is_found_in_bfloat16(tmp_path, monkeypatch, name, seed):
    monkeypatch.setattr(methods, "load", lambda _: LOWERED[name])
    record = run(tmp_path, "generation", **BF16, weights={"source": "hash", "seed": seed, "fingerprint": None})
    assert record["status"] == "incorrect", record["proof"]["checks"]
    assert set(failed(record)) & {"logits", "known faults"}, record["proof"]["checks"]


@pytest.mark.parametrize("source", ["hash", "probe"])
def test_an_int8_cache_is_at_least_coarser(tmp_path, monkeypatch, source):
    monkeypatch.setattr(methods, "load", lambda _: quantised_cache(int8))
    found = []
    for seed in (0, 1, 2):
        weights = {"source": source, "seed": seed, "fingerprint": None}
        record = run(tmp_path / str(seed), "generation", **BF16, weights=weights)
        found.append(record["status"] == "incorrect" or "coarser" in record["flags"])
    assert any(found), record["proof"]["checks"]


@pytest.mark.parametrize(
    ("value", "limit", "said"),
    [(1.3, 1.78, False), (1.45, 1.78, True), (1.79, 1.78, False), (2.75e4, 1.78, False), (1.45, 4.0, False)],
)
def test_what_the_check_of_the_logits_refuses_is_not_called_coarser(value, limit, said):
    check = {"name": "logits", "status": "passed" if value <= limit else "failed", "value": value, "limit": limit}
    assert levels.coarser([check]) is said


@pytest.mark.parametrize("name", ["int8 weights", "fp8 weights", "int8 cache", "fp8 cache"])
def test_a_quantiser_is_named_where_rounding_is_fine(tmp_path, monkeypatch, name):
    kind = int8 if name.startswith("int8") else faults.fp8
    wrong = quantised_cache(kind) if name.endswith("cache") else quantised(kind)
    monkeypatch.setattr(methods, "load", lambda _: wrong)
    record = run(tmp_path, "generation", **PROBE, **TEXT)
    assert (record["status"], record["proof"]["resembles"]) == ("incorrect", name)


# Each alone where rounding is coarse, and once where it is fine; elsewhere all at once, and in an order that changes.
ALONE = [("generation", "bfloat16", "hash"), ("forward", "float32", "hash"), ("train_static", "bfloat16", "hash")]
TOGETHER = [
    ("generation", "float32", "hash"),
    ("forward", "bfloat16", "hash"),
    ("train_static", "float32", "hash"),
    *[(benchmark, "bfloat16", "probe") for benchmark in ("generation", "forward")],
]
RIGHT = [
    *[(kind, method) for kind in ALONE for method in right_methods.METHODS],
    *[(kind, method) for kind in TOGETHER for method in ("all others", "split-K")],
]


@pytest.mark.parametrize(("kind", "method"), RIGHT, ids=lambda part: part if isinstance(part, str) else "-".join(part))
def test_right_methods_have_no_flag(tmp_path, monkeypatch, method, kind):
    """Each check was made and passed, at every sample; none is coarser than eager, or faster on what it has seen."""
    monkeypatch.setattr(methods, "load", lambda _: right_methods.METHODS[method])
    benchmark, dtype, source = kind
    weights = {"source": source, "seed": 0, "fingerprint": None}
    record = run(tmp_path, benchmark, **SHAPES[benchmark], dtype=dtype, weights=weights)
    assert (record["status"], record["reason"], record["flags"]) == ("ok", None, ["cold"])
    assert (record["proof"]["seen_again"] is None) == (benchmark == "train_static")


@pytest.mark.parametrize(("scale", "name"), [(1.01, "attention scale off by 1 %"), (1.05, "about "), (0.99, "about -")])
def test_a_scale_is_named_with_its_size(tmp_path, monkeypatch, scale, name):
    def attention(q, k, v, mask):
        return operators.attention(q * scale, k, v, mask)

    monkeypatch.setattr(methods, "load", lambda _: planted.method(operators=Operators(attention=attention)))
    record = run(tmp_path, "forward", **PROBE)
    assert record["status"] == "incorrect"
    assert name in record["proof"]["resembles"]


@pytest.mark.parametrize("beta", [-1.0, 0.3, 2.5, 30.0])
def test_a_fault_is_not_named_far_from_its_size(beta):
    match = faults.Match("norm weights ignored", beta, 0.5, 0.9)
    assert match.named is None
    scaled = faults.Match(faults.SCALED, beta, 0.5, 0.9)
    assert scaled.named == f"attention scale off by about {beta:.2g} %"


@pytest.mark.parametrize("benchmark", ["generation", "model_inference"])
@pytest.mark.parametrize("fault", ["one row on", "bfloat16", "swapped"])
def test_tables_changed_in_place_are_found_by_the_truth_that_is_made_here(tmp_path, monkeypatch, benchmark, fault):
    def change(gpt):
        if fault == "one row on":
            gpt.cos[5:].copy_(gpt.cos[5:].roll(1, 0))
        elif fault == "bfloat16":
            gpt.cos.copy_(gpt.cos.bfloat16())
        else:
            gpt.sin.neg_()

    monkeypatch.setattr(methods, "load", lambda _: planted.method(gpt=change))
    record = run(tmp_path, benchmark, **PROBE, **TEXT)
    assert record["status"] == "incorrect"
    assert "logits" in failed(record)


def test_logits_cast_to_bfloat16_are_found_in_float32_alone(tmp_path, monkeypatch):
    cast = planted.method(model=lambda target: lambda tokens: target(tokens).bfloat16().to(target.head.weight.dtype))
    monkeypatch.setattr(methods, "load", lambda _: cast)
    assert run(tmp_path / "float32", "forward", **PROBE)["status"] == "incorrect"
    record = run(tmp_path / "bfloat16", "forward", **{**PROBE, "dtype": "bfloat16"})
    assert (record["status"], record["reason"]) == ("ok", None)


@pytest.mark.parametrize(
    ("name", "precision"),
    [
        ("cutlass_80_tensorop_i16832gemm_s8_256x128_64x3_tn_align16", "int8"),
        ("sm80_xmma_gemm_i8i32_i8i32_i32_tn_n_tilesize128x128x64", "int8"),
        ("aten::_int_mm", "int8"),
        ("sm90_xmma_gemm_e4m3bf16_e4m3f32_f32_tn_n_tilesize64x128x128_warpgroupsize1x1x1", "fp8"),
        ("aten::_scaled_mm", "fp8"),
        ("ampere_sgemm_tf32_128x64_tn", "TF32"),
        ("cutlass_80_tensorop_s1688gemm_128x128_16x5_tn_align4", "TF32"),
        ("ampere_bf16_s16816gemm_bf16_128x64_ldg8_f2f_tn", None),
        ("nvjet_hsh_128x256_64x4_1x2_h_bz_coopA_TNT", None),
        ("void at::native::vectorized_elementwise_kernel<4, at::native::CUDAFunctor_add<c10::BFloat16>>", None),
        ("aten::mm", None),
    ],
)
def test_a_lower_precision_is_told_by_a_kernels_name(name, precision):
    assert precisions_of([name]) == ({precision: name} if precision else {})
