"""What goes wrong where several devices share a cell's work, so that a check that failed can name it.

Nothing here is a check of its own: a fault shows in gradients or logits, and is looked for once these are wrong.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from bench.benchmarks import Context
from bench.model.gpt import GPT
from bench.parallel import tensor
from bench.proof import backward
from bench.proof.gradients import Truth
from bench.proof.layerwise import Layerwise, highest
from bench.proof.optimizer import reduced

Gradients = Mapping[str, Tensor]


def of_gradients(context: Context, batch: tuple[Tensor, Tensor], truth: Truth, found: Gradients) -> str | None:
    """Which mistake of several devices makes these gradients of a batch, or None; all ranks must ask."""
    team = context.team
    if team.size == 1 or context.refill is None:
        return None
    context.refill()
    precision = next(iter(found.values())).dtype
    tokens, targets = (part.chunk(team.size) for part in batch)
    shares = [share(context.model, precision, *own) for own in zip(tokens, targets)]  # noqa: B905  (Python 3.10's zip)
    counts = [float((one != backward.IGNORED).sum()) for one in targets]
    last = found[truth.names[-1]]
    alike = all(torch.equal(last, other) for other in team.all(last))
    for rank, (gradients, count) in enumerate(zip(shares, counts)):  # noqa: B905
        for weight in {1.0, count * team.size / sum(counts)}:
            if truth.right_as(found, {name: weight * part for name, part in gradients.items()}):
                if alike:
                    return f"every rank learned from the share of rank {rank}"
                return f"the gradients were not averaged over the ranks: they are those of rank {rank} alone"
    mean = {name: sum(one[name] for one in shares) / team.size for name in truth.names}
    if truth.right_as(found, mean):
        return "the ranks' means were averaged, whatever number of targets each of them has"
    return None


def share(model: GPT, precision: torch.dtype, tokens: Tensor, targets: Tensor) -> dict[str, Tensor]:
    """Sketches of the gradients of a part of the batch, in the reference's precision."""
    kept: dict[str, Tensor] = {}

    def keep(name: str, gradient: Tensor) -> None:
        kept[name] = reduced(gradient, precision).double()

    with highest():
        backward.gradients(Layerwise(model, precision), tokens, targets, keep)
    return kept


@torch.no_grad()
def stale(context: Context) -> str | None:
    """Which rank's part of which parameter is not the workload's, in words; None where all are. All ranks must ask."""
    if not isinstance(context.model, tensor.Part) or context.refill is None:
        return None
    parameters = dict(context.model.named_parameters())
    before = {name: parameter.detach().clone() for name, parameter in parameters.items()}
    context.refill()
    wrong = [name for name, parameter in parameters.items() if not torch.equal(parameter, before[name])]
    for name, parameter in parameters.items():
        parameter.copy_(before[name])
    every = [(rank, names) for rank, names in enumerate(context.team.all(wrong)) if names]
    if not every:
        return None
    rank, names = every[0]
    more = f", and {len(names) - 1} more" if len(names) > 1 else ""
    return f"the part that rank {rank} has of {names[0]} is not the workload's{more}"


def left_out(context: Context, ids: Tensor) -> dict[str, Tensor]:
    """What logits [rows, time, vocabulary] change by where one sum over the ranks is left out, by its name.

    Computed on this rank alone: of the ids [rows, time], with the parts of all ranks side by side.
    """
    if not isinstance(context.model, tensor.Part):
        return {}
    whole, size = context.whole, context.team.size
    parts = [tensor.assemble(whole, rank, size, Apart()) for rank in range(size)]
    right, layers = beside(parts, ids, None), len(parts[0].blocks)
    places = [(layer, what) for layer in sorted({0, layers // 2, layers - 1}) for what in ("attention", "MLP")]
    return {
        f"the sum over the ranks left out behind the {what} of layer {layer}": beside(parts, ids, (layer, what)) - right
        for layer, what in places
    }


class Apart(tensor.Links):
    """Links of parts that lie side by side: whoever runs them adds up."""

    def __init__(self) -> None:
        """None are needed."""

    def total(self, part: Tensor, place: str) -> Tensor:  # noqa: ARG002
        """The part itself."""
        return part

    def joined(self, part: Tensor, axis: int) -> Tensor:  # noqa: ARG002
        """The part itself."""
        return part


def beside(parts: list[tensor.Part], ids: Tensor, without: tuple[int, str] | None) -> Tensor:
    """Logits of all parts together; `without` the sum behind one layer's attention or MLP."""

    def summed(made: list[Tensor], place: tuple[int, str]) -> list[Tensor]:
        return made if place == without else [torch.stack(made).sum(0)] * len(made)

    views = Layerwise(parts[0], parts[0].head.weight.dtype).views(ids.shape[1])
    streams = [part.embed(ids) for part in parts]
    for layer, view in enumerate(views):
        cos, sin, mask, *_ = view
        blocks = [part.blocks[layer] for part in parts]
        for what in ("attention", "MLP"):
            pairs = list(zip(blocks, streams))  # noqa: B905
            if what == "attention":
                made = [block.attend(block.norm_attention(x), cos, sin, mask, None) for block, x in pairs]
            else:
                made = [block.mlp(block.norm_mlp(x), None) for block, x in pairs]
            made = summed(made, (layer, what))
            if parts[0].config.post_norms:
                after = "norm_after_attention" if what == "attention" else "norm_after_mlp"
                made = [getattr(block, after)(one) for block, one in zip(blocks, made)]  # noqa: B905
            streams = [x + one for x, one in zip(streams, made)]  # noqa: B905
    return torch.cat([part.logits(part.norm(x)) for part, x in zip(parts, streams)], dim=-1)  # noqa: B905
