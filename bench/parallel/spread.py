"""Which way a cell's work is spread over its devices: what refuses it, and who holds which weights."""

from __future__ import annotations

from types import ModuleType

from torch import nn

from bench.model.gpt import GPT
from bench.model.shards import is_part
from bench.parallel import Team, data, tensor
from bench.spec import FSDP2, Workload

TRAINING = ("train_static", "train_dynamic")
WAYS = {True: ("ddp", *FSDP2), False: ("tensor",)}
"""The ways that there are to train, and for the other benchmarks."""


def refuse(workload: Workload, device: str, method: ModuleType) -> str | None:
    """Why the cell cannot be spread over its devices, or None; asked before any weight is made."""
    if workload.devices == 1:
        return None
    ways = WAYS[workload.benchmark in TRAINING]
    if workload.parallel not in ways:
        return f"{workload.benchmark} on several devices is parallel by {' or '.join(ways)}, not {workload.parallel}"
    if (own := getattr(method, "refuse_several", None)) and (reason := own(workload, device)):
        refused: str = reason
        return refused
    return tensor.refuse(workload) if workload.parallel == "tensor" else data.refuse(workload)


def divided(whole: GPT, workload: Workload, team: Team) -> GPT:
    """What this rank computes with: its part under tensor parallelism, else the model as it is."""
    return tensor.divide(whole, team) if team.size > 1 and workload.parallel == "tensor" else whole


def in_parts(model: nn.Module) -> bool:
    """Whether the ranks hold other parts of the model."""
    return isinstance(model, tensor.Part) or any(map(is_part, model.parameters()))


def take(model: GPT, whole: GPT, team: Team) -> None:
    """Take this rank's part of a whole model's weights, in place."""
    if isinstance(model, tensor.Part):
        model.take(whole)
    else:
        data.copy_into(model, whole, team)
