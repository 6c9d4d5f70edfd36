from __future__ import annotations

from pathlib import Path

import pytest
from plan_samples import OF_THE_NOTE, stack

from orchestrator.base.errors import UsageError
from orchestrator.plan.cell import Plan
from orchestrator.plan.checkpoint import Checkpoint
from orchestrator.plan.models import named_models
from orchestrator.plan.planner import make_plan
from orchestrator.plan.suite import load_suite

STACKS = {"cpu": stack(methods=("eager",))}


def checkpoint(**dims: int) -> Checkpoint:
    model = named_models()["tiny_gqa"].model_copy(update={"name": "mine", **dims})
    return Checkpoint(
        model=model, fingerprint="f" * 16, folder=Path("mine"), tokenizer=False, mount=Path("mine"), inside="."
    )


def rows_of(plan: Plan) -> set[str]:
    return {cell.workload.workload_id for cell in plan.cells if cell.role == "row"}


def test_a_checkpoint_stands_in_for_every_model() -> None:
    plan = make_plan(load_suite("smoke"), STACKS, device="cpu", checkpoint=checkpoint())
    assert [cell.benchmark for cell in plan.cells if cell.role == "row"] == list(OF_THE_NOTE)
    for cell in (cell for cell in plan.cells if cell.role == "row"):
        assert cell.workload.model
        assert cell.workload.model.name == "mine"
        assert cell.workload.weights
        assert (cell.workload.weights.source, cell.workload.weights.fingerprint) == ("checkpoint", "f" * 16)
    plain = make_plan(load_suite("smoke"), STACKS, device="cpu")
    assert not rows_of(plain) & rows_of(plan)


def test_sizes_are_checked_against_the_checkpoint() -> None:
    with pytest.raises(UsageError, match=r"64 is beyond the block size 32 of mine"):
        make_plan(load_suite("smoke"), STACKS, device="cpu", checkpoint=checkpoint(block_size=32))


def test_a_folder_without_weights_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError) as caught:
        make_plan(load_suite("smoke"), STACKS, device="cpu", checkpoint=tmp_path)
    assert str(tmp_path) in str(caught.value)
