"""How often the proof calls a right method wrong: tiny cells run for real, each with a seed of its own.

`python tests/benchmarks/alarms.py [CELLS [FIRST [BENCHMARK[:DTYPE] | MODEL ...]]]`, with torch. Half of the cells are
tiny models on the hash's weights, half are the probes that the planner would give to a row of some model; methods and
models are drawn at random, or are the probes of the models that are named. Prints the rate of alarms with its upper
bound, and how near the nearest came to each check's limit; exit code 1 where one cell was not proved.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import json
import math
import random
import sys
import tempfile
import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

sys.path[:0] = [str(Path(__file__).parents[1] / "support"), str(Path(__file__).parents[2])]

import torch  # noqa: E402
from arguments import one_of, positive  # noqa: E402
from bench_specs import MODELS, SHAPES, workload, write_spec  # noqa: E402
from right_methods import METHODS  # noqa: E402

from bench import cell, methods  # noqa: E402
from bench.observe import dispatch  # noqa: E402
from bench.spec import read_spec  # noqa: E402
from orchestrator.plan.proof_cells import probe_part  # noqa: E402
from orchestrator.plan.workload import Dtype, Workload  # noqa: E402
from orchestrator.records.checks import held_to_list  # noqa: E402
from orchestrator.records.record import Record  # noqa: E402

CONFIDENCE = 0.95
PROBABILITIES = ("possible", "sampler", "temperature", "whole rows")
"""Checks whose limit is the least that passes: how near is shown by the logarithms."""
BENCHMARKS = [name for name in SHAPES if name != "ceilings"]
FOREACH, SGD = "foreach SGD", torch.optim.SGD
DTYPES: tuple[Dtype, ...] = ("float32", "bfloat16")
LARGE: dict[str, Any] = MODELS["open_llama_7b"]
GEMMA: dict[str, Any] = {
    "activation": "gelu_tanh",
    "norm_plus_one": True,
    "post_norms": True,
    "embedding_scaled": True,
    "query_scalar": 144.0,
    "tied_head": True,
    "kv_heads": 16,
    "sliding_window": 4096,
    "full_layers": [1, 3],
}
LINEAR = {"rope_type": "linear", "factor": 8.0}
LONGROPE = {"rope_type": "longrope", "short_factor": [1.0 + n / 48 for n in range(48)], "attention_factor": 1.19}
PROBED: dict[str, dict[str, Any]] = {
    "32 heads of 128": {},
    "grouped": {"kv_heads": 8, "norm_eps": 1e-5, "rope_base": 500000.0},
    "heads of 100": {"head_size": 100},
    "heads of 64": {"head_size": 64},
    "tied": {"tied_head": True},
    "window and bias": {"sliding_window": 4096, "qkv_bias": True},
    "Qwen3": {"kv_heads": 8, "qk_norm": True},
    "Gemma 2": {**GEMMA, "attention_cap": 50.0, "logit_cap": 30.0},
    "Gemma 3": {**GEMMA, "qk_norm": True, "local_rope_base": 1e4, "rope_base": 1e6, "rope_scaling": LINEAR},
    "Phi-4": {"rotary_size": 96, "kv_heads": 8, "tied_head": True, "rope_scaling": LONGROPE},
    "Mixtral": {"experts": {"count": 8, "active": 2, "width": 14336, "normalised": True}},
    "Qwen3 mixture": {"kv_heads": 4, "qk_norm": True, "experts": {"count": 128, "active": 8, "width": 768}},
}
"""Models whose probes are run."""


def draw(benchmark: str, dtype: Dtype, chance: random.Random, chosen: list[str]) -> tuple[str, str, dict[str, Any]]:
    """What it is in words, the method, and the workload, of a cell drawn at random; of `chosen` models if any."""
    training = benchmark.startswith("train")
    method, seed = chance.choice([*METHODS, *([FOREACH] if training else [])]), chance.randrange(2**31)
    batch = {} if training else {"batch": chance.choice((1, 2))}
    if not chosen and chance.random() < 0.5:
        model = chance.choice(["tiny", "tiny_gqa"])
        own = workload(
            benchmark, model, **batch, dtype=dtype, weights={"source": "hash", "seed": seed, "fingerprint": None}
        )
    else:
        model = chance.choice(chosen or list(PROBED))
        shape = {"name": model, **LARGE, **PROBED[model]}
        row = workload(benchmark, shape, **batch, dtype="bfloat16", prompt_text=None)
        probe = probe_part(Workload.model_validate_json(json.dumps(row)), dtype)
        own = json.loads(probe.model_dump_json())
        own["weights"]["seed"] = seed
    own["seed"] = seed
    return f"{benchmark} {dtype} {method} on {model} ({own['weights']['source']}), seed {seed}", method, own


def sgd(*arguments: Any, foreach: bool, **settings: Any) -> torch.optim.Optimizer:
    """The benchmarks' optimizer, which updates all parameters at once or one after the other."""
    return SGD(*arguments, **{**settings, "foreach": foreach})


