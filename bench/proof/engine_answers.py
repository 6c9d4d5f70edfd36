"""What an engine is asked after timing, while it is still loaded: texts, and what it says they are drawn from.

Everything goes through the adapter that was timed. What comes back is kept on the CPU, of a few rows of the batch, and
judged once the engine has made room for the reference (`bench.proof.engine`).

Cost in generations of the timed length: a twin of a sample, its score twice and once more after another text's, that
text's, the reference's, two greedy ones, some over another temperature, and further texts until there are
`levels.POOL` positions.
"""

from __future__ import annotations

import random
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from torch import Tensor

from bench.benchmarks.engine import Asked, EngineTask
from bench.engine import Scores
from bench.model import hashing
from bench.proof import levels
from bench.proof.checks import Checks
from bench.status import Incorrect

ROWS = 8
"""Rows of a batch that are judged, chosen at random after timing; the engine computes all of them."""
MOST_TEXTS, MOST_DRAWN = 16, 16
SCORES_BYTES = 500_000_000
"""Of one answer, a whole batch over the whole vocabulary in float32: of so many steps at most."""
TEMPERATURE, DRAWS = 0.5, 400
WANTED = 64
"""Ids, chosen by the hash, at which an engine is asked that does not give the whole vocabulary."""

TYPES, REUSE = ("weights_dtype", "activation_dtype", "cache_dtype"), ("prefix_cache", "speculation")
"""Settings that an engine must report."""


class Text(NamedTuple):
    """Whole rows [rows][time]; `scores` [rows, steps, n] are of the tokens from place `first` on."""

    rows: list[list[int]]
    first: int
    scores: Scores

    @property
    def steps(self) -> int:
        """How many tokens are judged of each row."""
        return int(self.scores.values.shape[1])


@dataclass
class Answers:
    """By name: texts with their scores, and texts whose tokens alone are known."""

    chosen: int
    """The sample, by its index."""
    rows: list[int]
    """Which rows of the batch."""
    texts: dict[str, Text] = field(default_factory=dict)
    greedy: list[list[list[int]]] = field(default_factory=list)
    """Whole rows of each run."""
    drawn: list[list[int]] = field(default_factory=list)
    """Whole rows, over TEMPERATURE."""
    again: dict[str, Scores] = field(default_factory=dict)
    """What was said again of a text."""
    alone: Scores | None = None


