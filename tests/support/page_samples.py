"""Runs that have everything a page can show: every kind of row, proof, kernels, compiles, telemetry, taints."""

from __future__ import annotations

import math
import random
from typing import TYPE_CHECKING, Any

from record_samples import ENVIRONMENT, ceilings, old_probe, record, sample, samples, save_run, workload

if TYPE_CHECKING:
    from pathlib import Path

    from orchestrator.records.record import Record

MEMORY = {"process_bytes": 15_345_678_901, "steady_bytes": 15_145_678_901, "host_bytes": 4 * 10**9}
WORK = {"flops": 281_600_000_000_000, "bytes": None, "tokens": 20480}
NASTY = "<script>window.broken = 'by a record'</script><img src=x onerror=\"window.broken='img'\">"
MODES = {"eager": 641.0, "inductor": 450.0, "tinyllama": 520.0, "thunder": 470.0, "inductor_default": 462.0}


def timed(
    seed: int, typical: float, count: int = 12, *, taint: bool = False, losses: bool = False
) -> list[dict[str, Any]]:
    """A slow first call, a warm-up and timed samples, one of them tainted and repeated where asked for."""
    draw = random.Random(seed)  # noqa: S311 - samples for tests
    made = [sample(0, typical * 40, "first"), sample(1, typical * 1.3, "warmup")]
    made += [sample(n, typical * (1 + draw.gauss(0, 0.004))) for n in range(2, count)]
    for n, one in enumerate(made):
        one["begin_ns"], one["end_ns"] = _after(made, n), _after(made, n) + one["end_ns"] - one["begin_ns"]
        if losses:
            one["loss"] = 10.4 - 6 * (1 - math.exp(-n / 12)) + draw.gauss(0, 0.02)
    if taint:
        late = made[-3]
        late["end_ns"] += round(typical * 0.05e6)
        late["taint"] = "hardware slowdown seen for 40 % of the sample"
        again = {**made[-1], "index": late["index"], "phase": "repeat", "begin_ns": made[-1]["end_ns"] + 10**6}
        made.append({**again, "end_ns": again["begin_ns"] + round(typical * 1e6)})
    return made


def _after(made: list[dict[str, Any]], n: int) -> int:
    return 10**12 if n == 0 else int(made[n - 1]["end_ns"]) + 10**7


def proof(error: float = 0.0041, **changes: Any) -> dict[str, Any]:
    """What a checked forward pass proves, changed."""
    checks = [
        {
            "name": "relative error",
            "status": "passed",
            "value": error,
            "limit": 0.0082,
            "what": "all logits, 20480 positions",
        },
        {"name": "top-1 agreement", "status": "passed", "value": 0.994, "limit": 0.98, "what": "20480 positions"},
        {
            "name": "later token",
            "status": "passed",
            "value": 0.0,
            "limit": 0.0,
            "what": "earlier logits stay as they were",
        },
        {"name": "probe", "status": "unchecked", "what": "the method cannot run a model this small"},
    ]
    reference = {"sha256": "d" * 64, "stack": "cuda", "dtype": "float32", "error": error, "eager_error": 0.004}
    base = {
        "weights_checksum": "fa4672186ae25b05",
        "inputs_checksum": "183fba9776135460",
        "parameters": 6_738_415_616,
        "finite": True,
        "checks": checks,
        "reference": reference,
        "seconds": 11.25,
    }
    return {**base, **changes}


def dispatch(*shares: float, **changes: Any) -> dict[str, Any]:
    """Kernels of four kinds with these shares of the time."""
    names = ("matrix products", "attention flash", "Triton", "elementwise", "copies")
    groups = [
        {"name": name, "launches": 64 + 32 * n, "share": share}
        for n, (name, share) in enumerate(zip(names, shares, strict=False))
    ]
    top = [
        {
            "name": f"sm90_xmma_gemm_bf16bf16_bf16f32_f32_tn_n_tilesize128x128x64_{n}_kernel__5x_cublas",
            **group,
            "group": group["name"],
        }
        for n, group in enumerate(groups)
    ]
    for n, kernel in enumerate(top):
        kernel["name"] = f"sm90_xmma_gemm_bf16bf16_bf16f32_f32_tn_n_tilesize128x128x64_{n}_kernel__5x_cublas"
    fields = {
        "kind": "kernels",
        "what": "one forward pass",
        "launches": sum(g["launches"] for g in groups),
        "graph_replays": 0,
        "groups": groups,
        "top": top,
        "expected": ["Triton"],
        "missing": [],
        "listing_sha256": "e" * 64,
    }
    return {**fields, **changes}


