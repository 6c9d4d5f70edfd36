"""Where stacks run on a host whose engine can pull no image, and whose Python is not the one that a lock is for."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from fake_run import FAKE_BENCH, IMAGE, write_suite
from plan_samples import write_stack
from stack_folders import make

from orchestrator.base.errors import InfrastructureError
from orchestrator.base.files import hash_files
from orchestrator.build import environment
from orchestrator.build.environment import UV_LOCK, environment_folder, find_python
from orchestrator.build.image import why_not_here
from orchestrator.build.ready import choose_place
from orchestrator.cli import run
from orchestrator.host.devices import Host
from orchestrator.launchers import work_area as workfolders
from orchestrator.plan import choice as choosing
from orchestrator.plan.choice import Choice, RunOptions
from orchestrator.plan.stack import BuiltImage, Stack
from orchestrator.records.runs import newest_run
from orchestrator.runner import run_all as pipeline

NOWHERE = "nowhere.invalid/none:1"
"""No registry has such a name (RFC 6761), so it cannot be pulled, with a network or without."""
H100 = "NVIDIA H100 80GB HBM3"


@pytest.fixture
def nowhere(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("STACKBENCH_BASE_IMAGE", NOWHERE)


def place(gpu: str | None = None, **options: Any) -> Choice:
    return choose_place(RunOptions(**options), Host(gpu=gpu, engine="Docker Engine 27"))


@pytest.mark.docker
@pytest.mark.usefixtures("client", "nowhere")
@pytest.mark.parametrize("gpu", [None, H100])
def test_where_nothing_was_asked_for_plain_processes_take_their_place(gpu: str | None) -> None:
    choice = place(gpu)
    assert choice.launcher == "local"
    assert choice.line.startswith(f"suite note on {H100}, stacks " if gpu else "suite smoke on the CPU, stacks cpu, ")
    assert f"in plain processes (the image {NOWHERE} is not here and cannot be pulled: no such host): " in choice.line
    assert {cell.device for cell in choice.plan.cells} == {"cuda" if gpu else "cpu"}
    assert set(choice.stacks) == ({"fused-next", "thunder", "thunder-next", "tinyllama"} if gpu else {"cpu"})


@pytest.mark.docker
@pytest.mark.usefixtures("client", "nowhere")
def test_an_engine_that_was_asked_for_by_name_stops_before_the_run(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for command in ("run-all", "plan"):
        assert run([command, "--launcher", "docker", "--results", str(tmp_path / "results")]) == 4
        out, err = capsys.readouterr()
        assert (out, err.count("\n")) == ("", 1)
        assert err.startswith(
            f"orchestrator: --launcher docker: the image {NOWHERE} is not here and cannot be pulled: "
        )
        assert err.endswith("; name an image that is here in STACKBENCH_BASE_IMAGE, or use --launcher local\n")
    assert not (tmp_path / "results").exists()


@pytest.mark.docker
@pytest.mark.usefixtures("client", "nowhere")
def test_a_hosts_file_that_names_docker_is_kept_to(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    hosts, head = tmp_path / "hosts.toml", 'schema_version = 1\n[[hosts]]\nname = "here"\nlauncher = "docker"\n'
    hosts.write_text(head)
    for command in ("run-all", "plan"):
        words = [command, "--suite", "smoke", "--hosts", str(hosts), "--results", str(tmp_path / "results")]
        assert run(words) == 4
        out, err = capsys.readouterr()
        assert (out, err.count("\n")) == ("", 1)
        assert err.startswith(f"orchestrator: {hosts}: the image {NOWHERE} is not here and cannot be pulled: ")
        assert err.endswith(
            '; name an image that is here in STACKBENCH_BASE_IMAGE, or write launcher = "local" there\n'
        )
    hosts.write_text(f'{head}[[hosts]]\nname = "far"\nlauncher = "ssh"\nssh = {{ address = "far" }}\n')
    assert run(words) == 0, "the other host may have it"
    assert " in Docker (Docker Engine " in capsys.readouterr().out


@pytest.mark.docker
@pytest.mark.usefixtures("client")
def test_what_can_be_had_or_was_named_stays_in_containers(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("STACKBENCH_BASE_IMAGE", IMAGE)
    assert place().launcher == place(launcher="docker").launcher == "docker"
    monkeypatch.setenv("STACKBENCH_BASE_IMAGE", NOWHERE)
    assert place(stacks=("cpu",)).launcher == "docker"  # its rows say why
    monkeypatch.setenv("STACKBENCH_BASE_THUNDER", IMAGE)
    assert place(H100).launcher == "docker"  # one of four
    assert place(launcher="local").launcher == "local"


@pytest.mark.docker
def test_a_builder_and_a_ready_image_have_to_be_there_too(
    client: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("STACKBENCH_BASE_IMAGE", IMAGE)
    stack = make(tmp_path / "s").model_copy(update={"build": BuiltImage(builder="devel:1")})
    assert why_not_here(client, stack) is None
    monkeypatch.setenv("STACKBENCH_BUILDER_IMAGE", NOWHERE)
    assert str(why_not_here(client, stack)).startswith(f"the image {NOWHERE} is not here and cannot be pulled: ")
    (tmp_path / "r").mkdir()
    text = 'schema_version = 1\nname = "r"\ndescription = "x"\nmethods = ["eager"]\n[ready]\nname = "{}"\n'
    (tmp_path / "r" / "stack.toml").write_text(text.format(NOWHERE))
    monkeypatch.setattr(choosing, "IMAGES", tmp_path)
    (found,) = choosing.find_stacks([tmp_path / "r"]).values()
    assert NOWHERE in str(why_not_here(client, found))


@pytest.mark.docker
@pytest.mark.usefixtures("client")
def test_a_missing_ready_image_is_named_with_what_brings_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "stacks" / "theirs").mkdir(parents=True)
    text = 'schema_version = 1\nname = "theirs"\ndescription = "x"\nmethods = ["eager"]\n[ready]\n'
    (tmp_path / "stacks" / "theirs" / "stack.toml").write_text(f'{text}name = "{NOWHERE}"\n')
    monkeypatch.setattr(workfolders, "STATE", tmp_path / "state")
    monkeypatch.setattr(pipeline, "STATE", tmp_path / "state")
    given = ["--stacks", str(tmp_path / "stacks"), "--stack", "theirs", "--results", str(tmp_path / "results")]
    says = f"theirs: the image {NOWHERE} is not here and cannot be pulled: no such host"
    assert run(["plan", *given]) == 0
    assert says in capsys.readouterr().out.splitlines()
    assert run(["run-all", *given]) == 3
    (why,) = [line for line in capsys.readouterr().err.splitlines() if line.startswith("theirs: cannot run: ")]
    assert why.startswith(f"theirs: cannot run: {NOWHERE}: this image is not on this host, and could not be pulled (")
    assert why.endswith(f"no such host); `docker pull {NOWHERE}`")


@pytest.mark.docker
@pytest.mark.usefixtures("client", "nowhere")
def test_the_main_job_ends_with_measured_rows(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    stack = write_stack(tmp_path / "images", "fake", methods=("good",))
    monkeypatch.setattr(choosing, "IMAGES", stack.parent)
    monkeypatch.setattr(workfolders, "STATE", tmp_path / "state")
    monkeypatch.setattr(pipeline, "STATE", tmp_path / "state")
    monkeypatch.setattr(workfolders, "BENCH", FAKE_BENCH)
    monkeypatch.setenv("STACKBENCH_PYTHON", sys.executable)
    assert run(["run-all", "--suite", str(write_suite(tmp_path)), "--results", str(tmp_path / "results")]) == 0
    first = capsys.readouterr().err.splitlines()[0]
    assert f"in plain processes (the image {NOWHERE} is not here and cannot be pulled: no such host)" in first
    assert {record.status for record in newest_run(tmp_path / "results").records([])} == {"ok"}


# The Python that a lock is for.


def made_for(folder: Path, *pythons: str) -> Stack:
    stack = make(folder).model_copy(update={"build": BuiltImage(pythons=pythons)})
    (folder / "requirements.lock").write_text("")
    return stack


def another_python() -> tuple[str, str]:
    """A version that is not this one's, and where it is."""
    for minor in range(10, 16):
        found = shutil.which(f"python3.{minor}")
        if minor != sys.version_info.minor and found:
            code = f"import sys, ensurepip; sys.exit(sys.version_info[1] != {minor})"
            if subprocess.run([found, "-c", code], capture_output=True, check=False).returncode == 0:
                return f"3.{minor}", found
    pytest.skip("no other Python is here")


