"""The list of checks: what every cell must have, and the laxest limit of each, are what bench judges by."""

from __future__ import annotations

import json

import pytest

torch = pytest.importorskip("torch")

from probe_cells import PROBE, TEXT, _without_dispatch, run  # noqa: E402, F401

from bench import proof  # noqa: E402
from bench.proof import checks, forward, gradients, levels, sampler, training  # noqa: E402

LIST = json.loads(checks.LIST.read_text(encoding="utf-8"))
SAME = dict.fromkeys(("repeat", "changed input", "causality", "cache", "other prompt"), levels.ROW)
GENERATION = {
    **SAME, **dict.fromkeys(("worst step", "reference", "samples"), levels.ROW), "logits": levels.POOLED,
    "sampler": sampler.ALARM, "temperature": sampler.ALARM,
}  # fmt: skip
LIMITS = {
    "forward": {**SAME, "logits": levels.OVERALL, "rows": levels.ROW, "samples": forward.FROM_EAGER},
    "generation": GENERATION,
    "batched": {**GENERATION, **dict.fromkeys(("rows", "other rows"), levels.ROW)},
    "training": {
        "gradients": gradients.FACTOR, "samples": training.OFF_CURVE, "finite": 0.0, "optimizer": 0.0, "steps": 0.0
    },
}  # fmt: skip


@pytest.mark.parametrize("family", LIMITS)
def test_the_list_has_the_limits_that_bench_judges_by(family):
    for name, one in LIST["checks"][family].items():
        if "limit" in one:
            assert one["limit"] == LIMITS[family][name], name
            assert one.get("sharp") == {levels.ROW: levels.ROW_SHARP}.get(one["limit"]), name
        assert one.get("few", levels.FEW) == levels.FEW
        assert (one.get("pool", levels.POOL), one.get("pooled", levels.POOLED)) == (levels.POOL, levels.POOLED)


@pytest.mark.parametrize("benchmark", proof.MODULES)
def test_the_list_has_every_check_of_a_benchmark_in_its_order(benchmark):
    family = next(name for name, those in LIST["families"].items() if benchmark in those)
    assert set(LIST["checks"][family]) == set(proof.module(benchmark).ORDER)
    assert proof.MODULES[benchmark] == family


@pytest.mark.parametrize("benchmark", proof.MODULES)
def test_a_probe_has_every_check_of_the_list(tmp_path, benchmark):
    family = proof.MODULES[benchmark]
    record = run(
        tmp_path, benchmark, {"role": "probe"}, **PROBE, **(TEXT if family in ("generation", "batched") else {})
    )
    assert record["status"] == "ok", record["reason"]
    assert record["proof"]["checks_version"] == LIST["version"]
    assert {check["name"] for check in record["proof"]["checks"]} == set(LIST["checks"][family])


@pytest.mark.parametrize("left_out", ["repeat", "samples", "logits"])
def test_a_check_that_nobody_made_leaves_the_row_unchecked(tmp_path, monkeypatch, left_out):
    judge = checks.Checks.judge

    def forgetful(self, name, passed, **more):
        if name != left_out or passed is None:
            judge(self, name, passed, **more)

    monkeypatch.setattr(checks.Checks, "judge", forgetful)
    record = run(tmp_path, "forward", **PROBE)
    found = {check["name"]: check["status"] for check in record["proof"]["checks"]}
    assert (record["status"], found[left_out]) == ("ok", "unchecked")
    assert "unchecked" in record["flags"]
