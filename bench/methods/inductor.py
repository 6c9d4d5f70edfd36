"""torch.compile with Inductor and the settings of the note of November 2023.

Whole graph, coordinate-descent tuning, unique kernel names; CUDA graphs (`reduce-overhead`) everywhere but in
`forward`; dynamic shapes where the workload's shapes are.
"""

from __future__ import annotations

import shutil
import sys
from collections.abc import Callable
from functools import reduce
from typing import Any

import torch

from bench.environment import compiler, torch_version
from bench.methods import FUSED_ATTENTION
from bench.operators import Operators
from bench.spec import Workload


def refuse(workload: Workload, device: str) -> str | None:  # noqa: ARG001
    """Say which part of the compiler is missing here."""
    if sys.version_info >= (3, 12) and torch_version() < (2, 4):
        return f"torch {torch.__version__} cannot compile on Python {sys.version_info.major}.{sys.version_info.minor}"
    if device == "cpu" and compiler() is None:
        return "Inductor needs a C++ compiler on a CPU, and no g++, clang++ or c++ is on the path; install g++"
    if device == "cuda" and shutil.which("gcc") is None and shutil.which("cc") is None:
        return "Triton needs a C compiler to load its kernels, and no gcc or cc is on the path; install gcc"
    return None


def operators() -> Operators:
    """Plain PyTorch's: fusing them is the compiler's work."""
    return Operators()


def settings(workload: Workload) -> dict[str, Any]:
    """The arguments of torch.compile and the Inductor configuration, as the record shows them."""
    tuning = {"coordinate_descent_tuning": True, "triton.unique_kernel_names": True}
    return settings_with(workload, graphs=workload.benchmark != "forward", configuration=tuning)


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


def expects(workload: Workload, device: str) -> tuple[str, ...]:
    """What is seen where Inductor really ran with these settings."""
    return expects_with(settings(workload), workload, device)


def compile_model(target: Callable[..., Any], workload: Workload) -> Callable[..., Any]:
    """Compile the model's forward, or the step that makes one token."""
    return compile_with(target, settings(workload))


compile_step = compile_model


def compile_with(target: Callable[..., Any], chosen: dict[str, Any]) -> Callable[..., Any]:
    """torch.compile `target` with what `settings` returned; nothing is compiled before the first call."""
    import torch._inductor.config as inductor

    for path, value in chosen["inductor"].items():
        *outer, last = path.split(".")
        setattr(reduce(getattr, outer, inductor), last, value)
    compiled: Callable[..., Any] = torch.compile(target, **chosen["compile"])
    return compiled


def expects_with(chosen: dict[str, Any], workload: Workload, device: str) -> tuple[str, ...]:
    """Inductor's own kernels, and CUDA graphs where `chosen` asks for them."""
    if device == "cpu":
        return ("compiled",)
    attention = () if workload.dtype == "float64" else (FUSED_ATTENTION,)
    # A graph is recorded for one shape: where every sample has another, most of them replay none.
    graphs = chosen["compile"]["mode"] == "reduce-overhead" and workload.benchmark != "train_dynamic"
    return ("Triton", *attention, *(("graph replay",) if graphs else ()))
