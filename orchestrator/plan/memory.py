"""What a cell holds at least, by its configuration: said before anything runs where its device has not that much."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import NamedTuple

from orchestrator.base.text import counted, scaled
from orchestrator.plan.cell import Device, Plan
from orchestrator.plan.workload import GENERATING, TRAINING, Dtype, ModelConfig, Workload, describe

ELEMENT_BYTES: dict[Dtype, int] = {"bfloat16": 2, "float32": 4, "float64": 8}
SCORE_BYTES = 12
"""Of a score that is capped, which no fused attention does: in its own type, and in float32 before and after."""
COMPILED_SHARE = 0.72
"""What Inductor keeps for the backward of what eager does: measured on open_llama_3b."""
SHOWN = 5
PLACES: dict[Device, str] = {"cuda": "the GPU", "cpu": "this host"}


def _sparse(model: ModelConfig) -> int:
    """Return how many layers have experts."""
    return 0 if model.experts is None else model.layers - len(model.experts.dense_layers)


def parameters(model: ModelConfig, *, active: bool = False) -> int:
    """Return how many weights the model has, biases and norms of heads left out. `active`: those of one token."""
    heads = 2 * (model.heads + model.kv_heads) * model.head_size
    block = model.width * (heads + 2 + (2 if model.post_norms else 0))
    sparse = _sparse(model)
    total = model.layers * block + (model.layers - sparse) * 3 * model.width * model.mlp_width
    if (experts := model.experts) is not None:
        met = experts.active if active else experts.count
        shared = 3 * experts.shared_width + 1 if experts.shared_width else 0
        total += sparse * model.width * (experts.count + 3 * met * experts.width + shared)
    return total + model.width * (model.vocabulary * (1 if model.tied_head else 2) + 1)


class Memory(NamedTuple):
    """What a cell is expected to hold at once, in bytes: its parts, and the most of them together."""

    parameters: int
    weights_bytes: int
    cache_bytes: int
    gradients_bytes: int
    logits_bytes: int
    activations_bytes: int
    peak_bytes: int


def expected(workload: Workload, *, compiled: bool = False) -> Memory | None:
    """Return what one sample holds by the plain operators' tensors; None where there is no model.

    `compiled`: a compiler keeps less for the backward. From the peaks of the suite `note`, measured on an H200 by eager
    and inductor, it is at most 3.5 % off.
    """
    workload, share = of_one_device(workload)
    model = workload.model
    if model is None:
        return None
    element, batch, time = ELEMENT_BYTES[workload.dtype], workload.batch or 1, workload.sequence or 1
    count = parameters(model)
    if workload.benchmark in GENERATING:
        time = len(workload.prompt or ())
    tables = 8 * model.block_size * (model.rotary_size or model.head_size) // 2 * (2 if model.local_rope_base else 1)
    weights = round(element * count * share) + tables
    cache = element * _cached(model, workload)
    tokens = batch * time
    logits = element * tokens * model.vocabulary * (2 if model.logit_cap else 1)
    scores = SCORE_BYTES * tokens * time * model.heads if model.attention_cap is not None else 0
    if workload.benchmark in TRAINING:
        kept = element * tokens * _of_all(model, _kept) + scores * model.layers
        kept = round(kept * (COMPILED_SHARE if compiled else 1.0))
        gradients = round(element * count * share)
        # The gradients come as what was kept goes, first the loss's of the logits, then the head's; last, the optimizer
        # adds the decay to one gradient at a time.
        head = element * model.vocabulary * model.width
        most = max(kept + max(2 * logits, logits + head), gradients + head)
        return Memory(count, weights, cache, gradients, logits, kept, weights + most)
    passing = element * tokens * max(_passing(model, sparse=kind) for kind in _kinds(model)) + scores
    ends = logits + 2 * element * tokens * model.width
    return Memory(count, weights, cache, 0, logits, passing, weights + cache + max(ends, passing))


def of_one_device(workload: Workload) -> tuple[Workload, float]:
    """Return what one of several devices computes, and the share of these weights and gradients that it keeps."""
    devices, model = workload.devices, workload.model
    if devices == 1 or model is None:
        return workload, 1.0
    if workload.parallel == "tensor":
        parts = {name: max(1, getattr(model, name) // devices) for name in ("heads", "kv_heads", "mlp_width")}
        return workload.model_copy(update={"model": model.model_copy(update=parts)}), 1.0
    each = workload.model_copy(update={"batch": max(1, (workload.batch or 1) // devices)})
    return each, 1 / devices if workload.parallel == "fsdp2" else 1.0


def _cached(model: ModelConfig, workload: Workload) -> int:
    """Return the elements of keys and values that a generation keeps; 0 for any other benchmark."""
    if workload.benchmark not in GENERATING:
        return 0
    slots = len(workload.prompt or ()) + (workload.new_tokens or 0)
    return 2 * model.layers * (workload.batch or 1) * slots * model.kv_heads * model.head_size


def _kinds(model: ModelConfig) -> dict[bool, int]:
    """Return how many layers there are with experts (True) and without, where there are any."""
    sparse = _sparse(model)
    return {kind: count for kind, count in ((True, sparse), (False, model.layers - sparse)) if count}


def _of_all(model: ModelConfig, each: Callable[..., int]) -> int:
    return sum(count * each(model, sparse=kind) for kind, count in _kinds(model).items())


def _passing(model: ModelConfig, *, sparse: bool) -> int:
    """Return the elements that a layer holds of each token at once: of its MLP, beside three of the stream."""
    return 3 * model.width + 3 * _inner(model, sparse=sparse) + 2 * _copies(model, sparse=sparse)


def _kept(model: ModelConfig, *, sparse: bool) -> int:
    """Return the elements that a layer keeps of each token for the backward, a float32 as two of them.

    Of a norm: what comes in float32, what is scaled, what goes out; where 1 is added, the scaled in float32 too. Of
    attention: the projection, what was turned, keys and values repeated, what goes out. Of the MLP four of its width.
    """
    norm, size = 6 if model.norm_plus_one else 4, model.head_size
    turned = (model.heads + model.kv_heads) * size
    repeated = 2 * model.heads * size if model.heads != model.kv_heads else 0
    attention = turned + model.kv_heads * size + turned + repeated + model.heads * size
    norms = (4 if model.post_norms else 2) * norm * model.width + (norm * turned if model.qk_norm else 0)
    return norms + attention + 4 * _inner(model, sparse=sparse) + 4 * _copies(model, sparse=sparse)


def _inner(model: ModelConfig, *, sparse: bool) -> int:
    """Return the width of a token's MLP, or of all its experts together."""
    if model.experts is None or not sparse:
        return model.mlp_width
    return model.experts.active * model.experts.width + (model.experts.shared_width or 0)


