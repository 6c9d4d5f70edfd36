"""Rounds of the fake bench, supervised as real ones are."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from fake_run import FAKE_BENCH, make_job, make_stack, make_task

from orchestrator.launchers.local import LocalLauncher
from orchestrator.measure.supervise import Task, supervise
from orchestrator.records.record import Record


def run(tmp_path: Path, method: str, *, gpu: str | None = None, change=lambda task: task) -> Record:
    launcher = LocalLauncher(FAKE_BENCH, lambda stack: Path(stack.python))
    prepared = launcher.prepare(make_stack())
    return supervise(launcher, prepared, change(make_task(method)), make_job(tmp_path), gpu=gpu)


def with_seed(task: Task, seed: int) -> Task:
    workload = task.cell.workload.model_copy(update={"seed": seed})
    return replace(task, cell=task.cell.model_copy(update={"workload": workload}))
