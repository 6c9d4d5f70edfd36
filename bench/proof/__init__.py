"""The checks of what was timed, after timing: one module a benchmark, each with `make` and `check`.

    make(context, task) -> (tensors, facts)                 the reference of a workload, by an eager context
    check(context, task, reference, checks) -> facts        judge the callable that was timed; more for the proof

Every limit is relative to what eager in the same precision shows against the same reference.
"""

from __future__ import annotations

import importlib
from types import ModuleType

from bench.benchmarks import Context

# What is computed in the cell itself, beside what every cell needs: parameters times positions, seconds on a CPU.
IN_CELL = 2_000_000_000

MODULES = {
    "forward": "forward",
    "model_inference": "generation",
    "generation": "generation",
    "train_static": "training",
    "train_dynamic": "training",
}


def effort(context: Context) -> int:
    """Parameters times positions of one forward of the workload's inputs."""
    workload = context.workload
    parameters = sum(parameter.numel() for parameter in context.whole.parameters())
    prompt = len(workload.prompt or ()) + (workload.new_tokens or 0)
    return parameters * (workload.batch or 1) * (workload.sequence or prompt)


def module(benchmark: str) -> ModuleType:
    """The proof of a benchmark."""
    return importlib.import_module(f"{__name__}.{MODULES[benchmark]}")
