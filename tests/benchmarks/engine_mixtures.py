"""How often an engine of a mixture in bfloat16 is called wrong, and how often it is not where it is wrong.

`python tests/benchmarks/engine_mixtures.py [SEEDS [FIRST [ENGINE ...]]]`, with torch and transformers: tiny models of
three families, whose own routers choose, on the hash's weights and on a probe's, in this process. Where
`bench.proof.ties` has its DRAWS from. Exit code 1 where a right engine was called wrong.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import sys
import tempfile
from collections.abc import Callable
from itertools import product
from pathlib import Path
from typing import Any

sys.path[:0] = [str(Path(__file__).parents[1] / "support"), str(Path(__file__).parents[2])]

import mixture_cells  # noqa: E402
import torch  # noqa: E402
from arguments import one_of, positive  # noqa: E402

from bench.methods import transformers as adapter  # noqa: E402
from bench.observe import dispatch  # noqa: E402
from bench.proof import engine  # noqa: E402

ENGINES: dict[str, Callable[[Any], None]] = {
    "right": lambda _: None,
    "other weights": mixture_cells.other_weights,
    "one expert": mixture_cells.one_expert,
    "int8": mixture_cells.int8,
}


def main() -> int:
    """Print a line for each cell that is not as it should be, and the counts."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("seeds", metavar="SEEDS", type=positive, nargs="?", default=10, help="how many (%(default)s)")
    parser.add_argument("first", metavar="FIRST", type=int, nargs="?", default=0, help="seed (%(default)s)")
    planted = f"{', '.join(ENGINES)}: what is planted in transformers' model (all)"
    parser.add_argument("names", metavar="ENGINE", type=one_of(ENGINES), nargs="*", default=list(ENGINES), help=planted)
    given = parser.parse_args()
    seeds = range(given.first, given.first + given.seeds)
    torch.set_num_threads(1)
    dispatch.gather = lambda *_: None  # type: ignore[assignment]
    engine.seen_again = lambda *_: 1.0  # type: ignore[assignment]
    alarms, real = 0, adapter.Transformers
    for name, shape in product(given.names, mixture_cells.SHAPES):
        if name == "other weights" and shape == "mixtral":
            continue  # whose router has no such switch
        adapter.Transformers = mixture_cells.planted(real, ENGINES[name])  # type: ignore[misc]
        wrong, count = 0, 0
        for source, seed in product(("hash", "probe"), seeds):
            found = cell(shape, source, seed)
            count += 1
            if (found["status"] == "ok") != (name == "right"):
                wrong += 1
                print(f"{name}, {shape}, {source}, seed {seed}: {found['status']}: {found['reason']}", flush=True)
        alarms += wrong if name == "right" else 0
        print(f"{name}, {shape}: {wrong} of {count} {'called wrong' if name == 'right' else 'passed'}", flush=True)
    return int(alarms > 0)


def cell(shape: str, source: str, seed: int) -> dict[str, Any]:
    """The record of a cell."""
    quiet = contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO())
    with tempfile.TemporaryDirectory() as folder, quiet[0], quiet[1]:
        record: dict[str, Any] = mixture_cells.run(
            Path(folder) / "cell", shape, source, seed, dtype="bfloat16", batch=2, new_tokens=24
        )
    return record


if __name__ == "__main__":
    sys.exit(main())
