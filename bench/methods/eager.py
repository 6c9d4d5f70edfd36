"""The model as it is: plain PyTorch, one kernel after the other."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from bench.methods import fused_attention
from bench.operators import Operators
from bench.spec import Workload


def refuse(workload: Workload, device: str) -> str | None:  # noqa: ARG001
    """Eager runs everywhere."""
    return None


def operators() -> Operators:
    """Plain PyTorch's."""
    return Operators()


def settings(workload: Workload) -> dict[str, Any]:  # noqa: ARG001
    """Nothing is set."""
    return {}


def expects(workload: Workload, device: str) -> tuple[str, ...]:
    """Matrix products; on a GPU one of torch's own fused attentions."""
    return ("matrix product",) if device == "cpu" else ("matrix product", *fused_attention(workload))


def compile_model(target: Callable[..., Any], workload: Workload) -> Callable[..., Any]:  # noqa: ARG001
    """Return the model, or the step, itself."""
    return target


compile_step = compile_model
