"""Tensor parallelism: each rank has its heads, its part of every MLP and its part of the vocabulary (Megatron's cut).

The rank's model is a GPT of its own, smaller configuration with plain local weights, so that every method's operators
work on it. It takes two sums over the ranks a layer, behind attention and MLP, and one gathering of the logits, by
torch.distributed's own calls: DTensor's take the host longer. Embedding and norms are on every rank.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import cached_property
from typing import Any

import torch
import torch.distributed as dist
import torch.nn.functional as F  # noqa: N812  (torch's own habit)
from torch import Tensor, nn

from bench.environment import torch_version
from bench.model.gpt import GPT, build, with_parameters
from bench.operators import Operators
from bench.parallel import Team, gather
from bench.spec import ModelConfig, Workload

OLDEST = (2, 6)
COLUMNS, ROWS = ("gate.weight", "up.weight", "head.weight"), ("out.weight", "down.weight")
"""Parameters that are cut along their outputs, and along their inputs; the fused projection is cut head by head."""


def refuse(workload: Workload) -> str | None:
    """Why the model cannot be cut so, or None."""
    config, devices = workload.model, workload.devices
    assert config is not None
    if torch_version() < OLDEST:
        return f"torch {torch.__version__} compiles no forward with collective operations"
    if config.experts is not None:
        return "tensor parallelism of experts is not built"
    for name in ("heads", "kv_heads", "mlp_width", "vocabulary"):
        if (size := getattr(config, name)) % devices:
            return f"{name} {size} of {config.name} cannot be divided by {devices} devices"
    return None


def part_of(config: ModelConfig, devices: int) -> ModelConfig:
    """What a rank computes; its head has fewer rows than the vocabulary that stands in it."""
    sizes = {name: getattr(config, name) // devices for name in ("heads", "kv_heads", "mlp_width")}
    return replace(config, **sizes)


class Links:
    """The collective operations of a cut model, and of nothing else: a test can leave one out."""

    def __init__(self, team: Team) -> None:
        self.team = team

    def total(self, part: Tensor, place: str) -> Tensor:  # noqa: ARG002  (`place` names it)
        """The sum of all ranks' tensors, in the place of this rank's."""
        dist.all_reduce(part)
        return part

    def joined(self, part: Tensor, axis: int) -> Tensor:
        """All ranks' tensors, one after the other along an axis."""
        size = self.team.size
        whole = part.new_empty(size * part.shape[0], *part.shape[1:])
        # The group by name: torch 2.6 compiles no call without it.
        gather(whole, part.contiguous(), group=dist.group.WORLD)
        return torch.cat(whole.chunk(size), dim=axis)


class SummedOut(nn.Module):
    """A product along the heads of this rank alone, summed over all."""

    def __init__(self, weight: nn.Parameter, links: Links, place: str) -> None:
        super().__init__()
        self.weight, self.links, self.place = weight, links, place

    def forward(self, x: Tensor) -> Tensor:
        """[..., part] -> [..., width], the same on every rank."""
        return self.links.total(F.linear(x, self.weight), self.place)


class JoinedHead(nn.Module):
    """Logits of this rank's part of the vocabulary, joined."""

    def __init__(self, weight: nn.Parameter, links: Links) -> None:
        super().__init__()
        self.weight, self.links = weight, links

    def forward(self, x: Tensor) -> Tensor:
        """[..., width] -> [..., vocabulary]."""
        return self.links.joined(F.linear(x, self.weight), -1)


