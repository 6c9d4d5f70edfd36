"""torch.compile with Inductor and the settings of the note of November 2023.

Whole graph, coordinate-descent tuning, unique kernel names; CUDA graphs (`reduce-overhead`) everywhere but in
`forward` and under FSDP2; dynamic shapes where the workload's shapes are.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from functools import reduce
from typing import Any

import torch

from bench.environment import cannot_compile, torch_version
from bench.methods import eager, fused_attention
from bench.operators.experts import loops
from bench.spec import FSDP2, Workload
from bench.status import Infrastructure

Settings = Callable[[Workload], "dict[str, Any]"]

operators = eager.operators  # fusing them is the compiler's work


def refuse(workload: Workload, device: str) -> str | None:
    """Say which part of the compiler is missing here, or that experts cannot be one graph."""
    if workload and (reason := loops(workload, device)):
        return reason
    if sys.version_info >= (3, 12) and torch_version() < (2, 4):
        return f"torch {torch.__version__} cannot compile on Python {sys.version_info.major}.{sys.version_info.minor}"
    return toolchain(device)


def toolchain(device: str) -> str | None:
    """Say what is missing to compile with; Infrastructure where the cell's folder takes no libraries."""
    try:
        return cannot_compile(device)
    except OSError as error:
        where = "the cell's folder (is it mounted noexec, or full?)"
        raise Infrastructure(f"what a compiler makes cannot be loaded from {where}: {error}") from error


def settings(workload: Workload) -> dict[str, Any]:
    """The arguments of torch.compile and the Inductor configuration, as the record shows them."""
    tuning = {"coordinate_descent_tuning": True, "triton.unique_kernel_names": True}
    # A graph's weights stay in their place; FSDP2 gathers them anew in every step.
    graphs = workload.benchmark != "forward" and workload.parallel not in FSDP2
    return settings_with(workload, graphs=graphs, configuration=tuning)


def settings_with(workload: Workload, *, graphs: bool, configuration: dict[str, Any]) -> dict[str, Any]:
    """The same, with CUDA graphs or without, and with another Inductor configuration."""
    return {
        "compile": {
            "backend": "inductor",
            "fullgraph": True,
            "dynamic": workload.benchmark == "train_dynamic",
            "mode": "reduce-overhead" if graphs else "default",
        },
        "inductor": configuration,
    }


def compile_model(target: Callable[..., Any], workload: Workload, settings: Settings = settings) -> Callable[..., Any]:
    """Compile the model's forward, or the step that makes one token; nothing is compiled before the first call."""
    import torch._inductor.config as inductor

    chosen = settings(workload)
    for path, value in chosen["inductor"].items():
        *outer, last = path.split(".")
        setattr(reduce(getattr, outer, inductor), last, value)
    compiled: Callable[..., Any] = torch.compile(target, **chosen["compile"])
    return compiled


compile_step = compile_model


def expects(workload: Workload, device: str, settings: Settings = settings) -> tuple[str, ...]:
    """Inductor's own kernels, and CUDA graphs where the settings ask for them."""
    if device == "cpu":
        return ("compiled",)
    # A graph is recorded for one shape: where every sample has another, most of them replay none.
    graphs = settings(workload)["compile"]["mode"] == "reduce-overhead" and workload.benchmark != "train_dynamic"
    return ("Triton", *fused_attention(workload), *(("graph replay",) if graphs else ()))
