"""Proves an engine's row, after the engine has made room: what it answered against the reference, by the factor rule.

Tokens are judged, not draws: their scores step by step against one full forward of them without a cache; greedy ones by
how far the reference's largest logit is above theirs; drawn ones by whether they have the reference's distribution.
Scores are compared where a constant added to all logits of a step cancels, as between logits and log-probabilities.
"""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple

import torch
from torch import Tensor

from bench.benchmarks import Context
from bench.benchmarks.engine import EngineTask
from bench.engine import Scores
from bench.model import hashing
from bench.observe.clock import Clock
from bench.observe.sketch import sketch
from bench.operators import Operators, reference_dtype
from bench.proof import faults, gate, levels, sampler, ties
from bench.proof.again import seen_again
from bench.proof.checks import Checks
from bench.proof.engine_answers import TEMPERATURE, Answers, Interview, Text, hashed, same_work, whole
from bench.proof.engine_logits import Known, centred, log_probabilities
from bench.proof.forward import judge_identity, judge_match
from bench.proof.generation import EAGER, IMPOSSIBLE
from bench.proof.layerwise import Layerwise, highest
from bench.proof.levels import Level
from bench.proof.reference_file import Reference
from bench.spec import Spec, Workload

ORDER = (
    "tokens", "same work", "finite", "repeat", "other prompt", "alone", "reference", "logits", "worst step", "decode",
    "greedy", "possible", "sampler", "temperature", "known faults",
)  # fmt: skip
SAMPLES = 16
"""Texts of the timed samples whose draws are judged together."""
FEWEST = 8
"""Steps without a near tie of a router that a known fault needs: in two of them rounding may have its effect."""
CHUNKS = (512, 1024)
"""Tokens of a chunk of a prompt, as engines have them."""
KEPT, SHIFTED = "the last prompt's cache kept", "log-probabilities shifted by one place"


@dataclass(frozen=True)
class Timed:
    """What `seen_again` needs of a context."""

    workload: Workload
    clock: Clock


class Asked(NamedTuple):
    """The engine's answers, the checks so far, and what is known for the record's proof."""

    answers: Answers | None
    checks: Checks
    facts: dict[str, Any]


def ask(task: EngineTask, spec: Spec, settings: dict[str, Any]) -> Asked:
    """Ask the engine everything."""
    checks, facts = Checks(), {"resembles": None, "seen_again": None, "seconds": 0.0}
    begin, answers = time.monotonic_ns(), None
    same_work(settings, task, checks)
    # By chance, not by the seed: nobody may know before which sample it will be.
    interview = Interview(task, checks, random.SystemRandom())
    with checks.guard("tokens"):
        answers = interview.ask()
    with checks.guard("seen again"):
        facts["seen_again"] = seen_again(Timed(task.workload, Clock(spec.device)), task)
    facts["seconds"] = (time.monotonic_ns() - begin) / 1e9
    return Asked(answers, checks, facts)


def judge(context: Context, task: EngineTask, spec: Spec, asked: Asked) -> dict[str, Any]:
    """Judge all of it against the reference, with the model filled from the engine's own folder.

    Return what the record's `proof` says.
    """
    checks, facts, answers = asked.checks, dict(asked.facts), asked.answers
    begin, reference = time.monotonic_ns() - round(facts["seconds"] * 1e9), None
    with checks.guard("reference"):
        reference = gate.find_reference(context, spec)
        if reference is None:
            checks.unchecked("reference", "no reference was given, and the model is too large to make one here")
    if answers is not None and answers.texts:
        with checks.guard("checks"):
            facts.update(Proof(context, task, answers, reference, checks).judge())
    return gate.finish(facts, checks, spec, ORDER, begin)


