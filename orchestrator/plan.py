"""The plan: the list of cells that a suite asks of the stacks, printable without running anything."""

from __future__ import annotations

from typing import Literal

from orchestrator.frozen import Frozen
from orchestrator.workload import Benchmark, Workload, digest

Device = Literal["cuda", "cpu"]
Cache = Literal["cold", "shared"]


class Cell(Frozen):
    """A benchmark by a method on a stack, with its workload: one fresh process in one fresh container per round."""

    stack: str
    method: str
    device: Device
    workload: Workload
    timeout_s: float
    cache: Cache = "cold"
    rounds: int = 1

    @property
    def benchmark(self) -> Benchmark:
        """The workload's benchmark."""
        return self.workload.benchmark

    @property
    def key(self) -> str:
        """What this cell is, whatever the host: used to match a plan with an unfinished run's."""
        return digest([self.stack, self.method, self.device, self.workload.workload_id, self.cache])

    def cell_id(self, *, environment: str, bench_source: str, gpu: str | None) -> str:
        """Identity of what is measured: the key with environment, bench source, GPU model and driver."""
        return digest([self.key, environment, bench_source, gpu])

    @property
    def title(self) -> str:
        """How a person names the cell: `forward inductor@cpu`."""
        return f"{self.benchmark} {self.method}@{self.stack}"


class Plan(Frozen):
    """Cells in the order in which they run."""

    suite: str
    cells: tuple[Cell, ...]

    @property
    def plan_id(self) -> str:
        """Equal for equal plans, on every host."""
        return digest([self.suite, [[cell.key, cell.rounds, cell.timeout_s] for cell in self.cells]])
