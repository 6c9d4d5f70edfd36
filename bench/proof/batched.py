"""Proves a batch's generation: what proves any generation, on a few of its rows; and every row against itself alone.

It costs what `bench.proof.generation` does and one generation's replay more, STEPS twice with half of the rows changed,
and one plain forward of every row.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from bench.benchmarks import Context
from bench.observe.sketch import sketch
from bench.proof import generation, levels
from bench.proof.checks import Checks
from bench.proof.generation import Runner, drawn_ids, forced_ids, make
from bench.proof.reference_file import Reference
from bench.proof.sampler import ALARM

__all__ = ["ORDER", "check", "make"]

OWN = ("rows", "other rows", "whole rows")
# Which row is wrong says more than how large the error is.
ORDER = ("finite", *OWN, *generation.ORDER[1:])


def check(context: Context, task: Any, reference: Reference | None, checks: Checks) -> dict[str, Any]:
    """Judge the step that was timed; return more of the record's proof. `task.made` are the samples' texts."""
    return Proof(context, task, reference, checks).judge()


class Proof(generation.Proof):
    """The checks of one cell: a generation's on the judged rows, then those of all rows.

    Rows beyond the judged ones are not compared with the reference but with plain eager operators on the same tokens,
    one row after the other, by the factor on eager's own error; sketches stand for the logits.
    """

    def judge(self) -> dict[str, Any]:
        """All checks."""
        facts = super().judge()
        with self.checks.guard(*OWN):
            # The last sample's prompts again, and the tokens that they drew: as in the replay.
            self.task.inputs(self.context.workload.iterations - 1)
            self.runner.fill_caches(0.0)
            replay = Runner(self.context, self.task, self._sketched).run(self.own, self.task.new_tokens)
            alone, norm, chances = self.alone(replay.tokens)
            # Right rows differ in their own errors: the largest that eager has in any judged row is allowed to all.
            known = self.pool[0][1].double().square().mean(-1).sqrt()
            self.least = max(float(known.max()), levels.floor(self.weight.dtype))
            self.each_row(replay.logits, alone, norm)
            self.other_rows(replay)
            self.whole_rows(replay.tokens, chances)
        return facts

    def _sketched(self, logits: Tensor) -> Tensor:
        """Of logits [batch, vocabulary] in the reference's precision: [batch, buckets]."""
        return sketch(logits, dtype=self.exact.dtype)

    def alone(self, tokens: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """(Sketches [batch, steps, buckets], norms and the drawn tokens' log-probabilities, [batch, steps]) of eager.

        Each row goes through the model by itself, and without a cache.
        """
        hidden = self.eager.forward(torch.cat([self.own, tokens[:, :-1]], dim=1))[:, self.prompt - 1 :]
        found: list[tuple[Tensor, Tensor, Tensor]] = []
        for row, drawn in zip(hidden, tokens):  # noqa: B905  (Python 3.10's zip)
            logits = self.eager.head(row).to(self.exact.dtype)
            scaled = torch.log_softmax(logits / self.task.temperature, dim=-1)
            found.append((sketch(logits), logits.norm(dim=-1), scaled.gather(1, drawn[:, None])[:, 0]))
        sketches, norms, chances = (torch.stack(part) for part in zip(*found))  # noqa: B905
        return sketches, norms, chances

    def each_row(self, found: Tensor, alone: Tensor, norm: Tensor) -> None:
        """Each row's logits in the batch, by how far they are from those of the same tokens alone."""
        errors = levels.distance(found, alone, norm)
        ratios = errors.double().square().mean(-1).sqrt() / self.least
        most = levels.limit(levels.row_factor(self.context.workload), errors.shape[1])
        row = int(torch.nan_to_num(ratios, nan=float("inf")).argmax())
        worst, last = float(ratios[row]), len(ratios) - 1
        name = f"row {row}" + (", the last one," if row == last > 0 else "")
        if worst <= most:
            what = f"{name} of {last + 1} is {worst:.3g} times eager's error from itself alone, the most of any row"
        else:
            step = int((~(errors[row] <= most * self.least)).nonzero()[0]) if bool(errors.isfinite().all()) else 0
            wrong = int((~(ratios <= most)).sum())
            beyond = "no other row is" if wrong == 1 else f"{wrong} rows are"
            what = (
                f"{name} of {last + 1} is {worst:.3g} times eager's error from itself alone, from its token {step} on"
            )
            what += f"; {beyond} beyond the limit{self._swapped(row, found[:, 0], alone[:, 0], norm[:, 0])}"
        self.checks.at_most("rows", worst, most, what)

    def _swapped(self, row: int, found: Tensor, alone: Tensor, norm: Tensor) -> str:
        """Whose logits behind the prompt, [batch, buckets], a wrong row has, where they are another row's."""
        away = levels.distance(found[row : row + 1], alone, norm)
        near = int(torch.nan_to_num(away, nan=float("inf")).argmin())
        limit = levels.limit(levels.row_factor(self.context.workload), 1)
        return f": it has those of row {near}" if near != row and float(away[near]) <= limit * self.least else ""

    def other_rows(self, replay: generation.Run) -> None:
        """Other prompts and tokens in every second row, then in the others: the rows between may not change."""
        batch, most = len(self.own), levels.row_factor(self.context.workload)
        if batch == 1:
            self.checks.judge("other rows", passed=True, value=0.0, limit=most, what="one row alone")
            return
        places = torch.arange(batch, device=self.own.device)
        worst, what = 0.0, f"other prompts in every second row: the same bits in those between, {self.steps} steps"
        for parity in (0, 1):
            others = places % 2 == parity
            moved = self._moved(replay, others)
            # NaN is the largest.
            row = int(torch.nan_to_num(moved, nan=float("inf")).argmax())
            if not float(moved[row]) <= worst:
                worst = float(moved[row])
                what = f"row {row} is {worst:.3g} times eager's error from before, with another prompt in "
                what += f"row {self._culprit(replay, row, others)}" if not worst <= most else "every second row"
        self.checks.at_most("other rows", worst, most, what)

    def _moved(self, replay: generation.Run, others: Tensor) -> Tensor:
        """By how much each row [batch] changes when `others` of them do, in eager's errors; 0 of those."""
        prompt = torch.where(others[:, None], drawn_ids(self.context, self.task, "other rows", self.prompt), self.own)
        forced = forced_ids(self.context, self.task)[:, : self.steps]
        forced = torch.where(others[:, None], forced, replay.tokens[:, : self.steps])
        self.runner.fill_caches(0.0)
        found = Runner(self.context, self.task, self._sketched).run(prompt, self.steps, forced).logits
        before = replay.logits[:, : self.steps]
        errors = levels.distance(found, before, before.norm(dim=-1)).double().square().mean(-1).sqrt() / self.least
        return errors.masked_fill(others, 0.0)

    def _culprit(self, replay: generation.Run, row: int, others: Tensor) -> str:
        """Which one of `others` changes `row`, by halves: a number, or several where no single one does."""
        found = others.nonzero().flatten()
        while len(found) > 1:
            halves = found.chunk(2)
            most = levels.row_factor(self.context.workload)
            guilty = [half for half in halves if not float(self._moved(replay, _only(others, half))[row]) <= most]
            if not guilty:
                break
            found = guilty[0]
        return ", ".join(map(str, found.tolist()))

    def whole_rows(self, tokens: Tensor, chances: Tensor) -> None:
        """No row ends in a run of one token that is too unlikely to have been drawn: a row that ended early does."""
        batch, steps = tokens.shape
        limit = ALARM / (batch * steps * self.weight.shape[0])
        same = (tokens == tokens[:, -1:]).flip(1).cumprod(1).flip(1).bool()
        # The first of the run may be any token: the others are that one again.
        lengths, summed = same.sum(1), torch.where(same, chances, torch.zeros_like(chances)).sum(1)
        likely = torch.where(lengths > 1, summed, torch.zeros_like(summed)).exp()
        row = int(likely.argmin())
        least, length = float(likely[row]), int(lengths[row])
        what = f"{steps} tokens in each of {batch} rows, none of which ends in one token again and again"
        if least < limit:
            what = f"row {row} has token {int(tokens[row, -1])} from its token {steps - length} on: it ended early"
        self.checks.judge("whole rows", least >= limit, value=least, limit=limit, what=what)


def _only(others: Tensor, places: Tensor) -> Tensor:
    """True at `places` alone, as long as `others`."""
    return torch.zeros_like(others).index_fill_(0, places, True)
