"""Records of a ladder of batches: what batched_generation leaves behind, by methods of known speed."""

from __future__ import annotations

from typing import Any

from record_samples import MODELS, record, sample, workload

from orchestrator.plan.proof_cells import probe_workload
from orchestrator.plan.workload import digest
from orchestrator.records.record import Record

CHECK = {"name": "rows", "status": "passed", "value": 1.0, "limit": 4.0, "what": "row 0 of 8"}
FURTHER_MS = {"eager": 24.0, "inductor": 8.0, "fast": 6.0, "wide": 9.0}
"""Of a further token at batch 1."""
GROWTH = {"eager": 0.03, "inductor": 0.05, "fast": 0.12, "wide": 0.012}
"""By how much a further token takes longer with each further sequence."""


def further_ms(method: str, batch: int) -> float:
    return FURTHER_MS.get(method, 9.0) * (1 + GROWTH.get(method, 0.1) * (batch - 1))


def ladder_record(method: str, batch: int, number: int = 0, slower: float = 1.0, **changes: Any) -> Record:
    """A round of so many sequences at once, 128 new tokens each, the first after 20 ms and 2 ms for each sequence."""
    first = (20.0 + 2.0 * batch) * slower
    wall = first + 127 * further_ms(method, batch) * slower
    what = changes.pop("workload", None) or workload("batched_generation", batch=batch, **changes.pop("shape", {}))
    tokens = {"first_token_ns": round(first * 1e6), "shape": [batch, 256]}
    phases = ["first", "warmup", "warmup", *["timed"] * 5]
    fields: dict[str, Any] = {
        "workload": what,
        "cell_id": digest([method, what.workload_id]),
        "method": method,
        "round": number,
        "flags": ["cold"],
        "samples": [sample(index, wall * (1 + 0.001 * index), phase, **tokens) for index, phase in enumerate(phases)],
        "phases": [
            {"name": name, "begin_ns": begin * 10**9, "end_ns": (begin + took) * 10**9}
            for name, begin, took in (("environment", 1, 5), ("model", 6, 30), ("method", 36, 2), ("first call", 38, 1))
        ],
        "proof": {"finite": True, "checks": [CHECK], "checks_version": None},
        "memory": {"process_bytes": (20 + batch) * 10**9, "steady_bytes": 20 * 10**9, "host_bytes": 10**9},
    }
    return record("batched_generation", **{**fields, **changes})


def probe_record(of: Record) -> Record:
    """The probe of a row's method, which passed."""
    what = probe_workload(of.workload)
    changes = {"role": "probe", "workload": what, "cell_id": digest([of.method, what.workload_id]), "flags": ["cold"]}
    return ladder_record(of.method, 4, **changes)


def ladder_run(slower: float = 1.0, methods: tuple[str, ...] = tuple(FURTHER_MS), rounds: int = 1) -> list[Record]:
    """Rows of those methods at batch 1, 8, 32 and 128 on the shapes of open_llama_3b and Llama 3.1, and their probes.

    Eager's rows are unchecked.
    """
    llama = {"model": {"name": "llama_3_1_8b", **MODELS["llama_3_1_8b"]}}
    rows = [
        ladder_record(
            method,
            batch,
            number,
            slower * (1 + 0.001 * number) * (1.2 if shape else 1.0),
            shape=shape,
            flags=["unchecked", "cold"] if method == "eager" else ["cold"],
        )
        for method in methods
        for shape in ({}, llama)
        for batch in (1, 8, 32, 128)
        for number in range(rounds)
    ]
    probes = {probe.cell_id: probe for probe in map(probe_record, rows)}
    return [*rows, *probes.values()]
