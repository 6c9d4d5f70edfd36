"""Locks of the kernel's on files: they go with the process, however it ends, and are in no copy of a folder."""

from __future__ import annotations

import contextlib
import fcntl
import os
import time
from pathlib import Path
from typing import NamedTuple

from orchestrator.base.text import Say

JUST_MADE_S = 60
_without: set[int] = set()
"""File systems that cannot lock, as far as it was said."""


class Lock(NamedTuple):
    """An open file, and whether it is locked: not every file system can."""

    descriptor: int
    holds: bool

    def release(self) -> None:
        """Give it back."""
        os.close(self.descriptor)


def try_lock(path: Path, say: Say | None, *, mode: int = 0o600, remedy: str = "") -> Lock | None:
    """Lock the file, made where there is none; None where another process has it. OSError where it cannot be opened.

    Where the file system has no locks, `say` (if any) gets a line with the `remedy`, once; what was to be kept from
    happening twice at once is up to people.
    """
    descriptor = _open(path, mode)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:  # nothing else says that another process has it
        os.close(descriptor)
        return None
    except OSError as error:
        if say is not None and (place := os.fstat(descriptor).st_dev) not in _without:
            _without.add(place)
            reason = (error.strerror or "unknown").lower()
            say(f"{path.parent}: files cannot be locked here ({reason}), so nothing keeps two runs apart; {remedy}")
        return Lock(descriptor, holds=False)
    return Lock(descriptor, holds=True)


def abandoned(folder: Path, name: str) -> bool:
    """Whether the process is dead that made `folder` and holds the lock on the file `name` in it as long as it lives.

    A lock, unlike a process number, means the same in every namespace.
    """
    with contextlib.suppress(OSError):
        if not (folder / name).exists():
            # Just being made, or left in that instant: only the latter is old.
            return folder.is_dir() and time.time() - folder.stat().st_mtime > JUST_MADE_S
        lock = try_lock(folder / name, None)
        if lock is not None:
            lock.release()
            return lock.holds  # where there are no locks, it may be a living one's
    return False


def _open(path: Path, mode: int) -> int:
    # For writing: NFS locks no other. Not made where it is there: in a folder of everybody's, the kernel may refuse
    # to make what another user made.
    flags = os.O_RDWR | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
    with contextlib.suppress(FileNotFoundError):
        return os.open(path, flags)
    descriptor = os.open(path, flags | os.O_CREAT, mode)
    with contextlib.suppress(PermissionError):
        os.fchmod(descriptor, mode)
    return descriptor
