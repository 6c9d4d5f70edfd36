"""What `run-all` and `plan` do when little was said: device, suite, stacks, launcher, and why."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal, Protocol

from orchestrator.base.errors import UsageError
from orchestrator.base.invalid import check_known
from orchestrator.base.paths import IMAGES, RESULTS
from orchestrator.base.text import NO_GPU
from orchestrator.plan.cell import Device, Plan
from orchestrator.plan.checkpoint import Checkpoint, inspect_checkpoint, refuse_unreadable
from orchestrator.plan.hosts import How
from orchestrator.plan.methods import OwnMethod, engines, find_methods
from orchestrator.plan.planner import make_plan
from orchestrator.plan.stack import Stack, find_stacks
from orchestrator.plan.suite import Suite, load_suite

NO_ENGINE = "no Docker Engine answers"
FULL_SUITE = "note"
SMALL_SUITE = "smoke"


LauncherName = Literal["auto", "docker", "local"]


@dataclass(frozen=True)
class RunOptions:
    """Options of `run-all`. An empty tuple means "all", None means "what suits this host"."""

    suite: str | None = None
    """Name of a suite in `orchestrator/plan/suites`, or a path to a suite file."""
    stacks: tuple[str, ...] = ()
    """Names of the stacks to run."""
    stack_folders: tuple[Path, ...] = ()
    """Folders of stacks beside the repository's `images`."""
    method_folders: tuple[Path, ...] = ()
    """Folders of own methods: each is offered by every stack that is run."""
    methods: tuple[str, ...] = ()
    benchmarks: tuple[str, ...] = ()
    gpu: str | None = None
    """The GPU to run on: its number, or the beginning of its UUID."""
    allow_busy: bool = False
    """Run although other processes use the GPU."""
    fresh: bool = False
    """Start a new run even where an unfinished one could go on."""
    resume: str | None = None
    """The run to go on with, by name or folder; None: the newest that fits, and was made here."""
    rerun: bool = False
    """Run keys again that have a final record."""
    launcher: LauncherName = "auto"
    hows: tuple[How, ...] = ()
    """How cells run on the hosts of `hosts`; `launcher` is this host's then."""
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
    gpus: str | None = None
    """GPUs of this host that run cells side by side: `all`, or numbers and UUIDs, parted by commas."""
    hosts: Path | None = None
    """File that names the hosts whose GPUs run cells side by side."""
    spread: bool = False
    """Of several GPUs: compared cells need not stay on one."""
    exclusive_host: bool = False
    """Of several GPUs: a host runs one cell at a time."""

    @property
    def several(self) -> bool:
        """Whether cells may run side by side."""
        return self.gpus is not None or self.hosts is not None

    @property
    def docker_named(self) -> tuple[str, str]:
        """What names the launcher docker, and what to do where that cannot be."""
        if self.hosts is not None:
            return str(self.hosts), 'write launcher = "local" there'
        return "--launcher docker", "use --launcher local"


@dataclass(frozen=True)
class Choice:
    """What will be run. `line` says what and why; `checkpoints` maps a fingerprint of weights to their checkpoint."""

    line: str
    plan: Plan
    suite: Suite
    stacks: Mapping[str, Stack]
    launcher: Literal["docker", "local"]
    """This host's; where no cell runs here, "docker" if any runs in a container."""
    checkpoints: Mapping[str, Checkpoint]
    own: Mapping[str, OwnMethod] = field(default_factory=dict)
    """The user's own methods by name, those of no cell among them."""
    asked: bool = False
    """Benchmark and method were both named: what cannot fit into the GPU's memory is tried all the same."""
    hows: tuple[How, ...] = ()
    """As in the options."""

    @property
    def launchers(self) -> str:
        """How cells run on all hosts, as run.json says it."""
        return ", ".join(sorted(self.hows or (self.launcher,)))

    @property
    def uses_gpu(self) -> bool:
        """Whether any cell runs on the GPU."""
        return any(cell.device == "cuda" for cell in self.plan.cells)


class Choosing(Protocol):
    """What says what the options mean on this host, as `choose` does."""

    def __call__(
        self, options: RunOptions, *, gpu: str | None, engine: str | None, no_gpu: str, no_engine: str = NO_ENGINE
    ) -> Choice:
        """Return what will be run."""


