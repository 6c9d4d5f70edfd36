"""What a workload holds at least, and that a plan says where there is not so much memory."""

from __future__ import annotations

from pathlib import Path

import pytest
from places import RESULTS
from plan_samples import SUITE, stack, write_suite

from orchestrator.analysis.reduced_run import make_report
from orchestrator.cli import run
from orchestrator.plan.memory import beyond, expected, least_bytes, parameters, why_not
from orchestrator.plan.models import named_models
from orchestrator.plan.planner import make_plan
from orchestrator.plan.suite import load_suite
from orchestrator.records.runs import find_run


@pytest.mark.parametrize(("name", "published"), [("open_llama_7b", 6_738_415_616), ("open_llama_3b", 3_426_473_600)])
def test_parameters_are_those_of_the_published_models(name: str, published: int) -> None:
    assert parameters(named_models()[name]) == published


@pytest.mark.parametrize(
    ("name", "billions", "active"),
    [
        ("llama_3_1_8b", 8.030, 8.030),
        ("qwen3_8b", 8.191, 8.191),
        ("gemma_3_4b", 3.880, 3.880),
        ("phi_4_mini", 3.836, 3.836),
        ("mistral_7b", 7.248, 7.248),
        ("qwen3_30b_a3b", 30.53, 3.35),
    ],
)
def test_so_are_those_of_later_ones(name: str, billions: float, active: float) -> None:
    model = named_models()[name]
    found = parameters(model) / 1e9, parameters(model, active=True) / 1e9
    assert found == pytest.approx((billions, active), rel=2e-3)


def test_the_least_of_each_benchmark() -> None:
    least = {request.workload.benchmark: least_bytes(request.workload) for request in load_suite("note").expand()}
    weights = 2 * parameters(named_models()["open_llama_7b"])
    assert least["forward"] == weights + 2 * 10 * 2048 * 32_000
    assert weights < least["generation"] < 1.02 * weights
    assert least["train_static"] == 4 * parameters(named_models()["open_llama_3b"])
    assert least_bytes(load_suite("note").ceilings("cuda")[0].workload) == 0


MEASURED = {
    "forward": (15.368, 15.305),
    "generation": (13.621, 13.946),
    "model_inference": (13.621, 13.946),
    "train_static": (24.304, 19.633),
    "train_dynamic": (23.785, 19.204),
}
"""Peaks in GB of the suite `note` on an H200, by eager and by inductor: results/h200."""


@pytest.mark.parametrize("compiled", [False, True])
def test_the_expected_peaks_are_near_the_measured_ones(compiled: bool) -> None:
    for request in load_suite("note").expand():
        held = expected(request.workload, compiled=compiled)
        assert held is not None
        assert held.peak_bytes / 1e9 == pytest.approx(MEASURED[request.workload.benchmark][compiled], rel=0.035)
        assert held.peak_bytes >= least_bytes(request.workload)


@pytest.mark.parametrize("name", ["h200-models", "h200-models-train"])
def test_so_are_those_of_other_families(name: str) -> None:
    rows = [pair.steady for pair in make_report(find_run(RESULTS, name).folder).pairs]
    assert len(rows) >= 3
    for row in rows:
        held = expected(row.workload)
        assert held is not None
        assert held.peak_bytes == pytest.approx(row.memory.steady_bytes, rel=0.01)


@pytest.mark.parametrize("name", ["h200-two", "h200-two-second"])
def test_so_are_those_of_several_devices(name: str) -> None:
    rows = [pair.steady for pair in make_report(find_run(RESULTS, name).folder).pairs]
    assert max(row.workload.devices for row in rows) == 2
    for row in rows:
        held = expected(row.workload)
        assert held is not None
        # A cut model has the whole one beside it while it is made.
        assert held.peak_bytes == pytest.approx(row.memory.process_bytes, rel=0.02)


def test_the_suite_of_models_fits_into_80_gb_and_what_does_not_fit_says_its_figures() -> None:
    workloads = [request.workload for request in load_suite("models").expand()]
    for workload in workloads:
        held = expected(workload)
        assert held is not None
        assert least_bytes(workload) <= held.peak_bytes < 70e9
        assert why_not(workload, 80 * 10**9) is None
        assert why_not(workload, None) is None
    why = why_not(workloads[0], 10**10)
    assert why is not None
    assert why.startswith("holds at least 18.2 GB (16.1 GB of weights, 2.10 GB of logits), and the GPU has 10.0 GB")
    assert expected(load_suite("note").ceilings("cuda")[0].workload) is None


@pytest.mark.parametrize(("room", "lines"), [(None, 0), (10**15, 0), (10**12, 1), (0, 2)])
def test_what_does_not_fit_is_said_once_for_all_methods(tmp_path: Path, room: int | None, lines: int) -> None:
    path = write_suite(tmp_path, SUITE.replace("batch = 2", "batch = 1000000000"))
    plan = make_plan(load_suite(str(path)), {"cpu": stack()}, device="cpu")
    said = beyond(plan, {"cpu": room, "cuda": 0})
    assert len(said) == lines
    assert all("expect out_of_memory" in line for line in said)


def test_a_plan_of_a_thousand_million_rows_says_so(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = write_suite(tmp_path, SUITE.replace("batch = 2", "batch = 1000000000"))
    words = ["plan", "--launcher", "local", "--suite", str(path)]
    assert run(words) == 0
    remarks = capsys.readouterr().err
    assert "forward of tiny, batch 1000000000, sequence 64, " in remarks
    assert "TB, and this host has " in remarks
    assert run([*words, "--format", "json"]) == 0
    assert capsys.readouterr().err.count("expect out_of_memory") == 1
    assert run(["plan", "--launcher", "local", "--suite", "smoke"]) == 0
    seen = capsys.readouterr()
    assert "expect out_of_memory" not in seen.out + seen.err


def test_many_lines_are_a_few(tmp_path: Path) -> None:
    path = write_suite(tmp_path, SUITE.replace("batch = 2", f"batch = {list(range(1, 12))}"))
    said = beyond(make_plan(load_suite(str(path)), {"cpu": stack()}, device="cpu"), {"cpu": 0})
    assert len(said) == 6
    assert said[-1] == "and 7 workloads more like that"


def test_the_ladder_of_engines_fits_a_card_of_80_gb_and_one_step_more_would_not() -> None:
    works = [request.workload for request in load_suite("engines").expand()]
    assert all(why_not(work, 80 * 10**9) is None for work in works)
    assert max(held.peak_bytes for work in works if (held := expected(work)) is not None) < 80 * 10**9
    more = next(work for work in works if work.model and work.model.name == "open_llama_7b" and work.batch == 32)
    assert "77.3 GB of cache" in (
        why_not(more.model_copy(update={"batch": 128, "prompt_tokens": 1024}), 80 * 10**9) or ""
    )
