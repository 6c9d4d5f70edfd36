"""`docker compose up cpu`: builds the stack's image, runs the smoke suite in it, and leaves records and tables."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import subprocess
import time
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from places import ROOT
from plan_samples import OF_THE_NOTE

from orchestrator.build.image import image_tag
from orchestrator.build.wheels import copy_wheels
from orchestrator.host import docker_engine as engine
from orchestrator.host import locks
from orchestrator.plan.stack import load_stack
from orchestrator.records.store import read_record

pytestmark = [pytest.mark.docker, pytest.mark.compose]
LOCAL_BASE = "local/debian:bookworm"
OWNER = 4321
NOBODY = 65534


@pytest.fixture
def project(passable: Path) -> Iterator[Path]:
    """Copy what compose sees, so that the checkout's own results stay as they are."""
    client = engine.answers()
    if client is None or subprocess.run(["docker", "compose", "version"], capture_output=True, check=False).returncode:
        pytest.skip("no Docker Engine with compose answers")
    folder = passable / "checkout"
    folder.mkdir()
    for name in ("bench", "orchestrator", "images"):
        shutil.copytree(ROOT / name, folder / name, ignore=shutil.ignore_patterns("__pycache__", "*.whl"))
    shutil.copy(ROOT / "docker-compose.yml", folder)
    copy_wheels(folder / "images" / "cpu")
    (folder / "results").mkdir()
    if os.getuid() == 0:
        os.chown(folder / "results", OWNER, OWNER)
    yield folder
    compose(folder, "down", "--rmi", "all")
    assert client.api.containers(all=True, filters={"label": f"com.docker.compose.project={name_of(folder)}"}) == []


def name_of(folder: Path) -> str:
    return f"stackbench-test-{uuid.uuid5(uuid.NAMESPACE_URL, str(folder)).hex[:12]}"