def _copies(model: ModelConfig, *, sparse: bool) -> int:
    """Return the elements of a token that stands once for each of its experts."""
    return model.experts.active * model.width if model.experts is not None and sparse else 0


def least_bytes(workload: Workload) -> int:
    """Return what one sample holds at once at least, in bytes: weights, logits, and what training or generation keeps.

    Of a training step gradients and each block's input; of a generation the cache. 0 where there is no model.
    """
    workload, share = of_one_device(workload)
    model = workload.model
    if model is None:
        return 0
    batch, time = workload.batch or 1, workload.sequence or 0
    weights, kept = int(parameters(model) * share), 0
    if workload.benchmark in TRAINING:
        time = workload.shortest or time
        weights, kept = 2 * weights, model.layers * batch * time * model.width
    if workload.benchmark in GENERATING:
        time = 1  # of the prompt's logits perhaps no more is kept
        kept = _cached(model, workload)
    return ELEMENT_BYTES[workload.dtype] * (weights + kept + batch * time * model.vocabulary)


def why_not(workload: Workload, room: int | None) -> str | None:
    """Return why a workload cannot fit into so many bytes of a GPU, with its figures; None where it may."""
    needed, held = least_bytes(workload), expected(workload)
    if room is None or held is None or needed <= room:
        return None
    parts = {"weights": held.weights_bytes, "gradients": held.gradients_bytes, "cache": held.cache_bytes}
    parts["logits"] = held.logits_bytes
    shown = ", ".join(f"{scaled(size, 'B')} of {name}" for name, size in parts.items() if size)
    what = f"holds at least {scaled(needed, 'B')} ({shown}), and the GPU has {scaled(room, 'B')} of memory"
    return f"{what}; name it by --benchmark and --method to try it all the same"


def beyond(plan: Plan, has: Mapping[Device, int | None]) -> list[str]:
    """Return a line for each workload that cannot fit into what its device has, in bytes (None: not known).

    Or that is not expected to: its peak is an estimate, so that it is run all the same.
    """
    lines = dict[str, None]()
    for cell in plan.cells:
        room, needed = has.get(cell.device), least_bytes(cell.workload)
        if cell.role != "row" or room is None:
            continue
        what = f"{cell.benchmark} of {describe(cell.workload)}"
        has_it = f"and {PLACES[cell.device]} has {scaled(room, 'B')} of memory: expect out_of_memory"
        held = expected(cell.workload, compiled=True)
        if needed > room:
            lines[f"{what}: holds at least {scaled(needed, 'B')}, {has_it}"] = None
        elif held is not None and held.peak_bytes > room:
            lines[f"{what}: may hold {scaled(held.peak_bytes, 'B')}, {has_it}"] = None
    more = len(lines) - SHOWN
    return [*list(lines)[:SHOWN], *([f"and {counted(more, 'workload')} more like that"] if more > 0 else [])]
