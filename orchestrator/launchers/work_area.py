"""Folders in which cells run: one for each orchestrator process, with its cells' folders and its copy of bench."""

from __future__ import annotations

import contextlib
import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

from orchestrator.base.errors import UsageError
from orchestrator.base.files import os_error, os_errors
from orchestrator.base.lockfile import abandoned, try_lock
from orchestrator.base.paths import BENCH, STATE, STATE_VARIABLE
from orchestrator.base.text import Say
from orchestrator.host.folders import WorkArea, remove_tree

OWNER_FILE = "owner.lock"
TRIES = 20
READABLE_FILE = 0o644
READABLE_FOLDER = 0o755


def methods_of_bench() -> list[str]:
    """Return the names of the methods that bench has a file for."""
    return sorted(path.stem for path in (BENCH / "methods").glob("*.py") if not path.stem.startswith("_"))


@contextlib.contextmanager
def work_area(state: Path | None = None, bench: Path | None = None) -> Iterator[WorkArea]:
    """Make a work area and remove it at the end. A killed process's is removed by the next `sweep_folders`.

    `bench`: copied in place of this package's own.
    """
    place = (state or STATE) / "work"
    with os_errors(place):
        folder = folder_in(place)
    lock = None
    try:
        with os_errors(folder):
            # Held as long as this process lives.
            lock = try_lock(folder / OWNER_FILE, print, remedy=f"name another place in {STATE_VARIABLE}")
            copy = copy_bench(bench or BENCH, folder / "stackbench" / "bench")
        yield WorkArea(folder, copy)
    finally:
        remove_tree(folder)
        if lock is not None:
            lock.release()


def folder_in(place: Path, tries: int = TRIES) -> Path:
    """Make a folder for this process in `place`, and that where it is not there; OSError where it cannot be made."""
    try:
        place.mkdir(parents=True, exist_ok=True)
        return Path(tempfile.mkdtemp(prefix=f"{os.getpid()}-", dir=place))
    except FileNotFoundError:  # whoever ends may remove a place that is empty, at any moment
        if tries == 1:
            raise
        return folder_in(place, tries - 1)


def copy_bench(source: Path, target: Path) -> Path:
    """Copy bench's files to `target`, readable by the containers' user whatever the checkout's rights are."""
    paths = [path for path in source.rglob("*") if path.suffix in {".py", ".json"} and path.is_file()]
    if not paths:
        raise UsageError("no bench here", where=str(source), remedy="install the package again, or use a checkout")
    for path in paths:
        copy = target / path.relative_to(source)
        copy.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(path, copy)
    for path in (target.parent, target, *target.rglob("*")):
        path.chmod(READABLE_FOLDER if path.is_dir() else READABLE_FILE)
    return target


def sweep_folders(state: Path | None = None, warn: Say = lambda _: None) -> int:
    """Remove the work areas of dead processes and return how many; one that cannot be removed is a warning."""
    place, removed = (state or STATE) / "work", 0
    try:
        folders = list(place.iterdir()) if place.is_dir() else []
    except OSError as error:
        warn(f"warning: what killed runs left behind cannot be looked for: {os_error(error, place)}")
        return 0
    for folder in folders:
        if not abandoned(folder, OWNER_FILE):
            continue
        if remove_tree(folder):
            removed += 1
        else:
            warn(f"warning: {folder}: what a killed run left there cannot be removed; remove it by hand")
    return removed
