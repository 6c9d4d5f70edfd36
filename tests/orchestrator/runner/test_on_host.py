"""The half of a worker that runs on its own host: an order is done, and nobody who waits for it means its end."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest
from fake_run import FAKE_BENCH, make_job, make_stack
from places import ROOT
from processes import gone

from orchestrator.base.errors import InfrastructureError
from orchestrator.launchers import Prepared
from orchestrator.launchers.order import Answer, Order, read_answer, write_answer, write_order

COMMAND = [sys.executable, "-m", "orchestrator", "on-host"]


def ordered(folder: Path, method: str, *more: str, timeout_s: float = 60.0) -> subprocess.Popen[bytes]:
    job = make_job(method, folder, timeout_s)
    prepared = Prepared(make_stack(), sys.executable, "0" * 16)
    write_order(folder, Order(what="round", launcher="local", bench=FAKE_BENCH, prepared=prepared, job=job))
    variables = {**os.environ, "PYTHONPATH": str(ROOT), "STACKBENCH_STATE": str(folder / "state")}
    return subprocess.Popen(
        [*COMMAND, str(folder), *more], env=variables, stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )


def test_a_round_is_supervised_where_it_runs(tmp_path: Path) -> None:
    ordered(tmp_path, "good").communicate(timeout=60)
    record = read_answer(tmp_path, "node").record
    assert record is not None
    assert record.status == "ok"
    assert record.provenance is not None
    assert record.provenance.launcher == "local"
    assert (tmp_path / "log.txt").read_text() == "the log's only line\n"


def test_what_cannot_be_done_is_said(tmp_path: Path) -> None:
    write_order(tmp_path, Order(what="round", launcher="local", gpu="GPU-not-here"))
    done = subprocess.run(
        [*COMMAND, str(tmp_path)], env={**os.environ, "PYTHONPATH": str(ROOT)}, capture_output=True, check=False
    )
    assert done.returncode == 1
    with pytest.raises(InfrastructureError, match="node: this GPU is not here any more"):
        read_answer(tmp_path, "node")
    write_answer(tmp_path, Answer())
    (tmp_path / "answer.json").write_text("{")
    with pytest.raises(InfrastructureError, match="node: it left no answer that can be read"):
        read_answer(tmp_path, "node")


@pytest.mark.parametrize("how", ["stdin", "lease"])
def test_a_cell_ends_with_whoever_waits_for_it(tmp_path: Path, how: str) -> None:
    lease = tmp_path / "lease"
    lease.touch()
    with ordered(tmp_path, "hang", *(("--stdin",) if how == "stdin" else ("--lease", str(lease)))) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        for line in process.stdout:
            if b"first call" in line:
                break
        children = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
        assert children
        if how == "stdin":
            process.stdin.close()
        else:
            os.utime(lease, (time.time() - 3600,) * 2)
        assert process.wait(20) == 143
    assert all(gone(int(child)) for child in children)
    assert not (tmp_path / "answer.json").exists()
