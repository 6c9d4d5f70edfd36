"""How often the sharp draws of a probe find a wrong sampler: simulated.

`python tests/benchmarks/sampler_power.py [CELLS]`, with torch. Probabilities as of `sampler.Sharp`, draws by
torch.multinomial; as in the proof, more draws where the first ones are suspicious.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

sys.path[:0] = [str(Path(__file__).parents[1] / "support"), str(Path(__file__).parents[2])]

import torch  # noqa: E402
from arguments import positive  # noqa: E402
from torch import Tensor  # noqa: E402

from bench.proof.checks import Checks  # noqa: E402
from bench.proof.sampler import ALL_DRAWS, FIRST_DRAWS, Sharp  # noqa: E402

TEMPERATURE = 0.5


def top_p(p: Tensor, part: float) -> Tensor:
    """Only the likeliest ids that make up `part`."""
    ordered, order = p.sort(descending=True)
    return p.index_fill(0, order[ordered.cumsum(0) - ordered > part], 0.0)


def top_k(p: Tensor, count: int) -> Tensor:
    """Only the `count` likeliest ids."""
    return p.index_fill(0, p.argsort(descending=True)[count:], 0.0)


def times(p: Tensor, place: int, factor: float) -> Tensor:
    """One id so many times as likely."""
    return p.index_fill(0, torch.tensor(place), factor * float(p[place]))


def samplers(p: Tensor) -> dict[str, Tensor]:
    """Unnormalised probabilities of a right sampler and of wrong ones."""
    found = {"right": p, "never the first id": times(p, 0, 0), "never the last id": times(p, len(p) - 1, 0)}
    found |= {f"top-p {part}": top_p(p, part) for part in (0.99, 0.995, 0.999)}
    found |= {f"top-k {count}": top_k(p, count) for count in (50, 200, 400)}
    found |= {f"temperature {part:+.0%}": p ** (1 / (1 + part)) for part in (0.01, 0.02, -0.02, 0.03, 0.05)}
    return found | {"one flat id never": times(p, 13, 0), "the first id 1.5 times as likely": times(p, 0, 1.5)}


def found(sharp: Sharp, p: Tensor, seed: int) -> tuple[bool, int]:
    """(Whether the draws from `p` fail, how many were made), as the proof makes them."""
    generator, checks = torch.Generator().manual_seed(seed), Checks()
    logits = (TEMPERATURE * sharp.log_p)[None]
    drawn = torch.multinomial(p, ALL_DRAWS, replacement=True, generator=generator)[:, None]
    seen, draws = sharp.look(logits, drawn[:FIRST_DRAWS], TEMPERATURE), FIRST_DRAWS
    if seen.suspicious:
        seen, draws = sharp.look(logits, drawn, TEMPERATURE), ALL_DRAWS
    seen.judge(checks)
    return any(item["status"] == "failed" for item in checks.items), draws


def main() -> None:
    """Print how many of the cells were found, and the draws that they took on average."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("cells", metavar="CELLS", type=positive, nargs="?", default=100, help="a sampler (%(default)s)")
    cells = parser.parse_args().cells
    torch.set_num_threads(1)
    for vocabulary in (512, 2304):
        sharp = Sharp(vocabulary, "cpu")
        print(f"{vocabulary} ids, found of {cells}, draws of a cell:", flush=True)
        for name, p in samplers(sharp.log_p.exp()).items():
            seen = [found(sharp, p, seed) for seed in range(cells)]
            print(f"  {name}: {sum(one for one, _ in seen)}, {sum(draws for _, draws in seen) / cells:.0f}", flush=True)


if __name__ == "__main__":
    main()
