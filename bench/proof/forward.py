"""Proves the logits of a forward pass: against the reference, and by what must and must not change them."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from bench.benchmarks import Context
from bench.model import hashing, weights
from bench.model.gpt import sharing
from bench.observe.logits import LogitsDigest, observe
from bench.observe.sketch import sketch
from bench.operators import Operators, reference_dtype
from bench.proof import IN_CELL, effort, faults, levels, team, ties
from bench.proof.checks import Checks, finite, first_failed
from bench.proof.layerwise import Layerwise, highest
from bench.proof.levels import Level
from bench.proof.reference_file import Reference

ORDER = (
    "finite", "reference", "repeat", "changed input", "causality", "logits", "rows", "top-1", "samples", "known faults",
)  # fmt: skip
# Timed samples that are judged by an eager forward made here: all of a small model's, else so many, drawn after timing.
DRAWN = 3
# A right method is OVERALL times eager's error from the truth, and eager once.
FROM_EAGER = levels.OVERALL + 1
# Effects of known faults are kept for whole batch rows, up to so many positions.
FAULT_POSITIONS = 2048
# Other tokens make other logits: at least by this many times eager's error, and visibly.
CHANGED, CHANGED_LEAST = 3.0, 1e-3
# Positions whose largest logit is not the reference's: standard errors allowed beyond the scaled rate.
TOP_SIGMAS = 5.0


def make(context: Context, task: Any) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """The last sample's reference, eager's error against it and the effects of known faults: (tensors, facts)."""
    tokens = task.inputs(last_sample(context))
    dtype = reference_dtype(context.model.head.weight.dtype)
    with highest():
        tied, facts = near_ties(context, dtype, tokens)
        model = Layerwise(context.whole, dtype)
        hidden = model.forward(tokens)
        seen = [(sketch(logits), logits.norm(dim=-1), logits.argmax(-1)) for logits in map(model.head, hidden)]
        truth, norm, top = (torch.stack(parts) for parts in zip(*seen))  # noqa: B905  (Python 3.10's zip)
        some = max(1, min(tokens.shape[0], FAULT_POSITIONS // tokens.shape[1]))
        effects = {
            name: torch.stack([sketch(head(row)) for row in wrong]) - truth[:some]
            for name, wrong, head in faults.logits(model, tokens[:some])
        }
    eager = observe(task.call(tokens))
    error = (eager.sketch - truth).norm(dim=-1)
    tensors = {
        "sketch": truth,
        "norm": norm,
        "top": top,
        "eager_error": error / norm,
        "eager_top": eager.top,
        "eager_difference": eager.sketch[:some] - truth[:some],
        "effects": torch.stack(list(effects.values())),
        **tied,
    }
    facts |= {
        "faults": list(effects),
        "eager_error": finite(float(error.norm() / norm.norm())),
        "inputs_checksum": hashing.checksum(tokens),
    }
    return tensors, facts


def near_ties(context: Context, dtype: torch.dtype, tokens: Tensor) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Tensors and facts of a model that chooses its experts itself: what near ties do to the logits of `tokens`."""
    if not ties.routed(context.model):
        return {}, {}
    moved, usual = ties.effects(Layerwise(context.model, dtype), tokens)
    return {"ties": moved}, {"router_error": usual}


class Same:
    """Judges outputs that should be one: equal bits pass, else each position is as near as any to the truth.

    `ties_of`: what near ties make of tokens, [batch, time], where the model chooses its experts itself.
    """

    def __init__(
        self,
        checks: Checks,
        level: Level | None,
        norm: Tensor,
        most: float,
        ties_of: Callable[[Tensor], Tensor | None] = lambda _: None,
    ) -> None:
        self.checks, self.level, self.norm, self.most, self.ties_of = checks, level, norm, most, ties_of

    def judge(
        self,
        name: str,
        one: LogitsDigest,
        other: LogitsDigest,
        what: str,
        *,
        until: int | None = None,
        tokens: Tensor | None = None,
    ) -> None:
        """Compare the positions before `until`; without a known error only equal bits can pass.

        `tokens`: those that went in, where they are not the reference's.
        """
        part = slice(None, until)
        changed = int((one.bits[:, part] != other.bits[:, part]).sum())
        if not changed:
            self.checks.judge(name, passed=True, value=0.0, limit=self.most, what=f"{what}: the same bits")
            return
        if self.level is None:
            self.checks.unchecked(name, f"{what}: {changed} positions changed, and no reference says how far they may")
            return
        errors = levels.distance(one.sketch[:, part], other.sketch[:, part], self.norm[:, part])
        tied = None if tokens is None else self.ties_of(tokens)
        worst, where = (self.level if tied is None else self.level.elsewhere(tied)).worst(errors)
        text = f"{what}: {changed} positions changed, most {place(where, errors)}: {worst:.3g} times eager's error"
        self.checks.at_most(name, worst, self.most, text)


