"""A sleep planted in one sample of a real cell: found from outside, named, measured again, left out of the figure."""

from __future__ import annotations

import json
import shutil
import sys
from dataclasses import replace
from pathlib import Path

import pytest
from places import ROOT

torch = pytest.importorskip("torch")
pytest.importorskip("pynvml")

from bench_specs import workload  # noqa: E402
from fake_run import make_job, make_stack  # noqa: E402

from orchestrator.analysis.protocol import steady  # noqa: E402
from orchestrator.launchers.local import LocalLauncher  # noqa: E402
from orchestrator.measure.supervise import supervise  # noqa: E402
from orchestrator.plan.workload import Workload  # noqa: E402
from orchestrator.records.record import Record  # noqa: E402

BENCH = ROOT / "bench"
SLEEPY = '''
"""Eager, but for one call that sleeps."""
import time
from bench.methods.eager import compile_model as _model, expects, operators, refuse, settings
CALLS = []

def sleepy(function):
    def call(*arguments, **more):
        CALLS.append(None)
        if len(CALLS) == {call}:
            time.sleep(3.0)
        return function(*arguments, **more)
    return call

def compile_model(model, workload):
    return sleepy(_model(model, workload))

def compile_step(step, workload):
    return sleepy(step)
'''
NEW_TOKENS = 6


def run(tmp_path: Path, benchmark: str, call: int) -> Record:
    bench = tmp_path / "stackbench" / "bench"
    shutil.copytree(BENCH, bench, ignore=shutil.ignore_patterns("__pycache__"))
    (bench / "methods" / "sleepy.py").write_text(SLEEPY.replace("{call}", str(call)))
    launcher = LocalLauncher(bench, lambda stack: Path(stack.python))
    what = workload(benchmark, iterations=14, warmup=2, dtype="float32")
    job = make_job("sleepy", tmp_path, 120.0, threads=1)
    cell = job.cell.model_copy(update={"workload": Workload.model_validate_json(json.dumps(what))})
    prepared = launcher.prepare(make_stack(sys.executable))
    return supervise(launcher, prepared, replace(job, cell=cell))


@pytest.mark.parametrize("benchmark", ["forward", "generation", "train_dynamic"])
def test_a_sleep_in_one_sample_is_found_and_measured_again(tmp_path: Path, benchmark: str) -> None:
    calls = NEW_TOKENS if benchmark == "generation" else 1
    record = run(tmp_path, benchmark, 8 * calls + 1)
    assert record.status == "ok", record.reason
    tainted = [(sample.index, sample.phase) for sample in record.samples if sample.taint]
    assert (8, "timed") in tainted
    assert (8, "repeat") in [(sample.index, sample.phase) for sample in record.samples]
    assert "tainted" not in record.flags
    reduced = steady(record)
    assert reduced.seconds is not None
    assert reduced.seconds < 3.0 or benchmark == "train_dynamic"
    assert max(reduced.walls, default=0.0) < 3.0
