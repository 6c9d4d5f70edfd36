"""The operators that one would take today: liger-kernel's in Triton, and torch's own attention by flash or cuDNN.

Nothing compiles the model: the same operators under torch.compile are `fused_inductor`.
"""

from __future__ import annotations

import contextlib
import importlib
import os
from collections.abc import Callable
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor

from bench.environment import torch_version, version_of
from bench.methods import fused_attention, inductor
from bench.operators import Operators, fallbacks, heads_first
from bench.operators.fallbacks import AttentionWithFallbacks, Given, Implementation, Operator, Refuses, WithFallbacks
from bench.spec import Workload

PACKAGE = "liger_kernel.ops"
OLDEST = (2, 5)
"""The first torch whose attention shares keys among groups of queries."""
FLASH_FIRST = ("FLASH_ATTENTION", "CUDNN_ATTENTION", "EFFICIENT_ATTENTION", "MATH")
# cuDNN makes a plan for each new shape: it comes first where the shape stays and has no mask.
CUDNN_FIRST = ("CUDNN_ATTENTION", "FLASH_ATTENTION", "EFFICIENT_ATTENTION", "MATH")


FUNCTIONS = {
    "norm": ("rms_norm", "LigerRMSNormFunction"),
    "rotary": ("rope", "LigerRopeFunction"),
    "silu": ("swiglu", "LigerSiLUMulFunction"),
    "loss": ("cross_entropy", "LigerCrossEntropyFunction"),
}
LIGER: dict[str, Any] = {}
"""Its autograd functions, once they were asked for: a compiler that traces an operator must meet no import."""


def liger_refuses(given: Given) -> str | None:
    """Triton's own limits; its interpreter, for tests, takes a CPU's tensors."""
    if given.device == "cpu" and os.environ.get("TRITON_INTERPRET") != "1":
        return "Triton runs on no CPU"
    if given.dtype == torch.float64:
        return "takes no float64"
    reason = fallbacks.missing(PACKAGE)
    if reason is None and not LIGER:
        # By the submodules: no setting of the package's own replaces a function there.
        for kind, (module, name) in FUNCTIONS.items():
            LIGER[kind] = getattr(importlib.import_module(f"{PACKAGE}.{module}"), name)
    return reason


def liger_norm(x: Tensor, weight: Tensor, eps: float) -> Tensor:
    """Its mean square is in float32, its weight is applied in x's dtype; backward overwrites the gradient it gets."""
    return LIGER["norm"].apply(x, weight, eps, 0.0, "llama", True, None)


def too_old(first: tuple[int, int]) -> Refuses:
    """Refuses where torch is older than the first that has an operator."""
    return lambda _: None if torch_version() >= first else f"torch is older than {first[0]}.{first[1]}"


def torch_norm(x: Tensor, weight: Tensor, eps: float) -> Tensor:
    """The one of torch itself."""
    return F.rms_norm(x, (x.shape[-1],), weight, eps)


