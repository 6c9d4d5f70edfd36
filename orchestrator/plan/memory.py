"""What a cell holds at least, by its configuration: said before anything runs where its device has not that much."""

from __future__ import annotations

from collections.abc import Mapping

from orchestrator.base.text import counted, scaled
from orchestrator.plan.cell import Device, Plan
from orchestrator.plan.workload import GENERATING, TRAINING, Dtype, ModelConfig, Workload, describe

ELEMENT_BYTES: dict[Dtype, int] = {"bfloat16": 2, "float32": 4, "float64": 8}
SHOWN = 5
PLACES: dict[Device, str] = {"cuda": "the GPU", "cpu": "this host"}


def parameters(model: ModelConfig, *, active: bool = False) -> int:
    """Return how many weights the model has, biases and norms of heads left out. `active`: those of one token."""
    heads = 2 * (model.heads + model.kv_heads) * model.head_size
    block = model.width * (heads + 2 + (2 if model.post_norms else 0))
    sparse = sum(map(model.has_experts, range(model.layers)))
    total = model.layers * block + (model.layers - sparse) * 3 * model.width * model.mlp_width
    if (experts := model.experts) is not None:
        met = experts.active if active else experts.count
        shared = 3 * experts.shared_width + 1 if experts.shared_width else 0
        total += sparse * model.width * (experts.count + 3 * met * experts.width + shared)
    return total + model.width * (model.vocabulary * (1 if model.tied_head else 2) + 1)


def least_bytes(workload: Workload) -> int:
    """Return what one sample holds at once at least, in bytes: weights, logits, and what training or generation keeps.

    Of a training step gradients and each block's input; of a generation the cache. 0 where there is no model.
    """
    model = workload.model
    if model is None:
        return 0
    batch, time = workload.batch or 1, workload.sequence or 0
    weights, kept = parameters(model), 0
    if workload.benchmark in TRAINING:
        time = workload.shortest or time
        weights, kept = 2 * weights, model.layers * batch * time * model.width
    if workload.benchmark in GENERATING:
        time = 1  # of the prompt's logits perhaps no more is kept
        slots = len(workload.prompt or ()) + (workload.new_tokens or 0)
        kept = 2 * model.layers * batch * slots * model.kv_heads * model.head_size
    return ELEMENT_BYTES[workload.dtype] * (weights + kept + batch * time * model.vocabulary)


def beyond(plan: Plan, has: Mapping[Device, int | None]) -> list[str]:
    """Return a line for each workload that cannot fit into what its device has, in bytes (None: not known)."""
    lines = dict[str, None]()
    for cell in plan.cells:
        room, needed = has.get(cell.device), least_bytes(cell.workload)
        if cell.role == "row" and room is not None and needed > room:
            what = f"{cell.benchmark} of {describe(cell.workload)}: holds at least {scaled(needed, 'B')}"
            lines[f"{what}, and {PLACES[cell.device]} has {scaled(room, 'B')} of memory: expect out_of_memory"] = None
    more = len(lines) - SHOWN
    return [*list(lines)[:SHOWN], *([f"and {counted(more, 'workload')} more like that"] if more > 0 else [])]
