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
from bench.model.gpt import capped
from bench.proof.checks import Checks

# A right sampler fails one test once in a million cells.
ALARM = 1e-6
# Exponents of Chernoff's bound; any value gives a valid bound, the best of these is near the optimum.
EXPONENTS = tuple(2.0**power for power in range(-7, 3)) + tuple(-(2.0**power) for power in range(-7, 0))
PIECE = 64
# Mass of a probe's distribution, see `Sharp`. LEAST is above what a top-p of 0.99 cuts off.
LIKELY, BORDERS, LEAST, LEAST_OF_EIGHT = 0.6, 0.2, 0.0125, 3
# Where a kernel goes through the vocabulary in blocks of so many ids, all edges are borders.
BLOCK = 1024
# Draws that are expected of a set at least: none at all is then seen.
LEAST_EXPECTED = 20.0
# A logit nearer to its cap than this share would need a head without bounds.
MOST_OF_A_CAP = 0.999
# So many draws are looked at first; where a bound is below SUSPICIOUS, so many in all.
FIRST_DRAWS, ALL_DRAWS, SUSPICIOUS = 3_000, 16_000, 0.1


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
    # One distribution for all is looked at once.
    size = PIECE if len(logits) > 1 else tokens.numel()
    for start in range(0, tokens.numel(), size):
        part = slice(start, start + size)
        drawn = tokens[part, None] if len(logits) > 1 else tokens[None]
        log_p = torch.log_softmax((logits[part] if len(logits) > 1 else logits).double() / temperature, dim=-1)
        p, order = log_p.exp(), torch.sort(log_p, dim=-1, descending=True, stable=True)[1]
        ordered = p.gather(1, order)
        earlier = torch.empty_like(p).scatter_(1, order, ordered.cumsum(-1) - ordered)
        inside = p.gather(1, drawn).flatten() * inner[part]
        by_id.append((p.cumsum(-1) - p).gather(1, drawn).flatten() + inside)
        by_probability.append(earlier.gather(1, drawn).flatten() + inside)
        owns.append(log_p.gather(1, drawn).flatten())
        times = drawn.numel() / len(log_p)
        cumulants += times * torch.stack([_cumulant(log_p, s).sum() for s in EXPONENTS]).cpu()
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


