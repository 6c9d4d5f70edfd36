"""liger-kernel's norm, rotary embedding and SwiGLU product as torch's own operators, each one node to a compiler.

Traced through, their Triton kernels are not understood: from Triton 3.6 on torch.compile takes a kernel's float
argument for a constant of it (PyTorch issue 170049), holds every tensor that the kernel gets for changed, and copies
it; where shapes change, the tracing itself ends in an assertion. An operator of torch's says what it returns and what
its derivative is, and nothing beyond that is traced.

Nothing is overwritten here: an operator of torch's may not return what it was given. liger-kernel's own backward of
the product overwrites what forward kept, so that is copied.
"""

from __future__ import annotations

import functools
import importlib
from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor

OLDEST = (2, 4)
"""The first torch in which an operator can be made of Python functions and given a derivative."""


class Liger(NamedTuple):
    """The operators; sizes in elements."""

    norm: Callable[[Tensor, Tensor, float], Tensor]
    """x [..., width], weight [width], eps: x over its root mean square, times weight."""
    rotary: Callable[[Tensor, Tensor, Tensor], Tensor]
    """x [batch, time, heads, size], cos and sin [time, size / 2]: x turned, halves apart."""
    product: Callable[[Tensor, Tensor], Tensor]
    """gate and up of one shape: silu(gate) * up."""


@functools.cache
def opaque() -> Liger:
    """Define them with torch, once in a process.

    Raises:
        ImportError: liger-kernel or Triton is not there.
        AttributeError: torch is older than 2.4.

    """
    names = ("rms_norm", "rope", "swiglu")
    rms_norm, rope, swiglu = (importlib.import_module(f"liger_kernel.ops.{name}") for name in names)
    return Liger(norm_with(rms_norm), rotary_with(rope), product_with(swiglu))


def norm_with(rms_norm: Any) -> Callable[[Tensor, Tensor, float], Tensor]:
    """RMSNorm as Llama's: the mean square in float32, the weight applied in x's dtype."""
    how = {"offset": 0.0, "casting_mode": "llama", "row_mode": None}

    @torch.library.custom_op("stackbench::liger_norm", mutates_args=())
    def norm(x: Tensor, weight: Tensor, eps: float) -> tuple[Tensor, Tensor]:
        y, _, scale, *_ = rms_norm.rms_norm_forward(x.contiguous(), weight, eps, **how)
        return y, scale

    @norm.register_fake
    def _(x: Tensor, weight: Tensor, eps: float) -> tuple[Tensor, Tensor]:  # noqa: ARG001
        return x.new_empty(x.shape), x.new_empty(x.numel() // x.shape[-1], dtype=torch.float32)

    @torch.library.custom_op("stackbench::liger_norm_backward", mutates_args=())
    def backward(gradient: Tensor, x: Tensor, weight: Tensor, scale: Tensor) -> tuple[Tensor, Tensor]:
        block, warps = rms_norm.calculate_settings(x.shape[-1])
        rows = x.contiguous().view(-1, x.shape[-1])
        given = {**how, "casting_mode": rms_norm._CASTING_MODE_LLAMA.value}  # noqa: SLF001  (as forward hands it on)
        return rms_norm.rms_norm_backward(
            gradient.contiguous(), rows, weight, scale, BLOCK_SIZE=block, num_warps=warps, in_place=False, **given
        )

    @backward.register_fake
    def _(gradient: Tensor, x: Tensor, weight: Tensor, scale: Tensor) -> tuple[Tensor, Tensor]:  # noqa: ARG001
        return x.new_empty(x.shape), weight.new_empty(weight.shape)

    def keep(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor]) -> None:
        ctx.save_for_backward(inputs[0], inputs[1], output[1])

    def derive(ctx: Any, gradient: Tensor, _: Tensor | None) -> tuple[Tensor, Tensor, None]:
        return (*backward(gradient, *ctx.saved_tensors), None)

    norm.register_autograd(derive, setup_context=keep)
    return lambda x, weight, eps: norm(x, weight, eps)[0]


def rotary_with(rope: Any) -> Callable[[Tensor, Tensor, Tensor], Tensor]:
    """The rotary embedding; its derivative is the turn back."""
    rotary = turning("stackbench::liger_rotary", rope.rope_forward)
    backward = turning("stackbench::liger_rotary_backward", rope.rope_backward)

    def keep(ctx: Any, inputs: tuple[Tensor, Tensor, Tensor], output: Tensor) -> None:  # noqa: ARG001
        ctx.save_for_backward(inputs[1], inputs[2])

    def derive(ctx: Any, gradient: Tensor) -> tuple[Tensor, None, None]:
        return backward(gradient, *ctx.saved_tensors), None, None

    rotary.register_autograd(derive, setup_context=keep)
    return rotary


def turning(name: str, function: Callable[..., Any]) -> Any:
    """An operator that turns x one way.

    The kernel turns queries and keys in one launch: here all of x as queries, beside one head that nobody reads.
    """

    @torch.library.custom_op(name, mutates_args=())
    def turn(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
        batch, time, _, size = x.shape
        whole = x.clone(memory_format=torch.contiguous_format)  # it turns in place
        unread = x.new_empty(batch, time, 1, size)
        turned = function(whole.transpose(1, 2), unread.transpose(1, 2), cos, sin, None, 1, size)[0]
        return turned.transpose(1, 2)

    @turn.register_fake
    def _(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:  # noqa: ARG001
        return x.new_empty(x.shape)

    return turn


def product_with(swiglu: Any) -> Callable[[Tensor, Tensor], Tensor]:
    """silu(gate) * up in one kernel; backward computes the product's parts again."""

    @torch.library.custom_op("stackbench::liger_silu_product", mutates_args=())
    def product(gate: Tensor, up: Tensor) -> Tensor:
        return swiglu.swiglu_forward(gate.contiguous(), up.contiguous())[-1]

    @product.register_fake
    def _(gate: Tensor, up: Tensor) -> Tensor:  # noqa: ARG001
        return gate.new_empty(gate.shape)

    @torch.library.custom_op("stackbench::liger_silu_product_backward", mutates_args=())
    def backward(gradient: Tensor, gate: Tensor, up: Tensor) -> tuple[Tensor, Tensor]:
        own = [x.clone(memory_format=torch.contiguous_format) for x in (gate, up)]
        towards_gate, towards_up = swiglu.swiglu_backward(*own, gradient.contiguous())
        return towards_gate, towards_up

    @backward.register_fake
    def _(gradient: Tensor, gate: Tensor, up: Tensor) -> tuple[Tensor, Tensor]:  # noqa: ARG001
        return gate.new_empty(gate.shape), up.new_empty(up.shape)

    def keep(ctx: Any, inputs: tuple[Tensor, Tensor], output: Tensor) -> None:  # noqa: ARG001
        ctx.save_for_backward(*inputs)

    def derive(ctx: Any, gradient: Tensor) -> tuple[Tensor, Tensor]:
        return backward(gradient, *ctx.saved_tensors)

    product.register_autograd(derive, setup_context=keep)
    return product