def compose(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    command = ["docker", "compose", *arguments]
    return subprocess.run(command, cwd=folder, env=environment_of(folder), capture_output=True, text=True, check=False)


def environment_of(folder: Path) -> dict[str, str]:
    """Return what compose is run with.

    Where the orchestrator has built the stack's image already, compose's own builder starts from it: each step of the
    Dockerfile is run, and what it would install is there.
    """
    environment = {**os.environ, "COMPOSE_PROJECT_NAME": name_of(folder)}
    if is_there(LOCAL_BASE):
        environment.setdefault("STACKBENCH_BASE_IMAGE", LOCAL_BASE)
    if is_there(built := image_tag(load_stack(ROOT / "images" / "cpu"))):
        environment.setdefault("STACKBENCH_BASE_CPU", built)
    return environment


def is_there(image: str) -> bool:
    return subprocess.run(["docker", "image", "inspect", image], capture_output=True, check=False).returncode == 0


def statuses_of_cells(process: subprocess.Popen[str]) -> list[dict[str, str]]:
    """Return what the kernel says of each of the services' cells that is seen to run, until `process` ends."""
    seen: dict[int, dict[str, str]] = {}
    while process.poll() is None:
        for place in Path("/proc").glob("[0-9]*"):
            with contextlib.suppress(OSError):
                cell = b"\0-m\0bench\0/stackbench/.stackbench/" in (place / "cmdline").read_bytes()
                if cell and b"/python" in (place / "cmdline").read_bytes().split(b"\0")[0]:
                    lines = (place / "status").read_text().splitlines()
                    seen[int(place.name)] = dict(line.split(":\t", 1) for line in lines if ":\t" in line)
        time.sleep(0.05)
    return list(seen.values())


def start(folder: Path, *arguments: str) -> subprocess.Popen[str]:
    out = (folder / "out.txt").open("w")
    command = ["docker", "compose", *arguments]
    return subprocess.Popen(command, cwd=folder, env=environment_of(folder), stdout=out, stderr=out, text=True)


def check_cells(statuses: list[dict[str, str]], user: int) -> None:
    assert statuses
    for status in statuses:
        assert set(status["Uid"].split() + status["Gid"].split()) == {str(user)}
        assert status["Groups"].split() == []
        assert {int(status[f"Cap{kind}"], 16) for kind in ("Inh", "Prm", "Eff", "Amb")} == {0}
        assert status["NoNewPrivs"] == "1"


def test_up_runs_the_smoke_suite_as_the_owner_of_results_and_its_cells_as_nobody(project: Path):
    process = start(project, "up", "--exit-code-from", "cpu", "cpu")
    statuses = statuses_of_cells(process)
    assert process.returncode == 0, (project / "out.txt").read_text()[-3000:]
    check_cells(statuses, NOBODY)
    (run,) = (project / "results").iterdir()
    records = [read_record(path) for path in (run / "records").iterdir()]
    assert {record.status for record in records} == {"ok"}
    shown = {(record.workload.benchmark, record.method) for record in records}
    assert {(benchmark, method) for benchmark in OF_THE_NOTE for method in ("eager", "inductor")} <= shown
    lines = (project / "out.txt").read_text().splitlines()
    said = "\n".join(line for line in lines if "cpu-1" in line)  # not the build's
    assert f"docker compose run --rm cpu report {run.name}" in said
    assert "/stackbench/results" not in said
    made = compose(project, "run", "--rm", "-T", "cpu", "report", run.name)
    assert made.stdout.splitlines()[-1].startswith(f"results/{run.name}/report.html ("), made.stderr
    tables = (run / "tables.md").read_text()
    for benchmark in OF_THE_NOTE:
        assert f"## {benchmark}" in tables
    owner = (project / "results").stat().st_uid
    assert {path.stat().st_uid for path in run.rglob("*")} == {owner}
    container = compose(project, "ps", "--all", "--quiet").stdout.strip()
    check_limits(json.loads(subprocess.check_output(["docker", "inspect", container]))[0]["HostConfig"])


def check_limits(host: dict[str, Any]) -> None:
    assert host["Init"]
    assert host["Memory"] == host["MemorySwap"] > 0
    assert host["PidsLimit"] > 0
    assert host["CpuQuota"] > 0
    assert host["OomScoreAdj"] > 500
    assert host["Ulimits"] == [{"Name": "core", "Hard": 0, "Soft": 0}]
    assert set(host["LogConfig"]["Config"]) == {"max-size", "max-file"}
    assert all("size=" in options for options in host["Tmpfs"].values())
    assert any('"socket"' in option for option in host["SecurityOpt"])


WRITES = """#!/bin/sh
for folder in /stackbench/results /stackbench/results/*; do touch "$folder/planted"; done
exec /opt/stack/bin/python "$@"
"""
ONE_CELL = ("run-all", "--launcher", "local", "--suite", "smoke", "--method", "eager", "--benchmark", "forward")


@pytest.mark.parametrize(("owner", "user"), [(0, NOBODY), (NOBODY, NOBODY - 1)])
def test_cells_are_neither_root_nor_the_owner_of_results(project: Path, owner: int, user: int):
    if os.getuid() != 0:
        pytest.skip("only root gives a folder away")
    os.chown(project / "results", owner, owner)
    (writes := project / "writes.sh").write_text(WRITES)
    writes.chmod(0o755)
    hostile = ("--volume", f"{writes}:/opt/writes.sh:ro", "--env", "STACKBENCH_PYTHON=/opt/writes.sh")
    process = start(project, "run", "--rm", "-T", *hostile, "cpu", *ONE_CELL, "--stack", "cpu")
    statuses = statuses_of_cells(process)
    assert process.returncode == 0, (project / "out.txt").read_text()[-3000:]
    assert not list((project / "results").rglob("planted"))
    for log in (project / "results").glob("*/logs/*.log"):
        assert log.read_text().count("Permission denied") == 2
    check_cells(statuses, user)
    assert {path.stat().st_uid for path in (project / "results").rglob("*")} == {owner}


def test_a_checkout_names_its_project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.delenv("COMPOSE_PROJECT_NAME", raising=False)
    names = set()
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
        shutil.copy(ROOT / "docker-compose.yml", tmp_path / name)
        command = ["docker", "compose", "config", "--format", "json"]
        done = subprocess.run(command, cwd=tmp_path / name, capture_output=True, text=True, check=False)
        if done.returncode:
            pytest.skip(f"no compose: {done.stderr}")
        found = json.loads(done.stdout)
        # Nor do they share images.
        assert not any("image" in service for service in found["services"].values())
        names.add(found["name"])
    assert len(names) == 2


IS_FREE = "from orchestrator.host import locks; print(locks.is_free('GPU-test'))"
HOLDS = """
import time
from orchestrator.host import locks
with locks.hold("GPU-test", purpose="a test", say=print):
    print("held", flush=True)
    time.sleep(60)
"""


def last_line(done: subprocess.CompletedProcess[str]) -> str:
    """Return the last line of what a service printed; before it stands the build of its image."""
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines()[-1]


def inside(code: str) -> list[str]:
    """Return the end of a compose command that runs code in a service as it would be run there."""
    return ["--entrypoint", "/opt/orchestrator/bin/python", "cpu", "-c", code]


def test_services_take_turns_by_the_hosts_lock_folder(project: Path, monkeypatch: pytest.MonkeyPatch):
    folder = project / "locks"
    monkeypatch.setenv("STACKBENCH_LOCKS", str(folder))
    with locks.hold("GPU-test", purpose="a test", say=print):
        held = compose(project, "run", "--rm", "-T", *inside(IS_FREE))
    free = compose(project, "run", "--rm", "-T", *inside(IS_FREE))
    assert (last_line(held), last_line(free)) == ("False", "True")
    command = ["docker", "compose", "run", "--rm", "-T", "--name", f"{name_of(project)}-holds", *inside(HOLDS)]
    service = subprocess.Popen(
        command, cwd=project, env=environment_of(project), stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
    )
    try:
        assert service.stdout is not None
        assert "held\n" in iter(service.stdout.readline, "")
        assert not locks.is_free("GPU-test", folder)
        # Another service sees it too, and goes on when the first is gone, however it ended.
        assert last_line(compose(project, "run", "--rm", "-T", *inside(IS_FREE))) == "False"
    finally:
        subprocess.run(["docker", "kill", f"{name_of(project)}-holds"], capture_output=True, check=False)
        service.communicate(timeout=60)
    assert locks.is_free("GPU-test", folder)


def test_a_mistake_in_the_command_is_one_line_and_exit_4(project: Path):
    done = compose(project, "run", "--rm", "-T", "cpu", "run-all", "--launcher", "local", "--stack", "unheard-of")
    assert done.returncode == 4
    assert "unheard-of" in done.stderr + done.stdout
    assert "Traceback" not in done.stderr + done.stdout
    assert list((project / "results").iterdir()) == []
