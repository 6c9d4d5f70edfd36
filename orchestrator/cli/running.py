"""Commands that run cells, or say what would be run."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from orchestrator.base.errors import EXIT_OK
from orchestrator.base.limits import MOST_ROUNDS
from orchestrator.cli import complete, options


@click.command("plan", short_help="Show what run-all would run.")
@options.selection
@click.option("--format", "form", **options.one_of("text", "json"))
def plan_command(form: str, **chosen: Any) -> None:
    """Show what run-all would run, how long it would take and what it would download. Runs nothing."""
    _show_plan(form, **chosen)


def _show_plan(form: str, **chosen: Any) -> None:
    from orchestrator.base.text import on_stderr, show, terminal_width
    from orchestrator.build.ready import choose_place
    from orchestrator.host.devices import look
    from orchestrator.plan.choice import RunOptions
    from orchestrator.runner.estimate import fitted
    from orchestrator.runner.plan_text import render

    given = RunOptions(**chosen)
    if given.several:
        from orchestrator.runner.many import show_plan

        show_plan(given, form, terminal_width())
        return
    host = look(given)
    choice = fitted(choose_place(given, host), given)
    show(render(choice, given.results, form, terminal_width()))
    for line in host.beyond_memory(choice.plan):
        on_stderr(line)


@click.command("run-all", short_help="Run everything and write the tables.")
@options.selection
@options.allow_busy
@click.option("--fresh", is_flag=True, help="Start a new run, even if an unfinished one could go on.")
@click.option(
    "--resume",
    metavar="RUN",
    shell_complete=complete.runs,
    help="Go on with this unfinished run, also an imported or a renamed one.",
)
@click.option("--rerun", is_flag=True, help="Run cells again that have a result.")
@click.option(
    "--max-minutes",
    type=float,
    callback=options.above_zero,
    metavar="M",
    help="Start no cell after that; the next run-all goes on.",
)
@click.option("--dry-run", is_flag=True, help="Show what would be run, as `plan` does, and run nothing.")
def run_all_command(*, dry_run: bool, **chosen: Any) -> int:
    """Plan, build, run every cell, and write the tables. Goes on with an unfinished run.

    Without options: with a GPU the whole suite `note` on every stack that uses it, else the suite `smoke` on the
    CPU; in containers where a Docker Engine answers, else as plain processes.
    """
    if dry_run:
        _show_plan("text", **chosen)
        return EXIT_OK
    from orchestrator.plan.choice import RunOptions
    from orchestrator.runner.run_all import run_all

    return run_all(RunOptions(**chosen))


@click.command("side-by-side", short_help="Measure what cells at once do to each other.")
@options.trial
@options.allow_busy
def side_by_side_command(**chosen: Any) -> int:
    """Run each cell alone and beside the same one on other GPUs of this host (--gpus), in turn, and compare.

    --rounds is how often alone and how often beside (default: 5). `run-all --gpus` goes by what was found: what differs
    by more than 1 % runs alone on its host. Exit code: 0 all the same, 1 a cell differs or failed, 2 inconclusive.
    """
    from orchestrator.plan.choice import RunOptions
    from orchestrator.runner.side_by_side import side_by_side

    return side_by_side(RunOptions(**chosen))


@click.command("reproduce", short_help="Run a recorded cell again.")
@click.argument("row")
@options.run
@click.option("--rounds", type=click.IntRange(1, MOST_ROUNDS), default=1, show_default=True, help="Rounds to run.")
@options.stack_folders
@options.method_folders
@options.gpu
@options.launcher
@click.option(
    "--checkpoint", type=options.PATH, metavar="FOLDER", help="The weights, where the record is of a checkpoint."
)
@options.timeout
@options.allow_busy
@options.results
@click.option("--dry-run", is_flag=True, help="Show what would be run and what this host lacks for it; run nothing.")
def reproduce_command(row: str, *, run: str | None, results: Path, dry_run: bool, **chosen: Any) -> int:
    """Run the cell of ROW again, in a run of its own, and say whether its figure came out again and what differs.

    ROW is a record's file, also one that somebody sent, or a cell as `explain` names it. A file in a run stands for its
    row there, with all of its rounds. The stack and the method are this host's, by the record's names (a user's own
    method with --methods); the image is the record's own where this host has built it. Where no stack of that name is
    here, the row of a run is run in the image that was built for it, or as a plain process of this host's own Python.

    With five rounds on both sides the verdict is given; with fewer, whether the new figure lies inside the old
    interval. Exit code: 0 came out again, 1 did not, 2 cannot be decided, 3 nothing ran.
    """
    from orchestrator.plan.choice import RunOptions
    from orchestrator.runner.reproduce import reproduce

    return reproduce(row, run, RunOptions(results=results, fresh=True, **chosen), dry=dry_run)
