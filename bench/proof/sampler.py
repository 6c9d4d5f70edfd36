"""Were tokens drawn from the distribution that the logits make? Three tests, each with a bound on its false alarms.

The probability integral transform turns each draw into a number that is uniform where the distribution is right; ties
within a token are broken by the hash. Kolmogorov and Smirnov's distance of those numbers to uniform is judged by the
bound of Dvoretzky, Kiefer, Wolfowitz and Massart, which holds for any number of draws; once in the order of the ids,
which finds shifted or missing ids, and once in the order of the probabilities, which finds a wrong temperature or a
cut tail. The mean log-probability is judged by Chernoff's bound from the distributions' own cumulants.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from bench.model import hashing

# A right sampler fails one test once in a million cells.
ALARM = 1e-6
# Exponents of Chernoff's bound; any value gives a valid bound, the best of these is near the optimum.
EXPONENTS = tuple(2.0**power for power in range(-7, 3)) + tuple(-(2.0**power) for power in range(-7, 0))
PIECE = 64


@dataclass(frozen=True)
class Draws:
    """What was seen of draws, [n] float64: both transforms in [0, 1], the drawn tokens' log-probabilities.

    `cumulants`: for each of EXPONENTS the sum over the draws' distributions.
    """

    by_id: Tensor
    by_probability: Tensor
    log_p: Tensor
    cumulants: tuple[float, ...]

    @property
    def p_value(self) -> tuple[float, str]:
        """(The smallest bound of the three tests, which test)."""
        tests = {
            "order of ids": uniform_bound(self.by_id),
            "order of probabilities": uniform_bound(self.by_probability),
            "mean log-probability": chernoff_bound(float(self.log_p.sum()), self.cumulants),
        }
        worst = min(tests, key=lambda name: tests[name])
        return tests[worst], worst


def look(logits: Tensor, tokens: Tensor, temperature: float, name: str) -> Draws:
    """Of `tokens` [n] drawn from logits [n, vocabulary] (or [1, vocabulary] for all) over `temperature`.

    `name` is the hash stream that breaks ties.
    """
    by_id, by_probability, owns = [], [], []
    cumulants = torch.zeros(len(EXPONENTS), dtype=torch.float64)
    inner = hashing.unit(hashing.words(0, tokens.numel(), hashing.keys(f"draws/{name}", 0), tokens.device)).double()
    for start in range(0, tokens.numel(), PIECE):
        drawn, part = tokens[start : start + PIECE, None], slice(start, start + PIECE)
        log_p = torch.log_softmax((logits[part] if len(logits) > 1 else logits).double() / temperature, dim=-1)
        log_p = log_p.expand(len(drawn), -1)
        p, own = log_p.exp(), log_p.gather(1, drawn)
        place = torch.arange(p.shape[1], device=p.device)
        inside = p.gather(1, drawn)[:, 0] * inner[part]
        by_id.append((p * (place < drawn)).sum(-1) + inside)
        earlier = (log_p > own) | ((log_p == own) & (place < drawn))
        by_probability.append((p * earlier).sum(-1) + inside)
        owns.append(own[:, 0])
        cumulants += len(drawn) / len(log_p) * torch.stack([_cumulant(log_p, s).sum() for s in EXPONENTS]).cpu()
    return Draws(torch.cat(by_id), torch.cat(by_probability), torch.cat(owns), tuple(cumulants.tolist()))


def uniform_bound(x: Tensor) -> float:
    """A bound on the chance that n uniform numbers stray as far from uniform as `x` does."""
    n, ordered = x.numel(), x.sort()[0]
    rank = torch.arange(n, dtype=torch.float64, device=x.device)
    distance = float(torch.maximum((rank + 1) / n - ordered, ordered - rank / n).max())
    return min(1.0, 2 * math.exp(-2 * n * distance**2)) if math.isfinite(distance) else 0.0


def chernoff_bound(total: float, cumulants: tuple[float, ...]) -> float:
    """A bound on the chance of a sum of log-probabilities as far out as `total`, on either side."""
    if not math.isfinite(total):
        return 0.0
    exponent = max(s * total - k for s, k in zip(EXPONENTS, cumulants))  # noqa: B905  (Python 3.10's zip)
    return min(1.0, 2 * math.exp(-max(exponent, 0.0)))


def draws_needed(logits: Tensor, temperature: float) -> float:
    """How many draws from softmax(logits [vocabulary]) nearly surely show it is not softmax(logits / temperature).

    So many that the mean log-probability's bound is passed even where the draws are four standard deviations unlucky.
    """
    plain, sharp = (torch.log_softmax(logits.double() / t, dim=-1) for t in (1.0, temperature))
    p = plain.exp()
    # -inf * 0 is not a number; such a token is never drawn.
    sharp_or_zero = torch.where(p > 0, sharp, torch.zeros_like(sharp))
    mean = float((p * sharp_or_zero).sum())
    spread = float((p * (sharp_or_zero - mean).square()).sum().clamp(min=0).sqrt())
    needed = math.inf
    for s in EXPONENTS:
        rate = s * mean - float(_cumulant(sharp, s))
        if rate > 0:
            # n * rate - 4 * |s| * spread * sqrt(n) >= log(2 / ALARM)
            unlucky = 4 * abs(s) * spread
            root = (unlucky + math.sqrt(unlucky**2 + 4 * rate * math.log(2 / ALARM))) / (2 * rate)
            needed = min(needed, root**2)
    return needed


def _cumulant(log_p: Tensor, s: float) -> Tensor:
    """The logarithm of E exp(s log p), of each row; s > -1."""
    return torch.logsumexp((1 + s) * log_p, dim=-1)
