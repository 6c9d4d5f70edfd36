"""What a cell holds at least, by its configuration: said before anything runs where its device has not that much."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import NamedTuple

from orchestrator.base.text import counted, scaled
from orchestrator.plan.cell import Device, Plan
from orchestrator.plan.workload import BATCHED, FSDP2, GENERATING, TRAINING, Dtype, ModelConfig, Workload, describe

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
    and inductor, it is at most 3.5 % off; from those of the suite `models` by eager at most 0.7 %; from those of two
    devices by eager at most 2 %.
    """
    whole = workload.model
    workload, share = of_one_device(workload)
    model = workload.model
    if whole is None or model is None:
        return None
    element, batch, time = ELEMENT_BYTES[workload.dtype], workload.batch or 1, workload.sequence or 1
    count = _held(workload)
    if workload.benchmark in GENERATING:
        time = workload.prompt_length
    tables = 8 * model.block_size * (model.rotary_size or model.head_size) // 2 * (2 if model.local_rope_base else 1)
    weights = round(element * count * share) + tables
    cache = element * _cached(model, workload)
    tokens = batch * time
    positions = batch if workload.benchmark == BATCHED else tokens  # of a batch of prompts each one's last alone
    logits = element * positions * model.vocabulary * (2 if model.logit_cap else 1)
    scores = SCORE_BYTES * tokens * time * model.heads if model.attention_cap is not None else 0
    if workload.benchmark in TRAINING:
        kept = element * tokens * _of_all(model, kept_of_layer) + scores * model.layers
        kept = round(kept * (COMPILED_SHARE if compiled else 1.0))
        gradients = round(element * count * share)
        # The loss's backward holds its output and two gradients of that size. The others come as what was kept goes;
        # last, the optimizer adds the decay to one gradient at a time.
        head = element * model.vocabulary * model.width
        # DDP's buckets hold the gradients of the step before; what FSDP2 has gathered it may keep for the backward.
        across = {"ddp": gradients, "fsdp2_no_reshard": element * count}.get(workload.parallel or "", 0)
        most = max(across + kept + logits + max(2 * logits, head), gradients + head)
        return Memory(count, weights, cache, gradients, logits, kept, weights + most)
    passing = element * tokens * max(_passing(model, sparse=kind) for kind in _kinds(model)) + scores
    ends = logits + 2 * element * tokens * model.width
    loaded = 0
    if workload.parallel == "tensor":
        ends += logits + logits // workload.devices  # as they were gathered, and this device's own
        loaded = element * (parameters(whole) + count)  # its part, beside the whole model that it is cut from
    peak = max(loaded, weights + cache + max(ends, passing))
    return Memory(count, weights, cache, 0, logits, passing, peak)


def of_one_device(workload: Workload) -> tuple[Workload, float]:
    """Return what one of several devices computes, and the share of these weights and gradients that it keeps."""
    devices, model = workload.devices, workload.model
    if devices == 1 or model is None:
        return workload, 1.0
    if workload.parallel == "tensor":
        parts = {name: max(1, getattr(model, name) // devices) for name in ("heads", "kv_heads", "mlp_width")}
        return workload.model_copy(update={"model": model.model_copy(update=parts)}), 1.0
    each = workload.model_copy(update={"batch": max(1, (workload.batch or 1) // devices)})
    return each, 1 / devices if workload.parallel in FSDP2 else 1.0


def _held(workload: Workload) -> int:
    """Return how many weights a device has, `workload` being what it computes: of a cut model the head is cut too."""
    model = workload.model
    assert model is not None
    head = 0 if model.tied_head or workload.parallel != "tensor" else model.vocabulary * model.width
    return parameters(model) - head * (workload.devices - 1) // workload.devices


def _cached(model: ModelConfig, workload: Workload) -> int:
    """Return the elements of keys and values that a generation keeps; 0 for any other benchmark."""
    if workload.benchmark not in GENERATING:
        return 0
    slots = workload.prompt_length + (workload.new_tokens or 0)
    return 2 * model.layers * (workload.batch or 1) * slots * model.kv_heads * model.head_size


def cache_bytes(workload: Workload) -> int:
    """Return what a generation's cache holds; 0 of any other benchmark."""
    return 0 if workload.model is None else ELEMENT_BYTES[workload.dtype] * _cached(workload.model, workload)


def _kinds(model: ModelConfig) -> dict[bool, int]:
    """Return how many layers there are with experts (True) and without, where there are any."""
    sparse = _sparse(model)
    return {kind: count for kind, count in ((True, sparse), (False, model.layers - sparse)) if count}


def _of_all(model: ModelConfig, each: Callable[..., int]) -> int:
    return sum(count * each(model, sparse=kind) for kind, count in _kinds(model).items())


def _passing(model: ModelConfig, *, sparse: bool) -> int:
    """Return the elements that a layer holds of each token at once: of its MLP, beside three of the stream."""
    return 3 * model.width + 3 * _inner(model, sparse=sparse) + 2 * _copies(model, sparse=sparse)


def kept_of_layer(model: ModelConfig, *, sparse: bool) -> int:
    """Return the elements that a layer keeps of each token for the backward, a float32 as two of them.

    Of a norm: what comes in float32 and what is scaled, in float32 too where 1 is added; what goes out where a matrix
    takes it. Of attention: queries, keys, values and what goes out; keys and values as often as queries where they are
    repeated, else with all of the projection. Of the MLP four of its width, of an expert's token what goes in and out.
    """
    norm = 4 if model.norm_plus_one else 3
    queries, keys = model.heads * model.head_size, model.kv_heads * model.head_size
    norms = model.width * (2 * (norm + 1) + (2 * norm if model.post_norms else 0))
    if model.qk_norm:
        norms += norm * (queries + keys)
    attention = 4 * queries if keys < queries else (queries + 2 * keys) + (queries + keys) + queries
    return norms + attention + 4 * _inner(model, sparse=sparse) + 2 * _copies(model, sparse=sparse)


def _inner(model: ModelConfig, *, sparse: bool) -> int:
    """Return the width of a token's MLP, or of all its experts together."""
    if model.experts is None or not sparse:
        return model.mlp_width
    return model.experts.active * model.experts.width + (model.experts.shared_width or 0)


def _copies(model: ModelConfig, *, sparse: bool) -> int:
    """Return the elements of a token that stands once for each of its experts."""
    return model.experts.active * model.width if model.experts is not None and sparse else 0


def least_bytes(workload: Workload) -> int:
    """Return what one sample holds at once at least, in bytes: weights, and what training or generation keeps.

    Of a training step the gradients, or each block's input and the logits: the one comes as the other goes. Of a
    generation the cache and logits. 0 where there is no model.
    """
    workload, share = of_one_device(workload)
    model = workload.model
    if model is None:
        return 0
    batch, weights = workload.batch or 1, int(_held(workload) * share)
    if workload.benchmark in TRAINING:
        tokens = batch * (workload.shortest or workload.sequence or 0)
        more = max(weights, tokens * (model.layers * model.width + model.vocabulary))
    elif workload.benchmark in GENERATING:
        more = _cached(model, workload) + batch * model.vocabulary  # of the prompt's logits perhaps no more is kept
    else:
        more = batch * (workload.sequence or 0) * model.vocabulary
    return ELEMENT_BYTES[workload.dtype] * (weights + more)


def likely_bytes(workload: Workload) -> int:
    """Return what one sample is expected to hold at once where a compiler is used, in bytes; 0 without a model."""
    held = expected(workload, compiled=True)
    return 0 if held is None else max(least_bytes(workload), held.peak_bytes)


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
