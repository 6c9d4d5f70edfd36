"""The launcher slurm on a real cluster: right statuses, nothing lost, nothing twice, no job left, whatever happens."""

from __future__ import annotations

import contextlib
import re
import subprocess
import sys
import threading
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from fake_run import FAKE_BENCH, make_job, make_stack
from slurm_cluster import LOCKS, Cluster, jobs, slurm, wait_until

from orchestrator.base.errors import InfrastructureError
from orchestrator.launchers import slurm_queue
from orchestrator.launchers.work_area import copy_bench
from orchestrator.launchers.worker import Opening, Worker
from orchestrator.plan.hosts import HostEntry
from orchestrator.records.record import Record
from orchestrator.runner.slurm import open_host

pytestmark = pytest.mark.slurm


@contextlib.contextmanager
def opened(
    tmp_path: Path,
    scratch: Path | str,
    said: list[str] | None = None,
    nodes: int = 3,
    start_s: float = 120.0,
    **settings: Any,
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


def run(worker: Worker, folder: Path, method: str, timeout_s: float = 300.0, number: int = 0) -> Record:
    assert worker.supervise is not None
    container = dict(worker.facts)["container"]
    prepared = worker.launcher.prepare(stack_for(container))
    job = replace(make_job(method, folder, timeout_s), round=number)
    return worker.supervise(worker.launcher, prepared, job, lambda _event: None)


def only_job() -> str:
    """The job that runs; the one that looked at the node may still be on its way out."""
    wait_until(lambda: len(jobs()) == 1)
    return jobs()[0]


class Behind(threading.Thread):
    """A round that runs behind a test, which goes on as soon as the cell's process has begun."""

    def __init__(self, scratch: Path, worker: Worker, folder: Path, method: str = "waits", number: int = 0) -> None:
        super().__init__(daemon=True)
        self._of_run = (worker, folder, method, 300.0, number)
        self._scratch = scratch
        self.start()
        wait_until(lambda: self.works() or not self.is_alive())

    def run(self) -> None:
        self.found = run(*self._of_run)

    def works(self) -> list[Path]:
        """The work folders of cells that have begun and have not ended."""
        return [path.parent for path in self._scratch.glob("*/work/*/forward-*/work/events.jsonl")]

    def go(self) -> None:
        """Let the cell end."""
        for work in self.works():
            (work / "go").touch()

    def record(self) -> Record:
        self.join(180.0)
        assert not self.is_alive(), "no record"
        return self.found


@pytest.mark.docker
@pytest.mark.parametrize(
    "way",
    [("steps", "local", 3), ("array", "local", 3), ("steps", "docker", 8)],
    ids=lambda way: "-".join(map(str, way)),
)
def test_rounds_run_on_all_nodes_at_once_and_each_comes_to_its_own_end(
    cluster: Cluster, client: Any, tmp_path: Path, scratch: Path, way: tuple[str, str, int]
) -> None:
    cells, container, nodes = way
    methods = ["fails", "hang", *["good"] * (nodes - 2)]
    with opened(tmp_path, scratch, cells=cells, container=container, nodes=nodes) as workers:
        assert len({worker.host for worker in workers}) == nodes
        workers[0].launcher.prepare(stack_for(container))
        places = [tmp_path / f"{number}" for number in range(nodes)]
        with ThreadPoolExecutor(nodes) as pool:
            each = [
                pool.submit(run, worker, place, method, 2.0 if method == "hang" else 300.0, number)
                for number, (worker, place, method) in enumerate(zip(workers, places, methods, strict=True))
            ]
            records = [one.result() for one in each]
    assert [record.status for record in records] == ["crashed", "timeout", *["ok"] * (nodes - 2)]
    assert {record.provenance.launcher for record in records if record.provenance} == {"slurm"}
    # On a busy machine the one that hangs may be over its deadline before it has said anything.
    said = [(place / "log.txt").read_text().splitlines() for place in (places[0], *places[2:])]
    assert all("the log's only line" in lines for lines in said), said


@pytest.mark.docker
def test_a_cell_runs_in_a_container_inside_the_job_and_none_is_left(
    cluster: Cluster, client: Any, tmp_path: Path, scratch: Path
) -> None:
    with opened(tmp_path, scratch, container="docker", nodes=1) as (worker,):
        record = run(worker, tmp_path / "cell", "looks_around")
        behind = Behind(scratch, worker, tmp_path / "waits", number=1)
        slurm("scancel", *jobs())
        cancelled = behind.record()
    assert (record.status, record.provenance and record.provenance.image) == ("ok", "local/debian:bookworm")
    assert record.detail["uid"] != 0
    assert (cancelled.status, cancelled.reason) == ("infrastructure", "its job was cancelled from outside")


def test_a_killed_node_costs_its_own_round_alone(cluster: Cluster, tmp_path: Path, scratch: Path) -> None:
    with opened(tmp_path, scratch, nodes=3) as workers:
        lost, other = workers[:2]
        node = str(re.search(r"gpu\d", lost.name)[0])  # type: ignore[index]
        behind = Behind(scratch, lost, tmp_path / "lost")
        cluster.kill_node(int(node[3:]))
        try:
            record = behind.record()
            wait_until(lambda: lost.alive() is not None)
            assert other.alive() is None
            assert run(other, tmp_path / "good", "good", number=1).status == "ok"
        finally:
            cluster.call("node", node[3:])
            wait_until(lambda: re.search("idle|alloc|mix", slurm("sinfo", "-hNn", node, "-o", "%T")))
    assert record.status == "infrastructure"
    assert node not in str(record.reason)
    # A node that comes back removes what its last life has left.
    with opened(tmp_path, scratch, options=[f"--nodelist={node}"], nodes=1):
        pass


@pytest.mark.parametrize("accounting", ["on", "away", "off"])
def test_a_job_cancelled_from_outside_is_no_verdict_on_its_cell(
    cluster: Cluster, tmp_path: Path, scratch: Path, accounting: str, request: pytest.FixtureRequest
) -> None:
    if accounting == "off":
        request.getfixturevalue("without_accounting")
    with opened(tmp_path, scratch, cells="array", nodes=1) as workers:
        assert slurm_queue.accounting_is_on() is (accounting != "off")
        behind = Behind(scratch, workers[0], tmp_path / "cell")
        job = only_job()
        if accounting == "away":
            cluster.kill_accounting()
        slurm("scancel", job)
        record = behind.record()
        queue = slurm_queue.Queue()
        try:
            queue.watch(job)
            if accounting == "on":  # what it is told of a job's end, it says some seconds later
                wait_until(lambda: slurm_queue.accounted([job]).get(job, slurm_queue.JobState("RUNNING")).over)
                assert slurm_queue.accounted([job])[job].name == "CANCELLED"
            # As once `squeue` lists it no more.
            assert queue._ended([job])[job].name == "CANCELLED"
        finally:
            if accounting == "away":
                cluster.call("accounting")
        assert workers[0].alive() is None  # each cell has a job of its own
        assert run(workers[0], tmp_path / "good", "good", number=1).status == "ok"
    assert (record.status, record.reason) == ("infrastructure", "its job was cancelled from outside")


def test_an_allocation_over_its_limit_ends_its_cell_and_takes_no_other(
    cluster: Cluster, tmp_path: Path, scratch: Path
) -> None:
    with opened(tmp_path, scratch, nodes=1) as (worker,):
        behind = Behind(scratch, worker, tmp_path / "cell")
        slurm("scontrol", "update", f"jobid={jobs()[0]}", "EndTime=now+1")
        record = behind.record()
        assert "time limit" in str(worker.alive())
    assert (record.status, record.reason) == ("infrastructure", "its job came to Slurm's time limit")


def test_a_controller_that_is_started_again_changes_nothing(cluster: Cluster, tmp_path: Path, scratch: Path) -> None:
    with opened(tmp_path, scratch, nodes=2) as workers:
        behind = Behind(scratch, workers[0], tmp_path / "cell")
        cluster.save(only_job())
        cluster.kill_controller()
        cluster.call("controller")
        other = threading.Thread(target=behind.go)
        other.start()
        assert run(workers[1], tmp_path / "good", "good", number=1).status == "ok"
        assert behind.record().status == "ok"


def test_a_job_of_which_slurm_says_nothing_is_not_waited_for(cluster: Cluster, tmp_path: Path, scratch: Path) -> None:
    with opened(tmp_path, scratch, cells="array", nodes=1, unknown_s=1.0) as (worker,):
        behind = Behind(scratch, worker, tmp_path / "cell")
        cluster.save(only_job())
        cluster.kill_controller()
        try:
            record = behind.record()
        finally:
            cluster.call("controller")
    assert record.status == "infrastructure"
    assert "Slurm has not said" in str(record.reason)


@pytest.mark.parametrize("cells", ["steps", "array"])
def test_what_is_left_of_a_job_that_the_controller_has_lost_is_removed(
    cluster: Cluster, tmp_path: Path, scratch: Path, cells: str
) -> None:
    held = slurm("sbatch", "--parsable", "--hold", "--wrap=true").strip()
    cluster.save(held)
    before = cluster.written()
    slurm("scancel", held)
    with opened(tmp_path, scratch, cells=cells, nodes=1) as (worker,):
        behind = Behind(scratch, worker, tmp_path / "cell")
        cluster.kill_controller()
        cluster.written(before)
        # It knows nothing of the job, and has the node kill its steps outright.
        cluster.call("controller")
        record = behind.record()
        slurm("scancel", held)
    assert (record.status, record.reason) == ("infrastructure", "its job is not known to Slurm any more")


BROKEN = """
case $SLURMD_NODENAME in
gpu1) exit 9;;
gpu2) export SCRATCH=/proc/nothing;;
gpu3) export DOCKER_HOST=unix:///nowhere.sock;;
esac
"""
"""What nodes do to their steps before anything of ours begins: each something else."""


@pytest.mark.docker
def test_broken_nodes_are_left_out_each_with_its_reason(
    cluster: Cluster, client: Any, tmp_path: Path, scratch: Path
) -> None:
    said: list[str] = []
    (tmp_path / "before.sh").write_text(f'export SCRATCH="{scratch}"{BROKEN}')
    before = [LOCKS, f'. "{tmp_path}/before.sh"']
    # A step that fails by itself is not tried again until this is over.
    given = {"container": "docker", "before": before, "unknown_s": 600.0, "options": ["--nodelist=gpu[1-4]"]}
    with opened(tmp_path, "$SCRATCH", said, nodes=4, **given) as workers:
        assert len(workers) == 1
        assert run(workers[0], tmp_path / "good", "good").status == "ok"
    left_out = [line for line in said if "left out" in line]
    assert len(left_out) == 3
    for words in ("its step ended with exit code 9", "/proc/nothing", "Docker"):
        assert [words in line for line in left_out].count(True) == 1, (words, left_out)


def test_no_node_that_can_run_cells_is_one_line(cluster: Cluster, tmp_path: Path, scratch: Path) -> None:
    with (
        pytest.raises(InfrastructureError, match="none of its nodes can run cells"),
        opened(tmp_path, scratch, nodes=2, python="/no/python"),
    ):
        pass


@pytest.mark.parametrize(
    ("settings", "why"),
    [
        ({"partition": "nowhere"}, "invalid partition"),
        ({"options": ["--hold"], "start_s": 1.0}, r"did not begin in 1 s \(JobHeldUser\)"),
    ],
)
def test_an_allocation_that_cannot_be_had_is_not_waited_for(
    cluster: Cluster, tmp_path: Path, scratch: Path, settings: dict[str, Any], why: str
) -> None:
    with pytest.raises(InfrastructureError, match=why), opened(tmp_path, scratch, nodes=1, **settings):
        pass


@pytest.fixture
def small_disk(scratch: Path) -> Iterator[Path]:
    place = scratch.with_name("disk")
    place.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=3g", "none", place], check=True)
    yield place
    subprocess.run(["umount", "--lazy", place], check=True)


def test_a_full_scratch_disk_is_the_nodes_fault_and_the_node_takes_no_more(
    cluster: Cluster, tmp_path: Path, scratch: Path, small_disk: Path
) -> None:
    with opened(tmp_path, small_disk, nodes=1) as (worker,):
        behind = Behind(small_disk, worker, tmp_path / "cell")
        subprocess.run(["mount", "-o", "remount,size=10m", small_disk], check=True)
        # To its last byte: how much of a disk has to be free goes by what was there when the cell was first looked at.
        with contextlib.suppress(OSError), (small_disk / "ballast").open("wb", buffering=0) as ballast:
            while ballast.write(bytes(4096)) == 4096:
                pass
        record = behind.record()
        assert record.status == "infrastructure"
        assert "the disk is nearly full" in str(record.reason)
        assert "its scratch folder has only 0.0 GB free" in str(worker.alive())
    (small_disk / "ballast").unlink()
    assert list(small_disk.iterdir()) == []
    with pytest.raises(InfrastructureError, match="none of its nodes"), opened(tmp_path, small_disk, nodes=1):
        pass
