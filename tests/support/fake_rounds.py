"""Rounds of the fake bench, supervised as real ones are."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from fake_run import FAKE_BENCH, make_job, make_stack

from orchestrator.launchers import Job
from orchestrator.launchers.local import LocalLauncher
from orchestrator.measure.supervise import supervise
from orchestrator.records.record import Record


def run(tmp_path: Path, method: str, *, gpu: str | None = None, change=lambda job: job) -> Record:
    launcher = LocalLauncher(FAKE_BENCH, lambda stack: Path(stack.python))
    prepared = launcher.prepare(make_stack())
    return supervise(launcher, prepared, change(make_job(method, tmp_path, gpu=gpu)))


def with_seed(job: Job, seed: int) -> Job:
    workload = job.cell.workload.model_copy(update={"seed": seed})
    return replace(job, cell=job.cell.model_copy(update={"workload": workload}))
