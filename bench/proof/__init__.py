"""The checks of what was timed, after timing: one module a benchmark, each with `make` and `check`.

    make(context, task) -> (tensors, facts)                 the reference of a workload, by an eager context
    check(context, task, reference, checks) -> facts        judge the callable that was timed; more for the proof

Every limit is relative to what eager in the same precision shows against the same reference.
"""

from __future__ import annotations

import importlib
from types import ModuleType

MODULES = {
    "forward": "forward",
    "model_inference": "generation",
    "generation": "generation",
    "train_static": "training",
    "train_dynamic": "training",
}


def module(benchmark: str) -> ModuleType:
    """The proof of a benchmark."""
    return importlib.import_module(f"{__name__}.{MODULES[benchmark]}")
