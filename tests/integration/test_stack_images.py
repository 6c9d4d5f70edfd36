"""Stacks from build to row on a real engine: one that cannot be built, one that drifts, and a user's own."""

from __future__ import annotations

import contextlib
import io
import json
import os
import re
import shutil
import subprocess
import sys
import tarfile
import time
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from fake_run import IMAGE, write_suite
from places import ROOT

from orchestrator.build.image import ensure_image
from orchestrator.build.wheels import sha256
from orchestrator.host import docker_engine as engine
from orchestrator.host.gpu import gpus
from orchestrator.launchers.docker import content_of
from orchestrator.plan.stack import find_stacks

pytestmark = pytest.mark.docker
PAGE = (ROOT / "docs" / "stacks.md").read_text(encoding="utf-8")


@pytest.fixture
def client() -> Iterator[Any]:
    found = engine.answers()
    if found is None or not found.images.list(IMAGE):
        pytest.skip("no Docker Engine answers, or no image to build on")
    yield found
    for image in found.images.list(filters={"label": "stackbench.build"}):
        for tag in image.tags:
            if tag.startswith("stackbench/test-"):
                found.images.remove(tag, force=True)


def write_built_stack(folder: Path, name: str, step: str) -> None:
    place = folder / "stacks" / name
    place.mkdir(parents=True)
    (place / "Dockerfile").write_text(f"FROM {IMAGE}\nRUN {step}\n")
    (place / "requirements.lock").write_text("")
    (place / "stack.toml").write_text(
        f'schema_version = 1\nname = "{name}"\ndescription = "for a test"\nmethods = ["good"]\n'
        '[build]\npython = "python3"\n[gpu]\naccess = "none"\n'
    )


def run_all(folder: Path, *more: str) -> subprocess.CompletedProcess[str]:
    """Run every stack of the folder with the fake bench."""
    if not (folder / "mine.toml").exists():
        write_suite(folder)
    names = [path.name for path in sorted((folder / "stacks").iterdir())]
    command = [
        *(sys.executable, str(ROOT / "tests" / "support" / "fake_run.py"), str(folder / "state"), "run-all"),
        *("--suite", str(folder / "mine.toml"), "--stacks", str(folder / "stacks")),
        *(word for name in names for word in ("--stack", name)),
        *("--launcher", "docker", "--results", str(folder / "results"), *more),
    ]
    return called(command, folder)


def called(command: list[str], folder: Path, **more: str) -> subprocess.CompletedProcess[str]:
    # Locks of its own: whatever else runs on this host is not waited for.
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "STACKBENCH_LOCKS": str(folder / "locks"), **more}
    return subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)


def newest(folder: Path) -> Path:
    return max((folder / "results").iterdir(), key=lambda path: path.stat().st_mtime_ns)


def records(run: Path) -> dict[str, dict[str, Any]]:
    """Return the rows' records by stack."""
    found = [json.loads(path.read_text()) for path in (run / "records").iterdir()]
    return {record["stack"]: record for record in found if record["workload"]["benchmark"] == "forward"}


def test_a_stack_that_cannot_be_built_is_rows_and_the_others_go_on(client: Any, tmp_path: Path) -> None:
    write_built_stack(tmp_path, "test-broken", "echo the compiler is gone && exit 7")
    write_built_stack(tmp_path, "test-fine", "true")
    done = run_all(tmp_path)
    assert done.returncode == 1, done.stdout + done.stderr
    found = records(newest(tmp_path))
    assert (found["test-fine"]["status"], found["test-broken"]["status"]) == ("ok", "infrastructure")
    assert found["test-broken"]["reason"].startswith("the compiler is gone; the image could not be built")
    assert "the compiler is gone" in (tmp_path / "state" / "logs" / "build-test-broken.log").read_text()
    assert "**infrastructure**" in (newest(tmp_path) / "tables.md").read_text()


def test_drift_is_shown_in_the_row(client: Any, tmp_path: Path) -> None:
    write_built_stack(tmp_path, "test-drifts", "true")
    done = run_all(tmp_path)
    assert done.returncode == 0, done.stdout + done.stderr
    first = newest(tmp_path)
    assert "drift" not in records(first)["test-drifts"]["flags"]
    lock = json.loads((first / "stacks" / "test-drifts.lock.json").read_text())
    assert lock["image_id"] == client.images.get(lock["image"]).id
    # Somebody installs something and keeps the name.
    changed = client.containers.run(lock["image"], ["touch", "/installed"], detach=True)
    changed.wait()
    other = changed.commit(lock["image"]).id
    changed.remove()
    done = run_all(tmp_path, "--fresh")
    assert done.returncode == 0, done.stdout + done.stderr
    short = [image.removeprefix("sha256:")[:12] for image in (lock["image_id"], other)]
    says = f"image {short[0]} is now {short[1]}"
    assert f"test-drifts: drift since it was built ({lock['written_utc'][:10]}): {says}" in done.stderr
    record = records(newest(tmp_path))["test-drifts"]
    assert "drift" in record["flags"]
    assert says in record["detail"]["drift"]
    tables = (newest(tmp_path) / "tables.md").read_text()
    assert re.search(r"\| ok \([^|]*drift", tables)
    assert f"`test-drifts` has drifted since it was built ({lock['written_utc'][:10]}): {says}." in tables
    # The lock stays the build's until the stack is built again.
    assert json.loads((newest(tmp_path) / "stacks" / "test-drifts.lock.json").read_text()) == lock


