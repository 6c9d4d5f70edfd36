"""Proves generation: the step that was timed, called again, against full forwards without cache and across prompts.

Cost in calls of the step, beside one generation's replay: STEPS forced by the reference, STEPS of another prompt, three
times STEPS of the first again, STEPS of further prompts until `levels.POOL` positions are there, and up to DRAWS at one
position; on a probe `sampler.FIRST_DRAWS` of a distribution that is written into the head, or `sampler.ALL_DRAWS`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from bench.benchmarks import Context
from bench.model import hashing
from bench.observe.sketch import sketch
from bench.operators import Operators, reference_dtype
from bench.proof import faults, levels, sampler, team, ties
from bench.proof.checks import Checks, finite, first_failed
from bench.proof.forward import judge_identity, judge_match
from bench.proof.layerwise import Layerwise, highest
from bench.proof.levels import Level
from bench.proof.reference_file import Reference

ORDER = (
    "finite", "repeat", "changed input", "cache", "other prompt", "same seed", "reference", "logits",
    "worst step", "possible", "sampler", "temperature", "samples", "known faults",
)  # fmt: skip
STEPS = 16
# Further prompts at most: texts of few tokens have no pool.
MOST_TEXTS = 16
DRAWS = 400
# Far from the workload's 1: fewer draws show a sampler that ignores it than would nearer to 1.
TEMPERATURE = 0.5
# What unused slots hold: finite, since 0 times NaN would be seen by a right mask too.
POISON = 100.0
# Texts whose draws are judged together.
ROWS = 16
# Times the eager error where the reference was made.
EAGER = 4.0
# A drawn token has at least this probability over (draws * vocabulary) in the reference, which has its own rounding.
IMPOSSIBLE = 1e-7
# Two samples that draw the same text although its probability is below this had the same random numbers.
SAME_TEXT = 1e-9


@dataclass(frozen=True)
class Run:
    """tokens [batch, steps], and of each step what was kept of its logits: [judged rows, steps, vocabulary]."""

    tokens: Tensor
    logits: Tensor


class Runner:
    """Calls the timed step as the benchmark's own loop does, keeping the logits of the task's judged rows.

    `keep`: what to keep of each step's logits [batch, vocabulary] instead, a tensor of its own.
    """

    def __init__(self, context: Context, task: Any, keep: Callable[[Tensor], Tensor] | None = None) -> None:
        self.context, self.task, self.step = context, task, task.step
        # Cloned as in the timed loop: a graph's next replay overwrites what the last one returned.
        self.keep = keep or (lambda logits: logits[task.judged].clone())

    def run(self, prompt: Tensor, steps: int, forced: Tensor | None = None) -> Run:
        """`forced` [batch, steps - 1 at least] goes in instead of what was drawn."""
        task = self.task
        token, logits = self.step(task.prompt.copy_(prompt), task.positions, task.temperature)
        tokens, kept = [token.clone()], [self.keep(logits)]
        position = task.positions[-1:] + 1
        for index in range(1, steps):
            given = tokens[-1] if forced is None else torch.empty_like(token).copy_(forced[:, index - 1 : index])
            token, logits = self.step(given, position, task.temperature)
            tokens.append(token.clone())
            kept.append(self.keep(logits))
            position = position + 1
        return Run(torch.cat(tokens, dim=1), torch.stack(kept, dim=1))

    def draw(self, token: Tensor, position: int, temperature: Tensor, count: int) -> tuple[Tensor, Tensor]:
        """The same step `count` times: (tokens [count, batch], logits [batch, vocabulary])."""
        drawn, where = [], self.task.positions[-1:] + (position - self.task.positions.numel() + 1)
        given = torch.empty(token.shape, dtype=token.dtype, device=token.device).copy_(token)
        for _ in range(count):
            found, logits = self.step(given, where, temperature)
            drawn.append(found[:, 0].clone())
        return torch.stack(drawn), logits.clone()

    def fill_caches(self, value: float) -> None:
        """Every slot of every block, in place; the sign alternates from slot to slot."""
        for block in self.context.model.blocks:
            for buffer in (block.cache.k, block.cache.v):
                buffer.fill_(value)
                buffer[:, 1::2].neg_()


def drawn_ids(context: Context, task: Any, name: str, count: int) -> Tensor:
    """[batch, count] ids over the vocabulary, always the same, made as the benchmark's prompt is: a plain tensor."""
    with torch.inference_mode(mode=False):  # an inference tensor is another kind of input to a compiler's guards
        shape, vocabulary = (task.prompt.shape[0], count), context.model.config.vocabulary
        return hashing.integers(f"proof/{name}", context.workload.seed, shape, vocabulary, context.device)


