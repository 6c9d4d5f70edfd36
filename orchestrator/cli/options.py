"""Options that several commands have. Like every module of the command line it imports click alone."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import click

from orchestrator.base.limits import MOST_ROUNDS
from orchestrator.base.paths import RESULTS
from orchestrator.cli import complete

F = TypeVar("F", bound=Callable[..., Any])
PATH = click.Path(path_type=Path)
STDOUT = Path("/dev/stdout")
RUN = "NAME|FOLDER|BUNDLE"


def one_of(*choices: str, **named: Any) -> dict[str, Any]:
    """Return the arguments of an option that takes one of `choices`; without it the first is meant."""
    return {"type": click.Choice(choices), "default": choices[0], "show_default": True, **named}


def output(about: str, *, required: bool = False) -> Callable[[F], F]:
    """Return the option -o: a file to write, `-` being standard output."""
    about = f"{about} - is standard output."
    return click.option("-o", "--output", type=PATH, callback=_dash, metavar="FILE", required=required, help=about)


def _dash(_: click.Context, __: click.Parameter, value: Path | None) -> Path | None:
    return STDOUT if value == Path("-") else value


def wrote(target: Path, what: str = "") -> None:
    """Say where what was written: beside standard output where that is what was written to."""
    from orchestrator.base.paths import from_here
    from orchestrator.base.text import on_stderr, show

    (on_stderr if target == STDOUT else show)(f"{from_here(target)}{what}")


def above_zero(ctx: click.Context, param: click.Parameter, value: float | None) -> float | None:
    """Refuse what is not a finite number above zero."""
    if value is not None and not 0 < value < math.inf:
        raise click.BadParameter(f"{value} is not a number above zero", ctx, param)
    return value


def _duration(_ctx: click.Context, _param: click.Parameter, value: str | None) -> float | None:
    if value is None:
        return None
    from orchestrator.runner.estimate import seconds_in

    return seconds_in(value)


def repeatable(option: str, name: str, about: str, completed: complete.Complete | None = None) -> Callable[[F], F]:
    """Return an option that may be given several times: of names that are `completed`, or else of folders."""
    kind = {"metavar": "NAME", "shell_complete": completed} if completed else {"metavar": "FOLDER", "type": PATH}
    return click.option(option, name, multiple=True, help=f"{about} Repeatable.", **kind)  # type: ignore[arg-type]


def named_run(about: str, *names: str, **more: Any) -> Callable[[F], F]:
    """Return the option --run; `names` and `more` are as click's."""
    return click.option("--run", *names, metavar=RUN, shell_complete=complete.runs, help=about, **more)


results = click.option(
    "--results", type=PATH, default=RESULTS, metavar="FOLDER", help="Where runs are kept (default: results)."
)
run = named_run("The run that has the cell (default: the newest).")
stacks = repeatable("--stack", "stacks", "Only this stack.", complete.stacks)
stack_folders = repeatable("--stacks", "stack_folders", "More stacks.")
method_folders = repeatable(
    "--methods", "method_folders", "Own methods: each NAME.py in it is one, offered by every stack."
)
benchmarks = repeatable("--benchmark", "benchmarks", "Only this benchmark.", complete.benchmarks)
gpu = click.option(
    "--gpu",
    metavar="GPU",
    help="The GPU to run on: its number or its UUID's beginning (see `orchestrator doctor`).",
)
launcher = click.option(
    "--launcher", **one_of("auto", "docker", "local", help="Where cells run: containers, or plain processes.")
)
timeout = click.option(
    "--timeout", "timeout_s", type=float, callback=above_zero, metavar="SECONDS", help="Deadline of a cell."
)
allow_busy = click.option("--allow-busy", is_flag=True, help="Run although something else uses the GPU.")

gpus = click.option(
    "--gpus",
    metavar="all|GPU,...",
    help="Run cells side by side, one on each of these GPUs of this host; those that are compared stay on one.",
)
rounds = click.option("--rounds", type=click.IntRange(1, MOST_ROUNDS), help="Rounds of each cell, interleaved.")

CELLS = (
    click.option(
        "--suite",
        metavar="NAME|FILE",
        shell_complete=complete.suites,
        help="Which cells: a suite's name, or a suite file.",
    ),
    stacks,
    stack_folders,
    method_folders,
    repeatable("--method", "methods", "Only this method; METHOD@STACK: only there.", complete.methods),
    benchmarks,
)
CONDITIONS = (
    click.option(
        "--cache", **one_of("cold", "shared", help="Compile caches: empty for each cell, or kept from cell to cell.")
    ),
    click.option("--checkpoint", type=PATH, metavar="FOLDER", help="Your own model: config.json and safetensors."),
    results,
    timeout,
)
SELECTION = (
    *CELLS,
    gpu,
    gpus,
    click.option(
        "--hosts", type=PATH, metavar="FILE", help="Run cells side by side on the GPUs of the hosts that FILE names."
    ),
    click.option("--spread", is_flag=True, help="With several GPUs: compared cells need not stay on one."),
    click.option("--exclusive-host", is_flag=True, help="With several GPUs: a host runs one cell at a time."),
    launcher,
    rounds,
    click.option(
        "--budget",
        "budget_s",
        callback=_duration,
        metavar="TIME",
        help="As many rounds as fit into it, at least one: 45m, 1h30m.",
    ),
    *CONDITIONS,
)


def one_run(command: F) -> F:
    """Add RUN and --run, either of which names the run; the command gets `run`, null where neither does."""

    @functools.wraps(command)
    def with_run(*, named: str | None, run: str | None, **others: Any) -> Any:
        if named is not None and run is not None and named != run:
            raise click.UsageError(f'"{named}" and --run "{run}" are two runs', click.get_current_context())
        return command(run=named if run is None else run, **others)

    argument = click.argument("named", metavar="[RUN]", required=False, shell_complete=complete.runs)
    return argument(named_run("The same as RUN.")(with_run))  # type: ignore[return-value]


def several_runs(command: F) -> F:
    """Add RUNs and --run, which may be given several times; the command gets `names`, each once, or a null alone."""

    @functools.wraps(command)
    def with_runs(*, names: tuple[str, ...], more: tuple[str, ...], **others: Any) -> Any:
        return command(names=tuple(dict.fromkeys((*names, *more) or (None,))), **others)

    argument = click.argument("names", metavar="[RUN]...", nargs=-1, shell_complete=complete.runs)
    option = named_run("A run, as RUN. Repeatable.", "more", multiple=True)
    return argument(option(with_runs))  # type: ignore[return-value]


def selection(command: F) -> F:
    """Add the options that say what is to be run, and how."""
    for option in reversed(SELECTION):
        command = option(command)
    return command


def trial(command: F) -> F:
    """Add those of them that say something where each cell runs alone and beside itself in a fixed order."""
    for option in reversed((*CELLS, gpus, launcher, rounds, *CONDITIONS)):
        command = option(command)
    return command
