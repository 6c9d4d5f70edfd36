"""TinyLlama's fused operators as the note of November 2023 really ran them: attention and rotary, and no more.

Attention is flash-attn's, rotary its CUDA extension `rotary_emb`, in place. SwiGLU is called through xformers, which
decides by itself: for bfloat16 weights that lie apart, 0.0.22.post7 takes its plain operator and does not say so.
Norm and loss are plain, since the note's two configurations asked for no others. `tinyllama_full` has all fused.
"""

from __future__ import annotations

import importlib
from functools import partial
from typing import Any

import torch
from torch import Tensor

from bench.environment import version_of
from bench.methods import eager
from bench.operators import Operators, fallbacks
from bench.operators.fallbacks import HALF, AttentionWithFallbacks, Given, Implementation, Refuses, WithFallbacks
from bench.spec import Workload

FLASH, ROTARY, XFORMERS = "flash_attn.flash_attn_interface", "rotary_emb", "xformers.ops"


def on_cuda(module: str, *dtypes: torch.dtype) -> Refuses:
    """Refuses other devices, other dtypes where some are given, and a module that is not there."""

    def refuses(given: Given) -> str | None:
        if given.device != "cuda":
            return "runs on CUDA only"
        if dtypes and given.dtype not in dtypes:
            return f"takes no {name_of(given.dtype)}"
        return fallbacks.missing(module)

    return refuses


def flash(q: Tensor, k: Tensor, v: Tensor, mask: None, *, scale: float | None = None) -> Tensor:  # noqa: ARG001
    """Causal attention; flash-attn pads a head of 100 to 104 by itself, and shares keys among groups of queries."""
    return importlib.import_module(FLASH).flash_attn_func(q, k, v, softmax_scale=scale, causal=True)


class RotaryInPlace(torch.autograd.Function):
    """Turns x where it lies. Autograd does not learn that x changed: it would copy the whole of q, k and v in backward.

    That is safe since x is a part of a linear layer's result, which no gradient asks for. Backward makes a new tensor:
    the gradient that comes in is not ours to change.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
        """Turn x [batch, time, heads, size]; tables [time, size / 2] in x's dtype."""
        first, second = x.chunk(2, dim=-1)
        apply_rotary(first, second, cos[:, None], sin[:, None], first, second, False)
        ctx.save_for_backward(cos, sin)
        return x

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None, None]:
        """Turn the gradient the other way."""
        cos, sin = ctx.saved_tensors
        turned = torch.empty_like(gradient)
        apply_rotary(*gradient.chunk(2, dim=-1), cos[:, None], sin[:, None], *turned.chunk(2, dim=-1), True)
        return turned, None, None


def apply_rotary(*arguments: Any) -> None:
    """The extension's one function: halves, cosine, sine, where the turned halves go, and whether to turn back."""
    importlib.import_module(ROTARY).apply_rotary(*arguments)


class Rotary:
    """`rotary_emb` wants tables in the dtype of what it turns: they are rounded once, not in every layer again."""

    def __init__(self) -> None:
        self.last: tuple[Tensor, torch.dtype, Tensor, Tensor] | None = None

    def __call__(self, x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
        """As `operators.rotary`; x is changed."""
        if self.last is None or self.last[0] is not cos or self.last[1] != x.dtype:
            self.last = cos, x.dtype, cos.to(x.dtype), sin.to(x.dtype)
        turned: Tensor = RotaryInPlace.apply(x, self.last[2], self.last[3])
        return turned


def swiglu(x: Tensor, gate: Tensor, up: Tensor, down: Tensor) -> Tensor:
    """SwiGLU by xformers, which chooses its operator for each call."""
    return importlib.import_module(XFORMERS).swiglu(x, gate, None, up, None, down, None)


def swiglu_called(x: Tensor, gate: Tensor, up: Tensor, down: Tensor) -> str:
    """Name what xformers dispatches to, by asking its own dispatch object with the arguments of a call."""
    dispatch = importlib.import_module(f"{XFORMERS}.swiglu_op").SwiGLUOpDispatch
    flat = x.reshape(-1, x.shape[-1])
    chosen = dispatch.from_arguments(flat, gate, None, up, None, down, None).op
    return f"xformers {chosen} ({why_plain(x)})" if chosen.NAME == "eager" else f"xformers {chosen}"


def why_plain(x: Tensor) -> str:
    """Why xformers 0.0.22 takes its plain SwiGLU for x: the conditions of its fused ones, of which it says nothing."""
    if not x.is_cuda:
        return "its fused ones run on CUDA only"
    if x.dtype not in HALF:
        return f"its fused ones take no {name_of(x.dtype)}"
    return f"its fused ones take {name_of(x.dtype)} only where gate and up lie side by side"


ATTENTION = AttentionWithFallbacks(
    causal=[Implementation("flash_attn_func", on_cuda(FLASH, *HALF), flash, needs_trial=True, takes=("scale",))],
    # A cache, whose slots are masked, is not read by it.
    masked=[Implementation("flash_attn_func", lambda _: "takes no mask", flash)],
)
ROTARY_IN_PLACE = WithFallbacks(
    "rotary", [Implementation("rotary_emb, in place", on_cuda(ROTARY), Rotary(), needs_trial=True)]
)
# xformers takes whatever comes; what it then dispatches to is another matter.
SWIGLU = WithFallbacks(
    "swiglu", [Implementation("xformers swiglu", lambda _: fallbacks.missing(XFORMERS), swiglu, swiglu_called)]
)
OPERATORS = Operators(attention=ATTENTION, rotary=ROTARY_IN_PLACE, swiglu=SWIGLU)
PACKAGES = {"attention": FLASH, "rotary": ROTARY, "swiglu": XFORMERS}


def refuse(workload: Workload, device: str) -> str | None:  # noqa: ARG001
    """On a GPU at least one of the operators must be there; on a CPU the plain ones stand in and the record says so."""
    return refuse_without(PACKAGES, device)


def refuse_without(packages: dict[str, str], device: str) -> str | None:
    """Why none of `packages` can be used, operator by operator."""
    reasons = {name: fallbacks.missing(module) for name, module in packages.items()}
    if device == "cpu" or None in reasons.values():
        return None
    return "none of its operators is there: " + "; ".join(f"{name}: {reason}" for name, reason in reasons.items())


operators = partial(fallbacks.forget, OPERATORS)
report = partial(fallbacks.report, OPERATORS)
compile_model = compile_step = eager.compile_model


def settings(workload: Workload) -> dict[str, Any]:  # noqa: ARG001
    """What is wanted of each operator, and which packages there are."""
    return {"operators": {**PACKAGES, "norm": None, "loss": None}, "packages": versions()}


def expects(workload: Workload, device: str) -> tuple[str, ...]:  # noqa: ARG001
    """flash-attn's own kernel and the rotary extension's; SwiGLU as it comes."""
    rotary = "kernel:apply_rotary"
    if getattr(torch, workload.dtype) not in HALF:
        return "matrix product", rotary
    return "matrix product", rotary, r"kernel:(?<!pytorch_flash::)\bflash_fwd"


def versions() -> dict[str, str | None]:
    """The packages' versions; None for what is not installed."""
    return {package: version_of(package) for package in ("flash-attn", "xformers")}


def name_of(dtype: torch.dtype) -> str:
    """bfloat16 rather than torch.bfloat16."""
    return str(dtype).removeprefix("torch.")
