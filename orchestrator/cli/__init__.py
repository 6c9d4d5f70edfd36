"""The command `orchestrator`. Only click is imported here: what a command needs comes in when the command runs."""

from __future__ import annotations

import contextlib
import math
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from orchestrator.base.errors import EXIT_OK, EXIT_WRONG_USAGE, StackbenchError
from orchestrator.base.paths import RESULTS
from orchestrator.cli.results import COMMANDS

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from orchestrator.analysis.protocol import Protocol
    from orchestrator.plan.choice import Choice, RunOptions

F = TypeVar("F", bound="Callable[..., Any]")
PROGRAM = "orchestrator"
EXIT_INTERRUPTED = 130
"""As shells have it for Ctrl-C: 128 + SIGINT."""


def _above_zero(ctx: click.Context, param: click.Parameter, value: float | None) -> float | None:
    if value is not None and not 0 < value < math.inf:
        raise click.BadParameter(f"{value} is no number above zero", ctx, param)
    return value


def _duration(_ctx: click.Context, _param: click.Parameter, value: str | None) -> float | None:
    if value is None:
        return None
    from orchestrator.runner.estimate import seconds_in

    return seconds_in(value)


FOLDER = click.Path(path_type=Path)
SELECTION = [
    click.option("--suite", metavar="NAME|FILE", help="Which cells: a suite's name, or a suite file."),
    click.option("--stack", "stacks", multiple=True, metavar="NAME", help="Only this stack. Repeatable."),
    click.option(
        "--stacks", "stack_folders", multiple=True, type=FOLDER, metavar="FOLDER", help="More stacks. Repeatable."
    ),
    click.option("--method", "methods", multiple=True, metavar="NAME", help="Only this method. Repeatable."),
    click.option("--benchmark", "benchmarks", multiple=True, metavar="NAME", help="Only this benchmark. Repeatable."),
    click.option("--gpu", metavar="UUID", help="The GPU to run on (see `orchestrator doctor`)."),
    click.option(
        "--launcher",
        type=click.Choice(["auto", "docker", "local"]),
        default="auto",
        show_default=True,
        help="Where cells run: containers, or plain processes.",
    ),
    click.option("--rounds", type=click.IntRange(1, 1000), help="Rounds of each cell, interleaved."),
    click.option(
        "--budget",
        "budget_s",
        callback=_duration,
        metavar="TIME",
        help="As many rounds as fit into it: 45m, 1h30m. One at least.",
    ),
    click.option(
        "--cache",
        type=click.Choice(["cold", "shared"]),
        default="cold",
        show_default=True,
        help="Compile caches: empty for each cell, or kept from cell to cell.",
    ),
    click.option("--checkpoint", type=FOLDER, metavar="FOLDER", help="Your own model: config.json and safetensors."),
    click.option(
        "--results", type=FOLDER, default=RESULTS, metavar="FOLDER", help="Where runs are kept (default: results)."
    ),
    click.option(
        "--timeout", "timeout_s", type=float, callback=_above_zero, metavar="SECONDS", help="Deadline of a cell."
    ),
]


def selection(command: F) -> F:
    """Add the options that say what is to be run."""
    for option in reversed(SELECTION):
        command = option(command)
    return command


