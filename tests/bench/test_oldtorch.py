"""The same cells under torch 2.1.0 and today's: all ok, same weights and inputs. Run by `make test-oldtorch`."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from places import ROOT

from orchestrator.base.paths import SUITES
from orchestrator.plan.workload import MEASURED
from orchestrator.records.record import Record
from orchestrator.records.store import read_record

pytestmark = pytest.mark.oldtorch
OLD, NEW = "STACKBENCH_TEST_OLD_PYTHON", "STACKBENCH_TEST_PYTHON"


def cells(python: str, folder: Path, *options: str) -> dict[tuple[str, str], Record]:
    """Run cells in plain processes of `python`; return their records by workload and method."""
    command = [sys.executable, "-m", "orchestrator", "run-all", "--stack", "cpu"]
    command += ["--launcher", "local", "--results", str(folder), *options]
    environment = {**os.environ, "STACKBENCH_PYTHON": str((ROOT / python).absolute())}
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
    records = [read_record(path) for path in folder.glob("*/records/*.json")]
    complaints = [f"{record.workload.benchmark} {record.method}: {record.status} {record.reason}" for record in records]
    assert done.returncode == 0, "\n".join([*complaints, done.stderr[-2000:]])
    return {(record.workload.workload_id, record.method): record for record in records}


@pytest.mark.skipif(not {OLD, NEW} <= os.environ.keys(), reason="run by `make test-oldtorch`")
def test_the_same_cells_under_the_oldest_torch_and_todays(tmp_path: Path):
    old, new = {}, {}
    for which, found in ((OLD, old), (NEW, new)):
        for suite in ("smoke", "engines-smoke"):
            found.update(cells(os.environ[which], tmp_path / which / suite, "--suite", suite, "--method", "eager"))
    assert set(MEASURED) <= {record.workload.benchmark for record in new.values()}
    assert set(old) == set(new)
    for key, mine in old.items():
        theirs = new[key]
        assert mine.environment
        assert (mine.environment.torch or "").startswith("2.1.0")
        assert theirs.environment
        assert not (theirs.environment.torch or "").startswith("2.1.0")
        assert mine.status == theirs.status == "ok"
        if mine.workload.benchmark in MEASURED:
            assert mine.proof
            assert theirs.proof
            assert mine.proof.weights_checksum
            assert mine.proof.weights_checksum == theirs.proof.weights_checksum
            assert mine.proof.inputs_checksum
            assert mine.proof.inputs_checksum == theirs.proof.inputs_checksum


@pytest.mark.skipif(OLD not in os.environ, reason="run by `make test-oldtorch`")
def test_the_oldest_torch_compiles_and_starts_again_over_its_cache(tmp_path: Path):
    # One benchmark: compiling takes nearly all of a cell's time.
    suite = tmp_path / "warm.toml"
    suite.write_text((SUITES / "smoke.toml").read_text().replace("warm = false", "warm = true"))
    found = cells(
        os.environ[OLD], tmp_path, "--suite", str(suite), "--method", "inductor", "--benchmark", "train_static"
    )
    (record,) = (record for record in found.values() if record.workload.benchmark == "train_static")
    assert record.status == "ok"
    assert "not_fused" not in record.flags
    assert record.compiles
    warm = record.compiles.warm
    assert warm
    assert warm.reason is None
    assert warm.first_ns
    # It keeps code by its source, and counts no lookups.
    assert (record.compiles.cache_hits, warm.cache_hits) == (None, None)