class Proof:
    """The checks of one engine's cell."""

    def __init__(
        self, context: Context, task: EngineTask, answers: Answers, reference: Reference | None, checks: Checks
    ) -> None:
        self.context, self.task, self.answers = context, task, answers
        self.reference, self.checks = reference, checks
        self.weight, self.device = context.model.head.weight, context.device
        self.prompt, self.vocabulary = task.prompt, task.config.vocabulary
        self.exact = Layerwise(context.model, reference_dtype(self.weight.dtype))
        self.eager = Layerwise(context.model, self.weight.dtype, Operators())
        known = reference.facts["eager_error"] if reference else None
        self.worst_eager = EAGER * known if known else float("inf")
        self.rows: list[list[int]] = []
        # Of the reference, of eager, and of the reference with other choices of experts at near ties of a router.
        self.hidden: tuple[Tensor, ...] | None = None
        self.found: dict[str, tuple[Tensor, ...]] = {}
        """What `errors` returned, by text."""
        self.facts: dict[str, Any] = {}

    def judge(self) -> dict[str, Any]:
        """All of them, on one pass of every text through the model in either precision."""
        checks, answers = self.checks, self.answers
        places = {name: self.add(text.rows) for name, text in answers.texts.items()}
        greedy = [self.add(rows) for rows in answers.greedy]
        drawn, samples = self.add(answers.drawn), self.add(self.samples())
        self.forward()
        with checks.guard("finite"):
            sound = {name: bool(torch.isfinite(text.scores.values).all()) for name, text in answers.texts.items()}
            wrong = [WORDS.get(name, "another text") for name in sound if not sound[name]]
            what = f"NaN or infinite scores in {len(wrong)} of {len(sound)} texts, first: {wrong[0]}" if wrong else None
            checks.judge("finite", not wrong, what=what or f"the scores of {len(sound)} texts")
        with checks.guard("logits", "worst step", "decode"):
            self.pooled(places)
        with checks.guard("repeat", "other prompt", "alone"):
            if "timed" in places:
                self.again(places)
        with checks.guard("reference"):
            self.against_reference(places)
        with checks.guard("greedy"):
            self.greedy(greedy)
        with checks.guard("sampler", "possible"), highest():
            self.drawn(samples, self.task.temperature, "sampler", f"{len(samples)} texts of the timed samples")
        with checks.guard("temperature"), highest():
            self.drawn(drawn, TEMPERATURE, "temperature", f"{len(drawn)} texts at temperature {TEMPERATURE}")
        with checks.guard("known faults"), highest():
            self.known_faults(places)
        return self.facts

    def add(self, rows: list[list[int]]) -> range:
        """Put whole rows among those that go through the model; return their places."""
        self.rows += rows
        return range(len(self.rows) - len(rows), len(self.rows))

    def samples(self) -> list[list[int]]:
        """Whole rows of the timed samples, the chosen rows of each, SAMPLES in all and one of the chosen one first."""
        task, rows = self.task, []
        order = sorted(task.made, key=lambda index: index != self.answers.chosen)
        for index in order:
            if whole(task, task.made[index]):
                prompts = task.prompt_of(index).tolist()
                rows += [[*prompts[row], *task.made[index][row]] for row in self.answers.rows]
        return rows[:SAMPLES]

    def forward(self) -> None:
        """The last norm's output of every row, [rows, time, width], in the reference's precision and eager's."""
        longest = max(map(len, self.rows))
        # What is put behind a shorter row is seen by none of its positions.
        ids = torch.tensor([[*row, *[0] * (longest - len(row))] for row in self.rows], device=self.device)
        model = self.context.model
        with highest():
            if ties.routed(model):
                right, eager, others, _ = ties.otherwise(self.exact, ids, draws=ties.DRAWS)
                self.hidden = right, eager, *(other.forward(ids) for other in others)
            else:
                self.hidden = self.exact.forward(ids), self.eager.forward(ids)

    def logits(self, place: int, first: int, steps: int) -> Known:
        """What is known of the logits [steps, vocabulary] that a row's tokens from `first` on come from."""
        assert self.hidden is not None
        exact, eager, *changed = (hidden[place, first - 1 : first - 1 + steps] for hidden in self.hidden)
        truth = self.head(exact)
        return Known(truth, self.eager.head(eager).to(truth.dtype), tuple(changed), self.head)

    def head(self, hidden: Tensor) -> Tensor:
        """The reference's logits."""
        with highest():
            return self.exact.head(hidden)

    def of_text(self, name: str, places: dict[str, range]) -> tuple[Known, Text]:
        """The same of a text's rows, [rows, steps, vocabulary], and the text."""
        text = self.answers.texts[name]
        return Known.joined(torch.stack, (self.logits(place, text.first, text.steps) for place in places[name])), text

    def compared(self, scores: Scores) -> tuple[Tensor, Callable[[Tensor], Tensor], float]:
        """The scores as they are compared, what makes logits so, and what to multiply the whole norm with."""
        values = scores.values.to(self.device, self.exact.dtype)
        if scores.ids is None:
            return centred(values), centred, 1.0
        pick = partial(log_probabilities, ids=scores.ids.to(self.device))
        return values, pick, (values.shape[-1] / self.vocabulary) ** 0.5

    def errors(self, name: str, known: Known) -> tuple[Tensor, ...]:
        """Of a text: relative errors of its scores and of eager's, and what near ties make, [rows, steps] each.

        The last is left out where no router chooses. Kept, since near ties take many products with the head.
        """
        if name not in self.found:
            values, view, part = self.compared(self.answers.texts[name].scores)
            norm = centred(known.truth).norm(dim=-1) * part
            own = levels.distance(values, view(known.truth), norm)
            eager, *tied = self.granted(known, view, norm)
            self.found[name] = own, eager.clamp(max=self.worst_eager), *tied
        return self.found[name]

    def granted(self, known: Known, view: Callable[[Tensor], Tensor], norm: Tensor) -> tuple[Tensor, ...]:
        """How far eager is from the truth, and where a router chooses other choices at most, relative to `norm`."""
        truth = view(known.truth)

        def far(logits: Tensor) -> Tensor:
            return levels.distance(view(logits), truth, norm)

        tied = known.most(far)
        return far(known.eager), *(() if tied is None else (tied,))

    def level(self, eager: Tensor, tied: Tensor | None = None) -> Level:
        """What errors are measured by."""
        return Level(eager, self.weight.dtype, tied)

    def pooled(self, places: dict[str, range]) -> None:
        """All texts' steps together, and each by itself; of the twin, made by decoding, under a name of its own."""
        pool: list[tuple[Tensor, ...]] = []
        for name in self.answers.texts:
            known, text = self.of_text(name, places)
            errors, *granted = self.errors(name, known)
            pool.append(tuple(part.flatten() for part in (errors, *granted)))
            what = f"{WORDS.get(name, 'another text')}, by {text.scores.by}"
            self.worst("decode" if name == "twin" else "worst step", errors, self.level(*granted), what)
            self.whole_mass(known, text)
        errors, *granted = (torch.cat(parts) for parts in zip(*pool))  # noqa: B905  (Python 3.10's zip)
        level, steps = self.level(*granted), f"{errors.numel()} steps of {len(pool)} texts"
        if granted[1:]:
            # Eager's router goes astray too, and as often: their medians tell them apart where near ties hide the rest.
            middle = float(errors.median() / granted[0].median().clamp(min=levels.floor(self.weight.dtype)))
            what = f"{steps}: the median error of the scores is {middle:.3g} times eager's"
            self.checks.at_most("logits", middle, levels.overall(errors.numel()), what)
        ratio = level.ratio(errors)
        what = f"{steps}: error of the scores is {ratio:.3g} times eager's"
        self.checks.at_most("logits", ratio, levels.overall(level.together), what + level.tied)

    def worst(self, check: str, errors: Tensor, level: Level, what: str) -> None:
        """The worst step of a text."""
        worst, place = level.worst(errors)
        limit = levels.limit(levels.row_factor(self.context.workload), errors.numel())
        text = f"{errors.shape[1]} steps, {what}: step {place % errors.shape[1]} has {worst:.3g} times eager's error"
        self.checks.at_most(check, worst, limit, f"{text}, the most of any")

    def whole_mass(self, known: Known, text: Text) -> None:
        """Of an engine's own top k: no likelier id is missing among them."""
        ids = text.scores.ids
        if ids is None or bool((ids == ids[:1, :1]).all()):
            return
        log_p = torch.log_softmax(known.truth, dim=-1)
        best = log_p.topk(ids.shape[-1], dim=-1)[0].exp().sum(-1)
        missing = best - log_p.gather(-1, ids.to(self.device)).exp().sum(-1)
        most = 2 * levels.ROW * known.farthest + levels.floor(self.weight.dtype)
        ratio = float((missing / (most * best)).max())
        if not ratio <= 1.0:
            self.checks.judge("worst step", passed=False, what=f"its top {ids.shape[-1]} lack likelier ids")

    def again(self, places: dict[str, range]) -> None:
        """The same text again, after another, and alone: the same bits, or as near as any to the truth."""
        known, text = self.of_text("timed", places)
        first, _, part = self.compared(text.scores)
        norm = centred(known.truth).norm(dim=-1) * part
        _, *granted = self.errors("timed", known)
        level = self.level(*granted)
        words = {"repeat": "the same tokens again", "other prompt": "after another prompt"}
        for name, scores in self.answers.again.items():
            self.same(name, first, self.compared(scores)[0], norm=norm, level=level, what=words[name])
        if self.answers.alone is not None:
            rows = self.level(*(part[:1] for part in granted))
            found = self.compared(self.answers.alone)[0]
            what = "the same prompt without the rest of the batch"
            self.same("alone", first[:1], found, norm=norm[:1], level=rows, what=what)

    def same(self, name: str, one: Tensor, other: Tensor, *, norm: Tensor, level: Level, what: str) -> None:
        """[rows, steps, n] twice."""
        most, changed = levels.row_factor(self.context.workload), int((one != other).any(-1).sum())
        if not changed:
            self.checks.judge(name, passed=True, value=0.0, limit=most, what=f"{what}: the same bits")
            return
        worst, place = level.worst(levels.distance(other, one, norm))
        text = f"{what}: {changed} steps changed, most step {place % one.shape[1]}: {worst:.3g} times eager's error"
        self.checks.at_most(name, worst, most, text)

    def against_reference(self, places: dict[str, range]) -> None:
        """The reference's own continuation: what is the truth here is the reference's, and the engine is near to it."""
        if self.reference is None or "forced" not in places:
            return
        task, tensors = self.task, self.reference.tensors
        ours, text = self.of_text("forced", places)
        first = task.prompt_of(0)
        ids = torch.cat([first, torch.tensor(hashed(task, "forced", task.new_tokens))], dim=1)
        judge_identity(self.context, self.reference, hashing.checksum(ids), self.checks)
        n, rows = min(text.steps, tensors["sketch"].shape[1]), len(text.rows)
        norm, known = (tensors[key][:rows, :n] for key in ("norm", "eager_error"))
        errors, _, *tied = (part[:, :n] for part in self.errors("forced", ours))
        # Of the truth what the reference's file says is granted, and of the engine what this cell knows besides.
        theirs = tensors["ties"][:rows, :n] if "ties" in tensors else None
        off = levels.distance(sketch(ours.truth[:, :n]), tensors["sketch"][:rows, :n], norm)
        self.facts["reference"] = self.reference.recorded(float((errors * norm).norm() / norm.norm()))
        judged = {"the truth of this cell": (off, theirs), "the engine": (errors, tied[0] if tied else None)}
        for what, (found, granted) in judged.items():
            worst, place = Level(known, self.weight.dtype, granted).worst(found)
            limit = levels.limit(levels.row_factor(self.context.workload), found.numel())
            text_ = f"{n} steps of the reference's continuation: {what} has {worst:.3g} times eager's error"
            self.checks.at_most("reference", worst, limit, f"{text_} at step {place % n}")

    def greedy(self, runs: list[range]) -> None:
        """No greedy token is further below the reference's largest logit than eager's error may put it.

        So two runs, and any two engines, agree until the reference's margin falls below that error.
        """
        worst, what, checks = 0.0, "", self.checks
        steps = self.task.new_tokens
        for number, places in enumerate(runs):
            for place in places:
                known = self.logits(place, self.prompt, steps)
                truth = known.truth
                tokens = torch.tensor(self.rows[place][self.prompt :], device=self.device)
                below = truth.amax(-1) - truth.gather(-1, tokens[:, None])[:, 0]
                error = known.farthest
                least = levels.floor(self.weight.dtype) * centred(truth).norm(dim=-1) / self.vocabulary**0.5
                ratios = below / (2 * levels.row_factor(self.context.workload) * torch.maximum(error, least))
                step = int(ratios.argmax())
                if not float(ratios[step]) <= worst:
                    worst = float(ratios[step])
                    what = f"; run {number + 1}, step {step}: {float(below[step]):.3g} below the largest logit"
        first, second = ([self.rows[place] for place in places] for places in runs)
        same = "the same tokens" if first == second else "tokens that differ at near-ties"
        checks.at_most("greedy", worst, 1.0, f"two runs of {steps} steps made {same}{what}")

    def clear(self, known: Known) -> Tensor | None:
        """Which steps [steps] have no near tie of a router, where most have none; None: judge all.

        The engine may have drawn from what its other choice of experts makes.
        """
        if not known.changed:
            return None
        clear = self.level(*self.granted(known, centred, centred(known.truth).norm(dim=-1))).clear
        return clear if clear is not None and 2 * int(clear.sum()) >= clear.numel() else None

    def drawn(self, places: range, temperature: float, check: str, what: str) -> None:
        """Tokens of whole rows have the distribution that the reference says."""
        steps, checks = self.task.new_tokens, self.checks
        known = Known.joined(torch.cat, (self.logits(place, self.prompt, steps) for place in places))
        rows = [self.rows[place][self.prompt :] for place in places]
        tokens = torch.tensor(rows, device=self.device).flatten()
        truth = known.truth
        if (clear := self.clear(known)) is not None:
            truth, tokens = truth[clear], tokens[clear]
        found = sampler.look(truth, tokens, temperature, check)
        p, test = found.p_value
        what = f"{tokens.numel()} tokens of {what}: {test}"
        if check == "sampler":
            limit = IMPOSSIBLE / truth.numel()
            least = float(found.log_p.min().exp())
            text = f"the least likely of {tokens.numel()} tokens, by the reference"
            checks.judge("possible", least >= limit, value=least, limit=limit, what=text)
        else:
            needed = sampler.draws_needed(truth[len(truth) // 2], temperature)
            if p >= sampler.ALARM and needed > tokens.numel():
                text = f"{what}: too few to distinguish it from 1, {needed:.3g} would be needed"
                checks.unchecked(check, text)
                return
        checks.judge(check, p >= sampler.ALARM, value=p, limit=sampler.ALARM, what=what)

    def known_faults(self, places: dict[str, range]) -> None:
        """Which known fault, if any, explains the errors of two texts' first rows."""
        matched, count = None, 0
        for name in ("timed", "other") if {"timed", "other"} <= set(places) else ():
            found, tried = self.matched(name, places)
            if found is not None and ties.routed(self.context.model) and "forced" in places:
                # Another choice of experts makes a large error, which may look like a fault: hardly so in two texts.
                again, _ = self.matched("forced", places)
                found = found if again is not None and again.name == found.name else None
            matched, count = matched or found, count + tried
        self.facts["resembles"] = judge_match(matched, count, self.checks)

    def matched(self, name: str, places: dict[str, range]) -> tuple[faults.Match | None, int]:
        """(The fault that explains the error of a text's first row, of how many)."""
        known, text = self.of_text(name, places)
        values, view, _ = self.compared(text.scores)
        row = Scores(text.scores.values[:1], None if text.scores.ids is None else text.scores.ids[:1])
        own = self.compared(row)[1]
        base = own(known.truth[:1])
        effects = {fault: sketch(own(wrong) - base)[0] for fault, wrong in self.wrong(name, text)}
        if text.scores.ids is not None:
            effects[SHIFTED] = sketch(base.roll(1, dims=-1) - base)[0]
        least = levels.floor(self.weight.dtype) * float(base.norm())
        error, rounding = sketch(values[:1] - base)[0], sketch(view(known.eager)[:1] - base)[0]
        granted = self.errors(name, known)[1:]
        if (clear := self.level(*(part[:1] for part in granted)).clear) is not None:
            if int(clear.sum()) < FEWEST:
                return None, len(effects)
            error, rounding = error[clear[0]], rounding[clear[0]]
            effects = {fault: effect[clear[0]] for fault, effect in effects.items()}
        return faults.match(error, rounding, effects, least), len(effects)

    def wrong(self, name: str, text: Text) -> Iterator[tuple[str, Tensor]]:
        """Each known fault with the logits [1, steps, vocabulary] that it makes of the text's first row."""
        row, part = text.rows[0], slice(text.first - 1, text.first - 1 + text.steps)
        ids = torch.tensor([row], device=self.device)
        if name == "other":
            before = self.answers.texts["timed"].rows[0]
            after = torch.tensor([before + row], device=self.device)
            if after.shape[1] <= self.task.config.block_size:
                hidden = self.exact.forward(after)[:, len(before) :]
                yield KEPT, self.exact.head(hidden[:, part])
            return
        for fault, hidden, head in faults.logits(self.exact, ids, self.prompt):
            yield fault, head(hidden[:, part])
        for end in {chunk for chunk in (self.prompt // 2, *CHUNKS) if 0 < chunk < self.prompt}:
            hidden = faults.without_chunk(self.exact, end).forward(ids)
            yield f"the first {end} tokens of the prompt dropped", self.exact.head(hidden[:, part])
            hidden = faults.with_cache(self.exact, partial(emptied, end=end)).forward(ids)
            yield f"nothing in the cache of the first {end} tokens of the prompt", self.exact.head(hidden[:, part])
        for dtype in (torch.bfloat16, torch.float16):
            if torch.finfo(self.weight.dtype).eps < torch.finfo(dtype).eps:
                hidden = faults.with_cache(self.exact, partial(rounded, dtype=dtype)).forward(ids)
                yield f"{str(dtype).removeprefix('torch.')} cache", self.exact.head(hidden[:, part])


WORDS = {"timed": "a timed sample", "twin": "the sample again, with scores", "forced": "the reference's continuation"}


def rounded(x: Tensor, dtype: torch.dtype) -> Tensor:
    """`x` as another type holds it."""
    return x.to(dtype).to(x.dtype)


def emptied(x: Tensor, end: int) -> Tensor:
    """Keys or values [batch, time, ...] as they are where a chunk was never computed."""
    return torch.cat([torch.zeros_like(x[:, :end]), x[:, end:]], dim=1)
