"""How often an engine of a mixture in bfloat16 is called wrong, and how often it is not where it is wrong.

`python tests/benchmarks/engine_mixtures.py [SEEDS [FIRST [ENGINE ...]]]`, with torch and transformers: tiny models of
three families, whose own routers choose, on the hash's weights and on a probe's, by so many seeds (10), in this
process. ENGINE: `right`, or what is planted in transformers' model (without one: all). Where `bench.proof.ties` has its
DRAWS from. Exit code 1 where a right engine was called wrong.
"""

from __future__ import annotations

import contextlib
import io
import sys
import tempfile
from collections.abc import Callable
from itertools import product
from pathlib import Path
from typing import Any

sys.path[:0] = [str(Path(__file__).parents[1] / "support"), str(Path(__file__).parents[2])]

import torch  # noqa: E402
from bench_specs import MODELS  # noqa: E402
from engine_cells import run  # noqa: E402

from bench.methods import transformers as adapter  # noqa: E402
from bench.observe import dispatch  # noqa: E402
from bench.proof import engine, faults  # noqa: E402

EXPERTS = {"count": 8, "active": 2, "width": 64, "normalised": True}
TINY = MODELS["tiny"]
SHAPES = {
    "mixtral": {"experts": {**EXPERTS, "width": TINY["mlp_width"]}},
    "qwen3_moe": {"qk_norm": True, "experts": EXPERTS},
    "qwen2_moe": {"qkv_bias": True, "experts": {**EXPERTS, "shared_width": 32, "normalised": False}},
}
TEXT = {"new_tokens": 24, "iterations": 3, "warmup": 1, "prompt": [1, 15, 29, 59, 300], "batch": 2}


def right(_: Any) -> None:
    """As it is."""


def not_normalised(model: Any) -> None:
    """The weights of a token's experts are those of all of them."""
    for part in model.modules():
        if hasattr(part, "norm_topk_prob"):
            part.norm_topk_prob = not part.norm_topk_prob


def one_expert(model: Any) -> None:
    """Of a token's two experts the second is lost."""
    for part in model.modules():
        if hasattr(part, "top_k"):
            part.top_k = 1


@torch.no_grad()
def int8(model: Any) -> None:
    """Every matrix but embedding and head as eight bits hold it, a scale for each row."""
    for name, weight in model.named_parameters():
        if weight.dim() > 1 and "embed" not in name and "lm_head" not in name:
            weight.copy_(faults.int8(weight.float()).to(weight.dtype))


ENGINES: dict[str, Callable[[Any], None]] = {
    "right": right, "not normalised": not_normalised, "one expert": one_expert, "int8": int8,
}  # fmt: skip


def main(seeds: range, names: list[str]) -> int:
    """Print a line for each cell that is not as it should be, and the counts."""
    torch.set_num_threads(1)
    dispatch.gather = lambda *_: None  # type: ignore[assignment]
    engine.seen_again = lambda *_: 1.0  # type: ignore[assignment]
    alarms, real = 0, adapter.Transformers
    for name, shape in product(names, SHAPES):
        if name == "not normalised" and shape == "mixtral":
            continue  # whose router has no such switch
        wrong, count = 0, 0
        for source, seed in product(("hash", "probe"), seeds):
            found = cell(planted(real, ENGINES[name]), shape, source, seed)
            count += 1
            if (found["status"] == "ok") != (name == "right"):
                wrong += 1
                print(f"{name}, {shape}, {source}, seed {seed}: {found['status']}: {found['reason']}", flush=True)
        alarms += wrong if name == "right" else 0
        print(f"{name}, {shape}: {wrong} of {count} {'called wrong' if name == 'right' else 'passed'}", flush=True)
    return int(alarms > 0)


def planted(real: Any, change: Callable[[Any], None]) -> Any:
    """The adapter's class, with its model changed."""

    class Changed(real):  # type: ignore[misc]
        def __init__(self, *given: Any, **more: Any) -> None:
            super().__init__(*given, **more)
            change(self.model)

    return Changed


def cell(made: Any, shape: str, source: str, seed: int) -> dict[str, Any]:
    """The record of a cell by this engine."""
    weights = {"source": source, "seed": seed, "fingerprint": None, "routing": "router"}
    model = {**TINY, "name": shape, **SHAPES[shape]}
    adapter.Transformers = made  # type: ignore[misc]
    quiet = contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO())
    with tempfile.TemporaryDirectory() as folder, quiet[0], quiet[1]:
        record: dict[str, Any] = run(
            Path(folder) / "cell", model=model, weights=weights, dtype="bfloat16", seed=seed, **TEXT
        )
    return record


if __name__ == "__main__":
    given = sys.argv[1:]
    count, first = (int(word) for word in (*given[:2], *("10", "0")[len(given[:2]) :]))
    sys.exit(main(range(first, first + count), given[2:] or list(ENGINES)))
