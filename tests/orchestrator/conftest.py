"""What tests of several rooms begin with."""

from __future__ import annotations

from pathlib import Path

import pytest


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder for stacks, suites and results of a test's own, whose cells are the fake bench's."""
    from fake_run import FAKE_BENCH

    from orchestrator.launchers import work_area
    from orchestrator.runner import run_all

    for module in (work_area, run_all):
        monkeypatch.setattr(module, "STATE", tmp_path / "state")
    monkeypatch.setattr(work_area, "BENCH", FAKE_BENCH)
    return tmp_path
