"""What an engine's cell times: the prompts of a benchmark that generates, through the engine's own `generate`."""

from __future__ import annotations

from time import monotonic_ns
from typing import Any, NamedTuple

import torch
from torch import Tensor

from bench import benchmarks
from bench.benchmarks.generation import BRIEF_TOKENS, prompt_ids, seed_of
from bench.engine import Engine
from bench.model import work
from bench.observe.clock import Clock
from bench.spec import Workload
from bench.status import Incorrect, Unsupported


class Asked(NamedTuple):
    """A sample, by its number, with prompts [batch][time] and what it draws with."""

    sample: int
    prompts: list[list[int]]
    seed: int


class EngineTask(benchmarks.Task):
    """Generations of a whole batch at once. `made` are the tokens of each sample, [batch][new tokens], as they came."""

    def __init__(self, workload: Workload, engine: Engine, clock: Clock, tokenizer: Any = None) -> None:
        module = benchmarks.load(workload.benchmark)
        if not hasattr(module, "prompts"):
            raise Unsupported(f"an engine computes nothing of {workload.benchmark}")
        assert workload.new_tokens
        assert workload.temperature
        self.workload, self.engine, self.clock, self.module = workload, engine, clock, module
        self.new_tokens, self.temperature = workload.new_tokens, workload.temperature
        self.first = prompt_ids(workload, self.config, tokenizer) if workload.prompt else []
        self.prompt = self.prompt_of(0).shape[1]
        """Tokens of each prompt."""
        batch = workload.batch or 1
        self.judged: list[int] = list(module.rows_of(batch) if hasattr(module, "rows_of") else range(batch))
        """The rows of the batch that a reference has."""
        self.made: dict[int, list[list[int]]] = {}
        self.stamp: int | None = None

    def prompt_of(self, index: int) -> Tensor:
        """[batch, time], on the CPU."""
        prompts: Tensor = self.module.prompts(self.workload, self.config, self.first, index, "cpu")
        return prompts

    def inputs(self, index: int) -> Asked:
        """The prompts as lists, as engines take them."""
        return Asked(index, self.prompt_of(index).tolist(), seed_of(self.workload, index))

    def content(self, inputs: Asked) -> tuple[Tensor, ...]:
        """The prompts and the seed."""
        return torch.tensor(inputs.prompts), torch.tensor([inputs.seed])

    def shape(self, inputs: Asked) -> list[int]:
        """[batch, prompt + new tokens]."""
        return [len(inputs.prompts), len(inputs.prompts[0]) + self.new_tokens]

    def call(self, inputs: Asked) -> list[list[int]]:
        """The tokens of each row, in the host's memory. Incorrect where nobody knows when the first ones came."""
        begin, self.stamp = monotonic_ns(), None
        made = self.generate(inputs, self.new_tokens)
        if self.stamp is None:
            raise Incorrect("generate did not call on_token(1): when the first token came is not known")
        if not begin <= self.stamp <= monotonic_ns():
            raise Incorrect(f"on_token(1, at_ns={self.stamp}) is not a time of this call on CLOCK_MONOTONIC")
        return made

    def generate(self, inputs: Asked, new_tokens: int, temperature: float | None = None) -> list[list[int]]:
        """The same with other settings."""
        drawn = self.temperature if temperature is None else temperature
        engine = self.engine
        return engine.generate(inputs.prompts, new_tokens, temperature=drawn, seed=inputs.seed, on_token=self.on_token)

    def on_token(self, count: int, at_ns: int | None = None) -> None:
        """Mark the first token."""
        if count == 1 and self.stamp is None:
            self.stamp = monotonic_ns() if at_ns is None else at_ns
            self.clock.mark(self.stamp)

    def keep(self, index: int, inputs: Asked, output: list[list[int]]) -> None:  # noqa: ARG002
        """The tokens; what is wrong with them says the proof."""
        try:
            self.made[index] = [list(map(int, row)) for row in output]
        except (TypeError, ValueError) as error:
            what = f"generate returned {type(output).__name__}, not the new tokens of each row: {error}"
            raise Incorrect(what) from error

    def brief(self, inputs: Asked) -> str:
        """Make the first few tokens alone; say so."""
        tokens = min(self.new_tokens, BRIEF_TOKENS)
        self.generate(inputs, tokens)
        return f"{tokens} of {self.new_tokens} tokens, the prefill included"

    def work(self, shapes: list[list[int]]) -> dict[str, int | None]:
        """As of bench's own model: each new token reads the weights once."""
        batch, time = shapes[0]
        return {
            "flops": work.generation_flops(self.config, batch, time - self.new_tokens, self.new_tokens),
            "bytes": work.generation_bytes(self.config, self.workload, self.new_tokens),
            "tokens": batch * self.new_tokens,
        }

    def proof(self, output: list[list[int]]) -> dict[str, Any]:
        """The last sample's first row."""
        if not output:
            raise Incorrect("the engine returned no text")
        return {"finite": True, "generated": output[0], "text": None}
