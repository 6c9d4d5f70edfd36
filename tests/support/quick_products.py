"""Products of bfloat16 matrices as torch makes them on a CPU, and quicker."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch
from torch import Tensor


@contextmanager
def quick_products() -> Iterator[None]:
    """On a CPU without instructions for bfloat16 torch's own take ten times as long as those of float32.

    They add in float32 and round once. So do these: only the order of the additions is another.
    """
    if torch.ops.mkldnn._is_mkldnn_bf16_supported():
        yield
        return
    library = torch.library.Library("aten", "IMPL")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that there was a kernel before
        for name in ("mm", "bmm"):
            library.impl(name, _rounded_once(getattr(torch.ops.aten, name)), "CPU")
    try:
        yield
    finally:
        library._destroy()


def _rounded_once(product: Callable[..., Tensor]) -> Callable[[Tensor, Tensor], Tensor]:
    def made(a: Tensor, b: Tensor) -> Tensor:
        if a.dtype is torch.bfloat16:
            return product(a.float(), b.float()).to(torch.bfloat16)
        return product.out(a, b, out=a.new_empty((*a.shape[:-1], b.shape[-1])))

    return made
