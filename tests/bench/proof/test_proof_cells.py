"""The proof of forward and generation in cells run for real: references, what is unchecked, faults by their names."""

from __future__ import annotations

import json

import pytest

torch = pytest.importorskip("torch")

import planted  # noqa: E402
import right_methods  # noqa: E402
from bench_specs import workload, write_spec  # noqa: E402
from probe_cells import PROBE, TEXT, _without_dispatch, run  # noqa: E402, F401

from bench import cell, methods, operators, proof  # noqa: E402
from bench.operators import Operators  # noqa: E402
from bench.spec import read_spec  # noqa: E402

F = torch.nn.functional


def statuses(record):
    return {check["name"]: check["status"] for check in record["proof"]["checks"]}


def make_references(folder, *subjects):
    path = write_spec(folder, "forward", "reference")
    whole = {**workload("forward"), "benchmark": "reference", "batch": None, "sequence": None, "iterations": 1}
    whole = {**whole, "warmup": 0, "subjects": list(subjects)}
    ids = [f"{place}" * 16 for place in range(len(subjects))]
    spec = {**json.loads(path.read_text()), "workload": whole, "role": "reference", "subject_ids": ids}
    path.write_text(json.dumps(spec))
    cell.run(read_spec(path))
    record = json.loads((folder / "record.json").read_text(encoding="utf-8"))
    return record, [(folder / f"reference-{name}.safetensors", record["detail"]["references"][name]) for name in ids]


def test_a_reference_cell_makes_a_file_for_each_subject_that_rows_are_checked_against(tmp_path):
    subjects = [workload("forward"), workload("generation"), workload("forward", sequence=10_000)]
    record, files = make_references(tmp_path / "references", *subjects)
    assert (record["status"], record["reason"], record["flags"]) == ("ok", None, [])
    assert files[2][1]["sha256"] is None
    assert files[2][1]["reason"]
    for place, benchmark in enumerate(("forward", "generation")):
        path, facts = files[place]
        assert facts["bytes"] == path.stat().st_size
        spec = {"reference": str(path), "reference_sha256": facts["sha256"]}
        row = run(tmp_path / benchmark, benchmark, spec)
        assert (row["status"], row["flags"]) == ("ok", ["cold"])
        assert row["proof"]["reference"]["sha256"] == facts["sha256"]
        assert row["proof"]["reference"]["eager_error"] == facts["eager_error"]
        assert row["proof"]["reference"]["error"] == pytest.approx(facts["eager_error"], rel=0.1)
    row = run(tmp_path / "changed", "forward", {"reference": str(files[0][0]), "reference_sha256": "0" * 64})
    assert (row["status"], statuses(row)["reference"]) == ("ok", "unchecked")
    assert "unchecked" in row["flags"]
    spec = {"reference": str(files[0][0]), "reference_sha256": files[0][1]["sha256"]}
    row = run(tmp_path / "other", "forward", spec, weights={"source": "hash", "seed": 1, "fingerprint": None})
    assert row["reason"].startswith("forward: reference: weights")


def test_a_reference_cell_that_made_nothing_says_why(tmp_path):
    record, _ = make_references(tmp_path, workload("forward", sequence=10_000))
    assert record["status"] == "unsupported"
    assert "no reference could be made" in record["reason"]


@pytest.mark.parametrize("benchmark", ["forward", "generation"])
def test_without_a_reference_a_large_model_is_unchecked(tmp_path, monkeypatch, benchmark):
    monkeypatch.setattr(proof, "IN_CELL", 1)
    record = run(tmp_path, benchmark)
    assert (record["status"], statuses(record)["reference"]) == ("ok", "unchecked")
    assert "unchecked" in record["flags"]
    assert statuses(record)["repeat"] == "passed"


def gelu(x, gate, up, down):
    return F.linear(F.gelu(F.linear(x, gate)) * F.linear(x, up), down)


def pairs(x, cos, sin):
    return operators.rotary(torch.cat([x[..., 0::2], x[..., 1::2]], -1), cos, sin)


def other_eps(x, weight, eps):
    return operators.norm(x, weight, 1e-5 if eps < 5e-6 else 1e-6)


def shifted(part):
    """Queries start a row of the fused projection, keys do not: known by their place, not by the order of calls."""

    def rotary(x, cos, sin):
        if (x.storage_offset() == 0) == (part == "queries"):
            size = cos.shape[-1]
            step = 10000.0 ** (-torch.arange(size) / size)
            cos, sin = cos * step.cos() - sin * step.sin(), sin * step.cos() + cos * step.sin()
        return operators.rotary(x, cos, sin)

    return rotary


