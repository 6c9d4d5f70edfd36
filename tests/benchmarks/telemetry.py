"""What watching the GPU costs a cell: pairs of rounds with and without telemetry, in turns, on the same GPU.

    python tests/benchmarks/telemetry.py [PAIRS] [--suite NAME|FILE] [--stack NAME] [--stacks FOLDER]
        [--benchmark NAME] [--method NAME] [--launcher NAME]

Prints each pair and the change of the steady figure with its interval. Bar: the median over the pairs changes by less
than 0.3 %. Exit code 1 where it is missed. Without a GPU both sides are the same, which shows the noise alone.
"""

from __future__ import annotations

import argparse
import statistics
import sys
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(REPOSITORY), str(REPOSITORY / "tests" / "support")]

from arguments import positive  # noqa: E402 - found by the line above

from orchestrator.analysis.protocol import steady  # noqa: E402
from orchestrator.analysis.statistics import interval_across  # noqa: E402
from orchestrator.base.errors import InfrastructureError, StackbenchError  # noqa: E402
from orchestrator.base.files import bench_source  # noqa: E402
from orchestrator.build.ready import make_ready, reach_engine  # noqa: E402
from orchestrator.host.devices import (  # noqa: E402
    hold_devices,
    look,
    pick_gpu,
)
from orchestrator.host.folders import WorkArea  # noqa: E402
from orchestrator.launchers import Job, Launcher, Prepared  # noqa: E402
from orchestrator.launchers.work_area import work_area  # noqa: E402
from orchestrator.measure.supervise import supervise  # noqa: E402
from orchestrator.plan.cell import Cell  # noqa: E402
from orchestrator.plan.choice import (  # noqa: E402
    RunOptions,
    choose,
)
from orchestrator.records.record import Telemetry  # noqa: E402

LIMIT = 0.003


def main(pairs: int, options: RunOptions) -> int:
    """Print the pairs and the change of the plan's first row; return 1 where the bar is missed."""
    host = look(options)
    choice = choose(options, gpu=host.gpu, engine=host.engine)
    cell = next(cell for cell in choice.plan.cells if cell.role == "row")
    stack = cell.stack
    gpu = pick_gpu(host.found, options) if choice.uses_gpu else None
    client = reach_engine(choice)
    changes = []
    with hold_devices(choice.plan, gpu, print), work_area() as area:
        launcher, ready = make_ready(choice, gpu, client, area.bench, print)
        if stack in ready.refused:
            raise InfrastructureError(ready.refused[stack].reason, where=stack)
        for number in range(pairs):
            turns = (True, False) if number % 2 else (False, True)
            found = {
                watched: measured(area, launcher, ready.prepared[stack], cell, gpu.uuid if gpu and watched else None)
                for watched in turns
            }
            (plain, _), (watched, seen) = found[False], found[True]
            changes.append(watched / plain)
            line = f"pair {number}: without {plain * 1e3:.4f} ms, with {watched * 1e3:.4f} ms: {changes[-1] - 1:+.4%}"
            apart = f", {seen.readings} readings {seen.interval_ms:.1f} ms apart" if seen and seen.interval_ms else ""
            print(line + apart, flush=True)
    change = statistics.median(changes) - 1
    low, high = interval_across(changes) if len(changes) > 1 else (float("nan"), float("nan"))
    interval = f"99 % interval of the mean {low - 1:+.4%} to {high - 1:+.4%}"
    print(f"{cell.title}: telemetry changes it by {change:+.4%} ({interval})")
    if abs(change) < LIMIT:
        return 0
    print(f"telemetry: bar missed: {LIMIT:.1%}", file=sys.stderr)
    return 1


def measured(
    area: WorkArea, launcher: Launcher, prepared: Prepared, cell: Cell, gpu: str | None
) -> tuple[float, Telemetry | None]:
    """Run the cell once; return its steady seconds and what was seen of the GPU."""
    with area.cell("telemetry") as folder:
        source, work, log = bench_source(area.bench), folder / "work", folder / "log.txt"
        record = supervise(launcher, prepared, Job(cell, 0, "0" * 16, source, work, log, "telemetry", gpu=gpu))
        seconds = steady(record).seconds
        if seconds is None:
            raise InfrastructureError(f"{record.status}: {record.reason}", where=cell.title)
        return seconds, record.telemetry


def asked() -> tuple[int, RunOptions]:
    """Return what the command line says."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("pairs", metavar="PAIRS", type=positive, nargs="?", default=15, help="how many (%(default)s)")
    parser.add_argument("--stacks", type=Path, default=None)
    defaults = {"suite": "smoke", "stack": "cpu", "benchmark": "forward", "method": "eager", "launcher": "auto"}
    for name, value in defaults.items():
        parser.add_argument(f"--{name}", default=value)
    given = parser.parse_args()
    return given.pairs, RunOptions(
        suite=given.suite,
        stacks=(given.stack,),
        stack_folders=(given.stacks,) if given.stacks else (),
        benchmarks=(given.benchmark,),
        methods=(given.method,),
        launcher=given.launcher,
    )


if __name__ == "__main__":
    try:
        code = main(*asked())
    except StackbenchError as error:
        print(f"telemetry: {error}", file=sys.stderr)
        code = error.exit_code
    sys.exit(code)