@click.group(context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
def orchestrator() -> None:
    """Run the same LLM workloads on many software stacks and compare what comes back.

    With no options, `orchestrator run-all` does what suits this host and says so.
    """


@orchestrator.command("plan", short_help="Show what run-all would run.")
@selection
@click.option("--format", "form", type=click.Choice(["text", "json"]), default="text", show_default=True)
def plan_command(form: str, **chosen: Any) -> None:
    """Show what run-all would run, how long it would take and what it would download. Runs nothing."""
    from orchestrator.plan.choice import RunOptions
    from orchestrator.runner.estimate import fitted
    from orchestrator.runner.plan_text import render

    options = RunOptions(**chosen)
    choice = fitted(_choose(options), options)
    click.echo(render(choice, options.results, form))


@orchestrator.command("build", short_help="Build the stacks.")
@click.option("--stack", "stacks", multiple=True, metavar="NAME", help="Only this stack. Repeatable.")
@click.option("--stacks", "stack_folders", multiple=True, type=FOLDER, metavar="FOLDER", help="More stacks.")
@click.option(
    "--launcher",
    type=click.Choice(["auto", "docker", "local"]),
    default="auto",
    show_default=True,
    help="Build images, or environments for plain processes.",
)
@click.option("--again", is_flag=True, help="Build also what is there already.")
@click.option("--clean", is_flag=True, help="Build nothing; remove images that no stack is built as any more.")
def build_command(
    stacks: tuple[str, ...], stack_folders: tuple[Path, ...], launcher: str, *, again: bool, clean: bool
) -> int:
    """Build the stacks' images (or, without Docker, their environments)."""
    from orchestrator.plan.choice import select_stacks

    chosen = select_stacks(stacks, stack_folders)
    if clean:
        from orchestrator.build.image import clean_images

        return clean_images(chosen)
    from orchestrator.build.ready import build_stacks

    return build_stacks(chosen, launcher=launcher, again=again)


@orchestrator.command("run-all", short_help="Run everything and write the tables.")
@selection
@click.option("--allow-busy", is_flag=True, help="Run although something else uses the GPU.")
@click.option("--fresh", is_flag=True, help="Start a new run, even if an unfinished one could go on.")
@click.option("--rerun", is_flag=True, help="Run cells again that have a result.")
@click.option(
    "--max-minutes",
    type=float,
    callback=_above_zero,
    metavar="M",
    help="Start no cell after that; the next run-all goes on.",
)
def run_all_command(**chosen: Any) -> int:
    """Plan, build, run every cell, and write the tables. Goes on with an unfinished run.

    Without options: with a GPU the whole suite `note` on every stack that uses it, else the suite `smoke` on the
    CPU; in containers where a Docker Engine answers, else as plain processes.
    """
    from orchestrator.plan.choice import RunOptions
    from orchestrator.runner.run_all import run_all

    return run_all(RunOptions(**chosen))


@orchestrator.command("table", short_help="Print a run's tables.")
@click.argument("run", required=False)
@click.option(
    "--protocol",
    type=click.Choice(["note", "steady"]),
    help="Order Markdown by it; only its rows in JSON and CSV. Both without.",
)
@click.option(
    "--format", "form", type=click.Choice(["markdown", "json", "csv", "latex"]), default="markdown", show_default=True
)
@click.option("--results", type=FOLDER, default=RESULTS, metavar="FOLDER", help="Where runs are kept.")
def table_command(run: str | None, protocol: Protocol | None, form: str, results: Path) -> None:
    """Print the tables of RUN (a run's name or folder; the newest without)."""
    from orchestrator.records.store import find_run
    from orchestrator.report.tables import render_tables

    found = find_run(results, run)
    click.echo(render_tables(found.folder, list(found.records()), protocol=protocol, form=form), nl=False)


@orchestrator.command("report", short_help="Write runs as one HTML page.")
@click.argument("names", metavar="[RUN]...", nargs=-1)
@click.option(
    "-o", "--output", type=FOLDER, metavar="FILE", help="Where to (default: report.html in the run's folder)."
)
@click.option("--results", type=FOLDER, default=RESULTS, metavar="FOLDER", help="Where runs are kept.")
def report_command(names: tuple[str, ...], output: Path | None, results: Path) -> None:
    """Write one HTML page over the RUNs (names or folders; the newest without): it needs nothing but a browser.

    Of several runs it has every row, and shows them side by side; without -o it lies in the first one's folder.
    """
    from orchestrator.records.store import find_run
    from orchestrator.report.page import PAGE_FILE, write_page

    folders = [find_run(results, name).folder for name in dict.fromkeys(names)] or [find_run(results, None).folder]
    target = output or folders[0] / PAGE_FILE
    size = write_page(folders, target)
    click.echo(f"{target} ({size / 1e6:.2f} MB)")


@orchestrator.command("doctor", short_help="Check this host.")
@click.option("--stacks", "stack_folders", multiple=True, type=FOLDER, metavar="FOLDER", help="More stacks.")
def doctor_command(stack_folders: tuple[Path, ...]) -> int:
    """Check this host: GPU, driver, Docker Engine, how a container gets the GPU, disk, stacks."""
    from orchestrator.runner.doctor import doctor

    return doctor(stack_folders)


@orchestrator.command("explain", short_help="Explain one cell's figures.")
@click.argument("cell")
@click.option("--run", metavar="NAME|FOLDER", help="Which run; the newest without.")
@click.option("--results", type=FOLDER, default=RESULTS, metavar="FOLDER", help="Where runs are kept.")
def explain_command(cell: str, run: str | None, results: Path) -> None:
    """Explain one CELL's figures: what ran, every sample, and where the time went.

    CELL is a title (`forward inductor@cpu`), the name of a record's file, or the beginning of a cell_id.
    """
    from orchestrator.records.store import find_run
    from orchestrator.report.explain import explain

    click.echo(explain(find_run(results, run).folder, cell))


for _command in COMMANDS:
    orchestrator.add_command(_command)


def _choose(options: RunOptions) -> Choice:
    """Look at the host and return what the options mean on it."""
    from orchestrator.host.devices import look
    from orchestrator.plan.choice import choose

    host = look(options)
    return choose(options, gpu=host.gpu, engine=host.engine)


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command line and exit: errors that a person can act on are one line on stderr, never a traceback."""
    sys.exit(run(arguments))


def run(arguments: Sequence[str] | None = None) -> int:
    """Run the command line and return its exit code."""
    try:
        result = orchestrator.main(args=arguments, prog_name=PROGRAM, standalone_mode=False)
        sys.stdout.flush()
    except (click.ClickException, StackbenchError, KeyboardInterrupt, click.Abort, OSError) as error:
        return _report(error)
    return result if isinstance(result, int) else EXIT_OK


def _report(error: BaseException) -> int:
    """Say in one line what went wrong and return the exit code."""
    if isinstance(error, StackbenchError):
        return _fail(str(error), error.exit_code)
    if isinstance(error, BrokenPipeError):
        # The reader (`| head`) has seen enough. Nothing more may be written, not even at exit.
        with contextlib.suppress(OSError):
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return EXIT_OK
    if isinstance(error, OSError):
        from orchestrator.base.files import os_error

        return _fail(str(os_error(error, error.filename or "this host")), EXIT_WRONG_USAGE)
    if isinstance(error, click.ClickException):
        context = error.ctx if isinstance(error, click.UsageError) else None
        command = context.command_path if context else PROGRAM
        # Without a command click's message is the whole help: one line says it as well.
        line = "no command" if type(error).__name__ == "NoArgsIsHelpError" else error.format_message()
        return _fail(f"{line.rstrip('.')}; see `{command} --help`", EXIT_WRONG_USAGE)
    return _fail("interrupted; what was finished is kept", EXIT_INTERRUPTED)


def _fail(line: str, code: int) -> int:
    with contextlib.suppress(OSError):
        click.echo(f"{PROGRAM}: {' '.join(line.split())}", err=True)
    return code
