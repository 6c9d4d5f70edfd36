"""`docker compose up cpu`: builds the stack's image, runs the smoke suite in it, and leaves records and tables."""

from __future__ import annotations

import os
import shutil
import subprocess
import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest
from places import ROOT

from orchestrator.build.image import image_tag
from orchestrator.build.wheels import copy_wheels
from orchestrator.host import docker_engine as engine
from orchestrator.host import locks
from orchestrator.plan.stack import load_stack
from orchestrator.plan.workload import MEASURED
from orchestrator.records.store import read_record

pytestmark = [pytest.mark.docker, pytest.mark.compose]
LOCAL_BASE = "local/debian:bookworm"
OWNER = 4321


@pytest.fixture
def project(tmp_path: Path) -> Iterator[Path]:
    """Copy what compose sees, so that the checkout's own results stay as they are."""
    client = engine.answers()
    if client is None or subprocess.run(["docker", "compose", "version"], capture_output=True, check=False).returncode:
        pytest.skip("no Docker Engine with compose answers")
    folder = tmp_path / "checkout"
    folder.mkdir()
    for name in ("bench", "orchestrator", "images"):
        shutil.copytree(ROOT / name, folder / name, ignore=shutil.ignore_patterns("__pycache__", "*.whl"))
    shutil.copy(ROOT / "docker-compose.yml", folder)
    # Its image is its own too: what the user's last `up` built keeps its name.
    override = f"services:\n  cpu:\n    image: stackbench/cpu:{name_of(folder)}\n"
    (folder / "docker-compose.override.yml").write_text(override)
    copy_wheels(folder / "images" / "cpu")
    (folder / "results").mkdir()
    if os.getuid() == 0:
        os.chown(folder / "results", OWNER, OWNER)
        # The container's user must get through to it.
        for place in (folder, tmp_path, tmp_path.parent, tmp_path.parent.parent):
            place.chmod(place.stat().st_mode | 0o011)
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


def test_up_runs_the_smoke_suite_as_the_owner_of_results(project: Path):
    done = compose(project, "up", "--exit-code-from", "cpu", "cpu")
    assert done.returncode == 0, (done.stdout + done.stderr)[-3000:]
    (run,) = (project / "results").iterdir()
    records = [read_record(path) for path in (run / "records").iterdir()]
    assert {record.status for record in records} == {"ok"}
    shown = {(record.workload.benchmark, record.method) for record in records}
    assert {(benchmark, method) for benchmark in MEASURED for method in ("eager", "inductor")} <= shown
    tables = (run / "tables.md").read_text()
    for benchmark in MEASURED:
        assert f"## {benchmark}" in tables
    owner = (project / "results").stat().st_uid
    assert {path.stat().st_uid for path in run.rglob("*")} == {owner}


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
