"""Cells that the rows of a plan are proved with: references to check against, and probes on a tiny sharp model.

And the cells that make what engines read: folders of weights.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from orchestrator.plan.cell import Cell
from orchestrator.plan.workload import BATCHED, GENERATING, Dtype, Kind, ModelConfig, Weights, Workload, digest

REFERENCE = "reference"
"""Benchmark and method of a cell that makes references."""
WEIGHTS = "weights"
"""Benchmark, method and role of a cell that makes folders of weights."""
SUBJECTS_AT_MOST = 16
"""Of one reference cell, so that its record stays within its size limit."""
PROBE_PROMPT = 9
"""Ids of a probe's prompt at most: longer ones prefill no differently."""
PROBE_BATCH = 2
PROBE_ROWS = 4
"""Of a batch whose rows are compared with one another; the same whatever the row's batch is."""

PROBE_SIZES: dict[str, Any] = {"layers": 2, "width": 128, "mlp_width": 352, "vocabulary": 512, "block_size": 256}
MOST_KEY_HEADS, MOST_GROUPS = 2, 8
"""Key heads of a probe at most, and query heads to each of them."""
MOST_ACTIVE, PROBE_EXPERT_WIDTH = 3, 96
"""Experts of a token at most, of twice as many and one, and their width."""
PROBE_WINDOW = 24
"""Positions: shorter than a probe's sequence, so that it cuts."""
SHOWN_RATE = 0.05
"""At a suite's learning rate no weight of a bfloat16 probe has to change."""


