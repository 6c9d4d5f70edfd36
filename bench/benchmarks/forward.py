"""One forward pass over a full batch, in inference mode: tokens [batch, time] -> logits [batch, time, vocabulary]."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from bench.benchmarks import Context
from bench.model import hashing, work
from bench.observe.logits import Seen, observe
from bench.status import Incorrect


class Forward:
    """Times `model(tokens)`; the logits of one sample are freed before the next."""

    inference = True

    def __init__(self, context: Context) -> None:
        self.context, self.workload = context, context.workload
        self.model = context.method.compile_model(context.model, context.workload)
        self.index = 0
        self.timed: tuple[int, Seen] | None = None

    def inputs(self, index: int) -> Tensor:
        """Ids over the whole vocabulary, others for each sample."""
        self.index = index
        workload, config = self.workload, self.context.model.config
        assert workload.batch
        assert workload.sequence
        shape, below = (workload.batch, workload.sequence), workload.ids_below or config.vocabulary
        return hashing.integers(f"tokens/{index}", workload.seed, shape, below, self.context.device)

    def content(self, inputs: Tensor) -> tuple[Tensor, ...]:
        """The ids."""
        return (inputs,)

    def shape(self, inputs: Tensor) -> list[int]:
        """[batch, time]."""
        return list(inputs.shape)

    def call(self, inputs: Tensor) -> Tensor:
        """The logits."""
        logits: Tensor = self.model(inputs)
        return logits

    def brief(self, inputs: Tensor) -> str:
        """A whole sample."""
        self.call(inputs)
        return "one forward pass"

    def loss(self, output: Tensor) -> None:
        """There is none."""

    def work(self, shapes: list[list[int]]) -> dict[str, int | None]:
        """FLOPs of one pass."""
        batch, time = shapes[0]
        config = self.context.model.config
        return {"flops": work.forward_flops(config, batch, time), "bytes": None, "tokens": batch * time}

    def proof(self, output: Tensor) -> dict[str, Any]:
        """Every logit is finite; row by row, since a copy of all of them may not fit. Keeps what the gate looks at."""
        self.timed = self.index, observe(output)
        for row, logits in enumerate(output):
            if not bool(torch.isfinite(logits).all()):
                raise Incorrect(f"a logit of batch row {row} is not finite")
        return {"finite": True}


def build(context: Context) -> Forward:
    """Compile (nothing runs yet) and return the task."""
    return Forward(context)
