"""The launcher slurm on a real cluster: right statuses, nothing lost, nothing twice, no job left, whatever happens."""

from __future__ import annotations

import contextlib
import sys
import threading
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from fake_run import FAKE_BENCH, make_job, make_stack
from slurm_cluster import Cluster, jobs, slurm, wait_until

from orchestrator.launchers.work_area import copy_bench
from orchestrator.launchers.worker import Opening, Worker
from orchestrator.plan.hosts import HostEntry
from orchestrator.records.record import Record
from orchestrator.runner.slurm import open_host

pytestmark = pytest.mark.slurm
# Each node has locks of its own, as if it were a machine of its own.
LOCKS = 'export STACKBENCH_LOCKS="$STACKBENCH_LOCKS-$SLURMD_NODENAME"'


@contextlib.contextmanager
def opened(
    tmp_path: Path, scratch: Path, said: list[str] | None = None, nodes: int = 3, start_s: float = 60.0, **settings: Any
) -> Iterator[Sequence[Worker]]:
    said = said if said is not None else []
    given = {"partition": "gpu", "container": "local", "scratch": str(scratch), "before": [LOCKS], **settings}
    entry = HostEntry(name="cluster", launcher="slurm", gpus=1, nodes=nodes, start_s=start_s, slurm=given)
    # What is in a name or a path must not matter to any shell.
    place = tmp_path / 'it\'s $HOME "a" %j'
    bench = place / "stackbench" / "bench"
    opening = Opening(
        run="test",
        bench=bench if bench.exists() else copy_bench(FAKE_BENCH, bench),
        stacks={"fake": stack_for(given["container"])},
        devices={"fake": "cpu"},
        checkpoints=(),
        state=place / "state",
        say=lambda line: (print(line), said.append(line)),
        purpose="a test",
        longest_s=60,
        total_s=60,
    )
    with open_host(entry, opening) as workers:
        yield workers
    assert not any((place / "state" / "slurm").iterdir())


def stack_for(container: str) -> Any:
    return make_stack(python="python3" if container == "docker" else sys.executable)


def run(worker: Worker, folder: Path, method: str, timeout_s: float = 60.0, number: int = 0) -> Record:
    assert worker.supervise is not None
    container = dict(worker.facts)["container"]
    prepared = worker.launcher.prepare(stack_for(container))
    job = replace(make_job(method, folder, timeout_s), round=number)
    return worker.supervise(worker.launcher, prepared, job, lambda _event: None)


def begun(tmp_path: Path) -> int:
    """How many cells' processes have begun and have not ended."""
    return len(list((tmp_path / "scratch").glob("*/work/*/forward-*/work/events.jsonl")))


class Behind(threading.Thread):
    """A round that runs behind a test."""

    def __init__(self, *of_run: Any) -> None:
        super().__init__(daemon=True)
        self._of_run = of_run
        self.start()

    def run(self) -> None:
        self.found = run(*self._of_run)

    def record(self, within_s: float = 60.0) -> Record:
        self.join(within_s)
        assert not self.is_alive(), f"no record in {within_s} s"
        return self.found


@pytest.mark.parametrize("cells", ["steps", "array"])
def test_rounds_run_on_all_nodes_at_once_and_each_comes_to_its_own_end(
    cluster: Cluster, tmp_path: Path, scratch: Path, cells: str
) -> None:
    methods = ("good", "fails", "hang")
    with opened(tmp_path, scratch, cells=cells) as workers, ThreadPoolExecutor(3) as pool:
        assert len({worker.host for worker in workers}) == 3
        workers[0].launcher.prepare(stack_for("local"))
        each = [
            pool.submit(run, worker, tmp_path / method, method, 3.0, number)
            for number, (worker, method) in enumerate(zip(workers, methods, strict=True))
        ]
        records = [one.result() for one in each]
    assert [record.status for record in records] == ["ok", "crashed", "timeout"]
    assert {record.provenance.launcher for record in records if record.provenance} == {"slurm"}
    assert [(tmp_path / method / "log.txt").read_text().splitlines()[0] for method in methods] == [
        "the log's only line"
    ] * 3


