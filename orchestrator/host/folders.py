"""Folders that a cell's process writes to: what is in them is counted while it runs, and removed afterwards.

A process may nest folders deeper than a path can be, and take away its own rights to them.
"""

from __future__ import annotations

import contextlib
import os
import secrets
import stat
import tempfile
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, NamedTuple

from orchestrator.base.text import size_in_words
from orchestrator.host.owner import PROC

PRIVATE_FOLDER = 0o700
BLOCK_BYTES = 512
"""The unit of `st_blocks`, whatever the disk's own blocks are."""
RESERVE_BYTES = 500_000_000
"""No cell takes a disk's last space: records are to be written after it. Of a small disk it is a tenth."""
FULL_DISK_BYTES = 16_000_000
"""With less than this free a disk counts as full."""
LONG_PATH = 700
"""Characters, of up to 4 bytes each; of 4,096 bytes the kernel takes no path."""
OUTPUT_KEPT_BYTES = 4_000_000
REST, LONGEST_REST_S = 50, 10.0
"""A count is followed by this many times its own duration of rest."""
TRIES = 3
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
        try:
            folder = Path(tempfile.mkdtemp(prefix=f"{stem[:80]}-", dir=self.folder))
            (folder / "work").mkdir(mode=PRIVATE_FOLDER)
        except OSError as error:
            from orchestrator.base.files import os_error  # The keeper on another host has no pydantic.

            raise os_error(error, self.folder) from error
        try:
            yield folder
        finally:
            remove_tree(folder)


class Trouble(NamedTuple):
    """Why a process must not go on, and whose doing it is: its own (`crashed`), or the disk's."""

    status: Literal["crashed", "infrastructure"]
    reason: str


@dataclass
class Written:
    """What a cell's process has written to its places, and what it may: looked at at each tick, in microseconds.

    It is counted as often as that takes little of the host's time, and at once where the disk has lost as much space as
    the cell may still take.
    """

    places: Sequence[Path]
    """Folders and files; the first is on the disk whose free space is watched."""
    most_bytes: int
    most_files: int
    rest_s: float = 0.0
    """It is not counted again before."""
    _bytes: int = 0
    _files: int = 0
    _free: int = -1
    """On the disk, when it was last counted."""
    _reserve: int = 0
    _due: float = 0.0

    def trouble(self, *, last: bool = False) -> Trouble | None:
        """Return what is too much; None where all is well. `last`: count in any case."""
        began, free = time.monotonic(), free_bytes(self.places[0])
        first = self._free < 0
        if first or last or began >= self._due or self._free - free >= self.most_bytes - self._bytes:
            uncountable = self._count()
            if first:
                # What was free before it wrote anything: a fast one may have filled the disk by now.
                before = free + self._bytes
                self._reserve = min(RESERVE_BYTES, before // 10)
                if before >= FULL_DISK_BYTES:
                    self.most_bytes = min(self.most_bytes, before - self._reserve)
            self._free, found = free, uncountable or self._beyond()
            if found:
                return Trouble("crashed", found)
            took = time.monotonic() - began
            self._due = began + took + min(LONGEST_REST_S, max(self.rest_s, REST * took))
        if free < self._reserve and not last:
            text = f"the disk is nearly full ({size_in_words(free)} left)"
            # Whose doing it is says what most of it went to: of the last bytes some may not be counted yet.
            mine = 2 * self._bytes > self.most_bytes
            why = f"{text}, of which the cell has taken {size_in_words(self._bytes)}"
            return Trouble("crashed" if mine else "infrastructure", why)
        return None

    def discard(self) -> None:
        """Remove it all; of output that is very long the beginning stays."""
        for place in self.places:
            if place.is_dir():
                remove_tree(place)
            else:
                with contextlib.suppress(OSError):
                    os.truncate(place, min(place.stat().st_size, OUTPUT_KEPT_BYTES))

    def _count(self) -> str:
        """Count what is there, as far as it may be; return why that cannot be done, empty where it can."""
        written, files, links = 0, 0, set[int]()
        waiting: list[tuple[_Folder | None, str]] = [(None, str(place)) for place in self.places]
        while waiting and files <= self.most_files:
            inside, place = waiting.pop()
            try:
                found = os.stat(place, dir_fd=inside.number if inside else None, follow_symlinks=False)
                if stat.S_ISDIR(found.st_mode):
                    folder = _Folder(place, inside)
                    names = os.listdir(folder.number)  # noqa: PTH208  (it has no path)
                    # A path may be so long and no longer; folders may be nested as deep as one likes.
                    deep = len(place) > LONG_PATH
                    waiting += [(folder, name) if deep else (inside, f"{place}/{name}") for name in names]
            except (FileNotFoundError, NotADirectoryError):
                continue  # removed in this moment
            except OSError as error:
                return f"what it has written cannot be counted ({(error.strerror or str(error)).lower()})"
            files += 1
            if found.st_nlink == 1 or found.st_ino not in links:
                written += found.st_blocks * BLOCK_BYTES
                links.add(found.st_ino)
        self._bytes, self._files = written, files
        return ""

    def _beyond(self) -> str:
        """Return what is too much; empty where nothing is."""
        if self._files > self.most_files:
            return f"it has made more than {self.most_files} files"
        if self._bytes > self.most_bytes:
            return f"it has written {size_in_words(self._bytes)}, and may write {size_in_words(self.most_bytes)}"
        return ""


class _Folder:
    """An open folder, closed with the last that refers to it. A link in its place is an OSError."""

    def __init__(self, path: str, inside: _Folder | None) -> None:
        flags = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
        self.number: int = os.open(path, flags, dir_fd=inside.number if inside else None)

    def __del__(self) -> None:
        if hasattr(self, "number"):
            os.close(self.number)


def free_bytes(place: Path) -> int:
    """Return what an ordinary user may still write on the disk of `place`; 0 where that is not known."""
    with contextlib.suppress(OSError):
        found = os.statvfs(place)
        return found.f_bavail * found.f_frsize
    return 0


def remove_tree(folder: Path) -> bool:
    """Remove `folder` as far as that is possible; return whether it is gone. No link is followed, nothing is raised.

    A cell's process may have nested folders deeper than a path or a stack of calls can be, and taken away its own
    rights to them: what lies in a folder is moved up before the folder is removed, and the rights are given back.
    """
    for _ in range(TRIES):
        empty_tree(folder)
        with contextlib.suppress(OSError):
            folder.rmdir()
        if not os.path.lexists(folder):
            return True
    return False


def empty_tree(folder: Path) -> None:
    """Remove all that lies in `folder`, as `remove_tree` does."""
    with contextlib.suppress(OSError):
        top = _folder_in(folder)
        try:
            _empty(top)
        finally:
            os.close(top)


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
        for entry in os.listdir(inner):  # noqa: PTH208  (there is no path)
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


def give_away(folder: Path, user: str) -> None:
    """Make the container's user the owner of `folder` and what is in it, if permitted; no link in it is followed."""
    if os.getuid() != 0 or user.startswith("0:"):
        return
    uid, gid = (int(part) for part in user.split(":"))
    os.chown(folder, uid, gid, follow_symlinks=False)
    for place, folders, files in os.walk(folder):
        for name in (*folders, *files):
            os.chown(os.path.join(place, name), uid, gid, follow_symlinks=False)  # noqa: PTH118  (a hot loop)
