"""How far the near ties of a router go, and what granting them hides: where `bench.proof.ties` has its constants from.

`python tests/benchmarks/near_ties.py [SEEDS [FIRST [NEAR ...]]]`, with torch: small models whose own routers choose, in
bfloat16. First the tokens to which a right method gives another expert than the reference does: by how much the
reference's last expert led the next one, in units of eager's error of that layer's scores. Then for each NEAR right
methods and planted faults, by the proof's own limits of logits and of gradients: how many were called wrong, how many
were missed, and how near to the limit the nearest came. What the matched filter of known faults finds is found too, and
counts as infinitely far beyond the limit.
"""

from __future__ import annotations

import argparse
import math
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

sys.path[:0] = [str(Path(__file__).parents[1] / "support"), str(Path(__file__).parents[2])]

import planted  # noqa: E402
import torch  # noqa: E402
from arguments import positive  # noqa: E402
from bench_specs import workload  # noqa: E402
from right_methods import METHODS  # noqa: E402
from torch import Tensor  # noqa: E402

from bench import operators  # noqa: E402
from bench.model import hashing, weights  # noqa: E402
from bench.model.gpt import GPT, build  # noqa: E402
from bench.operators import Operators  # noqa: E402
from bench.proof import backward, faults, levels, ties, trait_faults  # noqa: E402
from bench.proof.gradients import FACTOR, FLOOR, length  # noqa: E402
from bench.proof.layerwise import Layerwise  # noqa: E402
from bench.proof.levels import Level  # noqa: E402
from bench.proof.training_truth import eager_step, other_rounding  # noqa: E402
from bench.spec import from_dict  # noqa: E402

HALF, WIDE = torch.bfloat16, torch.float32
TINY = workload("forward", "tiny_gqa")["model"]
FEW = {"count": 8, "active": 2, "width": 64, "normalised": True}
MODELS = {
    "2 of 8": TINY | {"experts": FEW},
    "4 of 32": TINY | {"layers": 4, "experts": {"count": 32, "active": 4, "width": 32, "normalised": True}},
    "2 of 8, not normalised": TINY | {"experts": {**FEW, "normalised": False}},
}
NEARS = (2.0, 4.0, 6.0, 8.0, 16.0)
LEVELS = (0.5, 0.9, 0.99, 0.999, 1.0)


def other_weights(*, normalised: bool) -> Any:
    """A method whose router's weights are normalised, or are not, whatever the model asks for.

    To normalise is to take the softmax after the choice, and not to is to take it before.
    """

    def route(scores: Tensor, active: int, chosen: Tensor | None, **_: bool) -> tuple[Tensor, Tensor]:
        return operators.route(scores, active, chosen, normalised=normalised)

    return planted.method(operators=Operators(route=route))


def second_dropped(scores: Tensor, active: int, chosen: Tensor | None, *, normalised: bool) -> tuple[Tensor, Tensor]:
    """Each token's second expert counts for nothing."""
    found, chosen = operators.route(scores, active, chosen, normalised=normalised)
    return torch.cat([found[:, :1], 0 * found[:, 1:2], found[:, 2:]], dim=1), chosen


def methods_of(name: str) -> Iterator[tuple[str, Any]]:
    """(Kind, a method of that kind): all that are right, and each fault of the model."""
    yield from (("right", module) for module in METHODS.values())
    yield "second dropped", planted.method(operators=Operators(route=second_dropped))
    if MODELS[name]["experts"]["normalised"]:
        yield "softmax before the choice", other_weights(normalised=False)
    else:
        yield "softmax after the choice", other_weights(normalised=True)


def made(name: str, seed: int, method: Any, **changes: Any) -> tuple[GPT, Callable[..., Tensor]]:
    """(The model of a method, its call)."""
    model = build(from_dict(MODELS[name]), replace(method.operators(), **changes), HALF, "cpu")
    weights.fill(model, seed)
    return model, method.compile_model(model, None)


def inputs(name: str, seed: int, rows: int, time: int) -> Tensor:
    """Tokens [rows, time]."""
    return hashing.integers("near ties", seed, (rows, time), MODELS[name]["vocabulary"], "cpu")


@torch.no_grad()
def leads(name: str, seed: int) -> Iterator[float]:
    """The reference's lead over eager's error for each token to which a right method gives another expert.

    Only where that token, and those before it in its row, had their own experts in the layers before.
    """
    model, _ = made(name, seed, METHODS["eager"])
    tokens, active = inputs(name, seed, 4, 64), MODELS[name]["experts"]["active"]
    exact = ties.Watched(model, WIDE)
    exact.forward(tokens)
    units = ties.usual(model, WIDE, tokens)
    for method in METHODS.values():
        taken: list[Tensor] = []

        def watched(scores: Tensor, *rest: Any, taken: list[Tensor] = taken, **more: Any) -> tuple[Tensor, Tensor]:
            found = operators.route(scores, *rest, **more)
            taken.append(found[1])
            return found

        made(name, seed, method, route=watched)[1](tokens)
        clean = torch.ones(tokens.shape, dtype=torch.bool)
        for layer, chosen in enumerate(taken):
            best, places = torch.cat(exact.scores[layer]).topk(active + 1, dim=-1)
            other = (chosen.sort(-1).values != places[:, :active].sort(-1).values).any(-1).view(tokens.shape)
            lead = (best[:, active - 1] - best[:, active]) / units[layer]
            yield from lead.view(tokens.shape)[other & clean].tolist()
            clean &= other.cumsum(-1) == 0