@pytest.mark.docker
def test_a_cell_runs_in_a_container_inside_the_job_and_none_is_left(
    cluster: Cluster, client: Any, tmp_path: Path, scratch: Path
) -> None:
    with opened(tmp_path, scratch, container="docker", nodes=1) as (worker,):
        record = run(worker, tmp_path / "cell", "looks_around")
        behind = Behind(worker, tmp_path / "hangs", "hang", 60.0, 1)
        wait_until(lambda: ours(client))
        slurm("scancel", *jobs())
        cancelled = behind.record()
    assert (record.status, record.provenance and record.provenance.image) == ("ok", "local/debian:bookworm")
    assert record.detail["uid"] != 0
    assert (cancelled.status, cancelled.reason) == ("infrastructure", "its job was cancelled from outside")
    wait_until(lambda: not ours(client))


def ours(client: Any) -> list[str]:
    return [one["Id"] for one in client.api.containers(all=True, filters={"label": "stackbench.run=test"})]


def test_a_killed_node_costs_its_own_round_alone(cluster: Cluster, tmp_path: Path, scratch: Path) -> None:
    with opened(tmp_path, scratch) as workers:
        lost = next(worker for worker in workers if "gpu2" in worker.name)
        other = next(worker for worker in workers if "gpu3" in worker.name)
        behind = Behind(lost, tmp_path / "lost", "hang", 60.0)
        wait_until(lambda: begun(tmp_path))
        cluster.kill_node(2)
        try:
            record = behind.record()
            wait_until(lambda: lost.alive() is not None)
            assert other.alive() is None
            assert run(other, tmp_path / "good", "good", 60.0, 1).status == "ok"
        finally:
            cluster.call("node", "2")
            # A node that comes back removes what its last life has left.
            wait_until(
                lambda: (
                    "idle" in slurm("sinfo", "-hNn", "gpu2", "-o", "%T")
                    or "alloc" in slurm("sinfo", "-hNn", "gpu2", "-o", "%T")
                )
            )
    assert record.status == "infrastructure"
    assert "gpu2" not in str(record.reason)
    with opened(tmp_path, scratch):
        pass


def test_a_job_cancelled_from_outside_is_no_verdict_on_its_cell(
    cluster: Cluster, tmp_path: Path, scratch: Path
) -> None:
    with opened(tmp_path, scratch, cells="array", nodes=2) as workers:
        behind = Behind(workers[0], tmp_path / "cell", "hang", 60.0)
        wait_until(lambda: begun(tmp_path))
        slurm("scancel", *jobs())
        record = behind.record()
        assert workers[0].alive() is None  # each cell has a job of its own
        assert run(workers[0], tmp_path / "good", "good", 60.0, 1).status == "ok"
    assert (record.status, record.reason) == ("infrastructure", "its job was cancelled from outside")


def test_an_allocation_over_its_limit_ends_its_cell_and_takes_no_other(
    cluster: Cluster, tmp_path: Path, scratch: Path
) -> None:
    with opened(tmp_path, scratch, nodes=1) as (worker,):
        behind = Behind(worker, tmp_path / "cell", "hang", 100.0)
        wait_until(lambda: begun(tmp_path))
        slurm("scontrol", "update", f"jobid={jobs()[0]}", "EndTime=now+1")
        record = behind.record()
        assert "time limit" in str(worker.alive())
    assert (record.status, record.reason) == ("infrastructure", "its job came to Slurm's time limit")


def test_a_controller_that_is_started_again_changes_nothing(cluster: Cluster, tmp_path: Path, scratch: Path) -> None:
    with opened(tmp_path, scratch, nodes=2) as workers:
        behind = Behind(workers[0], tmp_path / "cell", "slow", 60.0)
        wait_until(lambda: begun(tmp_path))
        cluster.kill_controller()
        cluster.call("controller")
        record = behind.record()
        assert run(workers[1], tmp_path / "good", "good", 60.0, 1).status == "ok"
    assert record.status == "ok"


def test_a_job_of_which_slurm_says_nothing_is_not_waited_for(cluster: Cluster, tmp_path: Path, scratch: Path) -> None:
    with opened(tmp_path, scratch, cells="array", nodes=1, unknown_s=3.0) as (worker,):
        behind = Behind(worker, tmp_path / "cell", "hang", 60.0)
        wait_until(lambda: begun(tmp_path))
        cluster.kill_controller()
        try:
            record = behind.record()
        finally:
            cluster.call("controller")
    assert record.status == "infrastructure"
    assert "Slurm has not said" in str(record.reason)
