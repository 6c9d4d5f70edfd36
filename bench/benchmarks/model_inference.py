"""Compiled model, ordinary generation loop: the model's forward is compiled, softmax and multinomial are not."""

from __future__ import annotations

from torch import Tensor

from bench.benchmarks.generation import Generation, Step
from bench.model import sampling


class ModelInference(Generation):
    """Times the same generations; only what is compiled, and the sampler, differ."""

    def make_step(self) -> Step:
        """(tokens, positions, temperature) -> (token, logits), around the compiled model."""
        model = self.context.method.compile_model(self.context.model, self.workload)

        def step(tokens: Tensor, positions: Tensor, temperature: Tensor) -> tuple[Tensor, Tensor]:
            logits = model(tokens, positions)[:, -1]
            return sampling.multinomial(logits, temperature), logits

        return step


build = ModelInference
