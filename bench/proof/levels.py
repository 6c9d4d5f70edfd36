"""How large an error may be: every limit is a multiple of what eager in the same precision shows.

Errors are relative, position by position: the norm of the logits' difference over the norm of the reference's logits.

Measured on models of two layers of width 64, on a CPU, over 1,750 runs with 114 seeds (other orders of rounding
in norm, rotary, attention and products; 32 positions or 6 steps): over eager's error right variants had at most

                     float32 hash    float32 probe    bf16 hash    bf16 probe
    all positions    1.4             2.1              1.4          2.4
    worst position   2.0             3.5              2.7          4.8

Pooled over many positions both errors scatter less: docs/proof.md has what quantisers show there. Right methods reach
1.28 over 256 positions and more (600 generations, `make alarms`).

and in float32 on a probe the known faults had: attention scale off by 1 % 3,700; norm epsilon 1e-5 for 1e-6 47,000 (on
the hash's own weights 400); GELU for SiLU 120,000; everything else at least 400,000.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor

from bench.spec import Workload

# Of all positions together. Right variants showed 1.5 at most, 1.7 on bf16 probes of one layer.
OVERALL = 2.0
# Of so many positions and more, together: finds what rounds the weights to eight bits.
POOL, POOLED = 256, 1.5
# Above this, over a pool, the method is `coarser` than eager: advice, since right methods of small models reach 1.5.
COARSER = 1.4
# Of one position, over eager's at the same position or eager's median, whichever is larger. Also of two outputs that
# should be one and differ in their bits: each has its own rounding, and right variants reached 2.8.
ROW = 4.0
# So many positions without a near tie of a router say enough of all.
CLEAR = 32
# On sharp weights one rounding may decide a position: right variants reached 5.2 there, in either precision.
ROW_SHARP = 6.0
# Over few positions both errors scatter: at 6 steps in bf16, on a probe, once 2.2 and 4.7 were seen.
FEW = 3.0


class Level:
    """Eager's own error [positions], never below what the precision's last bit makes.

    `ties` [positions]: what the other choice of experts makes at near ties (see `bench.proof.ties`), granted beside it.
    Positions where that is more than eager's error are left out of what is judged of all together, unless most are and
    fewer than CLEAR are left. `clear` are the others, `kept` those that are judged together; None: all. `together`: how
    many these are.
    """

    def __init__(self, eager: Tensor, dtype: torch.dtype, ties: Tensor | None = None) -> None:
        self.dtype, least = dtype, floor(dtype)
        clean = torch.nan_to_num(eager.double(), nan=0.0)
        usual = max(float(clean.median()), least)
        self.rows = clean.clamp(min=usual)
        self.clear: Tensor | None = None
        self.kept: Tensor | None = None
        self.tied, self.together = "", clean.numel()
        if ties is not None:
            tied = ties.double() > usual
            count = int(tied.sum())
            self.rows, clean = torch.hypot(self.rows, ties.double()), torch.hypot(clean, ties.double())
            self.tied = f"; {count} of {tied.numel()} positions have a near tie of a router" if count else ""
            self.clear = ~tied if count else None
            left = tied.numel() - count
            if count and left >= min(CLEAR, tied.numel() / 2):
                self.kept, self.together, clean = ~tied, left, clean[~tied]
        self.overall = max(rms(clean), least)

    def elsewhere(self, ties: Tensor) -> Level:
        """The level of other tokens, where near ties make `ties` [positions]."""
        return Level(torch.full_like(ties, self.overall), self.dtype, ties)

    def ratio(self, errors: Tensor) -> float:
        """Root of the mean squared error over eager's; NaN stays NaN."""
        return rms(errors if self.kept is None else errors[self.kept]) / self.overall

    def worst(self, errors: Tensor) -> tuple[float, int]:
        """(Largest ratio of a position's error to eager's, its place among them); a NaN is the largest.

        `errors` may end before the last position.
        """
        ratios = (errors.double() / self.rows[..., : errors.shape[-1]]).flatten()
        place = int(torch.nan_to_num(ratios, nan=float("inf")).argmax())
        return float(ratios[place]), place


def limit(factor: float, positions: int) -> float:
    """OVERALL or ROW for an error over so many positions."""
    return factor * (1 + FEW / positions**0.5)


def row_factor(workload: Workload) -> float:
    """ROW, or ROW_SHARP on a probe: in float32 every known fault is hundreds of times larger there."""
    return ROW_SHARP if workload.sharp else ROW


def overall(positions: int) -> float:
    """Limit of the error over all of so many positions together."""
    return limit(POOLED if positions >= POOL else OVERALL, positions)


def coarser(checks: Iterable[dict[str, Any]]) -> bool:
    """Whether the logits' error over a pool of positions is near that of fewer bits: said, not held against it.

    Where it is held against it, by the check itself, there is nothing left to say.
    """
    pooled = [item for item in checks if item["name"] == "logits" and item["value"] and item["limit"]]
    # Only a pool's limit is as low as that.
    return any(item["limit"] <= overall(POOL) and COARSER < item["value"] <= item["limit"] for item in pooled)


def floor(dtype: torch.dtype) -> float:
    """The least level: an eager that happens to hit the reference's own roundings must not make every other wrong.

    In float64 the reference is no more exact than what it judges: both have errors of some 10 last bits.
    """
    return torch.finfo(dtype).eps * (32.0 if dtype == torch.float64 else 1.0)


def rms(x: Tensor) -> float:
    """Root of the mean square."""
    return float(x.double().square().mean().sqrt())


def distance(a: Tensor, b: Tensor, norm: Tensor) -> Tensor:
    """Relative error of each position: a and b [..., n], norm [...]."""
    return (a - b).norm(dim=-1) / norm.clamp(min=torch.finfo(norm.dtype).tiny)
