from __future__ import annotations

import io
import os
import signal
import subprocess
import sys
import tarfile
import time
from pathlib import Path
from typing import Any

import pytest
from fake_run import FAKE_BENCH, IMAGE, make_stack
from places import ROOT
from stack_folders import LOCK, WHEEL, make

from orchestrator.base.errors import InfrastructureError, UsageError
from orchestrator.build import image as build
from orchestrator.build import lock as stack_lock
from orchestrator.build import wheels
from orchestrator.build.image import clean_images
from orchestrator.build.ready import build_stacks
from orchestrator.plan.stack import BuiltImage, Stack, find_stacks


def test_the_tag_changes_with_what_is_built_from(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("STACKBENCH_BASE_IMAGE", raising=False)
    stack = make(tmp_path / "s")
    first = build.image_tag(stack)
    (stack.folder / "notes.txt").write_text("ignored")
    assert build.image_tag(stack) == first
    (stack.folder / "requirements.lock").write_text("# another\n" + LOCK)
    assert build.image_tag(stack) != first
    monkeypatch.setenv("STACKBENCH_BASE_IMAGE", "mine:1")
    second = build.image_tag(stack)
    monkeypatch.setenv("STACKBENCH_BASE_TESTONLY", "mine:2")
    assert build.image_tag(stack) != second
    for wrong in ("x:y:z", "../etc", "a\nb"):
        monkeypatch.setenv("STACKBENCH_BASE_TESTONLY", wrong)
        with pytest.raises(UsageError, match="is not an image's name"):
            build.image_tag(stack)


def test_wheels_of_the_lock_go_along_and_no_others(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    stack, links = make(tmp_path / "s"), tmp_path / "links"
    links.mkdir()
    (links / "mine_package-1.0-py3-none-any.whl").write_bytes(WHEEL)
    (links / "mine_package-1.1-py3-none-any.whl").write_bytes(b"another")
    (links / "other-1.0-py3-none-any.whl").write_bytes(WHEEL)
    for source in (str(links), links.as_uri()):
        monkeypatch.setenv("PIP_FIND_LINKS", f"{source} https://wheels.invalid/simple")
        out = io.BytesIO()
        assert build.make_context(stack, out) == 1
        with tarfile.open(fileobj=out) as tar:
            names = tar.getnames()
        assert sorted(names) == [
            "Dockerfile",
            "requirements.lock",
            "wheels",
            "wheels/mine_package-1.0-py3-none-any.whl",
        ]
        assert build.build_arguments(stack)["PIP_FIND_LINKS"] == "https://wheels.invalid/simple"


def test_another_base_compiles_too_unless_a_builder_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("STACKBENCH_BASE_IMAGE", "STACKBENCH_BUILDER_IMAGE", "STACKBENCH_BUILDER_TESTONLY", "MAX_JOBS"):
        monkeypatch.delenv(name, raising=False)
    plain = make(tmp_path / "s")
    assert plain.build is not None
    stack = plain.model_copy(update={"build": BuiltImage(builder="devel:1", arguments=("MAX_JOBS", "OTHER"))})
    assert build.build_arguments(stack) == build.build_arguments(plain) == {}
    assert build.image_tag(stack) == build.image_tag(plain)
    monkeypatch.setenv("STACKBENCH_BASE_IMAGE", "mine:1")
    assert build.chosen_arguments(plain) == {"BASE_IMAGE": "mine:1"}
    assert build.chosen_arguments(stack) == {"BASE_IMAGE": "mine:1", "BUILDER_IMAGE": "mine:1"}
    tags = {build.image_tag(stack)}
    for name, value in (("STACKBENCH_BUILDER_IMAGE", "all:1"), ("STACKBENCH_BUILDER_TESTONLY", "own:1")):
        monkeypatch.setenv(name, value)
        assert build.build_arguments(stack)["BUILDER_IMAGE"] == value
        tags.add(build.image_tag(stack))
    monkeypatch.setenv("OTHER", "2")
    assert build.build_arguments(stack)["OTHER"] == "2"
    tags.add(build.image_tag(stack))
    assert len(tags) == 4
    # How many compilers run at once makes no other image.
    monkeypatch.setenv("MAX_JOBS", "2")
    assert build.build_arguments(stack)["MAX_JOBS"] == "2"
    assert build.image_tag(stack) in tags


def shared(images: Path) -> dict[str, Stack]:
    """Write a folder of two stacks that share a Dockerfile, and a third that has one of its own."""
    for name, more in (("one", ""), ("two", 'builder = "devel:1"\npythons = ["3.10", "3.11"]\n'), ("own", "")):
        place = make(images / name, name=name).folder
        (place / ".dockerignore").unlink()
        (place / "requirements.in").write_text("mine-package\n")
        (place / "wheels").mkdir()
        (place / "wheels" / "old_package-1.0-py3-none-any.whl").write_bytes(b"of an older lock")
        (place / "stack.toml").write_text(
            f'schema_version = 1\nname = "{name}"\ndescription = "x"\nmethods = ["good"]\n'
            f'[build]\nbase = "base:1"\n{more}'
        )
    for name in ("one", "two"):
        (images / name / "Dockerfile").unlink()
    (images / "Dockerfile").write_text("ARG BASE_IMAGE\nFROM ${BASE_IMAGE}\nARG STACK\nCOPY ${STACK}/*.lock /\n")
    (images / "orchestrator.lock").write_text("")
    (images / "lock.py").write_text("")
    (images / ".dockerignore").write_text((ROOT / "images" / ".dockerignore").read_text())
    return find_stacks([images])


def test_stacks_without_a_dockerfile_share_that_of_their_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in (*wheels.PIP_SOURCES, "STACKBENCH_BASE_IMAGE", "STACKBENCH_BUILDER_IMAGE"):
        monkeypatch.delenv(name, raising=False)
    (tmp_path / "links").mkdir()
    (tmp_path / "links" / "mine_package-1.0-py3-none-any.whl").write_bytes(WHEEL)
    monkeypatch.setenv("PIP_FIND_LINKS", str(tmp_path / "links"))
    stacks = shared(tmp_path / "images")
    names = {}
    for name, stack in stacks.items():
        out = io.BytesIO()
        assert build.make_context(stack, out) == 1
        with tarfile.open(fileobj=out) as tar:
            names[name] = sorted(tar.getnames())
    wheel = "wheels/mine_package-1.0-py3-none-any.whl"
    for name in ("one", "two"):
        own = [f"{name}/{file}" for file in ("notes.txt", "requirements.lock", "wheels", wheel)]
        assert names[name] == ["Dockerfile", *sorted(["orchestrator.lock", *own])]
    assert names["own"] == ["Dockerfile", "notes.txt", "requirements.in", "requirements.lock", "wheels", wheel]
    assert build.build_arguments(stacks["one"]) == {"STACK": "one", "BASE_IMAGE": "base:1"}
    two = {"STACK": "two", "BASE_IMAGE": "base:1", "BUILDER_IMAGE": "devel:1", "PYTHONS": "3.10 3.11"}
    assert build.build_arguments(stacks["two"]) == two
    # Its own Dockerfile has its own defaults.
    assert build.build_arguments(stacks["own"]) == {}
    assert [build.target(stacks[name]) for name in ("one", "two", "own")] == ["packages", "compiled", None]
    monkeypatch.setenv("STACKBENCH_BASE_IMAGE", "mine:1")
    assert build.build_arguments(stacks["two"]) == {**two, "BASE_IMAGE": "mine:1", "BUILDER_IMAGE": "mine:1"}


@pytest.mark.parametrize(
    ("changed", "rebuilt"),
    [
        ("Dockerfile", {"one", "two"}),
        ("orchestrator.lock", {"one", "two"}),
        ("one/requirements.lock", {"one"}),
        ("one/notes.txt", {"one"}),
        ("own/Dockerfile", {"own"}),
        ("lock.py", set()),
        ("one/requirements.in", set()),
    ],
)
def test_a_change_rebuilds_the_images_that_are_built_from_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, changed: str, rebuilt: set[str]
) -> None:
    monkeypatch.delenv("STACKBENCH_BASE_IMAGE", raising=False)
    before = {name: (build.image_tag(stack), build.content(stack)) for name, stack in shared(tmp_path).items()}
    (tmp_path / changed).write_text("# another\n")
    stacks = find_stacks([tmp_path])
    assert {name for name, stack in stacks.items() if build.image_tag(stack) != before[name][0]} == rebuilt
    assert {name for name, stack in stacks.items() if build.content(stack) != before[name][1]} == rebuilt


def test_the_stage_of_system_packages_names_the_images_that_ask_for_it_and_no_others(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("STACKBENCH_BASE_IMAGE", raising=False)
    stacks = shared(tmp_path)
    names = {name: build.image_tag(stack) for name, stack in stacks.items()}
    assert stacks["one"].build is not None
    asked = stacks["one"].build.model_copy(update={"system_packages": ("libnuma1", "numactl")})
    one = stacks["one"].model_copy(update={"build": asked})
    assert build.target(one) == "extended"
    assert build.build_arguments(one)["SYSTEM_PACKAGES"] == "libnuma1 numactl"
    before = build.image_tag(one)
    assert before != names["one"]
    dockerfile = tmp_path / "Dockerfile"
    dockerfile.write_text(dockerfile.read_text() + "\nFROM packages AS extended\nRUN apt-get install\n")
    assert {name: build.image_tag(stack) for name, stack in stacks.items()} == names
    assert build.image_tag(one) != before


def test_what_stack_toml_says_to_the_shared_dockerfile_is_part_of_the_image(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("STACKBENCH_BASE_IMAGE", raising=False)  # which comes before the folder's own
    stack = shared(tmp_path)["one"]
    before = build.image_tag(stack), build.content(stack)
    path = tmp_path / "one" / "stack.toml"
    path.write_text(path.read_text().replace("base:1", "base:2"))
    after = find_stacks([tmp_path])["one"]
    assert build.image_tag(after) != before[0]
    assert build.content(after) != before[1]


class FullDisk:
    """An engine whose disk has 10 GB left."""

    def info(self) -> dict[str, str]:
        return {"DockerRootDir": "/"}


def test_the_disk_is_looked_at_before_a_build(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("STACKBENCH_BASE_IMAGE", "STACKBENCH_BUILDER_IMAGE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(build.shutil, "disk_usage", lambda _root: type("Usage", (), {"free": 10 * 10**9}))
    sizes = {"builder": "devel:1", "disk_bytes": 9 * 10**9, "builder_disk_bytes": 12 * 10**9}
    stack = make(tmp_path / "s").model_copy(update={"build": BuiltImage.model_validate(sizes)})
    with pytest.raises(InfrastructureError, match=r"10\.0 GB free .*, 21\.0 GB needed; make room"):
        build._check_disk(FullDisk(), stack)
    monkeypatch.setenv("STACKBENCH_BASE_IMAGE", "mine:1")
    build._check_disk(FullDisk(), stack)
    monkeypatch.setenv("STACKBENCH_BUILDER_IMAGE", "devel:2")
    with pytest.raises(InfrastructureError, match="21"):
        build._check_disk(FullDisk(), stack)


def images(client: Any) -> list[str]:
    return [tag for image in client.images.list("stackbench/testonly") for tag in image.tags]


@pytest.mark.docker
def test_an_image_is_built_once_and_a_failure_is_reported(client: Any, tmp_path: Path) -> None:
    said: list[str] = []
    good = make(tmp_path / "good", f"FROM {IMAGE}\nCOPY *.lock /\nRUN echo from the build\n")
    assert not build.has_image(client, good)
    try:
        tag = build.ensure_image(client, good, say=said.append, state=tmp_path)
        assert tag in images(client)
        assert build.has_image(client, good)
        assert "testonly: build step 3 of 5: running commands" in said
        assert not any("echo" in line for line in said)
        assert "from the build" in (tmp_path / "logs" / "build-testonly.log").read_text()
        said.clear()
        assert build.ensure_image(client, good, say=said.append, state=tmp_path) == tag
        assert said == []
        bad = make(tmp_path / "bad", f"FROM {IMAGE}\nRUN python3 -c 'import now'here\n")
        with pytest.raises(InfrastructureError) as caught:
            build.ensure_image(client, bad, say=said.append, state=tmp_path)
        assert caught.value.what.startswith("ModuleNotFoundError: No module named 'nowhere'")
        assert "\n" not in str(caught.value)
        assert "Step " not in str(caught.value)  # what failed, and not which of the file's lines came before
        unknown = make(tmp_path / "unknown", "FROM registry.invalid/no/such:image\n")
        with pytest.raises(InfrastructureError, match="name another in STACKBENCH_BASE_IMAGE"):
            build.ensure_image(client, unknown, say=said.append, state=tmp_path)
        with pytest.raises(InfrastructureError):
            build.ensure_image(client, make_stack(image="stackbench/nowhere:1"), say=said.append, state=tmp_path)
    finally:
        for tag in images(client):
            client.images.remove(tag, force=True)


@pytest.mark.docker
def test_old_images_go_on_request_and_no_others(
    client: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.delenv("STACKBENCH_BASE_IMAGE", raising=False)

    def built(content: str, name: str = "testonly") -> str:
        stack = make(tmp_path / name, f"FROM {IMAGE}\nCOPY *.lock /\nRUN echo {content} > /content\n", name)
        return build.ensure_image(client, stack, say=lambda _line: None, state=tmp_path)

    try:
        old, used, other = built("old"), built("used"), built("x", "testonly-other")
        client.api.tag(IMAGE, "mine-base", "1")
        monkeypatch.setenv("STACKBENCH_BASE_IMAGE", "mine-base:1")
        elsewhere = built("present")
        monkeypatch.delenv("STACKBENCH_BASE_IMAGE")
        present = built("present")
        client.api.tag(old, "mine-alone", "1")
        holder = client.api.create_container(used, ["true"])["Id"]
        stack = make(tmp_path / "testonly", (tmp_path / "testonly" / "Dockerfile").read_text())
        assert build.image_tag(stack) == present
        assert clean_images({"testonly": stack}, state=tmp_path) == 0
        out = capsys.readouterr().out
        assert f"removed {old}" in out.replace("mine-alone:1, ", "").replace(", mine-alone:1", "")
        assert f"kept {used} (" in out
        assert "something uses it" in out
        assert f"kept {other} (" in out
        assert present not in out
        assert elsewhere != present  # the same files on another base are no old image
        assert set(images(client)) == {used, present, elsewhere}
        assert client.images.get("mine-alone:1")
        client.api.remove_container(holder)
        assert clean_images({"testonly": stack}, state=tmp_path) == 0
        assert set(images(client)) == {present, elsewhere}
    finally:
        for tag in (*images(client), other, "mine-alone:1", "mine-base:1"):
            client.images.remove(tag, force=True)


@pytest.mark.docker
def test_build_writes_what_was_built_and_again_builds_it_again(
    client: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("orchestrator.launchers.work_area.BENCH", FAKE_BENCH)
    dockerfile = f"FROM {IMAGE}\nCOPY *.lock /\nRUN date +%N > /made\n"
    stack = make(tmp_path / "good", dockerfile)
    assert stack.build is not None
    stack = stack.model_copy(update={"build": stack.build.model_copy(update={"python": "python3"})})
    bad = make(tmp_path / "bad", f"FROM {IMAGE}\nRUN echo why it failed && exit 7\n", "testonly-bad")
    try:
        assert build_stacks({"testonly-bad": bad, "testonly": stack}, launcher="docker", state=tmp_path) == 1
        said = capsys.readouterr()
        assert "testonly-bad: failed: " in said.err
        assert f"testonly: {build.image_tag(stack)}\n" in said.out
        path = stack_lock.lock_path(stack, build.image_tag(stack), tmp_path)
        first = stack_lock.StackLock.model_validate_json(path.read_text())
        assert first.image_id == client.images.get(first.image).id
        assert build_stacks({"testonly": stack}, launcher="docker", state=tmp_path) == 0
        assert "build step" not in capsys.readouterr().err
        # What somebody put in its place under the same name is found out, and built away.
        changed = client.containers.run(first.image, ["touch", "/changed"], detach=True)
        changed.wait()
        changed.commit(first.image)
        changed.remove()
        assert build_stacks({"testonly": stack}, launcher="docker", state=tmp_path) == 0
        assert f"testonly: drift since it was built ({first.written_utc[:10]}): image " in capsys.readouterr().err
        assert build_stacks({"testonly": stack}, launcher="docker", again=True, state=tmp_path) == 0
        said = capsys.readouterr()
        assert "build step" in said.err
        assert "drift" not in said.err + said.out
    finally:
        for tag in images(client):
            client.images.remove(tag, force=True)


# A shell's background job ignores SIGINT, and what it starts does too, unless that is changed.
INTERRUPTED = """
import signal, sys
from pathlib import Path
signal.signal(signal.SIGINT, signal.default_int_handler)
sys.path[:0] = sys.argv[2:]
from orchestrator.build import image as build
from orchestrator.host import docker_engine as engine
from fake_run import IMAGE
from stack_folders import make
stack = make(Path(sys.argv[1]) / "slow", f"FROM {IMAGE}\\nRUN echo begun && sleep 300\\n")
build.ensure_image(engine.connect(), stack, say=lambda line: print(line, flush=True), state=Path(sys.argv[1]))
"""


@pytest.mark.docker
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGKILL])
def test_an_interrupted_build_leaves_no_container(client: Any, tmp_path: Path, number: int) -> None:
    before = {container["Id"] for container in client.api.containers(all=True)}
    support = ROOT / "tests" / "support"
    process = subprocess.Popen(
        [sys.executable, "-c", INTERRUPTED, str(tmp_path), str(support), str(ROOT)],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
        env={**os.environ},
    )
    assert process.stdout is not None
    assert any("running commands" in line for line in process.stdout)

    def left() -> set[str]:
        found = client.api.containers(all=True)
        return {c["Id"] for c in found if "sleep 300" in c["Command"]} - before

    while not left():
        assert process.poll() is None
        time.sleep(0.1)
    process.send_signal(number)
    process.wait(30)
    process.stdout.close()
    for _ in range(100):
        if not left():
            break
        time.sleep(0.2)
    assert not left()
