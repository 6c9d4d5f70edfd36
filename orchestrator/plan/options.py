"""What the user asked of `run-all` and `plan`, exactly as given: defaults are resolved in `choose`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from orchestrator.base.paths import RESULTS

if TYPE_CHECKING:
    from pathlib import Path

LauncherName = Literal["auto", "docker", "local"]


@dataclass(frozen=True)
class RunOptions:
    """Options of `run-all`. An empty tuple means "all", None means "what suits this host"."""

    suite: str | None = None
    """Name of a suite in `orchestrator/suites`, or a path to a suite file."""
    stacks: tuple[str, ...] = ()
    """Names of the stacks to run."""
    stack_folders: tuple[Path, ...] = ()
    """Folders of stacks beside the repository's `images`."""
    methods: tuple[str, ...] = ()
    benchmarks: tuple[str, ...] = ()
    gpu: str | None = None
    """UUID of the GPU to run on."""
    allow_busy: bool = False
    """Run although other processes use the GPU."""
    fresh: bool = False
    """Start a new run even where an unfinished one could go on."""
    rerun: bool = False
    """Run keys again that have a final record."""
    launcher: LauncherName = "auto"
    rounds: int | None = None
    """Rounds of each cell; None: the suite's."""
    cache: Literal["cold", "shared"] = "cold"
    checkpoint: Path | None = None
    """Folder with the model's weights in safetensors (and its tokenizer)."""
    results: Path = RESULTS
    timeout_s: float | None = None
    """Deadline of every cell; None: the suite's."""
    max_minutes: float | None = None
    """Start no new cell after that; the run stays unfinished and can go on later."""
    budget_s: float | None = None
    """Time for all cells: decides the rounds in place of `rounds`."""
    yes: bool = False
    """Ask nothing."""
