"""The wheel: what is in it, that it is the same for everybody, and that it runs where no checkout is."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import sysconfig
import zipfile
from pathlib import Path

import pytest
from places import ROOT

from orchestrator.base.files import bench_source
from orchestrator.build.image import content
from orchestrator.plan.stack import find_stacks

torch = pytest.importorskip("torch")  # cells run for real; and its environment has a setuptools that is pinned

BUILD = "import sys; from setuptools import build_meta; build_meta.build_wheel(sys.argv[1])"
FACTS = """
import json
from orchestrator.base import paths
from orchestrator.base.files import bench_source
from orchestrator.build.image import content
from orchestrator.plan.stack import find_stacks
from orchestrator.plan.choice import select_stacks
print(json.dumps({
    "stacks": {name: content(stack) for name, stack in find_stacks([paths.IMAGES]).items()},
    "sources": [bench_source(paths.BENCH), bench_source(paths.ORCHESTRATOR)],
    "places": [str(paths.RESULTS), str(paths.STATE)],
}))
"""


TWO = ("--benchmark", "forward", "--benchmark", "train_static")
"""Of the suite's five: all of them take a minute and a half of CPU time."""


def build(folder: Path) -> Path:
    """Build the wheel of this checkout in `folder`, with files in it that none must take along."""
    for name in ("bench", "orchestrator", "images"):
        shutil.copytree(ROOT / name, folder / name, ignore=shutil.ignore_patterns("__pycache__", "wheels"))
    for name in ("pyproject.toml", "setup.py", "MANIFEST.in", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, folder)
    for stray in ("images/cpu/wheels/torch.whl", "images/tinyllama/__pycache__/operators.pyc"):
        (folder / stray).parent.mkdir()
        (folder / stray).write_text("of this machine")
    command = [sys.executable, "-c", BUILD, str(folder / "dist")]
    epoch = {**os.environ, "SOURCE_DATE_EPOCH": "1700000000"}
    done = subprocess.run(command, cwd=folder, env=epoch, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    (wheel,) = (folder / "dist").glob("*.whl")
    return wheel


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build(tmp_path_factory.mktemp("one"))


@pytest.fixture(scope="module")
def installed(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A fresh environment with the wheel in it; what the wheel asks for is this environment's."""
    folder = tmp_path_factory.mktemp("installed")
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(folder)], check=True)
    pip = [sys.executable, "-m", "pip", "--python", str(folder / "bin" / "python"), "--quiet", "install"]
    # With the checkout on the path pip would take it for the package installed already.
    own = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    subprocess.run([*pip, "--no-deps", "--no-index", "--no-compile", str(wheel)], check=True, env=own)
    (site,) = folder.glob("lib/python*/site-packages")
    (site / "others.pth").write_text(sysconfig.get_path("purelib") + "\n")
    return folder


def run(installed: Path, command: list[str], folder: Path) -> subprocess.CompletedProcess[str]:
    kept = {name: value for name, value in os.environ.items() if name not in ("PYTHONPATH", "STACKBENCH_STATE")}
    environment = {**kept, "STACKBENCH_PYTHON": sys.executable, "PYTHONDONTWRITEBYTECODE": "1"}
    program = [str(installed / "bin" / command[0]), *command[1:]]
    return subprocess.run(program, cwd=folder, env=environment, capture_output=True, text=True, check=False)


def test_it_has_every_file_of_the_packages_and_of_the_stacks_and_no_other(wheel: Path) -> None:
    if not (ROOT / ".git").exists():
        pytest.skip("no git checkout")
    listed = subprocess.run(
        ["git", "ls-files", "--cached", "--others", "--exclude-standard", "bench", "orchestrator", "images"],
        cwd=ROOT, capture_output=True, text=True, check=True,
    )  # fmt: skip
    files = [name for name in listed.stdout.splitlines() if (ROOT / name).is_file()]
    wanted = {f"orchestrator/{name}" if name.startswith("images/") else name for name in files}
    wanted -= {f"orchestrator/images/{script}.py" for script in ("lock", "entrypoint")}
    names = {name for name in zipfile.ZipFile(wheel).namelist() if ".dist-info/" not in name}
    assert names == wanted


def test_it_is_the_same_wherever_it_is_built(wheel: Path, tmp_path: Path) -> None:
    assert build(tmp_path).read_bytes() == wheel.read_bytes()


def test_stacks_and_sources_are_those_of_the_checkout(installed: Path, tmp_path: Path) -> None:
    done = run(installed, ["python", "-c", FACTS], tmp_path)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout) == {
        "stacks": {name: content(stack) for name, stack in find_stacks([ROOT / "images"]).items()},
        "sources": [bench_source(ROOT / "bench"), bench_source(ROOT / "orchestrator")],
        "places": ["results", str(tmp_path / ".stackbench")],
    }


def test_the_smoke_suite_runs_in_an_empty_folder_and_the_installation_stays_as_it_was(
    installed: Path, tmp_path: Path
) -> None:
    def files() -> dict[Path, tuple[int, int]]:
        status = {path: path.lstat() for path in installed.rglob("*")}
        return {path: (found.st_mtime_ns, found.st_size) for path, found in status.items()}

    empty = tmp_path / "empty"
    empty.mkdir()
    before = files()
    modes = {path: path.stat().st_mode for path in installed.rglob("*") if not path.is_symlink()}
    for path, mode in modes.items():
        path.chmod(mode & ~0o222)
    try:
        done = run(installed, ["orchestrator", "run-all", "--launcher", "local", "--method", "eager", *TWO], empty)
    finally:
        for path, mode in modes.items():
            path.chmod(mode)
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stderr.startswith("suite smoke on the CPU, stacks cpu, in plain processes")
    assert done.stdout.count("\neager@cpu") == 2  # a short table for each
    assert sorted(path.name for path in empty.iterdir()) == [".stackbench", "results"]
    (folder,) = (empty / "results").iterdir()
    tables = (folder / "tables.md").read_text()
    assert tables.count("| `eager@cpu` | **") == 2
    assert "not checked" not in tables
    assert str(tmp_path) not in tables
    assert files() == before
    shown = run(installed, ["orchestrator", "table", "--format", "json"], empty)
    assert len(json.loads(shown.stdout)["rows"]) >= 2


def test_a_release_without_a_section_in_the_changelog_is_refused(tmp_path: Path) -> None:
    for name in ("Makefile", "CHANGELOG.md", "pyproject.toml"):
        shutil.copy(ROOT / name, tmp_path)
    command = ["make", "--no-print-directory", "changelog"]
    assert subprocess.run(command, cwd=tmp_path, check=False).returncode == 0
    text = (tmp_path / "pyproject.toml").read_text()
    (tmp_path / "pyproject.toml").write_text(text.replace('\nversion = "', '\nversion = "9.'))
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode != 0
    assert "CHANGELOG.md has no section of version 9." in done.stderr