def liger_rotary(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """It turns queries and keys in one launch: here all of x as queries, beside one head that nobody reads.

    It takes [batch, heads, time, size], which it turns back, and it works in place, on a copy where x is part of a
    larger tensor. With tables of half the width it must be given the rotated size.
    """
    batch, time, _, size = x.shape
    unread = x.new_empty(batch, time, 1, size)
    arguments = (cos, sin, None, 1, size)
    turned, _ = LIGER["rotary"].apply(x.transpose(1, 2), unread.transpose(1, 2), *arguments)
    return turned.transpose(1, 2)


def liger_swiglu(x: Tensor, gate: Tensor, up: Tensor, down: Tensor) -> Tensor:
    """silu(gate) * up in one kernel, between matrix products of torch's.

    Its two factors are given though they are 1: with dynamic shapes Dynamo takes defaults for numbers that may change.
    """
    return F.linear(LIGER["silu"].apply(F.linear(x, gate), F.linear(x, up), 1.0, 1.0), down)


def liger_loss(logits: Tensor, targets: Tensor) -> Tensor:
    """Mean over targets that are not -1; forward already writes the gradient over the logits, where one is wanted."""
    flat = logits.view(-1, logits.shape[-1])
    nothing_else = (0.0, 0.0, "mean", None, False, False, False)
    return LIGER["loss"].apply(flat, targets.reshape(-1), None, -1, *nothing_else)[0]


def grouped_attention(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None, *, scale: float | None = None) -> Tensor:
    """Attention by torch; groups of queries share their keys without a copy."""
    q, k, v = heads_first(q), k.transpose(1, 2), v.transpose(1, 2)
    how: dict[str, Any] = {"is_causal": mask is None, "scale": scale, "enable_gqa": q.shape[1] != k.shape[1]}
    return F.scaled_dot_product_attention(q, k, v, attn_mask=mask, **how).transpose(1, 2)


RMS_NORM = Implementation("torch rms_norm", too_old((2, 4)), torch_norm)
SDPA = [Implementation("scaled_dot_product_attention", too_old(OLDEST), grouped_attention, takes=("scale",))]


def with_liger(refuses: Refuses, norm: Operator, rotary: Operator, swiglu: Operator) -> Operators:
    """The operators, with liger-kernel's norm, rotary embedding and SwiGLU as they are given.

    `refuses`: why they cannot take something, or None. Attention is torch's, and what it prefers is set elsewhere; the
    loss is never compiled, and so liger-kernel's as it is.
    """
    return Operators(
        norm=WithFallbacks("norm", [Implementation("liger RMSNorm", refuses, norm, needs_trial=True), RMS_NORM]),
        rotary=WithFallbacks("rotary", [Implementation("liger rope", refuses, rotary, needs_trial=True)]),
        attention=AttentionWithFallbacks(causal=SDPA, masked=SDPA),
        swiglu=WithFallbacks("swiglu", [Implementation("liger SiLUMul", refuses, swiglu, needs_trial=True)]),
        loss=WithFallbacks("loss", [Implementation("liger CrossEntropy", liger_refuses, liger_loss, needs_trial=True)]),
    )


OPERATORS = with_liger(liger_refuses, liger_norm, liger_rotary, liger_swiglu)


def refuse(workload: Workload, device: str) -> str | None:  # noqa: ARG001
    """Torch must be new enough to let a caller choose which attention to prefer."""
    if torch_version() < OLDEST:
        return f"torch {torch.__version__} is too old: before 2.5 nobody can set which attention it prefers"
    # liger-kernel's kernels are Triton's.
    return inductor.toolchain(device) if device == "cuda" and fallbacks.missing(PACKAGE) is None else None


def operators(chosen: Operators = OPERATORS) -> Operators:
    """liger-kernel's where they run.

    It is loaded before anything is timed: what Triton compiles in the first call is counted if it is there.
    """
    fallbacks.missing(PACKAGE)
    return fallbacks.forget(chosen)


report = partial(fallbacks.report, OPERATORS)


def settings(workload: Workload) -> dict[str, Any]:
    """The order in which attention is asked for, and liger-kernel's version."""
    return {"attention": list(backends(workload)), "liger-kernel": version_of("liger-kernel")}


def expects(workload: Workload, device: str) -> tuple[str, ...]:  # noqa: ARG001
    """One sign of each operator."""
    if workload.dtype == "float64":
        return ("matrix product",)
    kernels = ["rms_norm_forward", "triton_rope", "swiglu_forward"]
    if workload.learning_rate is not None:
        kernels.append("liger_cross_entropy")
    return ("matrix product", *fused_attention(workload), *(f"kernel:{name}" for name in kernels))


def backends(workload: Workload) -> tuple[str, ...]:
    """Attention's implementations, the preferred one first."""
    return CUDNN_FIRST if workload.benchmark in ("forward", "train_static") else FLASH_FIRST


def compile_model(target: Callable[..., Any], workload: Workload) -> Callable[..., Any]:
    """The model, or the step, itself, with attention's implementations in the order of `backends` around its calls.

    Backward follows forward's choice.
    """
    from torch.nn import attention

    wanted = [getattr(attention.SDPBackend, name) for name in backends(workload)]
    order: dict[str, Any] = {"set_priority": True} if torch_version() >= (2, 6) else {}

    def call(tokens: Tensor, *arguments: Any) -> Any:
        with attention.sdpa_kernel(wanted, **order) if tokens.is_cuda else contextlib.nullcontext():
            return target(tokens, *arguments)

    return call


compile_step = compile_model
