"""Commands over records that exist: compare them, send them, take them in, run one again, look back."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from orchestrator.base.paths import RESULTS

FOLDER = click.Path(path_type=Path)
RESULTS_OPTION = click.option(
    "--results", type=FOLDER, default=RESULTS, metavar="FOLDER", help="Where runs are kept (default: results)."
)


@click.command("compare", short_help="Compare two runs, methods or stacks.")
@click.argument("a")
@click.argument("b")
@click.option("--benchmark", "benchmarks", multiple=True, metavar="NAME", help="Only this benchmark. Repeatable.")
@click.option("--across-gpus", is_flag=True, help="Give verdicts although the GPU's model differs.")
@click.option("--format", "form", type=click.Choice(["text", "markdown", "json"]), default="text", show_default=True)
@RESULTS_OPTION
def compare_command(a: str, b: str, *, benchmarks: tuple[str, ...], across_gpus: bool, form: str, results: Path) -> int:
    """Compare B with A, cell by cell: how many times as fast, with interval and verdict.

    A and B are each RUN, RUN:method, RUN:@stack or RUN:method@stack, where RUN is a run's name or folder, and nothing
    before the colon means the other's run (or the newest): `compare RUN:eager :inductor`. `published` is what others
    printed. Rows are matched by workload, method and stack; by method only where not both sides name one, by stack
    likewise.

    Exit code: 0 fine, 1 a row of B is slower, wrong or lost, 2 a cell is inconclusive, refused or not in B,
    3 nothing in common.
    """
    from orchestrator.analysis.compare import compare, read_sides
    from orchestrator.base.files import unknown
    from orchestrator.plan.workload import MEASURED
    from orchestrator.report.tables.comparison import render

    for name in benchmarks:
        if name not in MEASURED:
            raise unknown("benchmark", name, MEASURED)
    comparison = compare(*read_sides(a, b, results, benchmarks), across_devices=across_gpus)
    click.echo(render(comparison, form), nl=False)
    return comparison.exit_code


@click.command("bundle", short_help="Pack a run into one file.")
@click.argument("run", required=False)
@click.option("-o", "--output", type=FOLDER, metavar="FILE", help="Where to (default: the run's name, .tar.gz).")
@click.option("--references", is_flag=True, help="References too: large, and made again where they are missing.")
@RESULTS_OPTION
def bundle_command(run: str | None, *, output: Path | None, references: bool, results: Path) -> None:
    """Pack RUN (a run's name or folder; the newest without) into one file to send: records, logs, tables.

    Logs go as they are: look into them before you send them to strangers.
    """
    from orchestrator.base.text import counted, printable
    from orchestrator.records.bundle import ENDING, pack
    from orchestrator.records.store import find_run

    found = find_run(results, run)
    target = output or Path(f"{found.folder.resolve().name}{ENDING}")
    manifest, left_out = pack(found, target, references=references)
    size = target.stat().st_size / 1e6
    click.echo(f"{target}: {counted(len(manifest.files), 'file')}, {size:.2f} MB")
    for path in left_out:
        click.echo(f"left out: {printable(path)}")


@click.command("import", short_help="Take in a bundled run.")
@click.argument("file", type=FOLDER)
@RESULTS_OPTION
def import_command(file: Path, *, results: Path) -> None:
    """Check the bundle FILE and put its run into the results. Nothing there is overwritten."""
    from orchestrator.base.text import counted
    from orchestrator.records.store import record_files
    from orchestrator.records.unpack import unpack
    from orchestrator.report.tables import write_tables

    run = unpack(file, results, write_tables)
    same = "plan, bench and launcher are the same"
    unfinished = "" if run.finished else f"; not finished: run-all would go on with it where {same}"
    click.echo(f"{run.folder}: {counted(len(record_files(run.folder)), 'record')}{unfinished}")


@click.command("reproduce", short_help="Run a recorded cell again.")
@click.argument("row")
@click.option("--run", metavar="NAME|FOLDER", help="The run that has the cell; the newest without.")
@click.option("--rounds", type=click.IntRange(1, 1000), default=1, show_default=True, help="Rounds to run.")
@click.option(
    "--stacks", "stack_folders", multiple=True, type=FOLDER, metavar="FOLDER", help="More stacks. Repeatable."
)
@click.option("--gpu", metavar="UUID", help="The GPU to run on.")
@click.option("--launcher", type=click.Choice(["auto", "docker", "local"]), default="auto", show_default=True)
@click.option("--checkpoint", type=FOLDER, metavar="FOLDER", help="The weights, where the record is of a checkpoint.")
@click.option("--timeout", "timeout_s", type=click.FloatRange(1), metavar="SECONDS", help="Deadline of the cell.")
@click.option("--allow-busy", is_flag=True, help="Run although something else uses the GPU.")
@RESULTS_OPTION
def reproduce_command(row: str, *, run: str | None, results: Path, **chosen: Any) -> int:
    """Run the cell of ROW again, in a run of its own, and say whether its figure came out again and what differs.

    ROW is a record's file, also one that somebody sent, or a cell as `explain` names it. A file in a run stands for its
    row there, with all of its rounds. The stack and the method are this host's, by the record's names; the image is the
    record's own where this host has built it.

    With five rounds on both sides the verdict is given; with fewer, whether the new figure lies inside the old
    interval. Exit code: 0 came out again, 1 did not, 2 cannot be told, 3 nothing ran.
    """
    from orchestrator.plan.choice import RunOptions
    from orchestrator.runner.reproduce import reproduce

    return reproduce(row, run, RunOptions(results=results, fresh=True, **chosen))


@click.command("history", short_help="Show figures over many runs.")
@click.option("--since", metavar="WHEN", help="Only since then: 30d, 12h, 2w, or a date.")
@click.option("--cell", metavar="WORDS", help="Only lines with these words: 'forward inductor@cpu', a model, a device.")
@click.option("--format", "form", type=click.Choice(["text", "json"]), default="text", show_default=True)
@RESULTS_OPTION
def history_command(*, since: str | None, cell: str | None, form: str, results: Path) -> None:
    """Show the figures of all runs by time: a line for each workload, method, stack and model of device."""
    from orchestrator.analysis.history import history
    from orchestrator.report.tables.history import as_json, as_text

    lines = history(results, since=since, cell=cell)
    click.echo(as_json(lines) if form == "json" else as_text(lines))


COMMANDS = (compare_command, bundle_command, import_command, reproduce_command, history_command)
