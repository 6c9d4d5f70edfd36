"""Training at one shape: forward (compiled), loss, backward, SGD; loss and optimizer are not compiled."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from bench.benchmarks import Context, Task
from bench.model import hashing, work
from bench.model.shards import local
from bench.parallel import data

Batch = tuple[Tensor, Tensor]
IGNORED = -1


class Training(Task):
    """Times whole steps; `loss.item()` is part of each, so the host waits as the note's loop did."""

    inference = False

    def __init__(self, context: Context) -> None:
        super().__init__(context)
        self.lost: str | None = None
        self.losses: list[tuple[int, float]] = []
        rate, decay = context.workload.learning_rate, context.workload.weight_decay
        assert rate is not None
        assert decay is not None
        self.rate, self.decay = rate, decay
        self.share = data.Share(context.workload, context.team)
        self.model = data.spread(context.model, context.method, context.workload, context.team)
        self.parameters = list(context.model.parameters())
        self.optimizer = torch.optim.SGD(self.parameters, lr=rate, weight_decay=decay, foreach=False)

    def inputs(self, index: int) -> Batch:
        """Ids [batch, time] and the ids that follow them."""
        assert self.workload.sequence
        ids = self.ids(index, self.workload.sequence + 1)
        return ids[:, :-1].contiguous(), ids[:, 1:].contiguous()

    def ids(self, index: int, time: int) -> Tensor:
        """Ids [batch, time] below the workload's bound, others for each sample."""
        workload = self.workload
        assert workload.batch
        shape = (workload.batch, time)
        return hashing.integers(f"tokens/{index}", workload.seed, shape, self.ids_below, self.context.device)

    def content(self, inputs: Batch) -> tuple[Tensor, ...]:
        """Inputs and targets."""
        return inputs

    def shape(self, inputs: Batch) -> list[int]:
        """[batch, time]."""
        return list(inputs[0].shape)

    def call(self, inputs: Batch) -> float:
        """One step, on this rank's share of the batch; returns the loss of all."""
        tokens, targets = map(self.share.of, inputs)
        weight = self.share.weight(targets, IGNORED)
        logits = self.model(tokens)
        loss = self.context.model.operators.loss(logits, targets) * weight
        del logits
        loss.backward()
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        return float(self.share.mean(loss).item())

    def keep(self, index: int, inputs: Batch, output: float) -> None:  # noqa: ARG002
        """The loss."""
        self.losses.append((index, output))

    def brief(self, inputs: Batch) -> str:
        """A whole sample."""
        self.call(inputs)
        return "one step"

    def loss(self, output: float) -> float | None:
        """The step's loss; None where it is not a number, since JSON has no NaN."""
        return output if math.isfinite(output) else None

    def work(self, shapes: list[list[int]]) -> dict[str, int | None]:
        """FLOPs of one step."""
        batch, time = shapes[0]
        return {"flops": work.training_flops(self.config, batch, time), "bytes": None, "tokens": batch * time}

    def proof(self, output: float) -> dict[str, Any]:
        """Whether the last loss and every parameter are finite; `lost` is the first that is not.

        It does not raise: from the first weights it can be seen where it came from.
        """
        self.lost = None if math.isfinite(output) else "the loss"
        for name, parameter in self.context.model.named_parameters():
            if self.lost is None and not bool(torch.isfinite(local(parameter.detach())).all()):
                self.lost = name
        return {"finite": self.lost is None}


build = Training
