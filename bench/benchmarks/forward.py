"""One forward pass over a full batch, in inference mode: tokens [batch, time] -> logits [batch, time, vocabulary]."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from bench.benchmarks import Context, Task, read_element
from bench.model import hashing, work
from bench.observe.kept import KeptLogits
from bench.observe.logits import LogitsDigest, observe
from bench.status import Incorrect


class Forward(Task):
    """Times `model(tokens)`; the logits of one sample are freed before the next."""

    def __init__(self, context: Context) -> None:
        super().__init__(context)
        self.model = context.method.compile_model(context.model, context.workload)
        self.index = 0
        self.timed: tuple[int, LogitsDigest] | None = None
        self.kept: KeptLogits | None = None

    def inputs(self, index: int) -> Tensor:
        """Ids over the whole vocabulary, others for each sample."""
        self.index = index
        workload = self.workload
        assert workload.batch
        assert workload.sequence
        shape = (workload.batch, workload.sequence)
        return hashing.integers(f"tokens/{index}", workload.seed, shape, self.ids_below, self.context.device)

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

    def look(self, output: Tensor) -> object:
        """Read the last logit."""
        return read_element(output)

    def make_room(self, samples: int) -> None:
        """For a few positions of so many samples' logits."""
        weight, (batch, time) = self.context.model.head.weight, (self.workload.batch, self.workload.sequence)
        assert batch
        assert time
        self.kept = KeptLogits(samples, (batch, time, self.config.vocabulary), weight.dtype, self.context.device)

    def keep(self, index: int, inputs: Tensor, output: Tensor) -> None:
        """A few positions of the logits; Incorrect where they are not [batch, time, vocabulary]."""
        shape = (*inputs.shape, self.config.vocabulary)
        if tuple(output.shape) != shape:
            raise Incorrect(f"the logits are {list(output.shape)}, not {list(shape)}")
        if self.kept is not None:
            self.kept.take(index, output)

    def brief(self, inputs: Tensor) -> str:
        """A whole sample."""
        self.call(inputs)
        return "one forward pass"

    def work(self, shapes: list[list[int]]) -> dict[str, int | None]:
        """FLOPs of one pass."""
        batch, time = shapes[0]
        return {"flops": work.forward_flops(self.config, batch, time), "bytes": None, "tokens": batch * time}

    def proof(self, output: Tensor) -> dict[str, Any]:
        """Every logit is finite; row by row, since a copy of all of them may not fit. Keeps what the gate looks at."""
        self.timed = self.index, observe(output)
        for row, logits in enumerate(output):
            if not bool(torch.isfinite(logits).all()):
                raise Incorrect(f"a logit of batch row {row} is not finite")
        return {"finite": True}


build = Forward
