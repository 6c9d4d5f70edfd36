"""The plan: the list of cells that a suite asks of the stacks, printable without running anything."""

from __future__ import annotations

from typing import Any, Literal

from orchestrator.base.files import Frozen, Positive
from orchestrator.plan.workload import Benchmark, Identified, Kind, Role, Workload, digest

Device = Literal["cuda", "cpu"]
Cache = Literal["cold", "shared"]


class Cell(Identified):
    """A benchmark by a method on a stack, with its workload: one fresh process in one fresh container per round."""

    VERSION_1 = frozenset({"stack", "method", "device", "workload", "cache", "role"})
    NOT_HASHED = frozenset({"timeout_s", "rounds", "warm"})

    stack: str
    method: str
    device: Device
    workload: Workload
    timeout_s: float
    cache: Cache = "cold"
    rounds: Positive = 1
    role: Role = "row"
    warm: bool = True
    """Whether a row that compiles is started a second time over its own cache, for its first call alone."""
    method_source: str | None = None
    """SHA-256 of the method's file, where it is a user's own; bench's own methods are a part of its source."""
    kind: Kind = "model"
    """The method's."""

    @property
    def benchmark(self) -> Benchmark:
        """The workload's benchmark."""
        return self.workload.benchmark

    @property
    def key(self) -> str:
        """What this cell is, whatever the host: used to match a plan with an unfinished run's."""
        content: list[Any] = [self.stack, self.method, self.device, self.workload.workload_id, self.cache]
        if self.role == "probe":  # a row may have a probe's workload: then they are two cells all the same
            content.append(self.role)
        later = self.hashed_later()
        return digest([*content, later] if later else content)

    def cell_id(self, *, environment: str, bench_source: str, gpu: str | None) -> str:
        """Identity of what is measured: the key with environment, bench source, GPU model and driver."""
        return digest([self.key, environment, bench_source, gpu])

    @property
    def title(self) -> str:
        """How a person names the cell: `forward inductor@cpu`, `probe of forward inductor@cpu`."""
        name = f"{self.benchmark} {self.method}@{self.stack}"
        return f"probe of {name}" if self.role == "probe" else name


class Plan(Frozen):
    """Cells in the order in which they run."""

    suite: str
    cells: tuple[Cell, ...]

    @property
    def plan_id(self) -> str:
        """Equal for equal plans, on every host."""
        return digest([self.suite, [[cell.key, cell.rounds, cell.timeout_s] for cell in self.cells]])


def may_be_wanted(cell: Cell) -> bool:
    """Whether some round of the cell is to say what a warm start takes, if it compiles."""
    return cell.warm and cell.role == "row" and cell.cache == "cold"
