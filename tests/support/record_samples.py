"""Records with known samples, and runs made of them, for the tests of the read side."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from places import ROOT

from orchestrator.plan.cell import Cell, Plan
from orchestrator.plan.proof_cells import probe_part
from orchestrator.plan.workload import Workload
from orchestrator.records.record import Record
from orchestrator.records.store import Run

MODELS = json.loads((ROOT / "bench" / "models.json").read_text())
NOTE_MODEL = {"forward": "open_llama_7b", "model_inference": "open_llama_7b", "generation": "open_llama_7b"}
SHAPES: dict[str, dict[str, Any]] = {
    "forward": {"batch": 10, "sequence": 2048, "iterations": 10, "warmup": 1, "ids_below": 32000},
    "model_inference": {"batch": 1, "new_tokens": 200, "temperature": 1.0, "iterations": 10, "warmup": 1},
    "generation": {"batch": 1, "new_tokens": 200, "temperature": 1.0, "iterations": 10, "warmup": 1},
    "batched_generation": {
        "batch": 8,
        "prompt_tokens": 128,
        "new_tokens": 128,
        "temperature": 1.0,
        "iterations": 8,
        "warmup": 2,
    },
    "train_static": {"batch": 2, "sequence": 2048, "iterations": 50, "warmup": 4, "ids_below": 100},
    "train_dynamic": {"batch": 2, "sequence": 2048, "shortest": 10, "iterations": 50, "warmup": 4},
    "ceilings": {"iterations": 10, "warmup": 1, "matrix_sizes": [8192], "copy_bytes": 2**30},
}
PROMPT = [1, 15043, 29892, 590, 1024, 338]
GPU = {
    "name": "NVIDIA H100 80GB HBM3",
    "uuid": "GPU-0",
    "memory_bytes": 85_000_000_000,
    "compute_capability": "9.0",
    "driver": "580.159.04",
}
ENVIRONMENT = {
    "fingerprint": "f" * 16,
    "python": "3.11.7",
    "platform": "Linux x86_64",
    "packages": {"numpy": "2.1.0", "torch": "2.13.0+cu130", "triton": "3.5.0"},
    "torch": "2.13.0+cu130",
    "torch_git": "0123456789abcdef0123456789abcdef01234567",
    "cuda": "13.0",
    "cudnn": "91500",
    "triton": "3.5.0",
    "cpu": "A CPU",
    "cores": 16,
    "threads": 16,
    "gpu": GPU,
}


def old_probe(of: Workload) -> Workload:
    """The probe of older runs: of one fixed model, whatever the row's is."""
    fixed = {"heads": 4, "kv_heads": 4, "head_size": 32, "norm_eps": 1e-6, "rope_base": 10000.0}
    tiny = probe_part(of, "float32")
    assert tiny.model is not None
    return tiny.model_copy(update={"model": tiny.model.model_copy(update=fixed)})


def workload(benchmark: str = "forward", **changes: Any) -> Workload:
    """The note's workload, changed."""
    name = NOTE_MODEL.get(benchmark, "open_llama_3b")
    measured = benchmark != "ceilings"
    fields: dict[str, Any] = {
        "benchmark": benchmark,
        "model": {"name": name, **MODELS[name]} if measured else None,
        "weights": {} if measured else None,
        "dtype": "bfloat16",
        "seed": 0,
        "prompt": PROMPT if benchmark in ("model_inference", "generation") else None,
        **SHAPES[benchmark],
        **changes,
    }
    return Workload.model_validate_json(json.dumps(fields))


def sample(index: int, milliseconds: float, phase: str = "timed", **changes: Any) -> dict[str, Any]:
    """One sample that took `milliseconds` of wall time and a tenth of a millisecond less on the device."""
    begin, taken = 10**12 + index * 10**10, round(milliseconds * 1e6)
    fields = {
        "index": index,
        "phase": phase,
        "shape": [10, 2048],
        "begin_ns": begin,
        "end_ns": begin + taken,
        "device_ns": taken - 100_000,
    }
    return {**fields, **changes}


def samples(first: float, *rest: float, warmup: int = 1) -> list[dict[str, Any]]:
    """A first call, `warmup` warm-ups, and timed samples, in milliseconds."""
    phases = ["first", *["warmup"] * warmup, *["timed"] * (len(rest) - warmup)]
    return [
        sample(index, taken, phase) for index, (taken, phase) in enumerate(zip((first, *rest), phases, strict=True))
    ]


