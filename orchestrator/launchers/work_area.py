"""Folders in which cells run: one for each orchestrator process, with its cells' folders and its copy of bench."""

from __future__ import annotations

import contextlib
import fcntl
import os
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from orchestrator.base.errors import UsageError
from orchestrator.base.files import os_errors
from orchestrator.base.paths import BENCH, STATE

OWNER_FILE = "owner.lock"
READABLE_FILE = 0o644
READABLE_FOLDER = 0o755
PRIVATE_FOLDER = 0o700
JUST_MADE_S = 60


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


def methods_of_bench() -> list[str]:
    """Return the names of the methods that bench has a file for."""
    return sorted(path.stem for path in (BENCH / "methods").glob("*.py") if not path.stem.startswith("_"))


@contextlib.contextmanager
def work_area(state: Path | None = None) -> Iterator[WorkArea]:
    """Make a work area and remove it at the end. A killed process's is removed by the next `sweep_folders`."""
    place = (state or STATE) / "work"
    with os_errors(place):
        place.mkdir(parents=True, exist_ok=True)
        folder = Path(tempfile.mkdtemp(prefix=f"{os.getpid()}-", dir=place))
    # Held as long as this process lives: a lock, unlike a process number, means the same in every namespace.
    descriptor = os.open(folder / OWNER_FILE, os.O_RDWR | os.O_CREAT, 0o600)
    try:
        with os_errors(folder):
            fcntl.flock(descriptor, fcntl.LOCK_EX)
            copy = copy_bench(BENCH, folder / "stackbench" / "bench")
        yield WorkArea(folder, copy)
    finally:
        remove_tree(folder)
        os.close(descriptor)


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


def sweep_folders(state: Path | None = None) -> int:
    """Remove the work areas of dead processes and return how many."""
    place = (state or STATE) / "work"
    abandoned = [folder for folder in place.iterdir() if _abandoned(folder)] if place.is_dir() else []
    for folder in abandoned:
        remove_tree(folder)
    return len(abandoned)


def remove_tree(folder: Path) -> None:
    """Remove `folder` as far as it can be; rights that a process took away from its own folders are given back."""

    def again(function: Callable[[str], object], path: str, _error: object) -> None:
        with contextlib.suppress(OSError):
            Path(path).parent.chmod(PRIVATE_FOLDER)
            if not Path(path).is_symlink() and Path(path).is_dir():
                Path(path).chmod(PRIVATE_FOLDER)
                shutil.rmtree(path, ignore_errors=True)
            else:
                function(path)

    shutil.rmtree(folder, onerror=again)


def _abandoned(folder: Path) -> bool:
    try:
        descriptor = os.open(folder / OWNER_FILE, os.O_RDWR | os.O_NOFOLLOW)
    except FileNotFoundError:
        # Just being made, or left in that instant: only the latter is old.
        with contextlib.suppress(OSError):
            return folder.is_dir() and time.time() - folder.stat().st_mtime > JUST_MADE_S
        return False
    except OSError:
        return False
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        return False
    else:
        return True
    finally:
        os.close(descriptor)
