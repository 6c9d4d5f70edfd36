"""Cells of several devices in a suite: what is an axis, what is refused, what they are checked against."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
from plan_samples import write_suite

from orchestrator.base.errors import UsageError
from orchestrator.plan.memory import expected, least_bytes
from orchestrator.plan.proof_cells import probe_workload
from orchestrator.plan.suite import load_suite
from orchestrator.plan.workload import on_one_device

if TYPE_CHECKING:
    from pathlib import Path

    from orchestrator.plan.workload import Workload

HEAD = 'schema_version = 1\nname = "mine"\ndescription = "for a test"\n[[cells]]\n'
TRAINING = HEAD + 'benchmark = "train_static"\nmodel = "tiny"\nbatch = 4\nsequence = 16\n'
DEFAULTS = "[[cells]]", '[defaults]\ndevices = 2\nparallel = "ddp"\n[[cells]]'
FORWARD = HEAD + 'benchmark = "forward"\nmodel = "tiny"\nbatch = 2\nsequence = 16\n'


def workloads(folder: Path, text: str) -> list[Workload]:
    return [request.workload for request in load_suite(str(write_suite(folder, text))).expand()]


def facts(workload: Workload) -> tuple[Any, ...]:
    return workload.devices, workload.parallel, workload.batch


def test_one_device_is_the_same_whatever_several_would_do(tmp_path: Path) -> None:
    found = workloads(tmp_path, TRAINING + 'devices = [1, 2]\nparallel = ["ddp", "fsdp2"]')
    assert list(map(facts, found)) == [(1, None, 4), (2, "ddp", 4), (2, "fsdp2", 4)]
    assert found[0].workload_id == workloads(tmp_path, TRAINING)[0].workload_id
    assert len({one.workload_id for one in found}) == 3


def test_weak_scaling_gives_each_device_the_batch(tmp_path: Path) -> None:
    found = workloads(tmp_path, TRAINING + 'devices = [1, 2, 4]\nscaling = "weak"')
    assert list(map(facts, found)) == [(1, None, 4), (2, "ddp", 8), (4, "ddp", 16)]
    assert [facts(one) for one in workloads(tmp_path, FORWARD + "devices = [1, 2]")] == [(1, None, 2), (2, "tensor", 2)]


@pytest.mark.parametrize("batch", ["[2, 4]", "[4, 8]", "4", "[2, 4, 8, 16]"])
@pytest.mark.parametrize("way", ["weak", "strong"])
def test_how_a_cell_scales_is_told_as_the_suite_means_it(tmp_path: Path, batch: str, way: str) -> None:
    text = TRAINING.replace("batch = 4", f"batch = {batch}") + f'devices = [1, 2]\nscaling = "{way}"'
    found = workloads(tmp_path, text)
    by_id = {one.workload_id: one for one in found}
    told = on_one_device(found)
    several = [one for one in found if one.devices > 1]
    assert set(told) == {one.workload_id for one in several}
    for one in several:
        said, alone = told[one.workload_id]
        assert (said, by_id[alone].batch) == (way, one.batch if way == "strong" else (one.batch or 0) // 2)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (TRAINING + "devices = 3", "batch: 4 cannot be divided by 3 devices"),
        (TRAINING + 'devices = 2\nparallel = "tensor"', "parallel: train_static is not parallel by tensor"),
        (FORWARD + 'devices = 2\nparallel = "ddp"', "parallel: forward is not parallel by ddp"),
        (FORWARD.replace(*DEFAULTS), "defaults.parallel: forward is not parallel by ddp; training takes ddp or fsdp2"),
        (
            TRAINING.replace('"train_static"', '["train_static", "forward"]') + 'devices = 2\nparallel = "fsdp2"',
            "or fsdp2_no_reshard, all else tensor: give each kind an entry of its own, or leave this key out",
        ),
        (
            TRAINING.replace("batch = 4\n", "").replace("[[cells]]", "[defaults]\nbatch = 3\n[[cells]]")
            + "devices = 2",
            "defaults.batch: 3 cannot be divided by 2 devices",
        ),
        (FORWARD + 'scaling = "weak"', "scaling: forward does not use this key"),
        (FORWARD + "devices = 0", "devices"),
    ],
)
def test_what_cannot_be_shared_out_is_refused(tmp_path: Path, text: str, said: str) -> None:
    with pytest.raises(UsageError) as caught:
        workloads(tmp_path, text)
    assert said in str(caught.value)


def test_the_reference_is_that_of_one_device(tmp_path: Path) -> None:
    one, two = workloads(tmp_path, FORWARD + "devices = [1, 2]")
    assert [part.workload_id for part in two.referred] == [one.workload_id]
    probe = probe_workload(two)
    assert facts(probe)[:2] == (2, "tensor")
    assert {facts(part)[:2] for part in probe.parts} == {(2, "tensor")}
    assert {facts(part)[:2] for part in probe.referred} == {(1, None)}


def test_a_device_holds_its_part(tmp_path: Path) -> None:
    text = TRAINING.replace("tiny", "open_llama_3b") + 'devices = [1, 4]\nparallel = ["ddp", "fsdp2"]'
    one, ddp, fsdp2 = (expected(workload) for workload in workloads(tmp_path, text))
    assert one is not None
    assert ddp is not None
    assert fsdp2 is not None
    assert (ddp.weights_bytes, ddp.activations_bytes) == (one.weights_bytes, one.activations_bytes // 4)
    assert fsdp2.gradients_bytes == one.gradients_bytes // 4
    whole, part = (least_bytes(workload) for workload in workloads(tmp_path, FORWARD + "devices = [1, 2]"))
    assert part < whole


def test_what_connects_so_many_devices_is_measured_once(tmp_path: Path) -> None:
    suite = load_suite(str(write_suite(tmp_path, FORWARD + "devices = [1, 2]")))
    (links,) = suite.links("cuda", [1, 2, 2])
    assert (links.workload.benchmark, links.workload.devices, links.workload.matrix_sizes) == ("ceilings", 2, None)


def test_the_suites_of_the_repository() -> None:
    assert {request.workload.devices for request in load_suite("scaling").expand()} == {1, 2, 4, 8}
    assert {request.workload.devices for request in load_suite("scaling_smoke").expand()} == {1, 2}
