"""Which runs there are: the newest, one by its name, the one to go on with. A bad one never hides the others.

A run is a folder, or a bundle that is read where it lies; only a folder can be the newest, or be resumed.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from orchestrator.base.errors import UsageError
from orchestrator.base.files import os_errors
from orchestrator.base.interrupt import check
from orchestrator.base.invalid import closest
from orchestrator.base.paths import BUNDLE_ENDING, RESULTS
from orchestrator.base.text import Say, on_stderr, printable
from orchestrator.plan.cell import Plan
from orchestrator.records.store import RUN_FILE, Run, named_in_order, read_records, record_files


def runs(results: Path) -> list[Path]:
    """Return the folders in `results` that hold a run, oldest first by name.

    Before them come those whose name is none of ours: renamed, or later than now.
    """
    found = list[Path]()
    with os_errors(results), contextlib.suppress(FileNotFoundError):
        found = [place for place in results.iterdir() if (place / RUN_FILE).is_file()]
    return sorted(found, key=lambda place: (named_in_order(place), place.name))


def bundles(results: Path) -> list[Path]:
    """Return the bundles in `results` by name."""
    with os_errors(results), contextlib.suppress(FileNotFoundError):
        return sorted(
            (path for path in results.iterdir() if path.name.endswith(BUNDLE_ENDING) and path.is_file()), key=_name
        )
    return []


def listed(results: Path, *, bundled: bool = True) -> Iterator[tuple[str, Run | UsageError]]:
    """Yield every run in `results` by its name, newest first by name, behind them (`bundled`) those in bundles.

    In the place of a bad one there is why it is bad.
    """
    for place in [*reversed(runs(results)), *(bundles(results) if bundled else ())]:
        check()
        name = place.name if place.is_dir() else _name(place)
        try:
            yield name, open_run(place)
        except UsageError as error:
            yield name, error


def readable(results: Path, say: Say = on_stderr, *, bundled: bool = False) -> Iterator[Run]:
    """Yield the runs in `results` that can be read, as they are `listed`; `say` gets a line for each other one."""
    for _, found in listed(results, bundled=bundled):
        if isinstance(found, Run):
            yield found
        else:
            say(f"left out: {found}")


def open_run(place: Path) -> Run:
    """Return the run in a folder, or in a bundle; what is neither, or is bad, is a UsageError."""
    if not place.is_file():
        return Run.open(place)
    from orchestrator.records.unpacked import open_bundle

    return open_bundle(place)


def newest_run(results: Path) -> Run:
    """Return the newest run that is a folder; none is a UsageError.

    Where none was begun here (imported, renamed): the one that was begun last, by its own account.
    """
    others = []
    for run in readable(results):
        if run.own:
            return run
        others.append(run)
    if not others:
        named = ", ".join(map(_name, bundles(results)))
        remedy = f"start one with `orchestrator run-all`{f', or name one that is here: {named}' if named else ''}"
        raise UsageError("no run of your own here" if named else "no run here", where=str(results), remedy=remedy)
    return max(others, key=lambda run: (not run.imported, run.header.started_utc))


def copies(results: Path) -> list[list[Path]]:
    """Return the folders of each run: one, or as many as hold a copy of it, whatever they are called.

    A run is its id and its records: copies share both, as far as they had been run when they were made.
    """
    alike: dict[tuple[str, str, str], list[Path]] = {}
    for run in readable(results, bundled=True):
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


def find_run(results: Path, name: str | None, say: Say = on_stderr) -> Run:
    """Return the run called `name` in `results`, or in the folder or bundle `name`; without a name the newest.

    In `results` a bundle goes by its file's name, with its ending or without; a folder of that name goes before it.
    What begins with `./` is no name in `results`.
    `say` gets a line with which run is the newest.
    """
    if name is None:
        newest = newest_run(results)
        say(f"run {newest.folder.name}, the newest")
        return newest
    inside = () if name.startswith(("./", "../")) else (results / name, results / f"{name}{BUNDLE_ENDING}")
    for place in (*inside, Path(name)):
        if _is_run(place):
            return open_run(place)
    known = list(dict.fromkeys([*(place.name for place in runs(results)), *map(_name, bundles(results))]))
    near = printable(closest(name, known))
    raise UsageError(
        f'no run "{name}"{near}', where=str(results), remedy=f"known: {printable(', '.join(known)) or 'none'}"
    )


def _is_run(place: Path) -> bool:
    with contextlib.suppress(ValueError, OSError):
        return (place / RUN_FILE).is_file() or place.is_file()
    return False


def _name(bundle: Path) -> str:
    """Return what the bundle goes by: with its ending where a folder has its name without."""
    short = bundle.name.removesuffix(BUNDLE_ENDING)
    return printable(bundle.name if _is_run(bundle.with_name(short)) else short)


def name_of(run: Run) -> str:
    """Return how a command names the run: by its name where that is enough, else by its folder or bundle."""
    place = (run.bundle or run.folder).resolve()
    # A word that begins with a dash would be an option.
    if place.parent == RESULTS.resolve() and not place.name.startswith("-"):
        return _name(place) if run.bundle else place.name
    with contextlib.suppress(OSError, ValueError):
        name = str(place.relative_to(Path.cwd()))
        return f"./{name}" if name.startswith("-") or _is_run(RESULTS / name) else name
    return str(place)


def unfinished(results: Path, say: Say = on_stderr) -> Iterator[Run]:
    """Yield the runs that were not finished and have kept their name, newest first, without trials.

    Imported ones are among them.
    """
    for run in readable(results, say):
        if not run.finished and not run.trial and run.folder.name == run.header.run_id:
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
        why = why_another(run, plan, bench_source, launcher)
        if not why and run.imported:
            why = f"was imported (--resume {run.folder.name} goes on with it)"
        if not why and not take(run):
            why = "is being run by another process"
        if not why:
            return run, ""
        reasons.append(f"the unfinished run {run.folder.name} {why}")
    return None, reasons[0] if reasons else ""


def why_another(run: Run, plan: Plan, bench_source: str, launcher: str) -> str:
    """Return what keeps a run from going on with the plan; empty where nothing does."""
    header = run.header
    if run.trial:
        return "is one of side-by-side, which nothing goes on with"
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
