"""The operators of `fused` under torch.compile: whole graph, no tuning, CUDA graphs for generation alone."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from bench.dispatched import Given
from bench.gpt import GPT
from bench.methods import fused, inductor, inductor_default
from bench.spec import Workload

operators, report = fused.operators, fused.report


def refuse(workload: Workload, device: str) -> str | None:
    """As `fused` and `inductor`."""
    return fused.refuse(workload, device) or inductor.refuse(workload, device)


def settings(workload: Workload) -> dict[str, Any]:
    """Those of both."""
    return {**fused.settings(workload), **inductor_default.settings(workload)}


def expects(workload: Workload, device: str) -> tuple[str, ...]:
    """Signs of Inductor and of each operator; what Inductor launches shows as kernels."""
    seen = inductor_default.expects(workload, device)
    return (*seen, *(sign for sign in fused.expects(workload, device) if sign not in seen and sign != "matrix product"))


def compile_model(model: GPT, workload: Workload) -> Callable[..., Any]:
    """Compile the model's forward, its operators chosen beforehand."""
    return settled(inductor.compile_with(model, settings(workload)), workload)


def compile_step(step: Callable[..., Any], workload: Workload) -> Callable[..., Any]:
    """Compile the step that makes one token, its operators chosen beforehand."""
    return settled(inductor.compile_with(step, settings(workload)), workload)


def settled(compiled: Callable[..., Any], workload: Workload) -> Callable[..., Any]:
    """Choose the operators in the first call, before anything is traced.

    The loss is not compiled: it chooses when it is called.
    """
    preferring = fused.preferring(compiled, workload)
    config, dtype = workload.model, getattr(torch, workload.dtype)
    assert config is not None
    sizes = {"norm": config.width, "rotary": config.head_size, "attention": config.head_size, "swiglu": config.width}
    chosen = False

    def call(tokens: Tensor, *arguments: Any) -> Any:
        nonlocal chosen
        if not chosen:
            for name, size in sizes.items():
                getattr(fused.OPERATORS, name).settle(Given(tokens.device.type, dtype, size))
            chosen = True
        return preferring(tokens, *arguments)

    return call
