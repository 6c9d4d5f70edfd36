"""Stand-ins for tests of the run side: real processes and containers of a bench that behaves as it is asked to.

As a script it is the command `orchestrator` with that bench and a state folder of its own (first argument).
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING

from orchestrator.launchers import Job
from orchestrator.launchers import work_area as workfolders
from orchestrator.plan.cell import Cell
from orchestrator.plan.stack import ReadyImage, Stack
from orchestrator.plan.workload import ModelConfig, Weights, Workload
from orchestrator.runner import run_all as pipeline

if TYPE_CHECKING:
    from orchestrator.plan.cell import Cache

FAKE_BENCH = Path(__file__).parent / "fake_bench" / "bench"
IMAGE = "local/debian:bookworm"
SOURCE = "feedfacefeedface"
MODEL = ModelConfig(
    name="tiny", layers=2, width=64, heads=4, kv_heads=4, head_size=16, mlp_width=172, vocabulary=512, block_size=128,
    norm_eps=1e-6, rope_base=10000.0, rope_scaling=None, tied_head=False, qkv_bias=False, sliding_window=None,
)  # fmt: skip
WORKLOAD = Workload(
    benchmark="forward", model=MODEL, weights=Weights(), dtype="bfloat16", seed=0, iterations=5, warmup=1,
    batch=2, sequence=64, ids_below=512,
)  # fmt: skip


def make_stack(python: str = sys.executable, name: str = "fake", image: str = IMAGE) -> Stack:
    ready = ReadyImage(name=image, python=python)
    return Stack(schema_version=1, name=name, description="for a test", methods=("good",), ready=ready)


def make_job(method: str, folder: Path | None = None, timeout_s: float = 60.0, **more: object) -> Job:
    """The job of one round; its work folder is made where a `folder` is given."""
    cache: Cache = "shared" if "cache" in more else "cold"
    cell = Cell(stack="fake", method=method, device="cpu", workload=WORKLOAD, timeout_s=timeout_s, cache=cache)
    place = folder or Path("nowhere")
    if folder:
        (place / "work").mkdir(parents=True)
        (place / "work").chmod(0o700)
    return Job(cell, 0, "0" * 16, SOURCE, place / "work", place / "log.txt", "test", **more)  # type: ignore[arg-type]


def write_stack(folder: Path, methods: list[str], python: str = sys.executable, name: str = "fake") -> Path:
    place = folder / "stacks" / name
    place.mkdir(parents=True)
    listed = ", ".join(f'"{method}"' for method in methods)
    (place / "stack.toml").write_text(
        f'schema_version = 1\nname = "{name}"\ndescription = "for a test"\nmethods = [{listed}]\n'
        f'[ready]\nname = "{IMAGE}"\npython = "{python}"\n[gpu]\naccess = "none"\n'
    )
    return place.parent


def write_suite(folder: Path, timeout_s: float = 60.0, rounds: int = 1, *, proving: bool = False) -> Path:
    """A suite of one cell; with `proving` its reference and its probe go before it."""
    path = folder / "mine.toml"
    path.write_text(
        'schema_version = 1\nname = "mine"\ndescription = "for a test"\n'
        f"references = {str(proving).lower()}\nprobes = {str(proving).lower()}\n"
        f"[defaults]\ntimeout_s = {timeout_s}\nrounds = {rounds}\n"
        '[[cells]]\nbenchmark = "forward"\nmodel = "tiny"\nbatch = 2\nsequence = 64\niterations = 5\nwarmup = 1\n'
    )
    return path


if __name__ == "__main__":
    from orchestrator.cli import run

    workfolders.STATE = pipeline.STATE = Path(sys.argv[1])
    workfolders.BENCH = FAKE_BENCH
    sys.exit(run(sys.argv[2:]))
