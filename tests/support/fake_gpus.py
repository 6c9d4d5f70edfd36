"""Several GPUs that are none, for tests of runs on many: what is run on them are the fake bench's real processes.

As a script it is the command `orchestrator` with so many GPUs (second argument), and a state folder of its own (first).
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import fake_run

from orchestrator.host import devices, gpu
from orchestrator.runner import hosts, many


def fakes(count: int, first: int = 0) -> tuple[gpu.HostGpu, ...]:
    return tuple(
        gpu.HostGpu(f"GPU-{number:08d}", number, "Fake GPU", "1.0", 2**34, "9.0", number)
        for number in range(first, first + count)
    )


def put_gpus(put: Any, count: int, first: int = 0) -> None:
    """Have so many GPUs found here; `put` sets an attribute, as monkeypatch.setattr does."""
    found = gpu.Gpus(fakes(count, first))
    for module in (gpu, devices, hosts):
        put(module, "gpus", lambda: found)


if __name__ == "__main__":
    from orchestrator.cli import run
    from orchestrator.launchers import work_area
    from orchestrator.runner import run_all

    for module in (work_area, run_all, many):
        module.STATE = Path(sys.argv[1])
    work_area.BENCH = fake_run.FAKE_BENCH
    put_gpus(setattr, int(sys.argv[2]))
    sys.exit(run(sys.argv[3:]))
