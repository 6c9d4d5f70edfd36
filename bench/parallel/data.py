"""Training on several devices: each rank takes its rows of the batch, and the gradients of all are averaged.

DDP keeps the whole model on every rank and adds gradients up as they come. FSDP2 keeps a part of every parameter on
each rank, and gathers a block's when it is used. Both average over ranks, whatever each of them had to learn from: so
where sequences have unequal lengths, each rank's loss is weighted by its share of the targets that count.
"""

from __future__ import annotations

from collections.abc import Callable
from types import ModuleType
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

from bench.environment import torch_version
from bench.model.gpt import GPT
from bench.model.shards import is_part, local
from bench.parallel import ALONE, Team
from bench.spec import FSDP2, Workload

OLDEST_FSDP2 = (2, 6)


def refuse(workload: Workload) -> str | None:
    """Why training cannot be spread so here, or None."""
    if (workload.batch or 0) % workload.devices:
        return f"a batch of {workload.batch} cannot be divided by {workload.devices} devices"
    if workload.parallel in FSDP2 and torch_version() < OLDEST_FSDP2:
        return f"torch {torch.__version__} has no FSDP2 (torch.distributed.fsdp.fully_shard)"
    return None


class Called(nn.Module):
    """A module with the model's parameters whose forward is what the method made: what DDP can be put around."""

    def __init__(self, model: GPT, call: Callable[..., Tensor]) -> None:
        super().__init__()
        self.model = model
        self.made = call

    def forward(self, tokens: Tensor) -> Tensor:
        """[batch, time] -> logits [batch, time, vocabulary]."""
        return self.made(tokens)


def spread(model: GPT, method: ModuleType, workload: Workload, team: Team) -> Callable[[Tensor], Tensor]:
    """What a training step calls. Afterwards the model's parameters are what the optimizer is to be given."""
    if team.size == 1:
        compiled: Callable[[Tensor], Tensor] = method.compile_model(model, workload)
        return compiled
    if workload.parallel in FSDP2:
        return shard(model, method, workload)
    # Around what was compiled: a graph has no place for DDP's hooks. They run once its backward is done.
    called = Called(model, method.compile_model(model, workload))
    return nn.parallel.DistributedDataParallel(called, broadcast_buffers=False, gradient_as_bucket_view=True)


def shard(model: GPT, method: ModuleType, workload: Workload) -> GPT:
    """Give each rank a part of every parameter. Blocks are compiled one by one: between them weights are gathered."""
    from torch.distributed.fsdp import fully_shard

    kept = {} if workload.parallel == "fsdp2" else {"reshard_after_forward": False}
    for block in model.blocks:
        compiled = method.compile_model(block.forward, workload)
        if compiled != block.forward:
            block.forward = compiled
        fully_shard(block, **kept)
    fully_shard(model, **kept)
    return model


class Share:
    """A rank's share of a batch, and what its loss counts for."""

    def __init__(self, workload: Workload, team: Team = ALONE) -> None:
        self.team, self.rows = team, (workload.batch or 1) // team.size
        # At one shape all targets count, and all ranks alike.
        self.unequal = team.size > 1 and workload.shortest is not None

    def of(self, tensor: Tensor) -> Tensor:
        """The rows of this rank, of [batch, ...]; a view."""
        if self.team.size == 1:
            return tensor
        return tensor[self.team.rank * self.rows : (self.team.rank + 1) * self.rows]

    def weight(self, targets: Tensor, ignored: int) -> Tensor | float:
        """What the mean over this rank's `targets` counts for: 1, or its part of all that count, times the ranks."""
        if not self.unequal:
            return 1.0
        mine = (targets != ignored).sum().float()
        every = mine.clone()
        dist.all_reduce(every)
        return mine * self.team.size / every

    def mean(self, loss: Tensor) -> Tensor:
        """Of the ranks' weighted losses: the loss of the whole batch."""
        if self.team.size == 1:
            return loss
        every = loss.detach().clone()
        dist.all_reduce(every)
        return every / self.team.size


@torch.no_grad()
def copy_into(model: nn.Module, whole: nn.Module, team: Team) -> None:
    """Give a model, of which each rank may hold parts, the values of a whole one."""
    values: dict[str, Any] = dict(whole.named_parameters())
    for name, parameter in model.named_parameters():
        value, mine = values[name], local(parameter)
        if is_part(parameter):
            # As FSDP2 cuts it: in pieces of one size along the first axis, of which the last may be missing.
            pieces = value.chunk(team.size)
            value = pieces[team.rank] if team.rank < len(pieces) else value[:0]
        mine.copy_(value)