def choose(
    options: RunOptions, *, gpu: str | None, engine: str | None, no_gpu: str = NO_GPU, no_engine: str = NO_ENGINE
) -> Choice:
    """Return what the options mean on this host.

    `gpu` names the GPU that would be used (None: there is none, and `no_gpu` says why), `engine` the Docker Engine
    that answers (None: none does, or it is of no use: `no_engine` says why). Every bad name, file and combination in
    the options is a UsageError.
    """
    own = find_methods(options.method_folders)
    found = {name: offering(stack, own) for name, stack in find_stacks([IMAGES, *options.stack_folders]).items()}
    launcher = choose_launcher(options, engine)
    stacks, devices, why = _stacks(options, found, gpu, no_gpu)
    on_gpu = "cuda" in devices.values()
    if options.gpu and not on_gpu:
        raise UsageError(f"--gpu {options.gpu}: {why}", remedy="leave --gpu out, or name a stack that uses the GPU")
    suite = load_suite(options.suite or (FULL_SUITE if on_gpu else SMALL_SUITE))
    weights = inspect_checkpoint(options.checkpoint) if options.checkpoint else None
    plan = make_plan(
        suite,
        stacks,
        device=devices,
        benchmarks=options.benchmarks,
        methods=options.methods,
        rounds=options.rounds,
        cache=options.cache,
        checkpoint=weights,
        timeout_s=options.timeout_s,
        known_methods=[method for stack in found.values() for method in stack.methods],
        sources={name: method.sha256 for name, method in own.items()},
        engines=engines(own),
    )
    if own and not own.keys() & {cell.method for cell in plan.cells}:
        what = f"no cell is run by {' or '.join(own)}"
        raise UsageError(what, where="--methods", remedy="name one of them with --method, or leave --methods out")
    words = {"docker": f"Docker ({engine or 'of other hosts'})", "local": "plain processes", "pyxis": "pyxis"}
    place = " and ".join(words[how] for how in options.hows or (launcher,))
    if launcher == "local" and options.launcher == "auto":
        place += f" ({no_engine})"
    on = f"on {gpu}" if on_gpu and gpu else "without a GPU" if on_gpu else "on the CPU"
    mine = f" own methods {', '.join(own)}," if own else ""
    line = f"suite {suite.name} {on}, stacks {', '.join(stacks)},{mine} in {place}: {why}"
    checkpoints = dict(suite.checkpoints) if weights is None else {weights.fingerprint: weights}
    if launcher == "docker":
        # The containers of a root orchestrator run as a user who owns nothing.
        user = (-1, -1) if os.getuid() == 0 else (os.getuid(), os.getgid())
        for checkpoint in checkpoints.values():
            refuse_unreadable(checkpoint, *user)
    asked = bool(options.benchmarks and options.methods)
    return Choice(line, plan, suite, stacks, launcher, checkpoints, own, asked, options.hows)


def offering(stack: Stack, own: Mapping[str, OwnMethod]) -> Stack:
    """Return the stack with the own methods among those that it offers: where one cannot run, it says so itself."""
    return stack.model_copy(update={"methods": tuple(dict.fromkeys((*stack.methods, *own)))}) if own else stack


def select_stacks(names: Sequence[str], folders: Sequence[Path]) -> dict[str, Stack]:
    """Return the stacks called `names` (without: all but those `by_name`) among the repository's and in `folders`."""
    found = find_stacks([IMAGES, *folders])
    return _named(names, found) or {name: stack for name, stack in found.items() if not stack.by_name}


def _named(names: Sequence[str], found: Mapping[str, Stack], where: str = "--stack") -> dict[str, Stack]:
    check_known("stack", names, found, where=where)
    return {name: found[name] for name in dict.fromkeys(names)}


def choose_launcher(options: RunOptions, engine: str | None) -> Literal["docker", "local"]:
    """Return the launcher that was asked for, or else what this host has; `engine` as for `choose`."""
    if options.launcher == "auto":
        return "docker" if engine else "local"
    if options.launcher == "docker" and engine is None:
        where, instead = options.docker_named
        raise UsageError(NO_ENGINE, where=where, remedy=f"start it (see `orchestrator doctor`), or {instead}")
    return options.launcher


def _stacks(
    options: RunOptions, found: Mapping[str, Stack], gpu: str | None, no_gpu: str
) -> tuple[dict[str, Stack], dict[str, Device], str]:
    """Return the stacks to run, the device of each, and why."""
    # Where every method is one stack's, `method@stack`, no other stack has a part in it.
    of_methods = [method.partition("@")[2] for method in options.methods]
    named = _named(options.stacks, found) or _named(of_methods if all(of_methods) else (), found, "--method")
    offered = named or {name: stack for name, stack in found.items() if not stack.by_name}
    able = {name: stack for name, stack in offered.items() if stack.gpu.access != "none"}
    if gpu and able:
        chosen = named or able
        why = "a GPU is here" if not options.gpu else "the GPU was named"
    else:
        # A stack made for a GPU runs here only when it was named, itself or its folder: on the CPU, unless it needs
        # a GPU; then its rows say that this host can't.
        chosen = named or {
            name: stack
            for name, stack in offered.items()
            if stack.gpu.access == "none" or (not stack.gpu.required and stack.folder.parent != IMAGES)
        }
        why = "no stack chosen uses the GPU" if gpu else no_gpu
    if not chosen:
        raise UsageError("no stack here runs without a GPU", remedy=f"known: {', '.join(found)}")
    devices: dict[str, Device] = {
        name: "cuda" if stack.gpu.required or (gpu and stack.gpu.access != "none") else "cpu"
        for name, stack in chosen.items()
    }
    needing = [name for name, device in devices.items() if device == "cuda"]
    if needing and not gpu:
        why += f", so rows of {', '.join(needing)} will be skipped"
    return chosen, devices, why