def record(benchmark: str = "forward", **changes: Any) -> Record:
    """An ok record on the H100, changed. `workload` may be a Workload; `environment` null for none."""
    what = changes.pop("workload", None) or workload(benchmark)
    fields: dict[str, Any] = {
        "schema_version": 1,
        "written_by": "bench",
        "cell_id": "a" * 16,
        "workload_id": what.workload_id,
        "round": 0,
        "stack": "cuda",
        "method": "torch" if benchmark == "ceilings" else "inductor",
        "workload": what.model_dump(mode="json"),
        "device": "cuda",
        "status": "ok",
        "reason": None,
        "flags": [] if benchmark == "ceilings" else ["unchecked", "cold"],
        "bench_source": "b" * 16,
        "started_utc": "2026-11-23T10:00:00Z",
        "environment": ENVIRONMENT,
        **changes,
    }
    return Record.model_validate_json(json.dumps(fields))


def ceilings(**changes: Any) -> Record:
    """Ceilings of 781 TFLOP/s (the better of two sizes) and 3.02 TB/s."""
    rates = [
        rate("matrix_product", 4096, 10**12, 700e12),
        rate("matrix_product", 8192, 10**12, 781e12),
        rate("device_copy", 2**30, 10**12, 3.02e12),
    ]
    return record("ceilings", **{"cell_id": "c" * 16, "rates": rates, **changes})


def rate(kind: str, size: int, work: int, per_second: float) -> dict[str, Any]:
    """Five calls, the median of which runs at `per_second`."""
    taken = round(work / per_second * 1e9)
    return {
        "kind": kind,
        "size": size,
        "work": work,
        "durations_ns": [taken * 3, taken - 9, taken, taken - 5, taken + 7],
    }


def save_run(folder: Path, records: list[Record], *, stacks: dict[str, Any] | None = None, finish: bool = True) -> Path:
    """A run with these records; its plan has each record's cell. Returns its folder."""
    cells = {
        r.cell_id: Cell(
            stack=r.stack,
            method=r.method,
            device=r.device,
            workload=r.workload,
            timeout_s=60.0,
            rounds=r.round + 1,
            role="ceilings" if r.workload.benchmark == "ceilings" else r.role,
        )
        for r in records
    }
    run = Run.create(folder, Plan(suite="note", cells=tuple(cells.values())), "b" * 16, stacks=stacks or {})
    for r in records:
        run.save(r)
    changes: dict[str, Any] = {"run_id": "20261123-100000-note", "started_utc": "2026-11-23T10:00:00Z"}
    run.update(**changes, finished_utc="2026-11-23T10:30:00Z" if finish else None)
    return run.folder


def check(name: str, status: str = "passed", **changes: Any) -> dict[str, Any]:
    """One check of a proof."""
    return {"name": name, "status": status, "value": 0.011, "limit": 0.025, "what": "logits of 4 rows", **changes}


def proof(error: float = 0.0112, *more: dict[str, Any], **changes: Any) -> dict[str, Any]:
    """A proof of three checks that passed, and `more`; eager's error is 0.01."""
    reference = {"sha256": "d" * 64, "stack": "cuda", "dtype": "float32", "error": error, "eager_error": 0.01}
    checks = [check("reference"), check("rows", value=2.5, limit=4.0), check("repeat", value=None, limit=None), *more]
    return {
        "weights_checksum": "0" * 16,
        "inputs_checksum": "1" * 16,
        "parameters": 6_738_415_616,
        "finite": True,
        "checks": checks,
        "reference": reference,
        "seconds": 12.5,
        **changes,
    }


def dispatch(*missing: str, **changes: Any) -> dict[str, Any]:
    """Three groups of kernels in one CUDA graph."""
    groups = [("matrix product", 224, 0.62), ("attention flash", 32, 0.25), ("Triton", 128, 0.13)]
    return {
        "kind": "kernels",
        "what": "one call",
        "launches": 384,
        "graph_replays": 1,
        "listing_sha256": "e" * 64,
        "groups": [{"name": name, "launches": count, "share": share} for name, count, share in groups],
        "top": [{"name": "nvjet_hsh_128x256", "group": "matrix product", "launches": 96, "share": 0.4}],
        "expected": ["attention flash", *missing],
        "missing": list(missing),
        "instead": None,
        **changes,
    }


def compiled_in(*indices: int) -> dict[str, Any]:
    """What a record says of compiles in these samples, one graph in each."""
    entry = {"shape": [10, 2048], "graphs": 1, "recompiles": 0, "kernels": 0, "reasons": []}
    ledger = [{**entry, "sample": index} for index in indices]
    return {**COMPILES, "graphs": len(indices), "recompiles": 0, "ledger": ledger, "breaks": [], "warm": None}


def shared_cache(*first: float, cold: int = 1, lacking: int = 0, **changes: Any) -> list[Record]:
    """Rounds over one compile cache whose first calls took so many milliseconds; the first `cold` of them are cold.

    The others, where `changes` have compiles, did not find `lacking` of the two things that they looked up.
    """
    compiles = changes.pop("compiles", None)
    later = compiles and {**compiles, "cache_hits": 2 - lacking, "cache_misses": lacking}
    return [
        record(
            round=number,
            samples=samples(taken, 450.0, *[450.0 + number] * 8),
            flags=["cold" if number < cold else "warm"],
            compiles=compiles if number < cold else later,
            **changes,
        )
        for number, taken in enumerate(first)
    ]