def forced_ids(context: Context, task: Any) -> Tensor:
    """The fixed continuation of the prompt that stands in the reference, [batch, new tokens]."""
    return drawn_ids(context, task, "forced", task.new_tokens)


def make(context: Context, task: Any) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Reference of the fixed continuation, and eager's error with its cache at each of its steps: (tensors, facts)."""
    dtype, forced, rows = reference_dtype(context.model.head.weight.dtype), forced_ids(context, task), task.judged
    runner = Runner(context, task)
    runner.fill_caches(0.0)
    eager = runner.run(task.first_prompt, task.new_tokens, forced)
    with highest():
        model, ids = Layerwise(context.whole, dtype), torch.cat([task.first_prompt, forced[:, :-1]], dim=1)[rows]
        truth = full(model, ids, task.prompt.shape[1])
        norm = truth.norm(dim=-1)
        error = levels.distance(sketch(eager.logits, dtype=dtype), sketch(truth), norm)
        tied, usual = {}, None
        if ties.routed(context.model):
            tied["ties"], usual = ties.effects(model, ids, first=task.prompt.shape[1] - 1)
    tensors = {"sketch": sketch(truth[:, :STEPS]), "norm": norm, "eager_error": error, **tied}
    facts = {
        "router_error": usual,
        "eager_error": finite(float((error * norm).norm() / norm.norm())),
        "inputs_checksum": hashing.checksum(torch.cat([task.first_prompt, forced], dim=1)),
    }
    return tensors, facts


def full(model: Layerwise, ids: Tensor, prompt: int) -> Tensor:
    """Logits of every step, [rows, steps, vocabulary], without cache: prompt and what followed, [rows, time]."""
    return model.head(model.forward(ids)[:, prompt - 1 :])


def check(context: Context, task: Any, reference: Reference | None, checks: Checks) -> dict[str, Any]:
    """Judge the step that was timed; return more of the record's proof. `task.made` are the samples' texts."""
    return Proof(context, task, reference, checks).judge()


