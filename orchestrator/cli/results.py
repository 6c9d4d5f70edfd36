"""Commands over records that exist: show them, explain them, compare them, send them, take them in, look back."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Literal

import click

from orchestrator.cli import complete, options


@click.command("table", short_help="Print a run's tables.")
@options.one_run
@click.option(
    "--protocol",
    type=click.Choice(["note", "steady"]),
    help="Whose speeds text shows; how Markdown is ordered; the only rows of JSON, CSV and LaTeX (default: both).",
)
@click.option(
    "--format",
    "form",
    type=click.Choice(["text", "markdown", "json", "csv", "latex"]),
    help="text, short and aligned, is the default on a terminal; elsewhere it is markdown, with every column.",
)
@options.results
def table_command(run: str | None, protocol: Literal["note", "steady"] | None, form: str | None, results: Path) -> None:
    """Print the tables of RUN (a run's name, folder or bundle; default: the newest)."""
    from orchestrator.analysis.reduced_run import make_report
    from orchestrator.base.text import show
    from orchestrator.records.runs import find_run, name_of
    from orchestrator.report.tables import render_tables, terminal

    found = find_run(results, run)
    if form == "text" or (form is None and sys.stdout.isatty()):
        terminal.show_report(make_report(found.folder), name_of(found), protocol)
    else:
        show(render_tables(found.folder, protocol=protocol, form=form or "markdown"), end="")


@click.command("report", short_help="Write runs as one HTML page.")
@options.several_runs
@options.output("Where to (default: report.html in the run's folder; of a bundle NAME.html here).")
@options.results
def report_command(names: tuple[str | None, ...], output: Path | None, results: Path) -> None:
    """Write one HTML page over the RUNs (default: the newest): it needs nothing but a browser.

    A RUN is a name, a folder or a bundle. Of several the page has every row, and shows them side by side; without -o it
    lies in the first one's folder.
    """
    from orchestrator.records.runs import find_run
    from orchestrator.report.page import PAGE_FILE, write_page

    runs = [find_run(results, name) for name in names]
    first = runs[0]
    target = output or (Path(f"{first.folder.name}.html") if first.bundle else first.folder / PAGE_FILE)
    size = write_page([run.folder for run in runs], target)
    options.wrote(target, f" ({size / 1e6:.2f} MB)")


@click.command("picture", short_help="Draw runs' speeds against eager.")
@options.several_runs
@options.output("Where to: an SVG file.", required=True)
@click.option(
    "--of", "what", **options.one_of("speed", "latency", help="Speed against eager, or throughput by latency.")
)
@options.results
def picture_command(names: tuple[str | None, ...], output: Path, what: str, results: Path) -> None:
    """Draw how many times as fast as eager each method of the RUNs is (default: the newest).

    `--of latency` draws batched_generation: throughput against latency at each batch, with the Pareto front.
    """
    from orchestrator.base.text import counted
    from orchestrator.report.latency import write_latency_picture
    from orchestrator.report.picture import write_picture

    runs = _by_name(names, results, "picture")
    drawn = (
        (write_latency_picture(runs, output), "point") if what == "latency" else (write_picture(runs, output), "bar")
    )
    options.wrote(output, f": {counted(*drawn)}")


@click.command("which-engine", short_help="Compare engines by batch and latency.")
@options.several_runs
@click.option("--beside", metavar="METHOD", default="inductor", show_default=True, help="The row that joins the runs.")
@options.output("A Markdown file (default: standard output).")
@options.results
def which_engine_command(names: tuple[str | None, ...], *, beside: str, output: Path | None, results: Path) -> None:
    """Write the page "which engine" of the RUNs (default: the newest), from their rows of batched_generation.

    For each model, prompt length and batch it has every method's throughput and latency, and how many times as fast it
    is as the row of --beside in the same run: engines of several runs are joined through that row.
    """
    from orchestrator.base.files import write_text
    from orchestrator.base.text import show
    from orchestrator.report.which_engine import page_of

    text = page_of(_by_name(names, results, "which-engine"), beside)
    if output is None:
        show(text, end="")
    else:
        write_text(output, text)
        options.wrote(output)


def _by_name(names: tuple[str | None, ...], results: Path, command: str) -> dict[str, Path]:
    """Return the folders of the runs by their names; two runs of one name are a UsageError."""
    from orchestrator.base.errors import UsageError
    from orchestrator.records.runs import find_run

    found: dict[str, Path] = {}
    for folder in (find_run(results, name).folder for name in names):
        if found.setdefault(folder.name, folder).resolve() != folder.resolve():
            raise UsageError(f'two runs are called "{folder.name}"', where=command, remedy="rename one of them")
    return found


@click.command("runs", short_help="List the runs.")
@click.option("--format", "form", **options.one_of("text", "json"))
@options.results
def runs_command(form: str, results: Path) -> None:
    """List the runs, newest first: when, which suite, on what, and how their rows came out.

    A run that cannot be read is listed with its reason.
    """
    from orchestrator.analysis.overview import overview
    from orchestrator.base.text import show, terminal_width
    from orchestrator.report.tables.runs import as_json, as_text

    found = overview(results)
    show(as_json(found) if form == "json" else as_text(found, terminal_width()))


@click.command("explain", short_help="Explain one cell's figures.")
@click.argument("cell")
@options.run
@click.option("--format", "form", **options.one_of("text", "json"))
@options.results
def explain_command(cell: str, run: str | None, form: str, results: Path) -> None:
    """Explain one CELL's figures: what ran, every sample, and where the time went.

    CELL is a title (`forward inductor@cpu`), the name of a record's file, or the beginning of a cell_id.
    """
    from orchestrator.base.text import show
    from orchestrator.records.runs import find_run
    from orchestrator.report.explain import explain

    show(explain(find_run(results, run).folder, cell, form))


@click.command("compare", short_help="Compare two runs, methods or stacks.")
@click.argument("a", shell_complete=complete.runs)
@click.argument("b", shell_complete=complete.runs)
@options.benchmarks
@options.named_run("The run of a side that names none (default: the other's, or the newest).")
@click.option("--across-gpus", is_flag=True, help="Give verdicts although the GPU's model differs.")
@click.option("--format", "form", **options.one_of("text", "markdown", "json"))
@options.results
def compare_command(
    a: str, b: str, *, benchmarks: tuple[str, ...], run: str | None, across_gpus: bool, form: str, results: Path
) -> int:
    """Compare B with A, cell by cell: how many times as fast, with interval and verdict.

    A and B are each RUN, RUN:method, RUN:@stack or RUN:method@stack, where RUN is a run's name, folder or bundle, and
    nothing before the colon means that of --run, the other's, or the newest: `compare RUN:eager :inductor`.
    `published` is what others printed. Rows are matched by workload, method and stack; by method only where not both
    sides name one, by stack likewise.

    Exit code: 0 fine, 1 a row of B is slower, wrong or lost, 2 a cell is inconclusive, refused or not in B,
    3 nothing in common.
    """
    from orchestrator.analysis.compare import compare, read_sides
    from orchestrator.base.invalid import check_known
    from orchestrator.base.text import show, terminal_width
    from orchestrator.plan.workload import MEASURED
    from orchestrator.report.tables.comparison import render

    check_known("benchmark", benchmarks, MEASURED)
    comparison = compare(*read_sides(a, b, results, benchmarks, run), across_devices=across_gpus)
    show(render(comparison, form, terminal_width()), end="")
    return comparison.exit_code


@click.command("history", short_help="Show figures over many runs.")
@click.option("--since", metavar="WHEN", help="Only since then: 30d, 12h, 2w, or a date.")
@click.option("--cell", metavar="WORDS", help="Only lines with these words: 'forward inductor@cpu', a model, a device.")
@click.option("--format", "form", **options.one_of("text", "json"))
@options.results
def history_command(*, since: str | None, cell: str | None, form: str, results: Path) -> None:
    """Show the figures of all runs by time: a line for each workload, method, stack and model of device."""
    from orchestrator.analysis.history import history
    from orchestrator.base.text import on_stderr, show, terminal_width
    from orchestrator.report.tables.history import as_json, as_text

    unreadable: list[str] = []
    lines = history(results, unreadable, since=since, cell=cell)
    for line in unreadable:
        on_stderr(f"left out: {line}")
    show(as_json(lines) if form == "json" else as_text(lines, terminal_width()))


@click.command("bundle", short_help="Pack a run into one file.")
@options.one_run
@options.output("Where to (default: the run's name, .tar.gz).")
@click.option("--references", is_flag=True, help="References too: large, and made again where they are missing.")
@options.results
def bundle_command(run: str | None, *, output: Path | None, references: bool, results: Path) -> None:
    """Pack RUN (a run's name, folder or bundle; default: the newest) into one file to send: records, logs, tables.

    Logs go as they are: look into them before you send them to strangers.
    """
    from orchestrator.base.errors import UsageError
    from orchestrator.base.files import stays
    from orchestrator.base.paths import BUNDLE_ENDING
    from orchestrator.base.text import counted, on_stderr
    from orchestrator.records.bundle import pack, pack_into
    from orchestrator.records.runs import find_run

    found = find_run(results, run)
    target = output or Path(f"{found.folder.resolve().name}{BUNDLE_ENDING}")
    if target == options.STDOUT and sys.stdout.isatty():
        raise UsageError("a bundle is not for a terminal", where="-o", remedy="name a file, or send it into a pipe")
    if stays(target):
        manifest, left_out, size = pack_into(target, found, references=references)
    else:
        manifest, left_out = pack(found, target, references=references)
        size = target.stat().st_size
    options.wrote(target, f": {counted(len(manifest.files), 'file')}, {size / 1e6:.2f} MB")
    for path in left_out:
        on_stderr(f"left out: {path}")


@click.command("import", short_help="Take in a bundled run.")
@click.argument("file", type=options.PATH)
@options.results
def import_command(file: Path, *, results: Path) -> None:
    """Check the bundle FILE and put its run into the results, marked as imported. Nothing there is overwritten."""
    from orchestrator.base.paths import from_here
    from orchestrator.base.text import counted, on_stderr, show
    from orchestrator.records.store import record_files
    from orchestrator.records.unpack import unpack
    from orchestrator.report.tables import write_tables

    run = unpack(file, results, write_tables)
    show(f"{from_here(run.folder)}: {counted(len(record_files(run.folder)), 'record')}")
    if not run.finished and not run.trial:
        same = "plan, bench and launcher are the same"
        on_stderr(f"not finished: run-all --resume {run.folder.name} goes on where {same}")
