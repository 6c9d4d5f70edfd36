"""`run-all` on a real cluster: the suite smoke in containers, an orchestrator that is killed, and its successor."""

from __future__ import annotations

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
from slurm_cluster import LOCKS, Cluster, jobs, wait_until

pytestmark = pytest.mark.slurm
SMOKE_NODES = int(os.environ.get("STACKBENCH_TEST_SMOKE_NODES", "3"))
"""Up to eight: each of them runs ceilings and references of its own."""


def write_hosts(folder: Path, nodes: int, **settings: Any) -> Path:
    said = {"partition": "gpu", "scratch": str(folder / "scratch"), "before": [LOCKS], **settings}
    lines = [f"{key} = {json.dumps(value)}" for key, value in said.items()]
    head = f'schema_version = 1\n[[hosts]]\nname = "cluster"\nlauncher = "slurm"\ngpus = 1\nnodes = {nodes}\n'
    path = folder / "hosts.toml"
    path.write_text(head + "start_s = 300\n[hosts.slurm]\n" + "\n".join(lines) + "\n")
    return path


def start(folder: Path, method: str) -> subprocess.Popen[str]:
    """Start `run-all` of a suite of one cell; the stack is written once, for the container that the hosts file says."""
    state = folder / "state"
    if not (folder / "stacks").exists():
        in_docker = 'container = "docker"' in (folder / "hosts.toml").read_text()
        write_stack(folder, ["good", "waits"], python="python3" if in_docker else sys.executable)
        write_suite(folder, 600.0)
    words = ("run-all", "--results", str(folder / "results"), "--hosts", str(folder / "hosts.toml"))
    own = ("--suite", str(folder / "mine.toml"), "--stacks", str(folder / "stacks"), "--stack", "fake")
    command = [sys.executable, str(ROOT / "tests" / "support" / "fake_run.py"), str(state), *words, *own]
    return subprocess.Popen(
        [*command, "--method", method], cwd=ROOT, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
        env={**os.environ, "PYTHONPATH": str(ROOT), "STACKBENCH_STATE": str(state)},
    )  # fmt: skip


def records(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(path.read_text()) for path in (folder / "results").glob("*/records/*.json")]


def rows(folder: Path) -> list[dict[str, Any]]:
    return [record for record in records(folder) if record["method"] == "waits"]


def begun(folder: Path) -> list[Path]:
    """The files in which cells that have begun have said their process's number."""
    return [path for path in (folder / "scratch").glob("*/work/*/forward-waits*/work/pid") if path.read_text()]


@pytest.mark.docker
@pytest.mark.parametrize("container", ["local", "docker"])
def test_a_killed_orchestrators_cell_is_found_again_and_not_run_twice(
    cluster: Cluster, client: Any, tmp_path: Path, scratch: Path, container: str
) -> None:
    write_hosts(tmp_path, 2, container=container)
    first = start(tmp_path, "waits")
    wait_until(lambda: begun(tmp_path))
    (cell,) = begun(tmp_path)
    pid = int(cell.read_text())
    first.kill()
    first.communicate()
    assert rows(tmp_path) == []
    with start(tmp_path, "waits") as second:
        said = ""
        assert second.stdout is not None
        for line in second.stdout:
            said += line
            if "found again, still running" in line:
                cell.with_name("go").touch()
    assert (second.returncode, "which a killed orchestrator has left" in said) == (0, True), said
    (record,) = rows(tmp_path)
    assert (record["status"], record["detail"]["pid"]) == ("ok", pid)
    keys = [(one["cell_id"], one["round"]) for one in records(tmp_path)]
    assert len(set(keys)) == len(keys)
    assert not any((tmp_path / "state" / "slurm").iterdir())