class Part(GPT):
    """A rank's part of a GPT; `whole` is what all parts together are."""

    links: Links
    complete: ModelConfig

    @cached_property
    def whole(self) -> GPT:
        """A plain model with the weights that the ranks have now, gathered; for the proof, kept from then on."""
        weight = self.head.weight
        plain = build(self.complete, Operators(), weight.dtype, str(weight.device))
        self.gather(plain)
        return plain

    @torch.no_grad()
    def gather(self, plain: GPT) -> None:
        """Fill a plain model with the ranks' weights."""
        wanted, size = dict(plain.named_parameters()), self.links.team.size
        for name, parameter in self.named_parameters():
            axis = axis_of(name)
            if name not in wanted:
                continue  # a tied head's part lies in the embedding
            value = parameter.detach() if axis is None else self.links.joined(parameter.detach(), axis)
            if ".qkv." in name:
                value = value[torch.argsort(head_order(self.complete, size, value.device))]
            wanted[name].copy_(value)

    @torch.no_grad()
    def take(self, plain: GPT) -> None:
        """Take this rank's part of a plain model's weights."""
        values, team = dict(plain.named_parameters()), self.links.team
        for name, parameter in self.named_parameters():
            if name in values:
                parameter.copy_(cut(values[name], name, self.complete, team.rank, team.size))

    @torch.no_grad()
    def write_head(self, rows: Tensor) -> None:
        """Give the head other weights, [vocabulary, width]; a tied one is the embedding too."""
        if self.complete.tied_head:
            self.embedding.weight.copy_(rows)
        else:
            self.head.weight.copy_(cut(rows, "head.weight", self.complete, self.links.team.rank, self.links.team.size))


def cut(value: Tensor, name: str, config: ModelConfig, rank: int, size: int) -> Tensor:
    """A rank's part of a parameter: a view, but of the fused projection, whose rows are picked."""
    axis = axis_of(name)
    if axis is None:
        return value
    if ".qkv." in name:
        return value[head_order(config, size, value.device).chunk(size)[rank]]
    return value.chunk(size, dim=axis)[rank]


def axis_of(name: str) -> int | None:
    """Along which axis a parameter is cut; None: every rank has all of it."""
    if ".qkv." in name or name.endswith(COLUMNS):
        return 0
    return 1 if name.endswith(ROWS) else None


def head_order(config: ModelConfig, size: int, device: torch.device) -> Tensor:
    """Rows of the fused projection in the order of the ranks: each one's query, key and value heads."""
    heads, pairs = config.heads * config.head_size, config.kv_heads * config.head_size
    rows = torch.arange(config.qkv_width, device=device)
    parts = [part.chunk(size) for part in rows.split([heads, pairs, pairs])]
    return torch.cat([part[rank] for rank in range(size) for part in parts])


def divide(whole: GPT, team: Team) -> Part:
    """The part of this rank of a filled model, with the same operators."""
    return assemble(whole, team.rank, team.size, Links(team))


def assemble(whole: GPT, rank: int, size: int, links: Links) -> Part:
    """A rank's part, whose collective operations are those of `links`."""
    config, operators = whole.config, whole.operators
    theirs = dict(whole.named_parameters())
    with torch.device("meta"):
        part = Part(part_of(config, size), operators)
    part.links, part.complete = links, config
    own = {
        name: nn.Parameter(cut(theirs[name].detach(), name, config, rank, size).clone())
        for name, _ in part.named_parameters()
        if name in theirs
    }
    with_parameters(part, own, whole.head.weight.device)
    for layer, block in enumerate(part.blocks):
        block.out = SummedOut(block.out.weight, links, f"the attention of layer {layer}")
        block.operators = replace(block.operators, swiglu=_summed(block.operators.swiglu, links, layer))
    weight = part.head.weight
    if config.tied_head:
        # A view of the embedding's rows: whoever writes those writes it too.
        weight = nn.Parameter(cut(weight.detach(), "head.weight", config, rank, size))
    part.head = JoinedHead(weight, links)
    return part


def _summed(swiglu: Callable[..., Tensor], links: Links, layer: int) -> Callable[..., Tensor]:
    place = f"the MLP of layer {layer}"

    def summed(x: Tensor, gate: Tensor, up: Tensor, down: Tensor, **asked: Any) -> Tensor:
        return links.total(swiglu(x, gate, up, down, **asked), place)

    return summed