def probe_model(model: ModelConfig, devices: int = 1) -> ModelConfig:
    """Return the model shrunk: everything in which it differs from another stays, but for sizes.

    Of its two layers the first has a window where only some have one, and an ordinary MLP where only some have experts.
    Of `devices` that share its heads each gets one.
    """
    kv_heads = min(model.kv_heads, max(MOST_KEY_HEADS, devices))
    heads = kv_heads * min(model.heads // model.kv_heads, MOST_GROUPS)
    window = None if model.sliding_window is None else min(model.sliding_window, PROBE_WINDOW)
    of_all: dict[str, Any] = {"name": "probe", "heads": heads, "kv_heads": kv_heads, "sliding_window": window}
    if (experts := model.experts) is not None:
        active = min(experts.active, MOST_ACTIVE)
        sizes: dict[str, Any] = {
            "active": active,
            "count": min(experts.count, 2 * active + 1),
            "width": PROBE_EXPERT_WIDTH,
        }
        sizes["shared_width"] = None if experts.shared_width is None else PROBE_EXPERT_WIDTH
        of_all["experts"] = experts.model_copy(update={**sizes, "dense_layers": (0,) if experts.dense_layers else ()})
    of_all["full_layers"] = (1,) if model.full_layers else ()
    return model.model_copy(update={**PROBE_SIZES, **of_all})


def probe_workload(workload: Workload, kind: Kind = "model") -> Workload:
    """Return the workload of a row's probe: in its dtype and, beside it, in float32, where no rounding hides.

    `kind`: of the row's method. In an engine the router chooses the experts, on a checkpoint's row too.
    """
    own, exact = (probe_part(workload, dtype) for dtype in (workload.dtype, "float32"))
    if kind == "engine":
        own, exact = own.routed, exact.routed
    return own if own.dtype == "float32" else own.model_copy(update={"beside": (exact,)})


def probe_part(workload: Workload, dtype: Dtype) -> Workload:
    """Return the tiny workload in one precision that takes the same way through a method as `workload` does."""
    assert workload.model is not None
    devices = workload.devices
    model = probe_model(workload.model, devices if workload.parallel == "tensor" else 1)
    own: dict[str, Any] = {"iterations": 6, "warmup": 1, "batch": PROBE_BATCH, "sequence": 64}
    if workload.benchmark == "forward":
        own.update(iterations=2, warmup=0, ids_below=model.vocabulary)
    elif workload.benchmark in GENERATING:
        own = {"iterations": 3, "warmup": 0, "new_tokens": 24, "temperature": workload.temperature}
        if workload.benchmark == BATCHED:
            own.update(batch=PROBE_ROWS, prompt_tokens=PROBE_PROMPT)
        else:
            prompt = tuple(token % model.vocabulary for token in (workload.prompt or ())[:PROBE_PROMPT])
            own.update(batch=min(workload.batch or 1, PROBE_BATCH), prompt=prompt)
    else:
        # The whole vocabulary, whatever the row takes of its own: a fault may touch some ids alone.
        rate = workload.learning_rate
        if rate is not None and dtype == "bfloat16":
            rate = max(rate, SHOWN_RATE)
        own.update(ids_below=model.vocabulary, learning_rate=rate, weight_decay=workload.weight_decay)
        own.update(shortest=10 if workload.shortest is not None else None)
    if workload.parallel not in (None, "tensor"):
        own["batch"] = max(PROBE_BATCH, devices)
    own.update(devices=devices, parallel=workload.parallel)
    routing = "hash" if workload.weights is None else workload.weights.routing
    weights = Weights(source="probe", routing=routing)
    return Workload(benchmark=workload.benchmark, model=model, weights=weights, dtype=dtype, seed=0, **own)


def probe_cells(rows: Sequence[Cell]) -> list[Cell]:
    """Return the probes of `rows`: of each stack, method, benchmark and device one for each model's traits."""
    found: dict[tuple[str, ...], Cell] = {}
    for row in rows:
        if not row.workload.is_own_probe:
            workload = probe_workload(row.workload, row.kind)
            probe = row.model_copy(update={"workload": workload, "role": "probe", "rounds": 1})
            found.setdefault((*probe_of(row), workload.workload_id), probe)
    return list(found.values())


def probe_of(cell: Cell) -> tuple[str, str, str, str]:
    """Return what a row and its probes have in common, beside the model's traits."""
    return cell.benchmark, cell.method, cell.stack, cell.device


def reference_cells(cells: Sequence[Cell], maker: Cell) -> list[Cell]:
    """Return the cells that make the references of `cells`: one for each model, weights and dtype; one for all probes.

    `maker` says on which stack and device, and with which deadline. A cell with very many workloads is cut in parts.
    """
    groups: dict[str, dict[str, Workload]] = {}
    for cell in cells:
        for workload in cell.workload.referred:
            key = cell.role if cell.role == "probe" else _model_key(workload)
            groups.setdefault(key, {}).setdefault(workload.workload_id, workload)
    cells = []
    for subjects in (tuple(sorted(group.values(), key=_model_key)) for group in groups.values()):
        for start in range(0, len(subjects), SUBJECTS_AT_MOST):
            part = subjects[start : start + SUBJECTS_AT_MOST]
            of_all = {key: getattr(part[0], key) for key in ("model", "weights", "dtype", "seed")}
            workload = Workload(benchmark="reference", **of_all, iterations=1, warmup=0, subjects=part)
            cells.append(maker.model_copy(update={"workload": workload, "role": "reference", "method": REFERENCE}))
    return cells


def weights_workload(workload: Workload) -> Workload:
    """Return what decides the folder of weights that an engine reads for `workload`: its id names the folder."""
    of_all = {key: getattr(workload, key) for key in ("model", "weights", "dtype")}
    return Workload(benchmark="weights", **of_all, seed=0, iterations=1, warmup=0)


def weights_cells(cells: Sequence[Cell], maker: Cell) -> list[Cell]:
    """Return the cells that make the folders of weights for the engines among `cells`; `maker` as above.

    One for all weights that the hash makes, and one for each checkpoint.
    """
    groups: dict[str | None, dict[str, Workload]] = {}
    for part in (part for cell in cells if cell.kind == "engine" for part in cell.workload.parts):
        assert part.weights is not None
        subject = weights_workload(part)
        groups.setdefault(part.weights.fingerprint, {}).setdefault(subject.workload_id, subject)
    made = []
    for group in groups.values():
        subjects = tuple(group.values())
        workload = subjects[0].model_copy(update={"subjects": subjects})
        made.append(maker.model_copy(update={"workload": workload, "role": WEIGHTS, "method": WEIGHTS}))
    return made


def _model_key(workload: Workload) -> str:
    """Return what workloads have in common whose references are made with one model."""
    assert workload.model is not None
    assert workload.weights is not None
    return digest([workload.model.hashed(), workload.weights.hashed(), workload.dtype])