@torch.no_grad()
def logits(name: str, seed: int, nears: tuple[float, ...]) -> Iterator[tuple[float, str, float]]:
    """(NEAR, kind, part of the nearest limit) of the logits of each method."""
    model, call = made(name, seed, METHODS["eager"])
    tokens = inputs(name, seed, 2, 64)
    exact = Layerwise(model, WIDE)
    truth = exact.head(exact.forward(tokens))
    effects = {fault: wrong.head(wrong.forward(tokens)) - truth for fault, wrong in trait_faults.variants(exact)}
    far = partial(levels.distance, truth, norm=truth.norm(dim=-1))
    other = call(tokens).to(WIDE)
    eager, units, least = far(other), ties.usual(model, WIDE, tokens), levels.floor(HALF) * float(truth.norm())
    level = {}
    for near in nears:
        (changed,) = ties.otherwise(exact, tokens, units, times=near).others
        tied = far(exact.head(changed.forward(tokens)))
        level[near] = Level(eager, HALF, tied)
    row = levels.limit(levels.ROW, eager.numel())
    for kind, method in methods_of(name):
        found = made(name, seed, method)[1](tokens).to(WIDE)
        errors = far(found)
        for near, one in level.items():
            kept = torch.ones_like(errors, dtype=torch.bool) if one.kept is None else one.kept
            seen = {fault: effect[kept] for fault, effect in effects.items()}
            matched = faults.match((found - truth)[kept], (other - truth)[kept], seen, least)
            part = max(one.ratio(errors) / levels.overall(one.together), one.worst(errors)[0] / row)
            yield near, kind, math.inf if matched else part


def gradients(name: str, seed: int, nears: tuple[float, ...]) -> Iterator[tuple[float, str, float]]:
    """(NEAR, kind, part of the limit) of the gradients of each method, the worst parameter or all together."""
    model, _ = made(name, seed, METHODS["eager"])
    tokens, targets = inputs(name, seed, 2, 17).split([16, 1], dim=1)[0], inputs(name, seed, 2, 17)[:, 1:]

    def exact(layerwise: Layerwise) -> dict[str, Tensor]:
        found: dict[str, Tensor] = {}
        backward.gradients(layerwise, tokens, targets, lambda name, one: found.update({name: one.clone()}))
        return found

    def of(target: GPT) -> dict[str, Tensor]:
        eager_step(target, tokens, targets)
        found = {name: one.grad.to(WIDE) for name, one in target.named_parameters()}
        for one in target.parameters():
            one.grad = None
        return found

    def distance(found: dict[str, Tensor]) -> Tensor:
        return torch.stack([(found[name] - one).norm() for name, one in true.items()])

    true, units = exact(Layerwise(model, WIDE)), ties.usual(model, WIDE, tokens)
    least = torch.stack([one.norm() for one in true.values()]) * FLOOR[HALF]
    draws = [distance(of(model))]
    with other_rounding(model):
        draws.append(distance(of(model)))
    granted = {}
    for near in nears:
        (other,) = ties.otherwise(Layerwise(model, WIDE), tokens, units, times=near).others
        granted[near] = torch.hypot(torch.stack(draws).amax(0), distance(exact(other)) / FACTOR).maximum(least)
    for kind, method in methods_of(name):
        target, call = made(name, seed, method)
        assert call is target
        errors = distance(of(target))
        for near, one in granted.items():
            whole = length(errors.tolist()) / length(one.tolist())
            yield near, kind, max(whole, float((errors / one).max())) / FACTOR


def main() -> None:
    """Do both."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("seeds", metavar="SEEDS", type=positive, nargs="?", default=20, help="how many (%(default)s)")
    parser.add_argument("first", metavar="FIRST", type=int, nargs="?", default=0, help="seed (%(default)s)")
    units = "lead of a near tie, in units of eager's error %(default)s"
    parser.add_argument("nears", metavar="NEAR", type=float, nargs="*", default=NEARS, help=units)
    given = parser.parse_args()
    seeds, nears = range(given.first, given.first + given.seeds), tuple(given.nears)
    torch.set_num_threads(1)
    GPT.make_routes = lambda *_: None  # type: ignore[method-assign,assignment]  # as with a checkpoint
    for name in MODELS:
        found = torch.tensor(sorted(lead for seed in seeds for lead in leads(name, seed)))
        said = ", ".join(f"{level:.1%} {float(found.quantile(level)):.2f}" for level in LEVELS)
        print(f"{name}: {len(found)} tokens with another expert, lead over eager's error: {said}", flush=True)
    for what in (logits, gradients):
        for name in MODELS:
            parts: dict[tuple[float, str], list[float]] = {}
            for seed in seeds:
                for near, kind, part in what(name, seed, nears):
                    parts.setdefault((near, kind), []).append(part)
            for (near, kind), some in sorted(parts.items()):
                wrong = sum((part > 1) == (kind == "right") for part in some)
                edge = max(some) if kind == "right" else min(some)
                ending = f"{'called wrong' if kind == 'right' else 'missed'}, nearest {edge:.2f} of the limit"
                print(f"NEAR {near:g}, {what.__name__}, {name}, {kind}: {wrong} of {len(some)} {ending}", flush=True)


if __name__ == "__main__":
    main()
