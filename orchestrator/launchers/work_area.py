"""Folders in which cells run: one for each orchestrator process, with its cells' folders and its copy of bench."""

from __future__ import annotations

import contextlib
import os
import secrets
import shutil
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from orchestrator.base.errors import UsageError
from orchestrator.base.files import os_error, os_errors
from orchestrator.base.lockfile import try_lock
from orchestrator.base.paths import BENCH, STATE, STATE_VARIABLE
from orchestrator.base.text import Say
from orchestrator.host.owner import PROC

OWNER_FILE = "owner.lock"
READABLE_FILE = 0o644
READABLE_FOLDER = 0o755
PRIVATE_FOLDER = 0o700
JUST_MADE_S = 60
TRIES = 20
"""How often an entry is tried that cannot be removed, and a folder emptied that somebody still fills."""


@dataclass(frozen=True)
class WorkArea:
    """One orchestrator process's folder below `.stackbench/work`; gone when it is done."""

    folder: Path
    bench: Path
    """A copy of bench as it was when the run began: an edit during the run changes no cell under its old identity."""

    @contextlib.contextmanager
    def cell(self, stem: str) -> Iterator[Path]:
        """Give one round of a cell its folder: the process may write to `work` in it, and nowhere else.

        It is removed at the end with whatever the process left there; no link in it is followed.
        """
        folder = Path(tempfile.mkdtemp(prefix=f"{stem[:80]}-", dir=self.folder))
        try:
            (folder / "work").mkdir(mode=PRIVATE_FOLDER)
            yield folder
        finally:
            remove_tree(folder)


@contextlib.contextmanager
def work_area(state: Path | None = None) -> Iterator[WorkArea]:
    """Make a work area and remove it at the end. A killed process's is removed by the next `sweep_folders`."""
    place = (state or STATE) / "work"
    with os_errors(place):
        place.mkdir(parents=True, exist_ok=True)
        folder = Path(tempfile.mkdtemp(prefix=f"{os.getpid()}-", dir=place))
    # Held as long as this process lives: a lock, unlike a process number, means the same in every namespace.
    with os_errors(folder):
        lock = try_lock(folder / OWNER_FILE, print, remedy=f"name another place in {STATE_VARIABLE}")
    try:
        with os_errors(folder):
            copy = copy_bench(BENCH, folder / "stackbench" / "bench")
        yield WorkArea(folder, copy)
    finally:
        remove_tree(folder)
        if lock is not None:
            lock.release()


def copy_bench(source: Path, target: Path) -> Path:
    """Copy bench's files to `target`, readable by the containers' user whatever the checkout's rights are."""
    paths = [path for path in source.rglob("*") if path.suffix in {".py", ".json"} and path.is_file()]
    if not paths:
        raise UsageError("no bench here", where=str(source), remedy="run from a checkout of the repository")
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
        abandoned = [folder for folder in place.iterdir() if _abandoned(folder)] if place.is_dir() else []
    except OSError as error:
        warn(f"warning: what killed runs left behind cannot be looked for: {os_error(error, place)}")
        return 0
    for folder in abandoned:
        if remove_tree(folder):
            removed += 1
        else:
            warn(f"warning: {folder}: what a killed run left there cannot be removed; remove it by hand")
    return removed


def remove_tree(folder: Path) -> bool:
    """Remove `folder` as far as that is possible; return whether it is gone. No link is followed, nothing is raised.

    A cell's process may have nested folders deeper than a path or a stack of calls can be, and taken away its own
    rights to them: what lies in a folder is moved up before the folder is removed, and the rights are given back.
    """
    with contextlib.suppress(OSError):
        top = _folder_in(folder)
        try:
            for _ in range(TRIES):
                _empty(top)
                with contextlib.suppress(OSError):
                    folder.rmdir()
                    break
        finally:
            os.close(top)
    return not os.path.lexists(folder)


def _empty(top: int) -> None:
    """Remove all that lies in the open folder `top`, as far as that is possible."""
    tries, filled = Counter[str](), 0
    there = set(os.listdir(top))
    while there and filled < TRIES:
        for name in there:
            tries[name] += 1
            with contextlib.suppress(OSError):
                if not _removed(name, top):
                    _flatten(name, top, tries)
        left = set(os.listdir(top))
        # What is new and was not moved there: somebody still writes.
        filled += not left <= tries.keys()
        there = {name for name in left if tries[name] < TRIES}


def _flatten(name: str, top: int, moved: Counter[str]) -> None:
    """Move the folders that lie in the folder `name` up into `top`, remove its files, and then itself."""
    inner = _folder_in(name, top)
    try:
        for entry in os.listdir(inner):  # noqa: PTH208 - a descriptor
            with contextlib.suppress(OSError):
                if not _removed(entry, inner):
                    os.close(_folder_in(entry, inner))  # one that may not be written to cannot be moved either
                    fresh = secrets.token_hex(16)
                    os.rename(entry, fresh, src_dir_fd=inner, dst_dir_fd=top)
                    moved[fresh] = 0
    finally:
        os.close(inner)
    os.rmdir(name, dir_fd=top)


def _removed(name: str, place: int) -> bool:
    """Remove a file, a link or an empty folder of the open folder `place`; return False for a folder that is not."""
    try:
        os.unlink(name, dir_fd=place)
    except IsADirectoryError:
        with contextlib.suppress(OSError):
            os.rmdir(name, dir_fd=place)
            return True
        return False
    return True


def _folder_in(name: str | Path, place: int | None = None) -> int:
    """Open a folder, with all rights for its owner; a link in its place is an OSError."""
    found = os.open(name, os.O_PATH | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=place)
    try:
        # By its number: what its name stands for may change at any moment.
        itself = f"{PROC}/self/fd/{found}"
        with contextlib.suppress(OSError):
            os.chmod(itself, PRIVATE_FOLDER)  # noqa: PTH101
        return os.open(itself, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    finally:
        os.close(found)


def _abandoned(folder: Path) -> bool:
    with contextlib.suppress(OSError):
        if not (folder / OWNER_FILE).exists():
            # Just being made, or left in that instant: only the latter is old.
            return folder.is_dir() and time.time() - folder.stat().st_mtime > JUST_MADE_S
        lock = try_lock(folder / OWNER_FILE, print, remedy=f"name another place in {STATE_VARIABLE}")
        if lock is not None:
            lock.release()
            return lock.holds  # where there are no locks, it may be a living one's
    return False