def place(where: int, errors: Tensor) -> str:
    """A place among the flattened [batch, time], in words."""
    row, position = divmod(where, errors.shape[1])
    return f"batch row {row}, position {position}"


def last_sample(context: Context) -> int:
    """The sample whose own output is judged by the reference; repeats of disturbed samples may come after it."""
    return context.workload.iterations - 1


def check(context: Context, task: Any, reference: Reference | None, checks: Checks) -> dict[str, Any]:
    """Judge the callable that was timed, by three more calls; `task.timed` is the last output that was timed, seen."""
    (index, timed), last = task.timed, last_sample(context)
    tokens = task.inputs(last)
    half = tokens.shape[1] // 2
    mixed = torch.cat([tokens[:, :half], task.inputs(last + 1)[:, half:]], dim=1)
    again = observe(task.call(tokens))
    # At once, so that nothing stands between: what is kept by an input's identity would still be there.
    written = observe(task.call(tokens.copy_(mixed)))
    found = timed if index == last else again
    facts = against(context, task.inputs(last), found, reference, checks) if reference else {}
    level = level_of(reference, context.model.head.weight.dtype) if reference else None
    usual = reference.facts.get("router_error") if reference else None
    with checks.guard("samples"):
        judge_samples(context, task, level, usual, checks)
    norm, most = found.sketch.norm(dim=-1), levels.row_factor(context.workload)
    same = Same(checks, level, norm, most, lambda tokens: ties.here(context.model, tokens, usual))
    with checks.guard("repeat"):
        again = again if index == last else observe(task.call(task.inputs(index)))
        same.judge("repeat", again, timed, "the last sample's input again", tokens=task.inputs(index))
    with checks.guard("changed input", "causality"):
        fresh = observe(task.call(mixed))
        moved = levels.rms(levels.distance(written.sketch, found.sketch, same.norm)[:, half:])
        least = max(CHANGED_LEAST, CHANGED * level.overall) if level else CHANGED_LEAST
        if moved > least:
            same.judge("changed input", written, fresh, "other tokens written into the same tensor", tokens=mixed)
        else:
            what = "other tokens, written into the same tensor, give the logits of those that were there before"
            checks.judge("changed input", passed=False, value=moved, limit=least, what=what)
        same.judge("causality", fresh, found, f"tokens from position {half} on changed", until=half)
    return facts


def level_of(reference: Reference, dtype: torch.dtype) -> Level:
    """Eager's error on the reference's tokens."""
    return Level(reference.tensors["eager_error"], dtype, reference.tensors.get("ties"))


def judge_samples(context: Context, task: Any, level: Level | None, usual: list[float] | None, checks: Checks) -> None:
    """What was kept of the timed samples, each against eager's own forward of its input.

    `usual`: eager's error of routers' scores, where the model chooses its experts itself.
    """
    if level is None:
        raise ValueError("no reference says how far the samples' logits may be from eager's")
    kept, dtype = task.kept, context.model.head.weight.dtype
    parts, eager = kept.parts, sharing(context.whole, Operators())
    if len(parts) * effort(context) > IN_CELL:
        parts = kept.chance.sample(parts, min(DRAWN, len(parts)))
    worst, text = -1.0, ""
    for part in parts:
        tokens = zip(task.inputs(part.index).split(1), part.places)  # noqa: B905  (row by row: all may not fit)
        right = torch.stack([eager(row)[0, places] for row, places in tokens])
        right, found = (sketch(x, dtype=reference_dtype(dtype)) for x in (right, part.logits))
        tied = ties.here(context.model, task.inputs(part.index), usual)
        one = level if tied is None else level.elsewhere(tied.gather(1, part.places))
        ratio = one.ratio(levels.distance(found, right, right.norm(dim=-1)))
        if not ratio <= worst:  # nor is what is not a number
            worst, text = ratio, f"sample {part.index} is {ratio:.3g} times eager's error from eager"
        if math.isnan(ratio):
            break
    limit = levels.limit(FROM_EAGER, parts[0].places.numel())
    checks.at_most("samples", worst, limit, f"{text}, the most of {len(parts)} of {len(kept.parts)} kept")