def test_an_image_made_again_of_the_same_is_the_same_by_its_content(client: Any) -> None:
    def imported(name: str) -> Any:
        packed = io.BytesIO()
        with tarfile.open(fileobj=packed, mode="w") as tar:
            tar.addfile(tarfile.TarInfo(name))
        answer = client.api.import_image_from_data(packed.getvalue(), repository="stackbench/test-again", tag="1")
        return client.images.get(json.loads(answer.splitlines()[-1])["status"])

    first = imported("one")
    time.sleep(1.1)  # the id holds the second
    again, other = imported("one"), imported("two")
    try:
        assert again.id != first.id
        assert content_of(again.attrs) == content_of(first.attrs) != content_of(other.attrs)
    finally:
        for image in {first.id, again.id, other.id}:
            client.images.remove(image, force=True)


def write_lock(lock: Path, *packages: tuple[str, str, str]) -> None:
    """Write a lock of packages (name, version, the module's text), and their wheels into the folder beside it."""
    pins = []
    for name, version, text in packages:
        module = name.replace("-", "_")
        wheel = lock.parent / "wheels" / f"{module}-{version}-py3-none-any.whl"
        wheel.parent.mkdir(parents=True, exist_ok=True)
        with zipfile.ZipFile(wheel, "w") as file:
            for inside, content in {
                f"{module}.py": text,
                f"{module}-{version}.dist-info/METADATA": f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n",
                f"{module}-{version}.dist-info/WHEEL": "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
                f"{module}-{version}.dist-info/RECORD": "",
            }.items():
                file.writestr(zipfile.ZipInfo(inside), content)
        pins.append(f"{name}=={version} \\\n    --hash=sha256:{sha256(wheel)}\n")
    lock.write_text("# Made by hand\n" + "".join(pins))


def layers_saved(*tags: str) -> list[set[str]]:
    """Return the names of the files in each layer of one `docker save` of these images."""
    found = []
    with subprocess.Popen(["docker", "save", *tags], stdout=subprocess.PIPE) as saving:
        assert saving.stdout is not None
        with tarfile.open(fileobj=saving.stdout, mode="r|") as tar:
            for member in tar:
                # Besides layers there are descriptions of the images, and links to layers.
                if member.isreg() and not member.name.endswith(("json", "VERSION", "repositories")):
                    layer = tar.extractfile(member)
                    with contextlib.suppress(tarfile.ReadError), tarfile.open(fileobj=layer, mode="r|") as files:
                        found.append({Path(name).name for name in files.getnames()})
    assert saving.returncode == 0
    return found