class Sharp:
    """A distribution over all ids on which little goes unseen, to be written into a head.

    One id has LIKELY of the mass; `borders`, where a kernel's block begins or ends, have BORDERS together; every
    eighth id is least likely, LEAST together, so that cutting a tail of that mass takes nothing else; the rest is flat.
    The mean log-probability tells a wrong temperature the better, the more log-probabilities differ.
    """

    def __init__(self, vocabulary: int, device: torch.device | str) -> None:
        self.likely = next(i for i in range(vocabulary // 2 + 3, vocabulary) if i % 8 != LEAST_OF_EIGHT)
        edges = set(borders(vocabulary)) - {self.likely}
        least = [i for i in range(LEAST_OF_EIGHT, vocabulary, 8) if i not in edges and i != self.likely]
        self.sets = {f"id {i}": [i] for i in sorted(edges)} | {f"the {len(least)} least likely ids": least}
        rest = vocabulary - len(edges) - len(least) - 1
        p = torch.full((vocabulary,), (1 - LIKELY - BORDERS - LEAST) / rest, dtype=torch.float64)
        p[sorted(edges)], p[least], p[self.likely] = BORDERS / len(edges), LEAST / len(least), LIKELY
        self.log_p = p.log().to(device)

    def head(self, hidden: Tensor, own: Tensor, temperature: float, cap: float | None = None) -> Tensor:
        """Rows [vocabulary, width] that have this distribution over `temperature` at `hidden` [width].

        The likely id's row stays as it is, `own` [width]: in a tied head it is what went in. `cap`: of the logits; what
        it leaves too little room for is made as unlikely as it lets it.
        """
        along = hidden.double()
        first = capped(along @ own.double(), cap)
        wanted = first + temperature * (self.log_p - self.log_p[self.likely])
        if cap is not None:
            wanted = cap * torch.atanh((wanted / cap).clamp(-MOST_OF_A_CAP, MOST_OF_A_CAP))
        rows = wanted[:, None] * (along / (along @ along))
        rows[self.likely] = own.double()
        return rows

    def look(self, logits: Tensor, tokens: Tensor, temperature: float) -> Seen:
        """What `tokens` [n, batch] say of the step that drew them from its own logits, [batch, vocabulary].

        Sets are judged at the temperature that the draws themselves show where it is surely not the one that was asked
        for: so a wrong temperature is not taken for a wrong sampler.
        """
        n = tokens.numel()
        drawn = _look_at_rows(logits, tokens, temperature)
        p, shown = chernoff_bound(float(drawn.log_p.sum()), drawn.cumulants), fit(logits, tokens)
        what = f"{n} draws at temperature {temperature} from sharp logits: as at {shown:.4g}"
        asked = (p, what)
        if p < ALARM:
            temperature = shown
            drawn = _look_at_rows(logits, tokens, temperature)
        chances = torch.softmax(logits.double() / temperature, dim=-1).mean(0)
        counts = torch.bincount(tokens.flatten(), minlength=len(chances))
        tests = {"order of ids": uniform_bound(drawn.by_id)}
        tests["order of probabilities"] = uniform_bound(drawn.by_probability)
        rarest = ("", math.inf)
        for name, ids in self.sets.items():
            count, mass = int(counts[ids].sum()), float(chances[ids].sum())
            bound = min(1.0, len(self.sets) * count_bound(count, n, mass))
            tests[f"{name}: drawn {count} times, {n * mass:.3g} expected"] = bound
            rarest = min(rarest, (name, n * mass), key=lambda one: one[1])
        worst = min(tests, key=lambda name: tests[name])
        return Seen(asked, (tests[worst], f"{n} draws from sharp logits: {worst}"), rarest)


@dataclass(frozen=True)
class Seen:
    """Of draws from a sharp distribution: (bound on the chance of it, what) of the temperature and of the sampler.

    `rarest`: the set of ids that is least likely, and how often it is expected.
    """

    temperature: tuple[float, str]
    sampler: tuple[float, str]
    rarest: tuple[str, float]

    @property
    def suspicious(self) -> bool:
        """Whether more draws are worth their time: the bound on the alarms is kept by judging the last look alone."""
        return min(self.temperature[0], self.sampler[0]) < SUSPICIOUS or self.rarest[1] < LEAST_EXPECTED

    def judge(self, checks: Checks) -> None:
        """Record both verdicts."""
        p, what = self.temperature
        checks.judge("temperature", p >= ALARM, value=p, limit=ALARM, what=what)
        (p, what), (name, expected) = self.sampler, self.rarest
        if p >= ALARM and expected < LEAST_EXPECTED:
            why = "the draws are too few, or the step does not read the head that was written"
            checks.unchecked("sampler", f"{name} is expected {expected:.3g} times: {why}")
            return
        checks.judge("sampler", p >= ALARM, value=p, limit=ALARM, what=what)


def borders(vocabulary: int) -> list[int]:
    """Ids where a block of a kernel may begin or end: of every power of two from 32 the first and the last edge.

    And all edges of blocks of BLOCK; the first id and the last.
    """
    found = {0, vocabulary - 1}
    for size in (2**power for power in range(5, 20) if 2**power < vocabulary):
        last = (vocabulary - 1) // size
        for edge in range(1, last + 1) if size == BLOCK else {1, last}:
            found |= {edge * size - 1, edge * size}
    return sorted(found)


def count_bound(count: int, n: int, p: float) -> float:
    """A bound on the chance that of n draws, of mean probability p, as many or as few as `count` hit."""
    share = count / n
    rate = sum(a * math.log(a / b) for a, b in ((share, p), (1 - share, 1 - p)) if a > 0 and b > 0)
    return min(1.0, 2 * math.exp(-n * rate)) if count == 0 or p > 0 else 0.0


def fit(logits: Tensor, tokens: Tensor) -> float:
    """The temperature over which logits [batch, vocabulary] make draws like `tokens` [n, batch] likeliest."""
    wide, low, high = logits.double(), -6.0, 6.0
    mean = float(wide.gather(1, tokens.T).mean())
    for _ in range(50):
        middle = (low + high) / 2
        p = torch.softmax(wide / math.exp(middle), dim=-1)
        low, high = (low, middle) if float((p * wide).sum(-1).mean()) < mean else (middle, high)
    return math.exp(low)


def _look_at_rows(logits: Tensor, tokens: Tensor, temperature: float) -> Draws:
    """`look` at tokens [n, batch], each column from its own row of logits [batch, vocabulary]; all together."""
    each = [look(row[None], column, temperature, f"sharp/{i}") for i, (row, column) in enumerate(zip(logits, tokens.T))]  # noqa: B905
    names = ("by_id", "by_probability", "log_p")
    by_id, by_probability, log_p = (torch.cat([getattr(draws, name) for draws in each]) for name in names)
    cumulants = tuple(map(sum, zip(*(draws.cumulants for draws in each))))  # noqa: B905
    return Draws(by_id, by_probability, log_p, cumulants)


def _cumulant(log_p: Tensor, s: float) -> Tensor:
    """The logarithm of E exp(s log p), of each row; s > -1."""
    return torch.logsumexp((1 + s) * log_p, dim=-1)
