"""A mixture of experts as plain PyTorch: the choice, and the products of each expert with its own tokens.

Nothing here waits for the device, or loops over experts, where torch has a grouped product that takes what comes
(bfloat16 on a GPU), or where the experts' weights are small enough to be gathered token by token.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F  # noqa: N812  (torch's own habit)
from torch import Tensor

from bench.spec import Workload

GATHERED = 1 << 25
"""Elements of weights that are copied together at most."""
ALIGNMENT = 8
"""Elements of bfloat16 that a row has to be a multiple of: 16 bytes."""


def activate(x: Tensor, activation: str) -> Tensor:
    """silu, or GELU by its approximation with tanh."""
    return F.silu(x) if activation == "silu" else F.gelu(x, approximate="tanh")


def route(scores: Tensor, active: int, chosen: Tensor | None, *, normalised: bool) -> tuple[Tensor, Tensor]:
    """(weights, chosen), both [tokens, active], of scores [tokens, experts].

    The weights are those of a softmax over all experts, in float32 at least, made to sum to 1 if `normalised`.
    `chosen`: by somebody else; None: those with the largest scores.
    """
    shares = torch.softmax(scores if scores.dtype == torch.float64 else scores.float(), dim=-1)
    if chosen is None:
        weights, chosen = torch.topk(shares, active, dim=-1)
    else:
        weights = shares.gather(1, chosen)
    if normalised:
        weights = weights / weights.sum(-1, keepdim=True)
    return weights.to(scores.dtype), chosen


def experts(  # noqa: PLR0917  (as a mixture is written: what comes, who takes it, their weights)
    x: Tensor, weights: Tensor, chosen: Tensor, gate: Tensor, up: Tensor, down: Tensor, *, activation: str = "silu"
) -> Tensor:
    """[tokens, width] -> the same: each token's experts, weighted, [tokens, active], and added.

    gate and up [experts, inner, width], down [experts, width, inner]. Tokens are sorted by expert and put back: no
    product is made that is not used.
    """
    tokens, active = chosen.shape
    whose = chosen.flatten()
    order = torch.argsort(whose, stable=True)
    sorted_by = whose[order]
    ends = torch.searchsorted(sorted_by, torch.arange(len(gate), device=x.device), right=True)
    rows = x[order // active]
    hidden = activate(products(rows, gate, sorted_by, ends), activation) * products(rows, up, sorted_by, ends)
    made = products(hidden, down, sorted_by, ends)
    back = torch.empty_like(order).scatter_(0, order, torch.arange(len(order), device=x.device))
    return (made[back].view(tokens, active, -1) * weights[..., None]).sum(1)


def products(x: Tensor, weight: Tensor, whose: Tensor, ends: Tensor) -> Tensor:
    """Rows [n, in], sorted by expert `whose` [n], each with its expert's weight [experts, out, in] -> [n, out].

    `ends` [experts]: where the rows of each expert end.
    """
    if grouped(x, weight):
        product: Tensor = torch._grouped_mm(x, weight.transpose(1, 2), offs=ends.int())  # noqa: SLF001
        return product
    if len(x) * weight[0].numel() <= GATHERED:
        return torch.bmm(weight[whose], x[:, :, None])[:, :, 0]
    begins = [0, *ends.tolist()]
    parts = zip(begins, begins[1:], weight)  # noqa: B905  (as many as there are experts)
    return torch.cat([F.linear(x[begin:end], one) for begin, end, one in parts])


def grouped(x: Tensor, weight: Tensor) -> bool:
    """Whether torch's grouped product takes them."""
    return has_grouped(x.device.type, x.dtype, weight.shape[1], weight.shape[2])


def has_grouped(device: str, dtype: torch.dtype, *sizes: int) -> bool:
    """Whether torch has a grouped product there: in other types it waits for the device, or is not there."""
    aligned = all(size % ALIGNMENT == 0 for size in sizes)
    return device == "cuda" and dtype == torch.bfloat16 and aligned and hasattr(torch, "_grouped_mm")


def loops(workload: Workload, device: str) -> str | None:
    """Why a workload's experts are gone through one by one, which no compiler can put into one graph; else None."""
    config = workload.model
    if config is None or config.experts is None:
        return None
    rows = (workload.batch or 1) * (workload.sequence or workload.prompt_length) * config.experts.active
    small = rows * config.experts.width * config.width <= GATHERED
    if small or has_grouped(device, getattr(torch, workload.dtype), config.width, config.experts.width):
        return None
    there = f"torch {torch.__version__} has no grouped matrix product of {workload.dtype} on {device}"
    return f"{there}: {config.experts.count} experts would be gone through one by one, which is not one graph"