@pytest.mark.parametrize("buildkit", ["0", "1"])
def test_either_builder_makes_one_layer_of_what_stacks_have_in_common(
    client: Any, tmp_path: Path, buildkit: str
) -> None:
    for name in ("Dockerfile", ".dockerignore"):
        shutil.copy(ROOT / "images" / name, tmp_path)
    (tmp_path / "orchestrator.lock").write_text("")
    torch = '__version__ = "1.0"\nclass version: cuda = None\n'
    common = ("nvidia-cublas-cu12", "12.1", f"built_by = {buildkit}")
    # Each with an NCCL of its own; the second one's torch cannot be imported without what a lock of its own brings.
    one, two = (tmp_path / name for name in ("test-one", "test-two"))
    write_lock(one / "requirements.lock", common, ("nvidia-nccl-cu12", "2.18", ""), ("torch", "2.1", torch))
    write_lock(
        two / "requirements.lock", common, ("nvidia-nccl-cu12", "2.19", ""), ("torch", "2.2", "import late\n" + torch)
    )
    write_lock(two / "requirements.cuda.lock", ("late", "1.0", ""))
    (one / "compile.sh").write_text('mkdir -p "$1"\necho "x: not compiled, for a test" > "$1/left-out.txt"\n')
    stacks = {one.name: "compiled", two.name: "packages"}
    # Nothing is asked of an index.
    arguments = ("--build-arg", f"BASE_IMAGE={IMAGE}", "--build-arg", "PIP_INDEX_URL=file:///nowhere")
    try:
        for name, target in stacks.items():
            options = ("--target", target, "--build-arg", f"STACK={name}", "--tag", f"stackbench/{name}:{buildkit}")
            command = ["docker", "build", "--quiet", *arguments, *options, str(tmp_path)]
            environment = {**os.environ, "DOCKER_BUILDKIT": buildkit}
            done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
            assert done.returncode == 0, done.stdout + done.stderr
        show = ["sh", "-c", "cd /opt/stack; bin/pip list --format freeze; cat left-out.txt || true"]
        seen = {
            name: client.containers.run(f"stackbench/{name}:{buildkit}", show, remove=True).decode() for name in stacks
        }
        layers = layers_saved(*(f"stackbench/{name}:{buildkit}" for name in stacks))
    finally:
        for name in stacks:
            client.images.remove(f"stackbench/{name}:{buildkit}", force=True)
            for image in client.images.list(filters={"label": f"stackbench.build={name}"}):
                client.images.remove(image.id)
    assert {name: re.findall(r"^(?:nvidia|torch|late|x:).*", text, re.MULTILINE) for name, text in seen.items()} == {
        "test-one": ["nvidia-cublas-cu12==12.1", "nvidia-nccl-cu12==2.18", "torch==2.1", "x: not compiled, for a test"],
        "test-two": ["late==1.0", "nvidia-cublas-cu12==12.1", "nvidia-nccl-cu12==2.19", "torch==2.2"],
    }
    times = {
        module: sum(f"{module}.py" in names for names in layers)
        for module in ("nvidia_cublas_cu12", "nvidia_nccl_cu12", "torch")
    }
    assert times == {"nvidia_cublas_cu12": 1, "nvidia_nccl_cu12": 2, "torch": 2}


def example(name: str) -> str:
    """Return the file of that name that docs/stacks.md shows first."""
    found = re.search(rf'```\w+ title="{name}"\n(.*?)```', PAGE, re.DOTALL)
    assert found, name
    return found[1]


def test_a_stack_of_a_users_own_written_from_the_docs_runs_beside_the_others(
    client: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if gpus().found:
        pytest.skip("the base image that stands in for a published one has torch for the CPU alone")
    mine = tmp_path / "stacks" / "mine"
    mine.mkdir(parents=True)
    files = {name: example(name) for name in ("Dockerfile", "requirements.in", "stack.toml")}
    assert sum(len(text.splitlines()) for text in files.values()) < 30
    for name, text in files.items():
        (mine / name).write_text(text)
    # What the page's command makes of requirements.in: a pin with its hashes.
    pinned = (ROOT / "images" / "tinyllama" / "requirements.lock").read_text()
    (mine / "requirements.lock").write_text(re.search(r"^einops==.*?(?=^\S)", pinned, re.MULTILINE | re.DOTALL)[0])  # type: ignore[index]
    monkeypatch.setenv("STACKBENCH_BASE_IMAGE", os.environ.get("STACKBENCH_BASE_IMAGE", IMAGE))
    # The stack `cpu` stands in for the published image with torch that the example starts from.
    cpu = ensure_image(client, find_stacks([ROOT / "images"])["cpu"], say=print)
    base = "stackbench-test/torch:1"
    (tmp_path / "base").mkdir()
    (tmp_path / "base" / "Dockerfile").write_text(f"FROM {cpu}\nENV PATH=/opt/stack/bin:/usr/bin:/bin\n")
    client.images.build(path=str(tmp_path / "base"), tag=base, rm=True)
    command = [
        *(sys.executable, "-m", "orchestrator", "run-all", "--launcher", "docker", "--stacks", str(mine.parent)),
        *("--suite", "smoke", "--benchmark", "forward", "--method", "eager", "--results", str(tmp_path / "results")),
        *("--timeout", "600"),
    ]
    try:
        done = called(command, tmp_path, STACKBENCH_BASE_MINE=base)
        assert done.returncode == 0, (done.stdout + done.stderr)[-3000:]
        assert "stacks cpu, mine, in Docker" in done.stderr
        found = records(newest(tmp_path))
        assert {name: record["status"] for name, record in found.items()} == {"cpu": "ok", "mine": "ok"}
        packages = {name: record["environment"]["packages"] for name, record in found.items()}
        assert "einops" in packages["mine"]
        assert "einops" not in packages["cpu"]
        tables = (newest(tmp_path) / "tables.md").read_text()
        assert "`eager@mine`" in tables
        assert "`eager@cpu`" in tables
    finally:
        for tag in [tag for image in client.images.list("stackbench/mine") for tag in image.tags]:
            client.images.remove(tag, force=True)
        client.images.remove(base, force=True)
