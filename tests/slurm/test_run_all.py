"""`run-all` on a real cluster: the suite smoke in containers, an orchestrator that is killed, and its successor."""

from __future__ import annotations

import datetime as dt
import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from fake_run import write_stack, write_suite
from places import ROOT
from slurm_cluster import Cluster, jobs, wait_until

pytestmark = pytest.mark.slurm
LOCKS = 'export STACKBENCH_LOCKS="$STACKBENCH_LOCKS-$SLURMD_NODENAME"'


def write_hosts(folder: Path, nodes: int, **settings: Any) -> Path:
    said = {"partition": "gpu", "scratch": str(folder / "scratch"), "before": [LOCKS], **settings}
    lines = [f"{key} = {json.dumps(value)}" for key, value in said.items()]
    head = f'schema_version = 1\n[[hosts]]\nname = "cluster"\nlauncher = "slurm"\ngpus = 1\nnodes = {nodes}\n'
    path = folder / "hosts.toml"
    path.write_text(head + "start_s = 120\n[hosts.slurm]\n" + "\n".join(lines) + "\n")
    return path


def start(folder: Path, *command: str) -> subprocess.Popen[str]:
    state = folder / "state"
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "STACKBENCH_STATE": str(state)}
    words = ("run-all", "--results", str(folder / "results"), "--hosts", str(folder / "hosts.toml"), *command)
    return subprocess.Popen(
        [sys.executable, str(ROOT / "tests" / "support" / "fake_run.py"), str(state), *words],
        cwd=ROOT, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
    )  # fmt: skip


def start_fake(folder: Path, method: str, timeout_s: float) -> subprocess.Popen[str]:
    if not (folder / "stacks").exists():
        write_stack(folder, ["good", "hang"])
        write_suite(folder, timeout_s)
    own = ("--suite", str(folder / "mine.toml"), "--stacks", str(folder / "stacks"), "--stack", "fake")
    return start(folder, *own, "--method", method)


def records(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(path.read_text()) for path in (folder / "results").glob("*/records/*.json")]


def rows(folder: Path) -> list[dict[str, Any]]:
    return [record for record in records(folder) if record["method"] == "hang"]


def begun(folder: Path) -> bool:
    return any((folder / "scratch").glob("*/work/*/forward-hang*/work/events.jsonl"))


def test_a_killed_orchestrators_cell_is_found_again_and_not_run_twice(
    cluster: Cluster, tmp_path: Path, scratch: Path
) -> None:
    write_hosts(tmp_path, 2, container="local")
    first = start_fake(tmp_path, "hang", 15.0)
    wait_until(lambda: begun(tmp_path), 60)
    first.kill()
    first.wait()
    killed = dt.datetime.now(dt.timezone.utc)
    assert rows(tmp_path) == []
    said, _ = start_fake(tmp_path, "hang", 15.0).communicate(timeout=180)
    print(said)
    assert "which a killed orchestrator has left" in said
    (record,) = rows(tmp_path)
    assert record["status"] == "timeout"
    assert dt.datetime.fromisoformat(record["started_utc"]) < killed
    assert not any((tmp_path / "state" / "slurm").iterdir())


def test_a_killed_orchestrators_job_ends_by_itself(cluster: Cluster, tmp_path: Path, scratch: Path) -> None:
    write_hosts(tmp_path, 1, container="local", orphan_s=10)
    first = start_fake(tmp_path, "hang", 300.0)
    wait_until(lambda: begun(tmp_path), 60)
    first.kill()
    first.wait()
    wait_until(lambda: jobs() == [], 60)


def test_ctrl_c_ends_the_job_and_keeps_what_is_finished(cluster: Cluster, tmp_path: Path, scratch: Path) -> None:
    write_hosts(tmp_path, 1, container="local")
    running = start_fake(tmp_path, "hang", 300.0)
    wait_until(lambda: begun(tmp_path), 60)
    running.send_signal(signal.SIGINT)
    said, _ = running.communicate(timeout=120)
    assert running.returncode == 130, said
    assert "goes on from there" in said
    assert jobs() == []
    assert not any((tmp_path / "state" / "slurm").iterdir())


@pytest.mark.docker
@pytest.mark.parametrize("nodes", [3, 8])
def test_the_suite_smoke_runs_in_containers_inside_the_job(
    cluster: Cluster, client: Any, tmp_path: Path, scratch: Path, nodes: int
) -> None:
    if nodes > 3:
        cluster.stop()
        cluster.folder.mkdir()
        cluster.start(nodes)
    write_hosts(tmp_path, nodes)
    words = ("--hosts", str(tmp_path / "hosts.toml"), "--suite", "smoke", "--stack", "cpu", "--timeout", "900")
    done = subprocess.run(
        [sys.executable, "-m", "orchestrator", "run-all", "--results", str(tmp_path / "results"), *words],
        cwd=ROOT, env={**os.environ, "STACKBENCH_STATE": str(tmp_path / "state")}, text=True, capture_output=True,
        check=False,
    )  # fmt: skip
    found = records(tmp_path)
    fine = ("ok", "unsupported", "skipped")
    wrong = [(one["method"], one["status"], one["reason"]) for one in found if one["status"] not in fine]
    assert (done.returncode, wrong) == (0, []), done.stderr
    keys = [(one["cell_id"], one["round"]) for one in found]
    assert len(set(keys)) == len(keys) > 0
    assert {one["provenance"]["launcher"] for one in found if one["written_by"] == "bench"} == {"slurm"}
    run = next(path for path in (tmp_path / "results").iterdir() if path.is_dir()).name
    assert client.api.containers(all=True, filters={"label": f"stackbench.run={run}"}) == []
