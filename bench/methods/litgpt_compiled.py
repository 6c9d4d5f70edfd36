"""LitGPT with the step for the next token compiled, as its command `generate` does it with `--compile`."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

from bench.methods import inductor, litgpt
from bench.spec import Workload

KIND = "engine"


def refuse(workload: Workload, device: str) -> str | None:
    """Say which package, or which part of the compiler, is missing here."""
    return litgpt.refuse(workload, device) or inductor.toolchain(device)


def settings(workload: Workload) -> dict[str, Any]:
    """The arguments of torch.compile and the configuration that LitGPT sets."""
    return {
        **litgpt.settings(workload),
        "compile": {"mode": "reduce-overhead"},
        "dynamo": {"automatic_dynamic_shapes": True},
        "inductor": {"triton.unique_kernel_names": True, "coordinate_descent_tuning": True},
    }


def load(folder: str, workload: Workload, device: str) -> litgpt.LitGPT:
    """Read the folder; the first call compiles."""
    import torch._dynamo.config as dynamo
    import torch._inductor.config as inductor_config

    dynamo.automatic_dynamic_shapes = True
    inductor_config.triton.unique_kernel_names = True
    inductor_config.coordinate_descent_tuning = True

    def compiled(step: Callable[..., Any]) -> Callable[..., Any]:
        return torch.compile(step, **settings(workload)["compile"])

    return litgpt.LitGPT(folder, workload, device, compiled)
