"""One step's gradients against the reference's, parameter by parameter, and what known mistakes look like.

An error is judged in units of the error that eager makes in the same precision on the same weights and inputs. Over
400 right runs (float64, float32, bfloat16; eager with other rounding orders, and Inductor) it was at most 1.9 for a
single parameter and 1.4 for all together.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping

import torch
from torch import Tensor

from bench.proof.reference import Reference

FACTOR = 2.5
# Least error that eager is granted, in the precision's eps and relative to the gradient.
FLOOR_EPS = 4.0
# Least distance of the loss that is granted, relative to it: in bfloat16 right losses are up to 1 % off.
LOSS_FLOOR = {torch.bfloat16: 0.02, torch.float16: 0.02, torch.float32: 1e-5, torch.float64: 1e-12}
WHOLE = "the whole"


class Truth:
    """What `training.make` wrote: sketches of the true gradients, their norms, and the errors that are granted."""

    def __init__(self, reference: Reference, dtype: torch.dtype) -> None:
        self.facts, self.dtype = reference.facts, dtype
        self.names: list[str] = reference.facts["parameters"]
        self.gradients = {name: reference.tensors[f"gradient/{name}"].cpu().double() for name in self.names}
        norms, errors = (reference.tensors[key].cpu().double() for key in ("norms", "errors"))
        self.norm, floor = float(norms.norm()), FLOOR_EPS * torch.finfo(dtype).eps
        self.alive = [name for name, norm in zip(self.names, norms.tolist(), strict=True) if norm > 0]
        # Of a gradient that is exactly zero: what is granted of all together.
        least = torch.where(norms > 0, norms, norms.norm()) * floor
        self.granted = dict(zip(self.names, torch.maximum(errors, least).tolist(), strict=True))

    def distances(self, found: Mapping[str, Tensor], scale: float = 1.0) -> dict[str, float]:
        """Norms of found / scale - true, by name."""
        return {name: float((found[name].double() / scale - true).norm()) for name, true in self.gradients.items()}

    def ratios(self, found: Mapping[str, Tensor], scale: float = 1.0) -> dict[str, float]:
        """Errors over what is granted: of all together (WHOLE), and by name."""
        single = self.distances(found, scale)
        whole = length(single.values()) / length(self.granted.values())
        return {WHOLE: whole, **{name: error / self.granted[name] for name, error in single.items()}}

    def explained(self, found: Mapping[str, Tensor], scale: float = 1.0) -> bool:
        """Whether the gradients are right once they are divided by `scale`."""
        return all(ratio <= FACTOR for ratio in self.ratios(found, scale).values())

    def scale(self, found: Mapping[str, Tensor]) -> float:
        """How many times the true gradients the found ones are, as far as they are alike."""
        return sum(float((found[name].double() * true).sum()) for name, true in self.gradients.items()) / self.norm**2

    def loss_limit(self) -> float:
        """Largest distance of a right loss."""
        loss, eager = self.facts["loss"], self.facts["eager_loss"]
        return max(FACTOR * abs(eager - loss), LOSS_FLOOR[self.dtype] * abs(loss))

    def mistaken_loss(self, loss: float) -> str | None:
        """The known mistake that makes this loss."""
        off = abs(loss - self.facts["loss"])
        if off <= self.loss_limit():
            return None
        if abs(loss - self.facts["all_counted"]) < off / 10:
            return "targets that are to be ignored count in the loss"
        if abs(loss - self.facts["all_divided"]) < off / 10:
            return "the loss is divided by all targets, also by those that are to be ignored"
        return None


def length(parts: Iterable[float]) -> float:
    """Root of the summed squares."""
    return math.sqrt(sum(part * part for part in parts))
