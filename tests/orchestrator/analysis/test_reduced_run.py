"""The processes that read a large run beside one another: whoever ends this one ends them."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from places import ROOT
from record_samples import save_run, small_run

READS = """
import os, sys, time
from pathlib import Path
from orchestrator.analysis import reduced_run
from orchestrator.base.interrupt import Interrupted, interruptible

def share(paths):
    ready.with_name(f"{os.getpid()}.ready").touch()
    time.sleep(float(sys.argv[2]))
    return reduced_run.Reduction(), []

ready = Path(sys.argv[1])
reduced_run.SHARE, reduced_run._reduce_share = 1, share
os.sched_getaffinity = lambda _: range(2)
try:
    with interruptible():
        reduced_run.reduce_run(ready.parent, [])
except Interrupted as stop:
    sys.exit(stop.exit_code)
"""


def begun(folder: Path, seconds: float) -> tuple[subprocess.Popen[str], list[int]]:
    """Start a process whose shares take `seconds` each; return it, and its workers' numbers once they work."""
    process = subprocess.Popen(
        [sys.executable, "-c", READS, str(folder / "x"), str(seconds)],
        cwd=ROOT,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    while len(found := [int(path.stem) for path in folder.glob("*.ready")]) < 2:
        assert process.poll() is None, process.communicate()
        time.sleep(0.02)
    return process, found


def lives(pid: int) -> bool:
    try:
        return (Path("/proc") / str(pid) / "stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    except OSError:
        return False


def test_who_is_killed_outright_leaves_no_reader_behind(tmp_path: Path) -> None:
    process, workers = begun(save_run(tmp_path, small_run()), 600.0)
    process.kill()
    process.communicate()
    while any(map(lives, workers)):
        time.sleep(0.02)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_signal_to_all_of_them_is_one_stop(tmp_path: Path, number: signal.Signals) -> None:
    process, workers = begun(save_run(tmp_path, small_run()), 0.2)
    os.killpg(process.pid, number)
    assert process.communicate()[1] == ""
    assert process.returncode == 128 + number
    assert not any(map(lives, workers))