@pytest.mark.docker
def test_a_killed_orchestrators_job_ends_by_itself(
    cluster: Cluster, client: Any, tmp_path: Path, scratch: Path
) -> None:
    write_hosts(tmp_path, 1, container="docker", orphan_s=10)
    first = start(tmp_path, "waits")
    wait_until(lambda: begun(tmp_path))
    first.kill()
    first.communicate()
    wait_until(lambda: jobs() == [])


def test_ctrl_c_ends_the_job_and_keeps_what_is_finished(cluster: Cluster, tmp_path: Path, scratch: Path) -> None:
    write_hosts(tmp_path, 1, container="local")
    running = start(tmp_path, "waits")
    wait_until(lambda: begun(tmp_path))
    running.send_signal(signal.SIGINT)
    said, _ = running.communicate()
    assert running.returncode == 130, said
    assert "goes on from there" in said
    assert {record["method"] for record in records(tmp_path)} == {"torch"}
    assert jobs() == []
    assert not any((tmp_path / "state" / "slurm").iterdir())


@pytest.mark.docker
@pytest.mark.parametrize("way", ["pulled", "built"])
def test_an_image_that_no_node_can_have_is_a_line_and_rows_of_infrastructure(
    cluster: Cluster, client: Any, tmp_path: Path, scratch: Path, way: str
) -> None:
    write_hosts(tmp_path, 2, container="docker")
    toml = write_stack(tmp_path, ["good"], python="python3") / "fake" / "stack.toml"
    text, named = toml.read_text(), '[ready]\nname = "local/debian:bookworm"\n'
    if way == "built":
        toml.write_text(text.replace(named, "[build]\n"))
        toml.with_name("Dockerfile").write_text("FROM local/debian:bookworm\nRUN echo this is why && exit 7\n")
        toml.with_name("requirements.lock").write_text("")
    else:
        toml.write_text(text.replace("local/debian:bookworm", "127.0.0.1:9/nothing:1"))
    write_suite(tmp_path)
    running = start(tmp_path, "good")
    said, _ = running.communicate()
    assert running.returncode == 3, said
    lines = [line for line in said.splitlines() if line.startswith("fake: cannot run: ")]
    assert len(lines) == 2, said
    words = "this is why; the image could not be built" if way == "built" else "could not be pulled"
    assert all(words in line for line in lines), said
    found = records(tmp_path)
    assert {record["status"] for record in found} == {"infrastructure"}
    assert all(words[:11] in record["reason"] for record in found)
    if way == "built":
        log = Path(lines[0].rpartition("log: ")[2].rstrip(")"))
        assert "this is why" in log.read_text()


@pytest.mark.docker
def test_the_suite_smoke_runs_in_containers_inside_the_job(
    cluster: Cluster, client: Any, tmp_path: Path, scratch: Path
) -> None:
    # The nodes share this machine's CPUs, and with one lock for all of them a cell has them to itself.
    write_hosts(tmp_path, SMOKE_NODES, before=[])
    words = ("--hosts", str(tmp_path / "hosts.toml"), "--suite", "smoke", "--stack", "cpu", "--timeout", "900")
    variables = {"STACKBENCH_BASE_IMAGE": "local/debian:bookworm", **os.environ}
    done = subprocess.run(
        [sys.executable, "-m", "orchestrator", "run-all", "--results", str(tmp_path / "results"), *words],
        cwd=ROOT, env={**variables, "STACKBENCH_STATE": str(tmp_path / "state")}, text=True, capture_output=True,
        check=False,
    )  # fmt: skip
    print(done.stderr)
    found = records(tmp_path)
    fine = ("ok", "unsupported", "skipped")
    wrong = [(one["method"], one["status"], one["reason"]) for one in found if one["status"] not in fine]
    assert (done.returncode, wrong) == (0, []), done.stderr
    keys = [(one["cell_id"], one["round"]) for one in found]
    assert len(set(keys)) == len(keys) > 0
    assert {one["provenance"]["launcher"] for one in found if one["written_by"] == "bench"} == {"slurm"}
