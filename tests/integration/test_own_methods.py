"""A user's own methods for real: one that is right and one that is wrong, in a plain process and in a container."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import sysconfig
from pathlib import Path
from typing import Any

import pytest
from fake_run import IMAGE
from places import ROOT

torch = pytest.importorskip("torch")

RIGHT = '''"""Eager by another name."""

from bench.methods import eager

refuse, operators, settings, expects = eager.refuse, eager.operators, eager.settings, eager.expects
compile_model = compile_step = eager.compile_model
'''
WRONG = '''"""Eager, and each logit is its neighbour's."""

from bench.methods import eager

refuse, operators, settings, expects = eager.refuse, eager.operators, eager.settings, eager.expects
compile_step = eager.compile_step


def compile_model(model, workload):
    return lambda *inputs: model(*inputs).roll(1, dims=-1)
'''
LACKING = RIGHT.replace("\nrefuse", "import a_package_that_no_stack_has\n\nrefuse", 1)
SUITE = """schema_version = 1
name = "mine"
description = "for a test"
references = false
[defaults]
weights = "probe"
dtype = "float32"
[models.one_layer]
layers = 1
width = 64
heads = 4
mlp_width = 176
vocabulary = 512
block_size = 256
[[cells]]
benchmark = "forward"
model = "one_layer"
batch = 2
sequence = 64
iterations = 5
warmup = 1
"""


def rows(folder: Path, *more: str) -> dict[str, dict[str, Any]]:
    """Run the three of them beside eager; return each method's record."""
    own = folder / "own"
    own.mkdir()
    for name, text in (("right", RIGHT), ("wrong", WRONG), ("lacking", LACKING)):
        (own / f"{name}.py").write_text(text)
    (folder / "mine.toml").write_text(SUITE)
    methods = [word for name in ("eager", "right", "wrong", "lacking") for word in ("--method", name)]
    command = [sys.executable, "-m", "orchestrator", "run-all", "--suite", "mine.toml", "--methods", "own", *methods]
    variables = {"STACKBENCH_STATE": "state", "STACKBENCH_LOCKS": "locks", "PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        [*command, "--results", "results", *more],
        cwd=folder,
        env={**os.environ, **variables, "STACKBENCH_PYTHON": sys.executable},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 1, done.stdout + done.stderr  # a row is wrong
    found = [json.loads(path.read_text()) for path in (folder / "results").glob("*/records/forward-*.json")]
    return {record["method"]: record for record in found}


def judge(found: dict[str, dict[str, Any]]) -> None:
    said = {name: record["status"] for name, record in found.items()}
    assert said == {"eager": "ok", "right": "ok", "wrong": "incorrect", "lacking": "unsupported"}
    assert found["wrong"]["reason"].startswith("forward: logits: error of the logits is ")
    assert "a_package_that_no_stack_has is not installed" in found["lacking"]["reason"]
    proofs = [found[name]["proof"] for name in ("eager", "right")]
    assert len({proof["weights_checksum"] for proof in proofs}) == 1
    assert all(check["status"] == "passed" for proof in proofs for check in proof["checks"])
    assert found["right"]["bench_source"] == found["eager"]["bench_source"]


def test_in_plain_processes(tmp_path: Path) -> None:
    judge(rows(tmp_path, "--launcher", "local", "--stack", "cpu"))


@pytest.mark.docker
@pytest.mark.skipif(sys.version_info[:2] != (3, 11), reason="the image's Python, 3.11, is to load this one's packages")
def test_in_containers(tmp_path: Path, client: Any) -> None:
    # Torch from this host, as a ready image with mounts has it: the container sees it read-only.
    packages = sysconfig.get_path("purelib")
    (tmp_path / "stack").mkdir()
    (tmp_path / "stack" / "stack.toml").write_text(
        'schema_version = 1\nname = "here"\ndescription = "for a test"\nmethods = ["eager"]\n'
        f'[ready]\nname = "{IMAGE}"\nmounts = ["{packages}"]\n'
        f'[environment]\nPYTHONPATH = "{packages}"\n[gpu]\naccess = "none"\n'
    )
    judge(rows(tmp_path, "--launcher", "docker", "--stacks", "stack", "--stack", "here"))
