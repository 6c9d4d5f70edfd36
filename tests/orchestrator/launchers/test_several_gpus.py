"""What a cell of several GPUs is given: all of them and no other, memory to talk through, and every lock."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from fake_run import make_stack

from orchestrator.base.errors import InfrastructureError
from orchestrator.base.paths import BENCH
from orchestrator.host import locks
from orchestrator.host.devices import hold_devices, pick_peers
from orchestrator.host.gpu import HostGpu
from orchestrator.launchers import Job, Prepared, ssh
from orchestrator.launchers.arguments import Limits, container_arguments
from orchestrator.launchers.gpu_access import GpuGrant, gpu_grant
from orchestrator.launchers.local import LocalLauncher
from orchestrator.launchers.slurm import SlurmLauncher
from orchestrator.launchers.slurm_orders import CellOrder
from orchestrator.launchers.slurm_settings import SlurmSettings
from orchestrator.launchers.ssh_launcher import SshLauncher
from orchestrator.launchers.worker import Worker
from orchestrator.plan.cell import Cell, Plan
from orchestrator.plan.suite import load_suite
from orchestrator.runner import slurm_node

ONE = HostGpu("GPU-b", 0, "H100", "550.54.15", minor=1)
TWO = replace(ONE, uuid="GPU-a", index=1, minor=0)
BUSY = replace(ONE, uuid="GPU-c", index=2, processes=(1,))
OTHER = replace(ONE, uuid="GPU-d", index=3, name="A100")
HIDDEN = replace(ONE, uuid="GPU-e", index=4, visible=False)


def plan(devices: int) -> Plan:
    workload = load_suite("scaling_smoke").expand()[0].workload.model_copy(update={"devices": devices})
    return Plan(suite="s", cells=(Cell(stack="s", method="eager", device="cuda", workload=workload, timeout_s=1.0),))


def test_further_gpus_are_free_and_of_the_same_model(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv(locks.ENVIRONMENT, str(tmp_path))
    found = [ONE, BUSY, OTHER, HIDDEN, TWO]
    assert pick_peers(found, ONE, plan(2), allow_busy=False) == (TWO,)
    assert pick_peers(found, ONE, plan(4), allow_busy=True) == (BUSY, TWO)
    assert pick_peers(found, ONE, plan(1), allow_busy=False) == ()
    with locks.hold("GPU-a", purpose="another run", say=print):
        assert pick_peers(found, ONE, plan(2), allow_busy=False) == ()


def test_all_their_locks_are_held(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv(locks.ENVIRONMENT, str(tmp_path))
    with hold_devices(plan(2), ONE, print, (TWO,)):
        assert [locks.is_free(gpu.uuid) for gpu in (ONE, TWO, BUSY)] == [False, False, True]
    assert locks.is_free(ONE.uuid)


def test_a_process_sees_as_many_as_its_cell_has() -> None:
    launcher = LocalLauncher(Path("/bench"), lambda stack: Path(stack.python), ONE, peers=(TWO, BUSY))
    seen = [launcher._environment(make_stack(), "cuda", Path("/c"), n)["CUDA_VISIBLE_DEVICES"] for n in (1, 2, 3)]
    assert seen == ["GPU-b", "GPU-b,GPU-a", "GPU-b,GPU-a,GPU-c"]


def test_a_container_sees_as_many(monkeypatch: pytest.MonkeyPatch) -> None:
    both = (ONE, TWO)
    request = gpu_grant("request", both, make_stack())
    assert request.requests[0]["DeviceIDs"] == ["GPU-b", "GPU-a"]
    assert request.environment["CUDA_VISIBLE_DEVICES"] == "GPU-b,GPU-a"
    assert gpu_grant("cdi", both, make_stack()).requests[0]["DeviceIDs"] == [
        "nvidia.com/gpu=GPU-b",
        "nvidia.com/gpu=GPU-a",
    ]
    there = ["/dev/nvidia0", "/dev/nvidia1", "/dev/nvidia2", "/dev/nvidiactl"]
    monkeypatch.setattr("glob.glob", lambda pattern: [d for d in there if pattern in (d, "/dev/nvidia[0-9]*")])
    raw = gpu_grant("raw", both, make_stack())
    assert [device.partition(":")[0] for device in raw.devices] == ["/dev/nvidia0", "/dev/nvidia1", "/dev/nvidiactl"]


@pytest.mark.parametrize(("devices", "size"), [(1, "1g"), (4, "4g")])
def test_a_container_has_memory_for_all_ranks_to_talk_through(tmp_path: Path, devices: int, size: str) -> None:
    job = Job(plan(devices).cells[0], 0, "c", "b", tmp_path, tmp_path / "log", run="r")
    limits = Limits(memory_bytes=2**30, cpus=1, user="1:1")
    arguments: Any = container_arguments(
        "image", make_stack(), (), bench=tmp_path, job=job, grant=GpuGrant(), limits=limits
    )
    assert arguments["host_config"]["shm_size"] == size
    assert arguments["host_config"]["network_mode"] == "none"


def cluster(tmp_path: Path) -> Any:
    """What a launcher needs of a cluster to begin a cell."""
    orders = list[CellOrder]()
    answer = SimpleNamespace(access="auto")
    settings = SlurmSettings(container="local")
    return SimpleNamespace(
        settings=settings, bench=tmp_path, images=tmp_path, keep=False, purpose="suite s", orders=orders,
        stack=lambda *_: answer, begin=lambda order, _node: orders.append(order),
    )  # fmt: skip


def job(tmp_path: Path, devices: int) -> Job:
    return Job(plan(devices).cells[0], 0, "c", "b", tmp_path, tmp_path / "log", run="r")


@pytest.mark.parametrize(("node", "given"), [("n1", ["GPU-a"]), (None, [])])
def test_a_step_of_slurm_is_told_which_of_its_node(tmp_path: Path, node: str | None, given: list[str]) -> None:
    there = cluster(tmp_path)
    launcher = SlurmLauncher(there, node, ONE, (ONE, OTHER, TWO))
    assert [gpu.uuid for gpu in launcher.peers] == given
    prepared = Prepared(make_stack(), "python3", "fingerprint", {})
    for devices in (1, 2):
        launcher.start(prepared, job(tmp_path, devices))
    assert [[gpu.uuid for gpu in order.peers] for order in there.orders] == [[], given]


def test_on_its_node_it_has_them_and_all_their_locks(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv(locks.ENVIRONMENT, str(tmp_path / "locks"))
    monkeypatch.setattr(slurm_node, "gpus", lambda: SimpleNamespace(found=[ONE, TWO]))
    seen = list[tuple[Any, ...]]()

    def supervised(launcher: Any, *_: Any) -> Any:
        seen.append((launcher.gpu, launcher.peers, [locks.is_free(gpu.uuid) for gpu in (ONE, TWO)]))
        raise InfrastructureError("seen")

    monkeypatch.setattr(slurm_node, "supervise", supervised)
    there = cluster(tmp_path)
    SlurmLauncher(there, "n1", ONE, (ONE, TWO)).start(Prepared(make_stack(), "python3", "f", {}), job(tmp_path, 2))
    (order,) = there.orders
    order = order.model_copy(update={"bench": BENCH})
    assert slurm_node.run_cell(order, tmp_path / "state", tmp_path).trouble == "seen"
    assert seen == [(ONE, (TWO,), [False, False])]


def test_several_gpus_of_another_host_may_be_near_different_cpus() -> None:
    launcher = object.__new__(SshLauncher)
    launcher.limits, launcher._cpus = Limits(memory_bytes=2**30, cpus=8, user="1:1", cpuset="0-7"), 32
    assert [(launcher.limits_of(n).cpuset, launcher.limits_of(n).cpus) for n in (1, 2)] == [("0-7", 8), (None, 32)]


@pytest.mark.parametrize(("cpuset", "cpus"), [("0-7", "0-7; of several GPUs all"), (None, "all (as set)")])
def test_a_worker_over_ssh_has_the_others_of_its_host(cpuset: str | None, cpus: str) -> None:
    launcher = object.__new__(SshLauncher)
    launcher.cpuset = cpuset
    worker = Worker("h:0", "h", ONE, launcher, facts={"cpus": cpuset or "all (as set)"})
    assert ssh._with_peers(worker, [ONE, OTHER, TWO]).facts["cpus"] == cpus
    assert launcher.peers == (TWO,)
