"""torch.compile as most people call it: no arguments but the whole graph, no tuning, no CUDA graphs.

Generation is the exception: its small steps are compiled with `reduce-overhead`, as public decoders do.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from bench.methods import inductor
from bench.model.gpt import GPT
from bench.spec import Workload

refuse = inductor.refuse
operators = inductor.operators


def settings(workload: Workload) -> dict[str, Any]:
    """The arguments of torch.compile; Inductor's configuration stays as it is."""
    generates = workload.new_tokens is not None
    return {
        "compile": {
            "backend": "inductor",
            "fullgraph": True,
            "dynamic": workload.benchmark == "train_dynamic",
            "mode": "reduce-overhead" if generates else "default",
        },
        "inductor": {},
    }


def expects(workload: Workload, device: str) -> tuple[str, ...]:
    """What is seen where Inductor really ran with these settings."""
    return inductor.expects_with(settings(workload), workload, device)


def compile_model(model: GPT, workload: Workload) -> Callable[..., Any]:
    """Compile the model's forward."""
    return inductor.compile_with(model, settings(workload))


def compile_step(step: Callable[..., Any], workload: Workload) -> Callable[..., Any]:
    """Compile the step that makes one token."""
    return inductor.compile_with(step, settings(workload))