def compiles() -> dict[str, Any]:
    """One graph at first and another where the shape changed."""
    return {
        "graphs": 2,
        "recompiles": 1,
        "ledger": [
            {"sample": 0, "shape": [10, 2048], "graphs": 1, "recompiles": 0, "reasons": []},
            {
                "sample": 1,
                "shape": [10, 1024],
                "graphs": 1,
                "recompiles": 1,
                "reasons": ["tensor 'tokens' size mismatch at index 1"],
            },
        ],
        "breaks": ["call to print in forward"],
        "cache_hits": 0,
        "cache_misses": 2,
        "warm": {"first_ns": 9_100_000_000, "cache_hits": 2, "cache_misses": 0},
    }


def telemetry(**changes: Any) -> dict[str, Any]:
    """A GPU at full load, now and then held back by its power cap."""
    fields = {
        "readings": 214,
        "interval_ms": 20.0,
        "sm_clock_mhz": {"low": 1725.0, "median": 1905.0, "high": 1980.0},
        "power_watts": {"low": 412.0, "median": 655.5, "high": 699.0},
        "temperature_celsius": {"low": 48.0, "median": 61.0, "high": 66.0},
        "memory_bytes": {"low": 15.9e9, "median": 16.1e9, "high": 16.2e9},
        "throttled": {"software power cap": 0.31},
        "energy_joules": 2941.5,
        "series_sha256": "a" * 64,
    }
    return {**fields, **changes}


def full_run(slower: float = 1.0) -> list[Record]:
    """Rows of five benchmarks by up to five methods, of one round and of five, fine and broken."""
    found = [ceilings()]
    for number, (method, typical) in enumerate(MODES.items()):
        found += [
            record(
                cell_id=f"{number:016x}",
                method=method,
                round=turn,
                samples=timed(10 * number + turn, typical * slower * (1 + 0.002 * turn), taint=method == "thunder"),
                memory={**MEMORY, "process_bytes": MEMORY["process_bytes"] + number * 2_100_000_000},
                work=WORK,
                flags=["cold", *(["tainted"] if method == "thunder" else [])],
                proof=proof(0.0041 + number * 1e-4),
                dispatch=dispatch(0.62 - number * 0.03, 0.2, 0.1 + number * 0.03, 0.06, 0.02),
                compiles=None if method == "eager" else compiles(),
                telemetry=telemetry(),
            )
            for turn in range(5)
        ]
    checks = proof()["checks"]
    checks[0] = {**checks[0], "status": "failed", "value": 0.31, "what": "batch 3, position 17: 0.31 of the reference"}
    wrong = proof(0.31, checks=checks, resembles="rotary angles off by one position")
    found.append(
        record(
            cell_id="a" * 15 + "1",
            method="stale",
            status="incorrect",
            reason="relative error: batch 3, position 17",
            samples=timed(91, 300.0),
            proof=wrong,
            dispatch=dispatch(0.7, 0.0, 0.0, 0.3, missing=["Triton"], instead="elementwise"),
            flags=["not_fused"],
            memory=MEMORY,
            work=WORK,
        )
    )
    found += [
        record(
            cell_id=f"d{number:015x}",
            role="probe",
            workload=old_probe(workload()),
            method=method,
            flags=["cold"],
            samples=timed(50 + number, 1.0),
            proof=proof(
                checks=[{"name": "rotary", "status": "passed", "value": 1e-7, "limit": 1e-5, "what": "64 positions"}]
            ),
        )
        for number, method in enumerate(("eager", "inductor", "thunder"))
    ]
    for number, method in enumerate(("eager", "inductor")):
        steps = [{**one, "shape": [2, 2048]} for one in timed(70 + number, 548.0 - 96 * number, count=50, losses=True)]
        found.append(
            record(
                "train_static",
                cell_id=f"b{number:015x}",
                method=method,
                samples=steps,
                memory=MEMORY,
                work={**WORK, "flops": 85 * 10**12},
                flags=["unchecked", "cold"],
            )
        )
    found += _generation()
    return found


def _generation() -> list[Record]:
    token = {"first_token_ns": 25_000_000, "shape": [1, 206]}
    made = [sample(i, 1180.0 + i, "timed" if i > 1 else "warmup" if i else "first", **token) for i in range(10)]
    decode = {"flops": 2 * 6_607_077_376 * 205, "bytes": 13_214_154_752 * 200, "tokens": 200}
    refused = "the package flash-attn is not installed in this stack"
    return [
        record("generation", cell_id="c" * 15 + "0", samples=made, memory=MEMORY, work=decode),
        record("generation", cell_id="c" * 15 + "1", method="tinyllama", status="unsupported", reason=refused),
        record(
            "generation",
            cell_id="c" * 15 + "2",
            method="thunder",
            status="crashed",
            reason="exit code 139 (signal 11)",
            written_by="orchestrator",
            flags=[],
            environment=None,
        ),
    ]


