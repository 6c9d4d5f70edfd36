from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest
from fake_run import make_stack, write_suite
from plan_samples import OF_THE_NOTE, stack

from orchestrator.build.image import has_image
from orchestrator.host import docker_engine as engine
from orchestrator.plan.choice import Choice
from orchestrator.plan.planner import make_plan
from orchestrator.plan.suite import load_suite
from orchestrator.plan.workload import describe
from orchestrator.runner.plan_text import render

STACKS = {"cpu": stack(build={"download_bytes": 250_000_000})}


def choice(name: str) -> Choice:
    suite = load_suite(name)
    plan = make_plan(suite, STACKS, device="cpu")
    return Choice("the reason", plan, suite, STACKS, "local", {})


@pytest.fixture(autouse=True)
def no_python_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("STACKBENCH_PYTHON", raising=False)


def test_a_line_for_every_cell_with_workload_time_and_cost() -> None:
    made = choice("smoke")
    lines = render(made, Path("/nonexistent"), "text").splitlines()
    assert lines[0] == "the reason"
    listed = [cell for cell in made.plan.cells if cell.role in ("ceilings", "row")]
    for cell in listed:
        (line,) = [line for line in lines if line.startswith(f"{cell.title} ")]
        assert cell.workload.workload_id in line
        assert describe(cell.workload) in line
        assert line.endswith(f", {cell.workload.iterations} iterations")
        assert " ? " in line
    (references,) = [line for line in lines if "reference cell" in line]
    assert references.endswith("5 references for tiny_1_layer")
    assert lines[-2].startswith("expected: ")
    assert "to download at most: 250 MB; disk: unknown" in lines[-2]
    assert lines[-1] == f"plan {made.plan.plan_id}"


def test_a_stack_that_is_here_already_downloads_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("STACKBENCH_PYTHON", sys.executable)
    cost = render(choice("smoke"), Path("/nonexistent"), "text").splitlines()[-2]
    assert cost.endswith("cells guessed, marked ?); nothing to download or build")
    content = json.loads(render(choice("smoke"), Path("/nonexistent"), "json"))
    assert (content["download_bytes"], content["disk_bytes"]) == (0, 0)


def test_references_and_probes_are_a_line_each() -> None:
    lines = render(choice("note"), Path("/nonexistent"), "text").splitlines()
    (references,) = [line for line in lines if "reference cell" in line]
    assert references.startswith("3 reference cells")
    assert references.endswith("15 references for probe, open_llama_7b, open_llama_3b")
    (probes,) = [line for line in lines if "probe cell" in line]
    assert probes.startswith("10 probe cells")
    assert probes.endswith("forward, model_inference, generation, train_static, train_dynamic: eager@cpu, inductor@cpu")


def test_the_same_for_programs() -> None:
    made = choice("smoke")
    content = json.loads(render(made, Path("/nonexistent"), "json"))
    assert content["plan_id"] == made.plan.plan_id
    assert content["disk_bytes"] is None
    assert [cell["workload"]["benchmark"] for cell in content["cells"]][:1] == ["ceilings"]
    assert all(cell["expected_from"] == "guess" for cell in content["cells"])


def test_sizes_in_words() -> None:
    words = {task.workload.benchmark: describe(task.workload) for task in load_suite("note").expand()}
    assert list(words) == list(OF_THE_NOTE)
    assert words["forward"] == "open_llama_7b, batch 10, sequence 2048, bfloat16"
    assert words["generation"] == "open_llama_7b, batch 1, 6 prompt tokens, 200 new tokens, bfloat16"
    assert words["train_dynamic"] == "open_llama_3b, batch 2, sequences of 10 to 2048, bfloat16"
    copies = "matrices of 8192, 16384, copy of 4.3 GB"
    cuda = [describe(task.workload) for task in load_suite("note").ceilings("cuda", ["float32"])]
    assert cuda == [f"{copies}, 20 s sustained, bfloat16", f"{copies}, 20 s sustained, float32 and TF32"]
    assert describe(load_suite("note").ceilings("cpu")[0].workload) == f"{copies}, bfloat16"


@pytest.mark.docker
def test_a_ready_image_that_is_missing_is_named_with_the_command_that_brings_it(tmp_path: Path) -> None:
    if engine.answers() is None:
        pytest.skip("no Docker Engine answers")
    here, missing = make_stack(name="here"), make_stack(name="there", image="registry.invalid/team/torch:1")
    stacks = {"here": here, "there": missing} if has_image(engine.connect(), here) else {"there": missing}
    suite = load_suite(str(write_suite(tmp_path)))
    made = Choice("the reason", make_plan(suite, stacks, device="cpu"), suite, stacks, "docker", {})
    lines = [line for line in render(made, tmp_path, "text").splitlines() if "missing" in line]
    remedy = "`docker pull registry.invalid/team/torch:1` brings it"
    assert lines == [f"there: image registry.invalid/team/torch:1 is missing; {remedy}"]
    assert json.loads(render(made, tmp_path, "json"))["missing_images"] == ["registry.invalid/team/torch:1"]
