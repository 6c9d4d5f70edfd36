"""Specs for tests of bench: what the orchestrator would write, tiny."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

from places import ROOT

MODELS = json.loads((ROOT / "bench" / "models.json").read_text(encoding="utf-8"))
UNUSED = """batch sequence shortest ids_below prompt prompt_text new_tokens temperature learning_rate weight_decay
matrix_sizes copy_bytes precisions soak_s sustained_s prompt_tokens"""
EMPTY: dict[str, Any] = dict.fromkeys(UNUSED.split())
SHAPES: dict[str, dict[str, Any]] = {
    "forward": {"batch": 2, "sequence": 16},
    "model_inference": {"batch": 1, "prompt": [1, 15, 29, 59], "new_tokens": 6, "temperature": 1.0},
    "generation": {"batch": 1, "prompt": [1, 15, 29, 59], "new_tokens": 6, "temperature": 1.0},
    "batched_generation": {"batch": 3, "prompt_tokens": 4, "new_tokens": 6, "temperature": 1.0},
    "train_static": {"batch": 2, "sequence": 16, "ids_below": 100, "learning_rate": 6e-4, "weight_decay": 0.1},
    "train_dynamic": {
        "batch": 2, "sequence": 16, "shortest": 4, "ids_below": 100, "learning_rate": 6e-4, "weight_decay": 0.1
    },
    "ceilings": {"matrix_sizes": [64], "copy_bytes": 4096},
}  # fmt: skip


def workload(benchmark: str, model: str | dict[str, Any] = "tiny", **changes: Any) -> dict[str, Any]:
    content = {"benchmark": benchmark, "dtype": "bfloat16", "seed": 0, "iterations": 5, "warmup": 2, **EMPTY}
    named = {"name": model, **MODELS[model]} if isinstance(model, str) else model
    content["model"] = None if benchmark == "ceilings" else named
    content["weights"] = None if benchmark == "ceilings" else {"source": "hash", "seed": 0, "fingerprint": None}
    return {**content, **SHAPES[benchmark], **changes}


def write_spec(folder: Path, benchmark: str, method: str = "eager", **changes: Any) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    spec = {
        "schema_version": 1, "cell_id": "0" * 16, "workload_id": "1" * 16, "round": 0, "stack": "cpu", "method": method,
        "device": "cpu", "bench_source": "2" * 16, "workload": workload(benchmark, **changes), "threads": 1,
        "cache": "cold", "cache_folder": None, "checkpoint": None, "deadline_s": 60.0,
    }  # fmt: skip
    path = folder / "spec.json"
    path.write_text(json.dumps(spec), encoding="utf-8")
    return path


def run_bench(folder: Path, *arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run `python -m bench` in `folder` as a process of its own."""
    return subprocess.run(
        [sys.executable, "-m", "bench", *arguments], cwd=folder, capture_output=True, text=True, check=False,
        env={**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", **environment},
    )  # fmt: skip
