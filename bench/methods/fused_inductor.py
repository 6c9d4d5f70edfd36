"""The operators of `fused` under torch.compile: whole graph, no tuning, CUDA graphs for generation alone.

liger-kernel's are the same kernels, each as one operator of torch's that the compiler does not look into.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor

from bench.methods import fused, inductor, inductor_default
from bench.model.traits import keywords
from bench.operators import fallbacks, liger
from bench.operators.fallbacks import Given
from bench.spec import Workload

LIGER: dict[str, Callable[..., Tensor]] = {}
"""Its operators, once they were asked for: a compiler that traces one must meet no import."""


def refuses(given: Given) -> str | None:
    """As for `fused`."""
    reason = fused.liger_refuses(given)
    if reason is None and not LIGER:
        LIGER.update(liger.opaque()._asdict())
    return reason


def norm(x: Tensor, weight: Tensor, eps: float) -> Tensor:
    """As `fused.liger_norm`."""
    return LIGER["norm"](x, weight, eps)


def rotary(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """As `fused.liger_rotary`, on a copy."""
    return LIGER["rotary"](x, cos, sin)


def swiglu(x: Tensor, gate: Tensor, up: Tensor, down: Tensor) -> Tensor:
    """As `fused.liger_swiglu`."""
    return F.linear(LIGER["product"](F.linear(x, gate), F.linear(x, up)), down)


OPERATORS = fused.with_liger(refuses, norm, rotary, swiglu)
operators = partial(fused.operators, OPERATORS)
report = partial(fallbacks.report, OPERATORS)


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


def compile_model(target: Callable[..., Any], workload: Workload) -> Callable[..., Any]:
    """Compile the model's forward, or the step; its operators are chosen in the first call, before anything is traced.

    The loss is not compiled: it chooses when it is called.
    """
    compiled = fused.compile_model(inductor.compile_model(target, workload, settings), workload)
    config, dtype = workload.model, getattr(torch, workload.dtype)
    assert config is not None
    sizes = {"norm": config.width, "attention": config.head_size, "swiglu": config.width}
    sizes["rotary"] = config.rotary_size or config.head_size
    asked = keywords(config)
    chosen = False

    def call(tokens: Tensor, *arguments: Any) -> Any:
        nonlocal chosen
        if not chosen:
            for name, size in sizes.items():
                getattr(OPERATORS, name).settle(Given(tokens.device.type, dtype, size, tuple(asked[name])))
            chosen = True
        return compiled(tokens, *arguments)

    return call


compile_step = compile_model
