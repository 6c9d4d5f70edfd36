"""Cells that the rows of a plan are proved with: references to check against, and probes on a tiny sharp model."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from orchestrator.plan.cell import Cell
from orchestrator.plan.workload import GENERATING, ModelConfig, Weights, Workload, digest

REFERENCE = "reference"
"""Benchmark and method of a cell that makes references."""
SUBJECTS_AT_MOST = 16
"""Of one reference cell, so that its record stays within its size limit."""
PROBE_PROMPT = 9
"""Ids of a probe's prompt at most: longer ones prefill no differently."""
PROBE_BATCH = 2

PROBE_MODEL = ModelConfig(
    name="probe", layers=2, width=128, heads=4, kv_heads=4, head_size=32, mlp_width=352, vocabulary=512,
    block_size=256, norm_eps=1e-6, rope_base=10000.0, rope_scaling=None, tied_head=False, qkv_bias=False,
    sliding_window=None,
)  # fmt: skip


def probe_workload(workload: Workload) -> Workload:
    """Return the tiny float32 workload that takes the same way through a method as `workload` does."""
    own: dict[str, Any] = {"iterations": 6, "warmup": 1, "batch": PROBE_BATCH, "sequence": 64}
    if workload.benchmark == "forward":
        own.update(iterations=2, warmup=0, ids_below=PROBE_MODEL.vocabulary)
    elif workload.benchmark in GENERATING:
        prompt = tuple(token % PROBE_MODEL.vocabulary for token in (workload.prompt or ())[:PROBE_PROMPT])
        own = {"iterations": 3, "warmup": 0, "batch": min(workload.batch or 1, PROBE_BATCH), "prompt": prompt}
        own.update(new_tokens=24, temperature=workload.temperature)
    else:
        # The whole vocabulary, whatever the row takes of its own: a fault may touch some ids alone.
        own.update(
            ids_below=PROBE_MODEL.vocabulary, learning_rate=workload.learning_rate, weight_decay=workload.weight_decay
        )
        own.update(shortest=10 if workload.shortest is not None else None)
    weights = Weights(source="probe")
    return Workload(benchmark=workload.benchmark, model=PROBE_MODEL, weights=weights, dtype="float32", seed=0, **own)


def probe_cells(rows: Sequence[Cell]) -> list[Cell]:
    """Return a probe for each stack, method, benchmark and device of `rows`, where not every row is its own."""
    found: dict[tuple[str, str, str, str], Cell] = {}
    for row in rows:
        if not row.workload.is_own_probe:
            probe = {"workload": probe_workload(row.workload), "role": "probe", "rounds": 1}
            found.setdefault(probe_of(row), row.model_copy(update=probe))
    return list(found.values())


def probe_of(cell: Cell) -> tuple[str, str, str, str]:
    """Return what a row and its probe have in common."""
    return cell.benchmark, cell.method, cell.stack, cell.device


def reference_cells(cells: Sequence[Cell], maker: Cell) -> list[Cell]:
    """Return the cells that make the references of `cells`: one for each model, weights and dtype.

    `maker` says on which stack and device, and with which deadline. A cell with very many workloads is cut in parts.
    """
    groups: dict[str, dict[str, Workload]] = {}
    for workload in (cell.workload for cell in cells):
        assert workload.model is not None
        assert workload.weights is not None
        key = digest([workload.model.hashed(), workload.weights.hashed(), workload.dtype])
        groups.setdefault(key, {}).setdefault(workload.workload_id, workload)
    cells = []
    for subjects in (tuple(group.values()) for group in groups.values()):
        for start in range(0, len(subjects), SUBJECTS_AT_MOST):
            part = subjects[start : start + SUBJECTS_AT_MOST]
            of_all = {key: getattr(part[0], key) for key in ("model", "weights", "dtype", "seed")}
            workload = Workload(benchmark="reference", **of_all, iterations=1, warmup=0, subjects=part)
            cells.append(maker.model_copy(update={"workload": workload, "role": "reference", "method": REFERENCE}))
    return cells