def without_layer(index):
    def change(gpt):
        block = gpt.blocks[index]
        block.forward = lambda x, *rest: (block.attend(block.norm_attention(x), *rest[:4]), x)[1]

    return planted.method(gpt=change)


def open_mask():
    def change(gpt):
        mask = gpt.cache_mask
        gpt.cache_mask = lambda positions, local: mask(positions + 1, local)

    return planted.method(gpt=change)


KNOWN = {
    "rotary off by one in the queries alone": planted.method(operators=Operators(rotary=shifted("queries"))),
    "rotary off by one in the keys alone": planted.method(operators=Operators(rotary=shifted("keys"))),
    "rotary over neighbours instead of halves": planted.method(operators=Operators(rotary=pairs)),
    "attention scale off by 1 %": planted.attention_scale(),
    "norm epsilon 1e-05 for 1e-06": planted.method(operators=Operators(norm=other_eps)),
    "norm weights ignored": planted.method(operators=Operators(norm=lambda x, w, e: operators.norm(x, w * 0 + 1, e))),
    "GELU for SiLU": planted.method(operators=Operators(swiglu=gelu)),
    "layer 0 dropped": without_layer(0),
    "layer 1 dropped": without_layer(1),
}

ONLY = {
    "forward": {"one future token visible": planted.future_token()},
    "generation": {"cache one step late": planted.stale_cache(), "cache mask open by one slot": open_mask()},
}


@pytest.mark.parametrize(
    ("benchmark", "name"), [(b, name) for b in ONLY for name in (*KNOWN, *ONLY[b])]
)  # fmt: skip
def test_a_known_fault_is_named(tmp_path, monkeypatch, benchmark, name):
    monkeypatch.setattr(methods, "load", lambda _: {**KNOWN, **ONLY[benchmark]}[name])
    record = run(tmp_path, benchmark, **PROBE, **(TEXT if benchmark == "generation" else {}))
    assert record["status"] == "incorrect"
    assert record["proof"]["resembles"] == name
    assert record["reason"].endswith(f"; resembles {name}")


def test_a_shift_of_queries_and_keys_together_is_right(tmp_path, monkeypatch):
    def rotary(x, cos, sin):
        return shifted("queries" if x.storage_offset() == 0 else "keys")(x, cos, sin)

    monkeypatch.setattr(methods, "load", lambda _: planted.method(operators=Operators(rotary=rotary)))
    assert run(tmp_path, "forward", **PROBE)["status"] == "ok"


FAULTS = [
    ("forward", planted.cached_by_identity(), "changed input"),
    ("forward", planted.stale_replay(), "changed input"),
    ("forward", planted.noisy_logits(), "repeat"),
    ("forward", planted.nan_in_one_row(), "finite"),
    ("forward", planted.future_token(), "causality"),
    ("generation", planted.stale_replay(), "changed input"),
    ("generation", planted.cache_not_cleared(), "cache"),
    ("generation", planted.stale_cache(), "cache"),
    ("generation", planted.deaf_sampler(), "temperature"),
    ("generation", planted.method(step=lambda s: lambda *a: (torch.seed(), s(*a))[1]), "same seed"),
    ("generation", planted.method(step=lambda s: lambda *a: (torch.manual_seed(3), s(*a))[1]), "sampler"),
    ("model_inference", planted.noisy_logits(), "repeat"),
]


@pytest.mark.parametrize(("benchmark", "method", "check"), FAULTS)
def test_the_first_failed_check_says_what_is_wrong(tmp_path, monkeypatch, benchmark, method, check):
    monkeypatch.setattr(methods, "load", lambda _: method)
    record = run(tmp_path, benchmark, **PROBE, **(TEXT if benchmark != "forward" else {}))
    assert record["status"] == "incorrect"
    assert record["reason"].startswith(f"{benchmark}: {check}: ")


@pytest.mark.parametrize("benchmark", ["forward", "generation"])
@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float64"])
@pytest.mark.parametrize("source", ["hash", "probe"])
def test_other_rounding_orders_raise_no_alarm(tmp_path, monkeypatch, benchmark, dtype, source):
    monkeypatch.setattr(methods, "load", lambda _: right_methods.METHODS["all others"])
    for seed, model in enumerate(("tiny", "tiny_gqa")):
        some = {"dtype": dtype, "seed": seed, "weights": {"source": source, "seed": seed, "fingerprint": None}}
        record = run(tmp_path / model, benchmark, model=model, **some)
        assert (record["status"], record["reason"], record["flags"]) == ("ok", None, ["cold"])
