"""Makes this folder's helpers importable for all tests, and keeps tests off the host's own locks."""

from __future__ import annotations

import json
import os
import signal
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from bench_specs import run_bench, write_spec
from hypothesis import settings

# Under nohup it is ignored, and so it would be in every process that a test sends it to.
signal.signal(signal.SIGHUP, signal.SIG_DFL)
# How long an example takes says how busy the machine is, and nothing about the code.
settings.register_profile("stackbench", deadline=None)
settings.load_profile("stackbench")


@pytest.fixture(autouse=True)
def _own_locks(tmp_path: Path) -> Iterator[None]:
    # Not by the test's own monkeypatch: once that is undone it would wait for what runs on this host.
    with pytest.MonkeyPatch.context() as patched:
        patched.setenv("STACKBENCH_LOCKS", str(tmp_path / "locks"))
        yield


@pytest.fixture
def passable() -> Iterator[Path]:
    """A folder that every user gets through to: pytest shuts its own to others, and again whenever one more starts."""
    with tempfile.TemporaryDirectory(prefix="stackbench-passable-") as name:
        folder = Path(name)
        folder.chmod(0o755)
        yield folder


@pytest.fixture
def client() -> Any:
    """A real Docker Engine that has the image which others are built on; where there is none the test is skipped."""
    from fake_run import IMAGE

    from orchestrator.host import docker_engine as engine

    found = engine.answers()
    if found is None or not found.images.list(IMAGE):
        pytest.skip("no Docker Engine answers, or no image to build on")
    return found


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark the tests of every module that imports torch: `make test` runs them in the stack's own environment."""
    for item in items:
        if isinstance(item, pytest.Function) and hasattr(item.module, "torch"):
            item.add_marker(pytest.mark.torch)


@pytest.fixture(scope="session")
def inductor_cell(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Any]]:
    """Folder and record of a cell that bench's command compiled for real: once for all tests, for it takes long.

    Also of all workers of pytest-xdist, whose folders of temporary files lie in one.
    """
    from filelock import FileLock  # torch needs it too

    shared = tmp_path_factory.getbasetemp()
    if "PYTEST_XDIST_WORKER" in os.environ:
        shared = shared.parent
    folder = shared / "inductor"
    with FileLock(shared / "inductor.lock"):
        if not (folder / "record.json").exists():
            write_spec(folder, "forward", "inductor")
            done = run_bench(folder, "spec.json")
            assert done.returncode == 0, done.stderr
    return folder, json.loads((folder / "record.json").read_text())
