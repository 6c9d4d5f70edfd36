"""What one step of SGD did to the weights, element by element: each must be a rounding of w - lr (g + wd w).

At a learning rate of 6e-4 bfloat16 hides almost everything a step does: hardly one element in 300 changes. So a step
is judged by its own gradient: each new weight must be one of the roundings that the optimizer's arithmetic allows.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from bench.model import hashing
from bench.model.gpt import GPT
from bench.model.shards import full, is_part, local
from bench.observe import sketch
from bench.parallel import ALONE, Team

# Roundings to the weights' precision in one step, beside the last: the sum of g and wd w, and where that precision is
# computed in also both coefficients and both products. A GPU computes the steps of half precisions in float32.
ROUNDINGS = {"cuda": 1, "cpu": 5}
FULL = (torch.float32, torch.float64)
BUCKETS = 4096
# Elements judged at once: what a CPU's cache holds, and so many that a GPU need not wait for launches.
PIECE = {"cuda": 1 << 24, "cpu": hashing.CHUNK_CPU}


@dataclass(frozen=True)
class Move:
    """What a step did to one parameter, or to several together."""

    elements: int
    changed: int
    """Elements whose value is another now."""
    bound: int
    """Elements that had to change: no legal rounding leaves them as they were."""
    illegal: int
    """Elements that are not a legal rounding, as where a gradient or a weight is not finite."""
    fed: bool
    """Whether any element of the gradient is not zero."""
    first: int | None = None
    """Place of the first illegal element in the flattened parameter."""
    sums: tuple[float, ...] | None = None
    """gg, gw, ww, ug, uw: products of gradient g, weight w and update u = w - w'; None where nothing is illegal."""
    rank: int | None = None
    """Whose part of the parameter that place is in, where each rank has another."""

    @property
    def finite(self) -> bool:
        """Whether gradient, weight and new weight are all numbers."""
        return self.sums is None or all(abs(value) < float("inf") for value in self.sums)

    @property
    def coefficients(self) -> tuple[float, float] | None:
        """(a, b) for which a g + b w is closest to an illegal update; a right one's are (lr, lr * weight decay)."""
        if self.sums is None or not self.finite:
            return None
        gg, gw, ww, ug, uw = self.sums
        determinant = gg * ww - gw * gw
        if determinant <= 1e-9 * gg * ww:
            return None
        return (ug * ww - uw * gw) / determinant, (uw * gg - ug * gw) / determinant


def together(moves: Mapping[str, Move]) -> Move:
    """All parameters' moves as one; its sums are of the parameters in which something is illegal."""
    every = list(moves.values())
    sums = [move.sums for move in every if move.sums is not None]
    return Move(
        **{key: sum(getattr(move, key) for move in every) for key in ("elements", "changed", "bound", "illegal")},
        fed=any(move.fed for move in every),
        sums=tuple(map(sum, zip(*sums, strict=True))) if sums else None,
    )


def legal(weight: Tensor, gradient: Tensor, rate: float, decay: float) -> tuple[Tensor, Tensor]:
    """Lowest and highest legal w' of each element, in the weight's dtype; mostly one value or two neighbours.

    Between them lies whatever comes of making any of the device's ROUNDINGS or leaving it out. `rate` and `decay` are
    not negative.
    """
    # Five steps of every row are judged so, whole models each time: no pass over the elements more than it takes.
    dtype, exact = weight.dtype, working(weight.dtype)
    w, g = weight.to(exact), gradient.to(exact)
    roundings = ROUNDINGS["cpu" if dtype in FULL else weight.device.type] * torch.finfo(dtype).eps / 2
    size = g.abs().mul_(rate * roundings)
    size.add_(w.abs(), alpha=rate * roundings * decay + 2 * torch.finfo(exact).eps)
    middle = w.sub(g.add(w, alpha=decay), alpha=rate)
    return (middle - size).to(dtype), middle.add_(size).to(dtype)


def within(x: Tensor, low: Tensor, high: Tensor) -> Tensor:
    """Whether each element lies between its bounds; what is not a number does not."""
    return (x >= low).logical_and_(x <= high)


def working(dtype: torch.dtype) -> torch.dtype:
    """What steps in `dtype` are judged in: float32 has no roundings of its own that bfloat16 would show."""
    return torch.float64 if dtype in FULL else torch.float32


def compare(before: Tensor, gradient: Tensor, after: Tensor, rate: float, decay: float) -> Move:
    """Judge one parameter's step; `before` may lie in the host's memory. Works piece by piece."""
    counts = []
    for w, g, new in pieces(before, gradient, after):
        low, high = legal(w, g, rate, decay)
        may_stay, right = within(w, low, high).sum(), within(new, low, high).sum()
        counts.append(torch.stack([(new != w).sum(), may_stay, right, g.any().long()]))
    changed, may_stay_count, right_count, fed = torch.stack(counts).sum(0).tolist()
    elements = after.numel()
    illegal, bound = elements - right_count, elements - may_stay_count
    first = first_illegal(before, gradient, after, rate, decay) if illegal else None
    sums = products(before, gradient, after) if illegal else None
    return Move(elements, changed, bound, illegal, bool(fed), first, sums)