class Proof:
    """The checks of one cell: first every run of the step, then what they are compared with."""

    def __init__(self, context: Context, task: Any, reference: Reference | None, checks: Checks) -> None:
        self.context, self.task, self.reference, self.checks = context, task, reference, checks
        self.runner, self.weight = Runner(context, task), context.whole.head.weight
        self.steps, self.prompt = min(STEPS, task.new_tokens), task.prompt.shape[1]
        dtype = reference_dtype(self.weight.dtype)
        self.exact = Layerwise(context.whole, dtype)
        self.eager = Layerwise(context.whole, self.weight.dtype, Operators())
        # Eager here judges the texts that were made here; it may not be far worse than where the reference was made.
        known = reference.facts["eager_error"] if reference else None
        self.worst_eager = EAGER * known if known else float("inf")
        self.own, self.rows = task.first_prompt, task.judged
        self.facts: dict[str, Any] = {}
        # Errors, eager's, and what near ties make, [batch, steps], of every text whose logits were seen.
        self.pool: list[tuple[Tensor, Tensor, Tensor]] = []
        # Eager's usual error of routers' scores, where the model chooses its experts itself.
        self.usual: list[float] | None = None

    def judge(self) -> dict[str, Any]:
        """All checks."""
        checks, task, runner = self.checks, self.task, self.runner
        index = self.context.workload.iterations - 1
        last, self.own = task.inputs(index), task.prompt_of(index)
        # Zeros, not the last sample's keys: the replay draws the same text, whose stale slots would be right.
        runner.fill_caches(0.0)
        replay = runner.run(self.own, task.new_tokens)
        runner.fill_caches(0.0)
        again = runner.run(self.own, self.steps, replay.tokens).logits
        self.same_seed(task.made[last].tokens, replay)
        with checks.guard("finite"):
            checks.judge("finite", bool(torch.isfinite(replay.logits).all()), what="every step's logits")
        with checks.guard("changed input", "reference"):
            self.forced(replay)
        names = (
            "logits",
            "worst step",
            "known faults",
            "possible",
            "sampler",
            "samples",
            "other prompt",
            "repeat",
            "cache",
        )
        with checks.guard(*names):
            ids = torch.cat([self.own, replay.tokens[:, :-1]], dim=1)[self.rows]
            with highest():
                truth = full(self.exact, ids, self.prompt)
                if ties.routed(self.context.model):
                    self.usual = ties.usual(self.context.model, self.exact.dtype, ids)
            eager = full(self.eager, ids, self.prompt)
            level = self.bounded(replay.logits, ids, truth, eager, "against a forward without cache")
            with checks.guard("other prompt", "repeat", "cache"):
                self.same("repeat", again, replay.logits[:, : self.steps], level, "the same tokens again")
                self.leaks(replay, level)
            with checks.guard("logits"):
                self.pooled()
            with checks.guard("samples", "possible", "sampler"), highest():
                self.draws(last, level)
            with checks.guard("known faults"), highest():
                self.known_faults(replay, ids, truth, eager, level)
        with checks.guard("temperature"):
            if self.context.workload.sharp:
                self.sharp()
            else:
                self.temperature(replay)
        return self.facts

    def same_seed(self, timed: Tensor, replay: Run) -> None:
        """The same seed draws the same text; another token is right only where the logits' own bits are others."""
        other, steps = (timed != replay.tokens).any(0).nonzero(), replay.tokens.shape[1]
        if not len(other):
            self.checks.judge("same seed", passed=True, value=0, limit=0, what=f"{steps} tokens")
            return
        first = int(other[0])
        self.runner.fill_caches(0.0)
        again = self.runner.run(self.own, first + 1, timed).logits[:, first]
        moved = not torch.equal(again, replay.logits[:, first])
        what = f"token {first} differs in the second run" + (", as do its logits' bits" if moved else "")
        self.checks.judge("same seed", moved, value=len(other), limit=steps if moved else 0, what=what)

    def forced(self, replay: Run) -> None:
        """The reference's own continuation through the step: other tokens, and the logits that are known for them."""
        context, task, checks, forced = self.context, self.task, self.checks, forced_ids(self.context, self.task)
        self.runner.fill_caches(0.0)
        found = self.runner.run(task.first_prompt, self.steps, forced)
        others = (forced != replay.tokens)[self.rows, : self.steps - 1].any(0)
        moved = (found.logits[:, 1:] != replay.logits[:, 1 : self.steps]).any(-1).any(0)
        if bool((others & ~moved).any()):
            step = int((others & ~moved).nonzero()[0]) + 1
            what = f"step {step}: another token has the logits of one that was there before"
            checks.judge("changed input", passed=False, what=what)
        if self.reference is None:
            return
        tensors, ids = self.reference.tensors, torch.cat([task.first_prompt, forced], dim=1)
        judge_identity(context, self.reference, hashing.checksum(ids), checks)
        norm, truth = tensors["norm"][:, : self.steps], tensors["sketch"]
        errors = levels.distance(sketch(found.logits, dtype=self.exact.dtype), truth, norm)
        self.facts["reference"] = self.reference.recorded(float((errors * norm).norm() / norm.norm()))
        tied = tensors["ties"][:, : self.steps] if "ties" in tensors else None
        level = Level(tensors["eager_error"][:, : self.steps], self.weight.dtype, tied)
        self.limited(("reference", "reference"), errors, level, "the reference's continuation")

    def leaks(self, replay: Run, level: Level) -> None:
        """Another prompt, then the same as before; and again over a poisoned cache.

        Not a bit of what was in the cache before may show.
        """
        task, runner, n, checks = self.task, self.runner, self.steps, self.checks
        before = replay.logits[:, :n]
        prompt, forced = drawn_ids(self.context, task, "other prompt", self.prompt), forced_ids(self.context, task)
        other = runner.run(prompt, n, forced)
        stale = bool((other.logits[:, 0] == before[:, 0]).all()) and not torch.equal(prompt, self.own)
        what = "another prompt has the first one's logits" if stale else "another prompt, other tokens: other logits"
        checks.judge("changed input", not stale, what=what)
        ids = torch.cat([prompt, forced[:, : n - 1]], dim=1)[self.rows]
        with highest():
            truth = full(self.exact, ids, self.prompt)
        again = runner.run(self.own, n, replay.tokens).logits
        self.same("other prompt", again, before, level, "after another prompt")
        runner.fill_caches(POISON)
        self.same("cache", runner.run(self.own, n, replay.tokens).logits, before, level, "unused slots poisoned")
        if not stale:
            self.bounded(other.logits, ids, truth, full(self.eager, ids, self.prompt), "another prompt")

    def pooled(self) -> None:
        """All texts' steps together, more texts where those are few: little scatter, so that the limit is near."""
        task, n, number = self.task, self.steps, 0
        self.checks.unchecked("logits", "no pool of positions could be made")  # until there is one
        while sum(errors.numel() for errors, _, _ in self.pool) < levels.POOL and number < MOST_TEXTS:
            prompt, forced = (
                drawn_ids(self.context, task, f"{name}/{number}", count)
                for name, count in (("pool", self.prompt), ("pool forced", n))
            )
            logits, number = self.runner.run(prompt, n, forced).logits, number + 1
            ids = torch.cat([prompt, forced[:, : n - 1]], dim=1)[self.rows]
            with highest():
                truth = full(self.exact, ids, self.prompt)
            self.bounded(logits, ids, truth, full(self.eager, ids, self.prompt), f"another prompt, {number}")
        errors, eager, tied = (torch.cat([part.flatten() for part in parts]) for parts in zip(*self.pool))  # noqa: B905
        level = Level(eager, self.weight.dtype, tied)
        ratio, what = level.ratio(errors), f"{errors.numel()} steps of {len(self.pool)} texts"
        what = f"{what}: error of the logits is {ratio:.3g} times eager's{level.tied}"
        self.checks.at_most("logits", ratio, levels.overall(level.together), what)

    def same(self, name: str, one: Tensor, other: Tensor, level: Level, what: str) -> None:
        """Equal bits pass; else each step as near as any to the truth."""
        most = levels.row_factor(self.context.workload)
        changed = int((one != other).any(-1).sum())
        if not changed:
            self.checks.judge(name, passed=True, value=0.0, limit=most, what=f"{what}: the same bits")
            return
        errors = levels.distance(one.double(), other.double(), other.double().norm(dim=-1))
        worst, place = level.worst(errors)
        text = f"{what}: {changed} steps changed, most step {place % one.shape[1]}: {worst:.3g} times eager's error"
        self.checks.at_most(name, worst, most, text)

    def ties(self, ids: Tensor, first: int) -> Tensor | None:
        """What near ties make of the logits of `ids` [batch, time] from position `first` on, [batch, steps]."""
        if self.usual is None:
            return None
        with highest():
            return ties.effects(self.exact, ids, self.usual, first)[0]

    def bounded(self, logits: Tensor, ids: Tensor, truth: Tensor, eager: Tensor, what: str) -> Level:
        """Judge logits [batch, steps, vocabulary] of `ids`, all together and the worst step; return eager's level."""
        norm = truth.norm(dim=-1)
        errors, known = levels.distance(logits, truth, norm), levels.distance(eager, truth, norm)
        known, tied = known.clamp(max=self.worst_eager), self.ties(ids, self.prompt - 1)
        self.pool.append((errors, known, torch.zeros_like(known) if tied is None else tied))
        level = Level(known, self.weight.dtype, tied)
        self.limited(("logits", "worst step"), errors, level, what)
        return level

    def limited(self, names: tuple[str, str], errors: Tensor, level: Level, what: str) -> None:
        """The same for relative errors [batch, steps]; both verdicts may be one check's."""
        most = levels.limit(levels.OVERALL, level.together)
        worst_most = levels.limit(levels.row_factor(self.context.workload), errors.numel())
        ratio, (worst, place) = level.ratio(errors), level.worst(errors)
        what = f"{errors.shape[1]} steps, {what}"
        self.checks.at_most(
            names[0], ratio, most, f"{what}: error of the logits is {ratio:.3g} times eager's{level.tied}"
        )
        if names[1] != names[0] or not worst <= worst_most:
            text = f"{what}: step {place % errors.shape[1]} has {worst:.3g} times eager's error, the most of any"
            self.checks.at_most(names[1], worst, worst_most, text)

    def temperature(self, replay: Run) -> None:
        """At one position the step draws, over another temperature, what its own logits say."""
        task, candidates = self.task, range(1, self.steps)
        needs = {step: sampler.draws_needed(replay.logits[0, step], TEMPERATURE) for step in candidates}
        if not needs:
            raise ValueError("one new token alone has no step to draw at")
        step = min(needs, key=lambda one: needs[one])
        batch = task.prompt.shape[0]
        count = int(min(max(needs[step] / batch, DRAWS / 8), DRAWS)) + 1
        with torch.inference_mode(mode=False):
            temperature = torch.tensor(TEMPERATURE, device=self.context.device)
        torch.manual_seed(self.context.workload.seed)
        position = self.prompt + step - 1
        tokens, logits = self.runner.draw(replay.tokens[:, step - 1 : step], position, temperature, count)
        p, test = 2.0, ""
        for row in range(batch):
            found = sampler.look(logits[row : row + 1], tokens[:, row], TEMPERATURE, f"temperature/{row}").p_value
            p, test = min((p, test), (found[0] * batch, found[1]))
        what = f"{count * batch} draws at temperature {TEMPERATURE}: {test}"
        if p >= sampler.ALARM and needs[step] > count * batch:
            what = f"{what}: too few to distinguish it from 1, {needs[step]:.3g} would be needed"
            self.checks.unchecked("temperature", what)
            return
        self.checks.judge("temperature", p >= sampler.ALARM, value=p, limit=sampler.ALARM, what=what)

    def sharp(self) -> None:
        """After the prompt the step draws from a distribution that its head was made to have, far ids made likely."""
        task, context, batch = self.task, self.context, self.task.prompt.shape[0]
        if task.new_tokens < 2:  # noqa: PLR2004  (the prompt's own, and the one that is drawn here)
            raise ValueError("one new token alone has no step to draw at")
        wanted = sampler.Sharp(self.weight.shape[0], context.device)
        self.runner.fill_caches(0.0)
        # One prompt in every row: the head has that distribution behind this one.
        self.runner.run(task.first_prompt[:1].expand_as(task.prompt), 1)
        token = torch.full_like(task.first_prompt[:, :1], wanted.likely)
        with highest():
            hidden = self.exact.forward(torch.cat([task.first_prompt[:1], token[:1]], dim=1))[0, -1]
        with torch.inference_mode(mode=False):
            temperature = torch.tensor(TEMPERATURE, device=context.device)
        before = self.weight.clone()
        try:
            cap = context.model.config.logit_cap
            context.write_head(wanted.head(hidden, before[wanted.likely], TEMPERATURE, cap))
            torch.manual_seed(context.workload.seed)
            tokens, logits = self.runner.draw(token, self.prompt, temperature, -(-sampler.FIRST_DRAWS // batch))
            seen = wanted.look(logits, tokens, TEMPERATURE)
            if seen.suspicious:
                count = -(-sampler.ALL_DRAWS // batch) - len(tokens)
                more, _ = self.runner.draw(token, self.prompt, temperature, count)
                seen = wanted.look(logits, torch.cat([tokens, more]), TEMPERATURE)
        finally:
            context.write_head(before)
        seen.judge(self.checks)

    def draws(self, last: int, level: Level) -> None:
        """All texts: their last logits, the chance of each token, of all together, and of one text drawn twice."""
        task, workload, checks = self.task, self.context.workload, self.checks
        assert workload.temperature
        kept = [task.made[last], *(made for seed, made in reversed(list(task.made.items())) if seed != last)]
        parts = zip(*([each[self.rows] for each in made[1:]] for made in kept))  # noqa: B905  (Python 3.10's zip)
        judged = len(task.prompt[self.rows])
        texts, ends = (torch.cat(part)[: max(ROWS, judged)] for part in parts)
        prompts = torch.cat([task.prompt_of(made.sample)[self.rows] for made in kept])[: len(texts)]
        ids = torch.cat([prompts, texts[:, :-1]], dim=1)
        truth = full(self.exact, ids, self.prompt)
        found = sampler.look(truth.flatten(0, 1), texts.flatten(), workload.temperature, "texts")
        samples, tied = [made.sample for made in kept for _ in range(judged)], self.ties(ids, ids.shape[1] - 1)
        self.ends(ends, truth[:, -1], level, samples, torch.zeros(()) if tied is None else tied[:, 0])
        limit = IMPOSSIBLE / (texts.numel() * truth.shape[-1])
        least, what = float(found.log_p.min().exp()), f"the least likely of {texts.numel()} tokens, by the reference"
        checks.judge("possible", least >= limit, value=least, limit=limit, what=what)
        p, test = found.p_value
        what = f"{texts.numel()} tokens of {len(texts)} texts: {test}"
        checks.judge("sampler", p >= sampler.ALARM, value=p, limit=sampler.ALARM, what=what)
        chances, seen = found.log_p.view(texts.shape).sum(-1).exp().tolist(), set()
        for text, chance in zip(map(tuple, texts.tolist()), chances):  # noqa: B905  (Python 3.10's zip)
            if text in seen and chance < SAME_TEXT:
                checks.judge("sampler", passed=False, what=f"two samples drew one text of probability {chance:.2g}")
            seen.add(text)

    def ends(self, found: Tensor, truth: Tensor, level: Level, samples: list[int], tied: Tensor) -> None:
        """The last step's logits of each text, [texts, vocabulary], as far from the truth as any step's may be."""
        granted = torch.hypot(level.rows.median(), tied.to(level.rows))
        errors = levels.distance(found, truth, truth.norm(dim=-1)) / granted
        worst = int(torch.nan_to_num(errors, nan=float("inf")).argmax())
        what = f"the last step of sample {samples[worst]}: {float(errors[worst]):.3g} times eager's error"
        limit = levels.limit(levels.row_factor(self.context.workload), errors.numel())
        self.checks.at_most("samples", float(errors[worst]), limit, f"{what}, the most of {len(errors)} texts")

    def known_faults(self, replay: Run, ids: Tensor, truth: Tensor, eager: Tensor, level: Level) -> None:
        """Which known fault, if any, explains the error of the replay's first row."""
        effects = {
            name: sketch(head(hidden[:, self.prompt - 1 :]) - truth[:1])[0]
            for name, hidden, head in faults.logits(self.exact, ids[:1], self.prompt)
        }
        if first_failed(self.checks.items):
            shared = team.left_out(self.context, ids[:1])
            effects.update({name: sketch(one[:, self.prompt - 1 :].to(truth.dtype))[0] for name, one in shared.items()})
        least = levels.floor(self.weight.dtype) * float(truth[:1].norm())
        error, rounding = sketch(replay.logits[:1] - truth[:1])[0], sketch(eager[:1] - truth[:1])[0]
        if level.kept is not None:
            error, rounding = error[level.kept[0]], rounding[level.kept[0]]
            effects = {name: effect[level.kept[0]] for name, effect in effects.items()}
        matched = faults.match(error, rounding, effects, least)
        self.facts["resembles"] = judge_match(matched, len(effects), self.checks)
