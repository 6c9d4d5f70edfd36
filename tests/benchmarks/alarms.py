"""How often the proof calls a right method wrong: tiny cells run for real, each with a seed of its own.

`python tests/benchmarks/alarms.py [CELLS [FIRST SEED]]`, with torch; 200 cells where nothing is said. Benchmarks,
precisions, weights, models and right methods take turns. Prints how near the nearest came to each check's limit; exit
code 1 where one cell was not proved.
"""

from __future__ import annotations

import contextlib
import io
import itertools
import json
import math
import random
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path
from typing import Any

sys.path[:0] = [str(Path(__file__).parents[1] / "support"), str(Path(__file__).parents[2])]

import torch  # noqa: E402
from bench_specs import SHAPES, write_spec  # noqa: E402
from right_methods import METHODS  # noqa: E402

from bench import cell, methods  # noqa: E402
from bench.spec import read_spec  # noqa: E402

CELLS = 200
PROBABILITIES = ("possible", "sampler", "temperature")
"""Checks whose limit is the least that passes: how near is shown by the logarithms."""
KINDS = [
    kind
    for kind in itertools.product(
        [name for name in SHAPES if name != "ceilings"],
        ["float32", "bfloat16"],
        ["probe", "hash"],
        ["tiny", "tiny_gqa"],
        METHODS,
    )
    # In bfloat16 no weight has to change at the suites' learning rate: there that check says so, and proves nothing.
    if not (kind[0].startswith("train") and kind[1] == "bfloat16" and kind[2] == "probe")
]


def run(folder: Path, kind: tuple[str, ...], seed: int) -> dict[str, Any]:
    """One cell's record."""
    benchmark, dtype, source, model, method = kind
    methods.load = lambda _: METHODS[method]  # type: ignore[assignment]
    weights = {"source": source, "seed": seed, "fingerprint": None}
    path = write_spec(folder, benchmark, "right", model=model, dtype=dtype, seed=seed, weights=weights)
    with contextlib.redirect_stderr(io.StringIO()):
        return cell.run(read_spec(path))


def main() -> int:
    """Run the cells, print what was found."""
    cells = int(sys.argv[1]) if len(sys.argv) > 1 else CELLS
    first = int(sys.argv[2]) if len(sys.argv) > 2 else 0
    torch.set_num_threads(1)
    order = random.Random(0).sample(KINDS, len(KINDS))  # noqa: S311  (no secret)
    nearest: dict[str, tuple[float, str]] = {}
    counts: Counter[str] = Counter()
    alarms, began = [], time.monotonic()
    for number in range(cells):
        kind, seed = order[number % len(order)], first + number
        title = f"{' '.join(kind)}, seed {seed}"
        with tempfile.TemporaryDirectory() as folder:
            record = run(Path(folder), kind, seed)
        proved = record["status"] == "ok" and "unchecked" not in record["flags"]
        counts["proved" if proved else "not proved"] += 1
        if not proved:
            open_checks = [check for check in record["proof"].get("checks", ()) if check["status"] != "passed"]
            alarms.append(f"{title}: {record['status']}: {record['reason'] or json.dumps(open_checks)}")
            print(alarms[-1], flush=True)
        for check in record["proof"].get("checks", ()):
            if check["value"] and check["limit"]:
                least = check["name"] in PROBABILITIES
                part = math.log(check["value"]) / math.log(check["limit"]) if least else check["value"] / check["limit"]
                nearest[check["name"]] = max(nearest.get(check["name"], (0.0, "")), (part, title))
        if (number + 1) % 20 == 0:
            left = (time.monotonic() - began) / (number + 1) * (cells - number - 1)
            print(f"{number + 1} of {cells} cells, {len(alarms)} alarms, {left:.0f} s left", flush=True)
    print(f"{cells} cells, seeds {first} to {first + cells - 1}: {dict(counts)}")
    for name, (part, title) in sorted(nearest.items(), key=lambda item: -item[1][0]):
        print(f"{name}: at most {part:.0%} of its limit ({title})")
    return 1 if alarms else 0


if __name__ == "__main__":
    sys.exit(main())