def nasty_run(folder: Path) -> Path:
    """A run whose every text that a container writes tries to be markup, its log too. Returns its folder."""
    environment = {
        **ENVIRONMENT,
        "packages": {NASTY: "</script><script>window.broken='package'</script>", "torch": NASTY},
    }
    kernels = dispatch(0.9, 0.1)
    kernels["groups"][0]["name"] = NASTY
    kernels["top"][0]["name"] = kernels["top"][0]["group"] = NASTY
    bad = proof(resembles=NASTY, text="</script>" + NASTY + "\u2028\u202e")
    bad["checks"] = [{"name": NASTY, "status": "failed", "value": 1.0, "what": "<!--<script>" + NASTY}]
    samples_ = timed(1, 450.0)
    samples_[4]["taint"] = NASTY
    rows = [
        record(
            cell_id="0" * 16,
            samples=samples_,
            environment=environment,
            dispatch=kernels,
            proof=proof(),
            memory=MEMORY,
            work=WORK,
        ),
        record(
            cell_id="1" * 16,
            method="eager",
            status="incorrect",
            reason=NASTY,
            samples=samples_,
            environment=environment,
            dispatch=kernels,
            proof=bad,
            detail={NASTY: NASTY},
        ),
    ]
    run = save_run(folder, [ceilings(), *rows])
    from orchestrator.records.store import Run

    log = folder / "log.txt"
    log.write_text("a line\n</script>" + NASTY + "\n\x1b[31mred\n")
    Run.open(run).save(rows[0], log)
    Run.open(run).update(note=NASTY)
    return run


def many_rows(count: int, tables: int) -> list[Record]:
    """So many small rows of one round, in so many tables."""
    kinds = [workload(sequence=2048 + n) for n in range(tables)]
    return [
        record(
            cell_id=f"{n:016x}",
            method=f"method_{n % 15}",
            stack=f"stack-{n % 7}",
            status="ok" if n % 11 else "crashed",
            reason=None if n % 11 else "exit code 139 (signal 11)",
            workload=kinds[n % tables],
            samples=timed(n, 400.0 + n % 97) if n % 11 else [],
            memory={**MEMORY, "process_bytes": MEMORY["process_bytes"] + n * 10**6},
            work=WORK,
            proof=proof(),
            dispatch=dispatch(0.6, 0.2, 0.1, 0.1),
            telemetry=telemetry(),
        )
        for n in range(count)
    ]


def failed_run() -> list[Record]:
    """Nothing with a speed: every row failed, each another way, with a long reason."""
    reason = "RuntimeError: CUDA error: an_identifier_that_is_too_long_for_any_column_of_a_narrow_window " * 3
    return [
        record(
            cell_id=f"{n:016x}",
            method=f"method_that_is_{status}",
            status=status,
            reason=reason,
            environment=None,
            written_by="orchestrator",
            flags=[],
        )
        for n, status in enumerate(("crashed", "timeout", "out_of_memory", "unsupported", "skipped", "infrastructure"))
    ]


def on_gpu(name: str, ratio: float) -> list[Record]:
    """One round of eager and of inductor, `ratio` times as fast, on a GPU of that name."""
    environment = {**ENVIRONMENT, "gpu": {**ENVIRONMENT["gpu"], "name": name}}
    return [
        record(
            cell_id=f"{n:015x}a",
            method=method,
            samples=timed(n, typical),
            memory=MEMORY,
            environment=environment,
            flags=["cold"],
        )
        for n, (method, typical) in enumerate((("eager", 600.0), ("inductor", 600.0 / ratio)))
    ]


def tiny_run() -> list[Record]:
    """Calls of a millisecond after first ones of up to ten seconds: an axis of six decades."""
    return [
        record(
            cell_id=f"{n:015x}b",
            method=method,
            stack="cpu",
            samples=samples(first, *[typical * (1 + k / 500) for k in range(9)]),
            memory=MEMORY,
        )
        for n, (method, first, typical) in enumerate((("eager", 2.4, 1.4), ("inductor", 12600.0, 0.7)))
    ]


def draw_all(page: Any) -> None:
    """Bring everything into view once: charts are drawn when they are seen."""
    page.evaluate(
        "async () => { for (let y = 0; y < document.body.scrollHeight; y += 400) {"
        " scrollTo(0, y); await new Promise((r) => requestAnimationFrame(() => setTimeout(r, 30))); } scrollTo(0, 0); }"
    )
