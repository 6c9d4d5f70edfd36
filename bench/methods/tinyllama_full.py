"""TinyLlama's operators with everything fused: beside attention and rotary also RMSNorm, cross entropy and SwiGLU.

For SwiGLU each block's gate and up weights are laid side by side, as xformers' own module has them: then 0.0.22.post7
can take its packed operator in bfloat16 too, where weights that lie apart make it fall back to plain PyTorch.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor

from bench.methods import tinyllama
from bench.model.gpt import GPT
from bench.operators import Operators, fallbacks
from bench.operators.fallbacks import HALF, Implementation, WithFallbacks
from bench.spec import Workload

NORM, LOSS = "flash_attn.ops.rms_norm", "flash_attn.losses.cross_entropy"
TAKEN = (*HALF, torch.float32)


def norm(x: Tensor, weight: Tensor, eps: float) -> Tensor:
    """The extension `dropout_layer_norm`, which is compiled for some widths only."""
    return importlib.import_module(NORM).rms_norm(x, weight, eps)


def loss(logits: Tensor, targets: Tensor) -> Tensor:
    """The extension `xentropy_cuda_lib`; backward writes the gradient over the logits."""
    function = importlib.import_module(LOSS).CrossEntropyLoss(ignore_index=-1, inplace_backward=True)
    return function(logits.view(-1, logits.shape[-1]), targets.reshape(-1))


OPERATORS = Operators(
    attention=tinyllama.ATTENTION,
    rotary=tinyllama.ROTARY_IN_PLACE,
    swiglu=tinyllama.SWIGLU,
    norm=WithFallbacks(
        "norm", [Implementation("dropout_layer_norm", tinyllama.on_cuda(NORM, *TAKEN), norm, needs_trial=True)]
    ),
    loss=WithFallbacks(
        "loss", [Implementation("xentropy_cuda_lib", tinyllama.on_cuda(LOSS, *TAKEN), loss, needs_trial=True)]
    ),
)
PACKAGES = {**tinyllama.PACKAGES, "norm": NORM, "loss": LOSS}


def refuse(workload: Workload, device: str) -> str | None:  # noqa: ARG001
    """As `tinyllama`."""
    return tinyllama.refuse_without(PACKAGES, device)


operators = partial(fallbacks.forget, OPERATORS)
report = partial(fallbacks.report, OPERATORS)
compile_step = tinyllama.compile_step


def settings(workload: Workload) -> dict[str, Any]:  # noqa: ARG001
    """What is wanted of each operator, and which packages there are."""
    return {"operators": PACKAGES, "packages": tinyllama.versions(), "gate_and_up": "side by side"}


def expects(workload: Workload, device: str) -> tuple[str, ...]:
    """One sign of each operator."""
    wanted = [*tinyllama.expects(workload, device), r"kernel:\bln_fwd"]
    if getattr(torch, workload.dtype) in HALF:
        wanted.append("operator:^xformers::(swiglu|dual_gemm)")
    if workload.learning_rate is not None:
        wanted.append("kernel:SoftMaxXEntropy")
    return tuple(wanted)


def compile_model(model: GPT, workload: Workload) -> Callable[..., Any]:  # noqa: ARG001
    """Lay gate and up side by side; the values stay, and so do the parameters themselves."""
    if fallbacks.missing(tinyllama.XFORMERS) is None:
        for block in model.blocks:
            if not block.sparse:
                lay_side_by_side(block.gate.weight, block.up.weight)
    return model


@torch.no_grad()
def lay_side_by_side(*parameters: Tensor) -> None:
    """Move parameters of one shape into one piece of memory, one after the other."""
    together = torch.stack([parameter.data for parameter in parameters])
    for parameter, part in zip(parameters, together):  # noqa: B905  (as many as were stacked)
        parameter.data = part
