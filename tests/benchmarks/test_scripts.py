"""Every script of this folder says what it takes, and refuses what it does not take before it measures anything."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest
from places import ROOT

IMPORTS_TORCH = re.compile(r"^import torch\b", re.MULTILINE)
BAD = {
    "alarms.py": ["1", "0", "forwrd"],
    "engine_mixtures.py": ["1", "0", "wrong"],
    "gate.py": ["no-such-run"],
    "long_run.py": ["--cells", "19"],
    "many.py": ["--hosts", "0"],
    "near_ties.py": ["1", "0", "near"],
    "overhead.py": ["0"],
    "peers.py": ["--stack", "cpu", "--method", "no-such-method"],
    "sampler_power.py": ["0"],
    "scaling.py": ["1000", "0"],
    "several.py": ["--devices", "two", "--results", "results"],
    "telemetry.py": ["0"],
    "trip.py": ["--lst"],
    "verdicts.py": ["--draws", "0"],
}
"""Of each script."""


def marks(path: Path) -> list[pytest.MarkDecorator]:
    return [pytest.mark.torch] if IMPORTS_TORCH.search(path.read_text(encoding="utf-8")) else []


FOUND = [path for path in sorted((ROOT / "tests" / "benchmarks").glob("*.py")) if not path.name.startswith("test_")]
each_script = pytest.mark.parametrize("path", [pytest.param(path, marks=marks(path), id=path.name) for path in FOUND])


def run(path: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """One that goes on to measure is not waited for."""
    command = [sys.executable, str(path), *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=False, timeout=120, cwd=ROOT)


@each_script
def test_help(path: Path) -> None:
    done = run(path, "--help")
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.lower().startswith(f"usage: {path.name} ")


@each_script
def test_a_bad_argument(path: Path) -> None:
    done = run(path, *BAD[path.name])
    assert (done.returncode, done.stdout) == (2, "")
    assert "error: " in done.stderr.lower().splitlines()[-1]
    assert "Traceback" not in done.stderr
