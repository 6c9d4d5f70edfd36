"""torch.compile as most people call it: no arguments but the whole graph, no tuning, no CUDA graphs.

Generation is the exception: its small steps are compiled with `reduce-overhead`, as public decoders do.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from bench.methods import inductor
from bench.spec import Workload

refuse = inductor.refuse
operators = inductor.operators


def settings(workload: Workload) -> dict[str, Any]:
    """The arguments of torch.compile; Inductor's configuration stays as it is."""
    return inductor.settings_with(workload, graphs=workload.new_tokens is not None, configuration={})


def expects(workload: Workload, device: str) -> tuple[str, ...]:
    """What is seen where Inductor really ran with these settings."""
    return inductor.expects_with(settings(workload), workload, device)


def compile_model(target: Callable[..., Any], workload: Workload) -> Callable[..., Any]:
    """Compile the model's forward, or the step that makes one token."""
    return inductor.compile_with(target, settings(workload))


compile_step = compile_model