class Interview:
    """Asks; what an engine cannot do leaves its checks unchecked, with the reason."""

    def __init__(self, task: EngineTask, checks: Checks, choice: random.Random) -> None:
        self.task, self.engine, self.checks = task, task.engine, checks
        batch = task.workload.batch or 1
        wrong = [index for index, rows in task.made.items() if not whole(task, rows)]
        chosen = wrong[0] if wrong else choice.choice(sorted(task.made))
        self.answers = Answers(chosen, sorted(choice.sample(range(batch), min(batch, ROWS))))
        vocabulary, seed = task.config.vocabulary, task.workload.seed
        self.ids = sorted(set(hashing.integers("proof/ids", seed, (WANTED,), vocabulary, "cpu").tolist()))
        self.steps = max(1, min(task.new_tokens, SCORES_BYTES // (4 * batch * vocabulary)))

    def ask(self) -> Answers:
        """Everything, in an order in which one text's keys would be seen in the next."""
        task, answers, checks = self.task, self.answers, self.checks
        own = task.inputs(answers.chosen)
        with checks.guard("tokens", "decode"):
            self.twin(own)
        if not whole(task, task.made[answers.chosen]):
            return answers
        with checks.guard("logits", "worst step", "repeat", "other prompt"):
            timed = self.joined(own, task.made[answers.chosen])
            answers.texts["timed"] = self.score(timed)
            answers.again["repeat"] = self.score(timed).scores
            answers.texts["other"] = self.score(self.drawn_ids("other prompt"))
            answers.again["other prompt"] = self.score(timed).scores
        with checks.guard("alone"):
            if len(own.prompts) > 1:
                row = answers.rows[0]
                answers.alone = self.only(self.engine.score([timed[row]], self.first(timed), self.ids), [0])
        with checks.guard("reference"):
            forced = hashed(task, "forced", task.new_tokens)
            rows = [a + b[: self.steps] for a, b in zip(task.inputs(0).prompts, forced)]  # noqa: B905
            answers.texts["forced"] = self.score(rows, task.judged[:ROWS])
        with checks.guard("logits"):
            self.pool()
        with checks.guard("greedy"):
            answers.greedy = [self.chosen(self.joined(own, task.generate(own, task.new_tokens, 0.0))) for _ in range(2)]
        with checks.guard("temperature"):
            answers.drawn = list(self.over_another_temperature())
        return answers

    def twin(self, own: Asked) -> None:
        """The chosen sample once more, with what it draws from; and whether every sample has its tokens."""
        task, twins = self.task, dict[int, list[list[int]]]()
        try:
            tokens, scores = self.engine.twin(
                own.prompts, self.steps, temperature=task.temperature, seed=own.seed, ids=self.ids
            )
            if self.steps == task.new_tokens:
                twins[own.sample] = tokens
        finally:  # an engine that has no twin has its tokens counted all the same
            self.count(twins)
        if not whole(task, tokens, self.steps):
            raise Incorrect(f"untimed, it made {[len(row) for row in tokens][:ROWS]} tokens of {self.steps}")
        rows = self.chosen(self.joined(own, tokens))
        self.answers.texts["twin"] = Text(rows, len(own.prompts[0]), self.only(scores, self.answers.rows))

    def count(self, twins: dict[int, list[list[int]]]) -> None:
        """Every row of every sample has the asked number of tokens, all of the vocabulary."""
        task = self.task
        for index, rows in task.made.items():
            if whole(task, rows):
                continue
            batch = task.workload.batch or 1
            what = f"sample {index}: {len(rows)} texts of {batch}"
            if len(rows) == batch:
                row = next(place for place, tokens in enumerate(rows) if not whole_row(task, tokens))
                what = f"sample {index}, row {row}: {len(rows[row])} of {task.new_tokens} tokens"
                twin = twins.get(index, [[]] * batch)[row]
                what += difference(rows[row], twin) or ""
            self.checks.judge("tokens", passed=False, value=None, what=what)
            return
        what = f"every row of {len(task.made)} samples has {task.new_tokens} tokens of the vocabulary"
        self.checks.judge("tokens", passed=True, what=what)

    def first(self, rows: list[list[int]]) -> int:
        """The place from which on tokens are scored: the last steps that fit."""
        return len(rows[0]) - self.steps

    def score(self, rows: list[list[int]], kept: list[int] | None = None) -> Text:
        """Of whole rows of the whole batch; those chosen are kept, or others."""
        first, kept = self.first(rows), self.answers.rows if kept is None else kept
        scores = self.only(self.engine.score(rows, first, self.ids), kept)
        return Text([rows[row] for row in kept], first, scores)

    def only(self, scores: Scores, rows: list[int]) -> Scores:
        """The chosen rows, on the CPU; Incorrect where the shape is another than was asked for."""
        if not isinstance(scores, Scores):
            raise Incorrect(f"its scores are a {type(scores).__name__}, not bench.engine.Scores")
        values, ids = scores.values, scores.ids
        if values.dim() != 3 or values.shape[1] != self.steps or len(values) <= rows[-1]:  # noqa: PLR2004
            raise Incorrect(f"scores of shape {list(values.shape)} for {self.steps} steps")
        if ids is None and values.shape[2] != self.task.config.vocabulary:
            raise Incorrect(f"scores of {values.shape[2]} ids, and the vocabulary has {self.task.config.vocabulary}")
        kept = values[rows].detach().to("cpu", copy=True)
        if ids is None:
            return Scores(kept, None, scores.by)
        every = ids.expand(values.shape)[rows].detach().to("cpu", copy=True)
        return Scores(kept, every.long(), scores.by)

    def chosen(self, rows: list[list[int]]) -> list[list[int]]:
        """Those rows that are judged."""
        return [rows[row] for row in self.answers.rows]

    def joined(self, own: Asked, tokens: list[list[int]]) -> list[list[int]]:
        """Prompts and what followed."""
        return [[*a, *map(int, b)] for a, b in zip(own.prompts, tokens)]  # noqa: B905

    def drawn_ids(self, name: str) -> list[list[int]]:
        """Whole rows of ids from the hash."""
        task = self.task
        return hashed(task, name, task.prompt + task.new_tokens)

    def pool(self) -> None:
        """Further texts until there are enough positions for a near limit."""
        texts = self.answers.texts
        for number in range(MOST_TEXTS):
            if sum(len(text.rows) * text.steps for text in texts.values()) >= levels.POOL:
                return
            texts[f"pool {number}"] = self.score(self.drawn_ids(f"pool/{number}"))

    def over_another_temperature(self) -> Iterator[list[int]]:
        """Whole rows, until there are DRAWS tokens."""
        task, count = self.task, 0
        for number in range(MOST_DRAWN):
            own = task.inputs(task.workload.iterations + 1 + number)
            for row in self.chosen(self.joined(own, task.generate(own, task.new_tokens, TEMPERATURE))):
                count += task.new_tokens
                yield row
            if count >= DRAWS:
                return


def hashed(task: EngineTask, name: str, count: int) -> list[list[int]]:
    """[batch][count] ids over the vocabulary, as `bench.proof.generation` makes them."""
    shape, seed = (task.workload.batch or 1, count), task.workload.seed
    ids: Tensor = hashing.integers(f"proof/{name}", seed, shape, task.config.vocabulary, "cpu")
    found: list[list[int]] = ids.tolist()
    return found


def whole_row(task: EngineTask, row: list[int], count: int | None = None) -> bool:
    """Whether it has as many tokens as were asked for, all of the vocabulary."""
    asked = task.new_tokens if count is None else count
    return len(row) == asked and all(0 <= token < task.config.vocabulary for token in row)


def whole(task: EngineTask, rows: list[list[int]], count: int | None = None) -> bool:
    """Whether that holds of every row, and there are as many as the batch."""
    return len(rows) == (task.workload.batch or 1) and all(whole_row(task, row, count) for row in rows)


def difference(tokens: list[int], twin: list[int]) -> str | None:
    """How a text that is too short differs from its twin by the same seed, where that can be said."""
    if not len(tokens) < len(twin):
        return None
    same = next((place for place, (a, b) in enumerate(zip(tokens, twin)) if a != b), len(tokens))  # noqa: B905
    if same == len(tokens):
        return f"; it ends early, after token {same}"
    rest = len(twin) - len(tokens)
    return f"; token {same} is missing" if tokens[same:] == twin[same + rest :] else None


def same_work(settings: dict[str, Any], task: EngineTask, checks: Checks) -> None:
    """What the engine reports of itself is what was asked for: a setting that makes the work less is refused."""
    workload = task.workload
    for name in TYPES:
        if settings[name] not in (None, workload.dtype):
            what = f"{name} is {settings[name]}, the workload's is {workload.dtype}"
            checks.judge("same work", passed=False, what=what)
    for name in REUSE:
        if settings[name]:
            checks.judge("same work", passed=False, what=f"{name} is on: what is measured would be less work")
    needed = (workload.batch or 1) * (task.prompt + task.new_tokens)
    if settings["cache_tokens"] is not None and settings["cache_tokens"] < needed:
        what = f"its cache holds {settings['cache_tokens']} tokens, the batch needs {needed}"
        checks.judge("same work", passed=False, what=what)
    unknown = [name for name in (*TYPES, *REUSE) if settings[name] is None]
    if unknown:
        checks.unchecked("same work", f"the engine does not say: {', '.join(unknown)}")
    else:
        checks.judge("same work", passed=True, what="types, cache and reuse as the engine reports them")
