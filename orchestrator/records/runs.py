"""Which runs there are: the newest, one by its name, the one to go on with. A bad one never hides the others."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from orchestrator.base.errors import UsageError
from orchestrator.base.files import os_errors
from orchestrator.base.interrupt import check
from orchestrator.base.text import Say, on_stderr, printable
from orchestrator.plan.cell import Plan
from orchestrator.records.store import RUN_FILE, Header, Run, named_in_order, read_records, record_files


def runs(results: Path) -> list[Path]:
    """Return the folders in `results` that hold a run, oldest first by name.

    Before them come those whose name is none of ours: renamed, or later than now.
    """
    found = list[Path]()
    with os_errors(results), contextlib.suppress(FileNotFoundError):
        found = [place for place in results.iterdir() if (place / RUN_FILE).is_file()]
    return sorted(found, key=lambda place: (named_in_order(place), place.name))


def readable(results: Path, say: Say = on_stderr) -> Iterator[Run]:
    """Yield the runs in `results`, newest first by name; `say` gets a line for each whose run.json is bad."""
    for folder in reversed(runs(results)):
        check()
        try:
            yield Run.open(folder)
        except UsageError as error:
            say(f"left out: {error}")


def newest_run(results: Path) -> Run:
    """Return the newest run; none at all is a UsageError.

    Where none was begun here (imported, renamed): the one that was begun last, by its own account.
    """
    others = []
    for run in readable(results):
        if run.own:
            return run
        others.append(run)
    if not others:
        raise UsageError("no run here", where=str(results), remedy="start one with `orchestrator run-all`")
    return max(others, key=lambda run: (not run.imported, run.header.started_utc))


def copies(results: Path) -> list[list[Path]]:
    """Return the folders of each run: one, or as many as hold a copy of it, whatever they are called.

    A run is its id and its records: copies share both, as far as they had been run when they were made.
    """
    alike: dict[tuple[str, str, str], list[Path]] = {}
    for run in readable(results):
        header = run.header
        alike.setdefault((header.run_id, header.started_utc, header.plan_id), []).append(run.folder)
    parts = [_with_shared_records(folders) if folders[1:] else [folders] for folders in alike.values()]
    return [part for several in parts for part in several]


def _with_shared_records(folders: Sequence[Path]) -> list[list[Path]]:
    parts: list[tuple[set[tuple[str, int, str | None]], list[Path]]] = []
    for folder in folders:
        records = read_records(record_files(folder), [])
        own = {(record.cell_id, record.round, record.started_utc) for record in records}
        for known, same in parts:
            if known & own:
                known.update(own)
                same.append(folder)
                break
        else:
            parts.append((own, [folder]))
    return [same for _, same in parts]


def find_run(results: Path, name: str | None) -> Run:
    """Return the run called `name` in `results`, or in the folder `name`; without a name the newest."""
    if name is None:
        return newest_run(results)
    for folder in (results / name, Path(name)):
        with contextlib.suppress(ValueError, OSError):
            if (folder / RUN_FILE).is_file():
                return Run.open(folder)
    known = ", ".join(printable(folder.name) for folder in runs(results)) or "none"
    raise UsageError(f'no run "{name}"', where=str(results), remedy=f"known: {known}")


def unfinished(results: Path, say: Say = on_stderr) -> Iterator[Run]:
    """Yield the runs that were not finished and have kept their name, newest first; imported ones are among them."""
    for run in readable(results, say):
        if not run.finished and run.folder.name == run.header.run_id:
            yield run


def resumable(
    results: Path,
    plan: Plan,
    bench_source: str,
    launcher: str,
    *,
    take: Callable[[Run], bool] = lambda _run: True,
    say: Say = on_stderr,
) -> tuple[Run | None, str]:
    """Return the newest unfinished run of ours that can go on and that can be had by `take`.

    Else None, and why the newest cannot (empty: there is none).
    """
    reasons = []
    for run in unfinished(results, say):
        why = why_another(run.header, plan, bench_source, launcher)
        if not why and run.imported:
            why = f"was imported (--resume {run.folder.name} goes on with it)"
        if not why and not take(run):
            why = "is being run by another process"
        if not why:
            return run, ""
        reasons.append(f"the unfinished run {run.folder.name} {why}")
    return None, reasons[0] if reasons else ""


def why_another(header: Header, plan: Plan, bench_source: str, launcher: str) -> str:
    """Return what keeps a run with this header from going on with the plan; empty where nothing does."""
    if header.plan_id != plan.plan_id:
        what = f"suite {header.suite}" if header.suite != plan.suite else "other cells, rounds or deadlines"
        sources = [{cell.method: cell.method_source for cell in one.cells} for one in (header.plan, plan)]
        if changed := [name for name, sha256 in sources[0].items() if sources[1].get(name, sha256) != sha256]:
            what = f"another file of the method {changed[0]}"
        return f"has another plan ({what})"
    if header.bench_source != bench_source:
        return "was measured by another version of bench"
    if header.launcher not in (None, launcher):
        return f"has its cells run by the launcher {header.launcher}"
    return ""