def against(
    context: Context, tokens: Tensor, found: LogitsDigest, reference: Reference, checks: Checks
) -> dict[str, Any]:
    """Judge the logits of `tokens`, the last sample's, by the reference."""
    tensors, dtype = reference.tensors, context.model.head.weight.dtype
    judge_identity(context, reference, hashing.checksum(tokens), checks)
    truth, norm = tensors["sketch"], tensors["norm"]
    errors, level = levels.distance(found.sketch, truth, norm), level_of(reference, dtype)
    with checks.guard("logits"):
        ratio, limit = level.ratio(errors), levels.overall(level.together)
        checks.at_most("logits", ratio, limit, f"error of the logits is {ratio:.3g} times eager's{level.tied}")
    with checks.guard("rows"):
        worst, where = level.worst(errors)
        what = f"{place(where, errors)}: {worst:.3g} times eager's error, the most of any position"
        checks.at_most("rows", worst, levels.limit(levels.row_factor(context.workload), errors.numel()), what)
    with checks.guard("top-1"):
        top, eager_top = tensors["top"].long(), tensors["eager_top"].long()
        wrong, eager_wrong = int((found.top != top).sum()), int((eager_top != top).sum())
        what = f"another largest logit at {wrong} of {top.numel()} positions, eager's at {eager_wrong}"
        checks.at_most("top-1", wrong, top_limit(eager_wrong), what)
    error = float((errors * norm).norm() / norm.norm())
    facts: dict[str, Any] = {"reference": reference.recorded(error)}
    with checks.guard("known faults"):
        some = tensors["effects"].shape[1]
        effects = dict(zip(reference.facts["faults"], tensors["effects"].flatten(1, 2)))  # noqa: B905
        least = levels.floor(dtype) * float(norm[:some].norm())
        difference, eager = (found.sketch - truth)[:some].flatten(0, 1), tensors["eager_difference"].flatten(0, 1)
        if first_failed(checks.items):
            shared = team.left_out(context, tokens[:some])
            effects.update({name: sketch(one, dtype=truth.dtype).flatten(0, 1) for name, one in shared.items()})
        if level.kept is not None:
            part = level.kept[:some].flatten()
            difference, eager = difference[part], eager[part]
            effects = {name: effect[part] for name, effect in effects.items()}
        matched = faults.match(difference, eager, effects, least)
        facts["resembles"] = judge_match(matched, len(effects), checks)
    return facts


def top_limit(eager_wrong: int) -> float:
    """Positions that may have another largest logit: twice eager's rate, both counts being random as Poisson's are."""
    factor = levels.OVERALL
    return factor * eager_wrong + TOP_SIGMAS * (factor * (factor + 1) * max(eager_wrong, 1)) ** 0.5


def judge_match(matched: faults.Match | None, count: int, checks: Checks) -> str | None:
    """Record whether the error resembles a known fault; return its name where it has about that fault's size."""
    if matched is None:
        checks.judge("known faults", passed=True, what=f"the error has the effect of none of {count} known faults")
        return None
    named = matched.named
    effect = named or f"{matched.beta:.2g} times {matched.name}, which is none that is known"
    what = f"the error has the effect of: {effect} ({matched.share:.2g} of its square)"
    checks.judge("known faults", passed=False, value=matched.beta, limit=matched.limit, what=what)
    return named


def judge_identity(context: Context, reference: Reference, inputs: int, checks: Checks) -> None:
    """The reference is of these very weights, as they are now, and inputs."""
    mine, theirs = weights.checksum(context.whole), reference.facts["weights_checksum"]
    right = mine == theirs and inputs == reference.facts["inputs_checksum"]
    wrong = f"weights {mine} or inputs differ from its own ({theirs})"
    if not all(context.team.all(right)) and (part := team.stale(context)):
        wrong = part
    checks.judge("reference", right, what="made of the same weights and inputs" if right else wrong)