def pieces(*tensors: Tensor) -> Iterator[list[Tensor]]:
    """Parallel pieces of flattened tensors, on the last one's device."""
    flat, device = [tensor.detach().reshape(-1) for tensor in tensors], tensors[-1].device
    size = PIECE[device.type]
    for start in range(0, flat[-1].numel(), size):
        yield [tensor[start : start + size].to(device) for tensor in flat]


def first_illegal(before: Tensor, gradient: Tensor, after: Tensor, rate: float, decay: float) -> int:
    """Place of the first element that is not a legal rounding; there must be one."""
    start = 0
    for w, g, new in pieces(before, gradient, after):
        low, high = legal(w, g, rate, decay)
        illegal = within(new, low, high).logical_not_()
        if bool(illegal.any()):
            return start + int(illegal.to(torch.int8).argmax())
        start += new.numel()
    raise ValueError("every element is a legal rounding")


def products(before: Tensor, gradient: Tensor, after: Tensor) -> tuple[float, ...]:
    """`Move.sums` of a step."""
    exact, sums = working(after.dtype), []
    for piece in pieces(before, gradient, after):
        w, g, new = (tensor.to(exact) for tensor in piece)
        update = w - new
        sums.append(torch.stack([g @ g, g @ w, w @ w, update @ g, update @ w]).to(torch.float64))
    return tuple(torch.stack(sums).sum(0).tolist())


class Watch:
    """What was seen while the optimizer stepped; made by `watching`.

    `steps` counts them. `missing` are parameters without a gradient; `moves` and, if `dtype` is given, `sketches` (of
    the gradients, in that dtype) are by name, of the last step. Needs memory for one copy of the weights, the host's
    where the device's is full.
    """

    def __init__(self, model: GPT, rate: float, decay: float, dtype: torch.dtype | None, team: Team = ALONE) -> None:
        self.parameters, self.team = dict(model.named_parameters()), team
        self.rate, self.decay, self.dtype = rate, decay, dtype
        self.steps = 0
        self.missing: list[str] = []
        self.moves: dict[str, Move] = {}
        self.sketches: dict[str, Tensor] = {}
        self._before: dict[str, Tensor] = {}

    @torch.no_grad()
    def begin(self) -> None:
        """Before a step: its gradients, and the weights."""
        self.steps += 1
        self.missing = [name for name, parameter in self.parameters.items() if parameter.grad is None]
        self._before = {name: copy(parameter) for name, parameter in self.parameters.items()}
        if self.dtype is not None:
            self.sketches = sketches(self.parameters, self.dtype)

    @torch.no_grad()
    def end(self) -> None:
        """After it: the weights again."""
        for name, parameter in self.parameters.items():
            before = self._before.pop(name)
            # Without a gradient SGD leaves a parameter alone; the missing gradient itself is named elsewhere.
            gradient, decay = parameter.grad, self.decay
            if gradient is None:
                gradient, decay = torch.zeros_like(parameter), 0.0
            self.moves[name] = compare(before, local(gradient), local(parameter), self.rate, decay)
        if any(map(is_part, self.parameters.values())):
            said = self.team.all(self.moves)
            self.moves = {name: of_parts([one[name] for one in said]) for name in self.moves}


def of_parts(parts: Sequence[Move]) -> Move:
    """One parameter's move, of which each rank has seen its own part."""
    wrong = next(((rank, part.first) for rank, part in enumerate(parts) if part.illegal), (None, None))
    return replace(together({str(rank): part for rank, part in enumerate(parts)}), rank=wrong[0], first=wrong[1])


@contextmanager
def watching(
    model: GPT,
    optimizer: torch.optim.Optimizer,
    rate: float,
    decay: float,
    dtype: torch.dtype | None = None,
    *,
    team: Team = ALONE,
) -> Iterator[Watch]:
    """Watch every `optimizer.step()` inside, judged at learning rate `rate` and weight decay `decay`."""
    watch = Watch(model, rate, decay, dtype, team)
    step, own = optimizer.step, "step" in vars(optimizer)

    def watched(*parts: Any, **named: Any) -> Any:
        watch.begin()
        result = step(*parts, **named)
        watch.end()
        return result

    # Not torch's own step hooks: once torch 2.1 has compiled something, they are dead for optimizers made later.
    optimizer.step = watched
    try:
        yield watch
    finally:
        if own:
            optimizer.step = step
        else:
            del optimizer.step


def reduced(gradient: Tensor, dtype: torch.dtype) -> Tensor:
    """A gradient as a sketch of up to 4096 numbers in `dtype`, in the host's memory."""
    return sketch.flat(full(gradient), BUCKETS, dtype).cpu()


def sketches(parameters: Mapping[str, Tensor], dtype: torch.dtype) -> dict[str, Tensor]:
    """Sketches of the parameters' gradients, by name; those without one are left out."""
    return {
        name: reduced(parameter.grad, dtype) for name, parameter in parameters.items() if parameter.grad is not None
    }


def copy(weight: Tensor) -> Tensor:
    """A copy beside the weight, or in the host's memory where the device's is full."""
    try:
        return local(weight.detach()).clone()
    except torch.cuda.OutOfMemoryError:
        return local(weight.detach()).to("cpu", copy=True)
