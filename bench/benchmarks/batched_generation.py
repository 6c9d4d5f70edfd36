"""Generation for a batch of different prompts of one length, all given at once, prefill and decode told apart.

The compiled step is generation's, but the head is computed for the last position alone: the logits of all prompts'
tokens would be as large as the model.
"""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from bench.benchmarks import Context
from bench.benchmarks.generation import Generation, Step
from bench.model import hashing, sampling, work
from bench.spec import ModelConfig, Workload
from bench.status import Unsupported

# Rows that are compared with the reference, the first and the last among them; every row is compared with itself alone.
JUDGED = 8


class BatchedGeneration(Generation):
    """Times whole generations; `first_token_ns` is when every row has its first token. No row ends early."""

    def __init__(self, context: Context) -> None:
        workload, config = context.workload, context.model.config
        assert workload.batch
        asked = workload.prompt_length + (workload.new_tokens or 0)
        if asked > config.block_size:
            raise Unsupported(f"prompt_tokens: {asked} with the new ones: beyond {config.block_size} of {config.name}")
        self.judged = rows_of(workload.batch)
        super().__init__(context)

    def make_first_prompt(self, batch: int) -> Tensor:
        """[batch, time]: sample 0's."""
        assert batch == self.workload.batch
        return prompts(self.workload, self.config, [], 0, self.context.device)

    def make_step(self) -> Step:
        """(tokens [batch, time], positions [time], temperature) -> (token [batch, 1], logits [batch, vocabulary])."""
        model = self.context.model

        def step(tokens: Tensor, positions: Tensor, temperature: Tensor) -> tuple[Tensor, Tensor]:
            logits = model.last(tokens, positions)
            return sampling.exponential(logits, temperature), logits

        compiled: Step = self.context.method.compile_step(step, self.workload)
        return compiled

    def prompt_of(self, index: int) -> Tensor:
        """[batch, time]: other ids for each sample and row."""
        return prompts(self.workload, self.config, [], index, self.context.device)

    def work(self, shapes: list[list[int]]) -> dict[str, int | None]:
        """Of one generation of the whole batch: each step reads the weights once, and the cache of every row."""
        batch, _ = shapes[0]
        time = self.prompt.shape[1]
        return {
            "flops": work.batched_flops(self.config, batch, time, self.new_tokens),
            "bytes": work.batched_bytes(self.config, self.workload, time, self.new_tokens),
            "tokens": batch * self.new_tokens,
        }


def prompts(workload: Workload, config: ModelConfig, first: Sequence[int], index: int, device: str) -> Tensor:  # noqa: ARG001
    """Ids [batch, prompt tokens] of sample `index`, from the hash: the same for every method and engine.

    `first` are those of a workload that gives them; this benchmark's does not.
    """
    assert workload.batch
    shape = (workload.batch, workload.prompt_length)
    return hashing.integers(f"prompts/{index}", workload.seed, shape, config.vocabulary, device)


def rows_of(batch: int) -> list[int]:
    """JUDGED rows of so many, evenly from the first to the last; all where there are no more."""
    if batch <= JUDGED:
        return list(range(batch))
    return [round(place * (batch - 1) / (JUDGED - 1)) for place in range(JUDGED)]


build = BatchedGeneration
