"""The command lines that run a cell again: each can be pasted on the host that shows it, and starts."""

from __future__ import annotations

import contextlib
import os
import shlex
import shutil
import sys
from collections.abc import Iterable
from pathlib import Path

from orchestrator.base.errors import UsageError
from orchestrator.base.paths import BUNDLE_ENDING, IMAGES, RESULTS, from_here
from orchestrator.plan.methods import FOLDER as METHODS
from orchestrator.plan.stack import STACK_FILE
from orchestrator.plan.suite import load_suite, suite_names
from orchestrator.records.asked import Asked
from orchestrator.records.record import Record, is_row
from orchestrator.records.unpacked import origin_of
from orchestrator.report.source import Source

PROGRAM = "orchestrator"
SERVICE = "STACKBENCH_SERVICE"
"""Of a compose service's environment: its name."""
SUITE_FILE = "suite.toml"
"""A suite of one's own in the folder of a run that is published; of a bundle, in its unpacked copy."""
WITH_A_ROW = "by `orchestrator reproduce` of any row of this run that it belongs to"


def commands(source: Source, record: Record, rounds: int) -> list[str]:
    """Return the lines for a cell with so many rounds: `run-all` of its suite, and of a row `reproduce`.

    Where this host lacks the suite or the stack there is no line of the first kind: none at all, if the cell is no row.
    """
    words = plan_words(source.report.header.suite, source.asked, record, source.folder)
    lines = [] if words is None else [" ".join([*words, *_rounds(rounds), "--fresh", *_results(source.folder)])]
    return lines + ([reproduction(source, record, rounds)] if is_row(record) else [])


def plan_words(suite: str, asked: Asked, record: Record, folder: Path) -> list[str] | None:
    """Return what runs the cell of a record of the run in `folder` as it was run; None where this host cannot."""
    named = _suite(suite, asked, folder), _stack(asked, record.stack)
    parts = *named, _own(asked, record, folder), _checkpoint(asked, record)
    if any(part is None for part in parts):
        return None
    named_suite, named_stack, own, checkpoint = (part or [] for part in parts)
    words = [PROGRAM, "run-all", *named_suite, *named_stack, *own]
    if record.workload.benchmark != "ceilings":
        words += ["--method", shlex.quote(record.method), "--benchmark", record.workload.benchmark]
    words += checkpoint
    provenance = record.provenance
    if provenance is not None and provenance.launcher in ("docker", "local"):
        words += ["--launcher", provenance.launcher]
    if provenance is not None and provenance.cache == "shared":
        words += ["--cache", "shared"]
    return words


def _suite(suite: str, asked: Asked, folder: Path) -> list[str] | None:
    if asked.suite is not None and Path(asked.suite).is_file():
        return ["--suite", typed(asked.suite)]
    if _is_own(own := folder / SUITE_FILE, suite):
        return ["--suite", typed(own)]
    return ["--suite", suite] if asked.suite is None and suite in suite_names() else None


def _is_own(file: Path, suite: str) -> bool:
    """Whether it is the run's suite and can be planned: what a suite names beside it does not come along."""
    try:
        return file.is_file() and not file.is_symlink() and load_suite(str(file)).name == suite
    except UsageError:
        return False


def _stack(asked: Asked, stack: str) -> list[str] | None:
    words = ["--stack", shlex.quote(stack)]
    if (IMAGES / stack / STACK_FILE).is_file():
        return words
    known = asked.stacks and all(map(_is_there, asked.stacks))
    return [*words, *_each("--stacks", asked.stacks)] if known else None


def _own(asked: Asked, record: Record, folder: Path) -> list[str] | None:
    """Return the option for a user's own method: the run has the very file that was measured, where it is a folder.

    None where no folder with it is known: of a bundle, or where those that were named are gone.
    """
    if record.method_source is None:
        return []
    file = f"{record.method}.py"
    if (folder / METHODS / file).is_file() and origin_of(folder) is None:
        return _each("--methods", [str(folder / METHODS)])
    there = any((Path(place) / file).is_file() for place in asked.methods)
    return _each("--methods", asked.methods) if there else None


def _checkpoint(asked: Asked, record: Record) -> list[str] | None:
    weights = record.workload.weights
    if weights is None or weights.source != "checkpoint":
        return []
    if weights.fingerprint not in asked.weights:
        return None
    return [] if asked.checkpoint is None else ["--checkpoint", typed(asked.checkpoint)]


def reproduction(source: Source, record: Record, rounds: int = 1) -> str:
    """Return the line that runs a row's cell again from its record and says whether its figure came out.

    Where the folder of a checkpoint or of a user's own method is not known, the word FOLDER stands for it.
    """
    asked, weights = source.asked, record.workload.weights
    words = [PROGRAM, "reproduce", shlex.quote(record.cell_id), *run_words(source.folder)]
    if not (IMAGES / record.stack / STACK_FILE).is_file():
        words += _each("--stacks", filter(_is_there, asked.stacks))
    own = _own(asked, record, source.folder)
    words += ["--methods", "FOLDER"] if own is None else own
    if weights is not None and weights.source == "checkpoint":
        known = asked.weights.get(weights.fingerprint or "")
        words += ["--checkpoint", "FOLDER" if known is None else typed(known)]
    return " ".join([*words, *_rounds(rounds)])


def program() -> str:
    """Return what one types for this command here: its name where a shell finds it, else the path that was started.

    In a checkout it lies in a virtual environment that `make run` does not activate. Who started a compose service may
    have nothing but Docker.
    """
    if service := os.environ.get(SERVICE):
        return f"docker compose run --rm {shlex.quote(service)}"
    started = Path(sys.argv[0])
    with contextlib.suppress(OSError):
        found = shutil.which(PROGRAM)
        if started.name == PROGRAM and started.is_file() and not (found and started.samefile(found)):
            return typed(started.absolute())
    return PROGRAM


def run_words(folder: Path) -> list[str]:
    """Return what names the run in `folder` on the command line, quoted for a shell."""
    bundle = origin_of(folder)
    name = folder.resolve().name
    if bundle is None:
        return ["--run", shlex.quote(name), *_results(folder)]
    found = RESULTS / f"{name}{BUNDLE_ENDING}"
    is_named = bundle == found and not (RESULTS / name).exists()
    return ["--run", shlex.quote(name) if is_named else typed(bundle, relative=False)]


def typed(path: str | Path, *, relative: bool = True) -> str:
    """Return a path quoted for a shell, from the current folder or from the user's own where it can be.

    A page may be sent around, and should contain no more of this host's paths than it needs.
    """
    place = Path(path)
    if relative and (near := from_here(place)) != place:
        return shlex.quote(str(near))
    with contextlib.suppress(OSError, RuntimeError, ValueError):
        return f"~/{shlex.quote(str(place.relative_to(Path.home())))}"
    return shlex.quote(str(place))


def _results(folder: Path) -> list[str]:
    """Return the option for a folder of runs that is not the one where commands look."""
    if origin_of(folder) is not None or folder.resolve().parent == RESULTS.resolve():
        return []
    return ["--results", typed(folder.resolve().parent)]


def _rounds(rounds: int) -> list[str]:
    return ["--rounds", str(rounds)] if rounds > 1 else []


def _each(option: str, places: Iterable[str]) -> list[str]:
    return [word for place in places for word in (option, typed(place))]


def _is_there(place: str) -> bool:
    return Path(place).is_dir()
