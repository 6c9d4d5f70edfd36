from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
from plan_samples import SUITE, write_stack, write_suite

from orchestrator.base.errors import UsageError
from orchestrator.plan import choice as module
from orchestrator.plan.choice import Choice, RunOptions, choose, select_stacks

if TYPE_CHECKING:
    from pathlib import Path

H100 = "NVIDIA H100 80GB HBM3"
DOCKER = "Docker Engine 27.3.1"


@pytest.fixture
def images(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path / "images"
    write_stack(folder, "cpu")
    monkeypatch.setattr(module, "IMAGES", folder)
    return folder


@pytest.fixture
def with_cuda(images: Path) -> Path:
    write_stack(images, "cuda", methods=("eager", "inductor", "thunder"), access="auto", required=True)
    return images


def made(*, gpu: str | None = None, engine: str | None = None, **options: Any) -> Choice:
    return choose(RunOptions(**options), gpu=gpu, engine=engine)


def test_gpu_and_engine_run_note_on_every_stack_that_uses_the_gpu(with_cuda: Path) -> None:
    choice = made(gpu=H100, engine=DOCKER)
    assert (choice.suite.name, list(choice.stacks), choice.launcher) == ("note", ["cuda"], "docker")
    assert {cell.device for cell in choice.plan.cells} == {"cuda"}
    assert choice.uses_gpu
    assert choice.line == f"suite note on {H100}, stacks cuda, in Docker ({DOCKER}): a GPU is here"


def test_no_gpu_runs_smoke_on_the_cpu_in_docker_or_plain(with_cuda: Path) -> None:
    choice = made(engine=DOCKER)
    assert (choice.suite.name, list(choice.stacks), choice.launcher) == ("smoke", ["cpu"], "docker")
    assert not choice.uses_gpu
    plain = made()
    assert plain.launcher == "local"
    assert plain.plan == choice.plan
    assert plain.line == (
        "suite smoke on the CPU, stacks cpu, in plain processes (no Docker Engine answers): no GPU is here"
    )


def test_a_gpu_that_no_stack_uses_is_left_alone(images: Path) -> None:
    choice = made(gpu=H100, engine=DOCKER)
    assert (choice.suite.name, list(choice.stacks)) == ("smoke", ["cpu"])
    assert "no stack chosen uses the GPU" in choice.line
    assert made(gpu=H100, engine=DOCKER, stacks=("cpu",)).plan == choice.plan


def test_a_method_of_one_stack_names_the_stack(with_cuda: Path) -> None:
    choice = made(engine=DOCKER, suite="smoke", methods=("eager@cuda",))
    assert {(cell.method, cell.stack) for cell in choice.plan.cells if cell.role == "row"} == {("eager", "cuda")}
    assert list(choice.stacks) == ["cuda"]


def test_what_is_named_wins(with_cuda: Path, tmp_path: Path) -> None:
    own = write_stack(tmp_path / "mine", "own", access="raw", required=True)
    suite = write_suite(tmp_path)
    choice = made(
        gpu=H100,
        engine=DOCKER,
        stacks=("own", "cpu"),
        stack_folders=(own.parent,),
        suite=str(suite),
        launcher="local",
        methods=("eager",),
        rounds=2,
        timeout_s=9.0,
    )
    assert choice.suite.name == "mine"
    assert choice.launcher == "local"
    assert "no Docker Engine" not in choice.line
    assert {(cell.stack, cell.device) for cell in choice.plan.cells} == {("own", "cuda"), ("cpu", "cpu")}
    assert {cell.timeout_s for cell in choice.plan.cells} == {9.0}


@pytest.fixture
def for_either(images: Path) -> Path:
    """A stack that is made for a GPU and also runs without one, beside the one for the CPU."""
    write_stack(images, "either", access="auto")
    return images


def test_without_a_gpu_only_stacks_that_use_none_run_by_themselves(for_either: Path) -> None:
    assert list(made(engine=DOCKER).stacks) == ["cpu"]
    assert list(made(gpu=H100, engine=DOCKER).stacks) == ["either"]


def test_a_stack_that_needs_no_gpu_runs_on_the_cpu_where_it_is_named(for_either: Path) -> None:
    choice = made(engine=DOCKER, stacks=("either",))
    assert {(cell.stack, cell.device) for cell in choice.plan.cells} == {("either", "cpu")}


def test_stacks_in_a_named_folder_run_beside_the_cpus(for_either: Path, tmp_path: Path) -> None:
    mine = write_stack(tmp_path / "stacks", "mine", access="auto").parent
    write_stack(mine, "needs", access="auto", required=True)
    choice = made(engine=DOCKER, stack_folders=(mine,))
    assert list(choice.stacks) == ["cpu", "mine"]
    assert {cell.device for cell in choice.plan.cells} == {"cpu"}


def test_a_gpu_stack_named_without_a_gpu_keeps_its_rows(with_cuda: Path) -> None:
    # They will say `skipped`: what could not be run is a row too.
    choice = made(engine=DOCKER, stacks=("cuda",), suite="smoke")
    assert {cell.device for cell in choice.plan.cells} == {"cuda"}
    told = "no GPU is here, so rows of cuda will be skipped"
    assert choice.line == f"suite smoke without a GPU, stacks cuda, in Docker ({DOCKER}): {told}"


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"stacks": ("cpuu",)}, '--stack: unknown stack "cpuu" (did you mean "cpu"?); known: cpu, cuda'),
        ({"methods": ("eagre",)}, 'unknown method "eagre" (did you mean "eager"?)'),
        ({"methods": ("eager@cudaa",)}, '--method: unknown stack "cudaa" (did you mean "cuda"?); known: cpu, cuda'),
        ({"benchmarks": ("fwd",)}, 'unknown benchmark "fwd" (did you mean "forward"?); known: forward, '),
        ({"suite": "smok"}, 'unknown suite "smok" (did you mean "smoke"?)'),
        ({"launcher": "docker"}, "--launcher docker: no Docker Engine answers; start it"),
        ({"methods": ("thunder",)}, "nothing to run: no cell of suite smoke is left"),
    ],
)
def test_bad_options_are_refused(with_cuda: Path, options: dict[str, Any], says: str) -> None:
    with pytest.raises(UsageError) as caught:
        made(**options)
    assert str(caught.value).startswith(says)


def test_a_gpu_named_for_nothing_is_refused(with_cuda: Path) -> None:
    options = RunOptions(gpu="GPU-1", stacks=("cpu",))
    with pytest.raises(UsageError, match="--gpu GPU-1: no stack chosen uses the GPU; leave --gpu out"):
        choose(options, gpu=H100, engine=None)


def test_only_gpu_stacks_and_no_gpu(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_stack(tmp_path / "images", "cuda", access="auto", required=True)
    monkeypatch.setattr(module, "IMAGES", tmp_path / "images")
    with pytest.raises(UsageError, match="no stack here runs without a GPU; known: cuda"):
        made()


def test_stacks_by_name(with_cuda: Path) -> None:
    assert list(select_stacks((), ())) == ["cpu", "cuda"]
    assert list(select_stacks(("cuda",), ())) == ["cuda"]
    with pytest.raises(UsageError, match="unknown stack"):
        select_stacks(("x",), ())


def test_a_suites_checkpoints_are_known_by_fingerprint(with_cuda: Path, tmp_path: Path) -> None:
    assert made(suite=str(write_suite(tmp_path, SUITE))).checkpoints == {}