def with_layers(layers: int, first: float, **changes: Any) -> Record:
    """A cold round of the note's forward on a model of so many layers, its first call so many seconds long."""
    model = {"name": f"model_of_{layers}", **MODELS["open_llama_7b"], "layers": layers}
    what = workload(model=model)
    taken = samples(first * 1e3, 14.0 * layers, *[14.0 * layers] * 4)
    fields = {"cell_id": what.workload_id, "workload": what, "method": "thunder", "samples": taken, "flags": ["cold"]}
    return record(**{**fields, "compiles": compiled_in(0), **changes})


COMPILES = {
    "graphs": 2,
    "recompiles": 1,
    "cache_hits": 0,
    "cache_misses": 2,
    "breaks": ["print() in forward"],
    "ledger": [
        {"sample": 0, "shape": [10, 2048], "graphs": 1, "recompiles": 0, "reasons": []},
        {"sample": 9, "shape": [10, 2048], "graphs": 1, "recompiles": 1, "reasons": ["size mismatch at index 0"]},
    ],
    "warm": {"first_ns": 9_500_000_000, "cache_hits": 2, "cache_misses": 0, "reason": None},
}
TELEMETRY = {
    "readings": 120,
    "interval_ms": 50.0,
    "throttled": {"sw_power_cap": 0.4},
    "foreign": [],
    "sm_clock_mhz": {"low": 1605.0, "median": 1755.0, "high": 1980.0},
    "power_watts": {"low": 640.0, "median": 690.0, "high": 702.0},
    "energy_joules": 2480.0,
    "series_sha256": "a" * 64,
}


def small_run() -> list[Record]:
    """Records of every kind of row: fast, slower, wrong, refused, crashed, of one round, of three, and probes."""
    memory = {"process_bytes": 15_345_678_901, "steady_bytes": 15_145_678_901, "host_bytes": 4 * 10**9}
    work = {"flops": 281_600_000_000_000, "bytes": None, "tokens": 20480}
    slow = [641.0, 642.5, 640.5, 641.5, 643.0, 640.0, 644.0, 641.2]
    fast = [450.0, 451.5, 449.5, 450.5, 452.0, 449.0, 453.0, 450.2]
    found = [ceilings()]
    found.append(
        record(
            cell_id="0" * 16,
            method="eager",
            samples=samples(1900.0, 645.0, *slow),
            memory=memory,
            work=work,
            flags=["cold"],
            proof=proof(0.01),
            dispatch=dispatch(graph_replays=0),
            telemetry=TELEMETRY,
            detail={"graphs": [0] * 10},
        )
    )
    for number, shift in enumerate((0.0, 1.0, 2.5)):
        found.append(
            record(
                cell_id="1" * 16,
                round=number,
                samples=samples(61_000.0, 455.0, *(t + shift for t in fast)),
                memory=memory,
                work=work,
                flags=["not_fused", "cold"],
                proof=proof(),
                dispatch=dispatch("kernel:^cudnn", instead="attention flash"),
                compiles=COMPILES,
                telemetry=TELEMETRY,
                detail={"method": {"mode": "default"}, "graphs": [1] * 9 + [2]},
            )
        )
    reason = "forward: 3 of 10 | rows are <b>wrong</b>\nsee the log"
    wrong = proof(0.3, check("causality", "failed", value=3.0, limit=0.0, what="row 3"))
    said = {"status": "incorrect", "reason": reason, "proof": wrong}
    found.append(record(cell_id="2" * 16, method="thunder", samples=samples(*fast), **said))
    refused = "the package flash-attn is not installed in this stack"
    found.append(record(cell_id="3" * 16, method="tinyllama", status="unsupported", reason=refused))
    token = {"first_token_ns": 25_000_000, "shape": [1, 206]}
    made = [sample(i, 1180.0 + i, "timed" if i > 1 else "warmup" if i else "first", **token) for i in range(10)]
    decode = {"flops": 2 * 6_607_077_376 * 205, "bytes": 13_214_154_752 * 200, "tokens": 200}
    found.append(record("generation", cell_id="4" * 16, samples=made, memory=memory, work=decode))
    for number, method in enumerate(("eager", "inductor")):
        tiny = old_probe(workload())
        small = {"cell_id": f"b{number}" * 8, "role": "probe", "workload": tiny, "method": method, "flags": ["cold"]}
        found.append(record(**small, samples=samples(9.0, 1.0, 1.0, 1.0, 1.0), proof=proof()))
    crashed = {"status": "crashed", "reason": "exit code 139 (signal 11)", "written_by": "orchestrator", "flags": []}
    found.append(record("generation", cell_id="5" * 16, method="thunder", environment=None, **crashed))
    return found