def test_an_environment_has_a_python_that_its_lock_is_for(tmp_path: Path) -> None:
    version, _ = another_python()
    python = find_python(made_for(tmp_path / "s", version), say=print, state=tmp_path / "state")
    said = subprocess.run([python, "-c", "import sys; print('%d.%d' % sys.version_info[:2])"], capture_output=True)  # noqa: PLW1510
    assert said.stdout.decode().strip() == version


def test_the_orchestrators_own_will_do_where_it_is_one_of_them(tmp_path: Path) -> None:
    own = f"3.{sys.version_info.minor}"
    python = find_python(made_for(tmp_path / "s", "3.1", own), say=print, state=tmp_path / "state")
    assert python.resolve() == Path(sys.executable).resolve()


def test_another_version_of_python_is_another_environment(tmp_path: Path) -> None:
    own = f"3.{sys.version_info.minor}"
    of = [environment_folder(made_for(tmp_path / "s", *pythons)) for pythons in ((), (own,), ("3.1",), ("3.2",))]
    assert of[0] == of[1]
    assert len(set(of)) == 3


UV = """#!/bin/sh
test "$1" = -c && exit 0  # it has uv
test "$*" = "-m uv python install --no-bin --install-dir {folder} 3.1" || exit 2
mkdir -p {folder}/cpython-3.1.4-linux/bin && ln -s {python} {folder}/cpython-3.1.4-linux/bin/python3.1
"""


def test_one_that_is_not_here_is_brought_by_uv(tmp_path: Path) -> None:
    state = tmp_path / "state"
    tool = state / "envs" / f"uv-{hash_files(UV_LOCK.parent, [UV_LOCK])[:16]}" / "bin" / "python"
    tool.parent.mkdir(parents=True)
    tool.write_text(UV.format(folder=state / "pythons", python=sys.executable))
    tool.chmod(0o755)
    find_python(made_for(tmp_path / "s", "3.1"), say=print, state=state)
    (settings,) = state.glob("envs/*/pyvenv.cfg")
    assert f"executable = {Path(sys.executable).resolve()}" in settings.read_text()
    assert "pythons/cpython-3.1.4-linux/bin/python3.1 -m venv" in settings.read_text()


def test_one_that_neither_is_here_nor_can_be_brought_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    said: list[str] = []
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", "")
    with pytest.raises(InfrastructureError) as caught:
        find_python(made_for(tmp_path / "s", "3.1"), say=said.append, state=tmp_path / "state")
    assert "uv could not bring Python 3.1 (install it, or name a mirror in UV_PYTHON_INSTALL_MIRROR)" in str(
        caught.value
    )
    assert "testonly: its packages are for Python 3.1, none is here: uv brings 3.1" in said
    assert environment.UV_LOCK.read_text().count("--hash=") > 1