def run(folder: Path, method: str, own: dict[str, Any]) -> dict[str, Any]:
    """One cell's record."""
    methods.load = lambda _: METHODS["eager" if method == FOREACH else method]  # type: ignore[assignment]
    torch.optim.SGD = partial(sgd, foreach=method == FOREACH)  # type: ignore[assignment,misc]
    path = write_spec(folder, own["benchmark"], "right")
    path.write_text(json.dumps({**json.loads(path.read_text()), "workload": own}))
    with contextlib.redirect_stderr(io.StringIO()):
        return cell.run(read_spec(path))


def wanted(words: list[str]) -> Iterator[tuple[str, Dtype]]:
    """Benchmarks and dtypes, all or those that were named."""
    for benchmark in BENCHMARKS:
        for dtype in DTYPES:
            if not words or benchmark in words or f"{benchmark}:{dtype}" in words:
                yield benchmark, dtype


def upper_bound(cells: int, alarms: int) -> float:
    """The rate that is not exceeded with CONFIDENCE (Clopper and Pearson): found by halving."""
    low, high = alarms / cells, 1.0
    for _ in range(60):
        rate = (low + high) / 2
        chance = sum(math.comb(cells, k) * rate**k * (1 - rate) ** (cells - k) for k in range(alarms + 1))
        low, high = (rate, high) if chance > 1 - CONFIDENCE else (low, rate)
    return high


def main() -> int:
    """Run the cells, print what was found."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    each = "of each benchmark in each dtype (%(default)s)"
    parser.add_argument("cells", metavar="CELLS", type=positive, nargs="?", default=20, help=each)
    parser.add_argument("first", metavar="FIRST", type=int, nargs="?", default=0, help="seed (%(default)s)")
    known = [*BENCHMARKS, *(f"{benchmark}:{dtype}" for benchmark in BENCHMARKS for dtype in DTYPES), *PROBED]
    named, said = "BENCHMARK[:DTYPE] | MODEL", f"of {', '.join(known)} (all benchmarks and models)"
    parser.add_argument("words", metavar=named, type=one_of(known), nargs="*", help=said)
    given = parser.parse_args()
    torch.set_num_threads(1)
    dispatch.gather = lambda *_: None  # type: ignore[assignment]  # its profile takes longer than the cell
    chosen = [word for word in given.words if word in PROBED]
    order = [kind for kind in wanted([word for word in given.words if word not in PROBED]) for _ in range(given.cells)]
    nearest: dict[str, tuple[float, str]] = {}
    alarms, began = 0, time.monotonic()
    for number, (benchmark, dtype) in enumerate(order):
        chance = random.Random(f"{given.first + number % given.cells} {benchmark} {dtype}")  # noqa: S311
        title, method, own = draw(benchmark, dtype, chance, chosen)
        with tempfile.TemporaryDirectory() as folder:
            record = run(Path(folder), method, own)
        record = json.loads(held_to_list(Record.model_validate(record)).model_dump_json())
        if record["status"] != "ok" or {"unchecked", "memoised"} & set(record["flags"]):
            open_checks = [check for check in record["proof"].get("checks", ()) if check["status"] != "passed"]
            alarms += 1
            print(f"{title}: {record['status']}: {record['reason'] or json.dumps(open_checks)}", flush=True)
        for check in record["proof"].get("checks", ()):
            if check["value"] and check["limit"]:
                least = check["name"] in PROBABILITIES
                part = math.log(check["value"]) / math.log(check["limit"]) if least else check["value"] / check["limit"]
                name = f"{benchmark} {dtype} {check['name']}"
                nearest[name] = max(nearest.get(name, (0.0, "")), (part, title))
        if (number + 1) % 10 == 0:
            left = (time.monotonic() - began) / (number + 1) * (len(order) - number - 1)
            print(f"{number + 1} of {len(order)} cells, {alarms} alarms, {left:.0f} s left", flush=True)
    bound = upper_bound(len(order), alarms)
    print(f"{len(order)} cells, {alarms} alarms: at most {bound:.2%} with {CONFIDENCE:.0%} confidence")
    for name, (part, title) in sorted(nearest.items(), key=lambda item: -item[1][0]):
        print(f"{name}: at most {part:.0%} of its limit ({title})")
    return 1 if alarms else 0


if __name__ == "__main__":
    sys.exit(main())
