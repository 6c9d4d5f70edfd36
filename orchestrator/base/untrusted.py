"""Folders that a cell's process may write to: what is taken from there, and what is put there.

Taken over are only plain files of a sane size.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import secrets
import stat
from pathlib import Path
from typing import BinaryIO

from orchestrator.base.errors import UsageError

SIDE_FILE_LIMIT_BYTES = 2_000_000
READ_ONLY, READABLE = 0o444, 0o644
PIECE_BYTES = 2**22


def take_over(source: Path, target: Path, *, limit: int = SIDE_FILE_LIMIT_BYTES, lasting: bool = True) -> str:
    """Copy `source`, which a container wrote, to `target`, whole or not at all; return its SHA-256.

    No link is followed and nothing but a plain file of at most `limit` bytes is taken; else a UsageError. `lasting`: a
    power cut must not take it; where it may, nothing waits for the disk.
    """
    # Only here: the keeper on another host has no pydantic.
    from orchestrator.base.files import beside, make_folder, os_errors, to_disk

    make_folder(target.parent)
    found, copied = hashlib.sha256(), 0
    with os_errors(source.name), beside(target) as place, open_plain(source) as file, place.open("wb") as out:
        while piece := file.read(PIECE_BYTES):
            copied += len(piece)
            if copied > limit:
                raise UsageError(f"more than {limit} bytes", where=source.name)
            found.update(piece)
            out.write(piece)
        out.flush()
        if lasting:
            to_disk(place)
        place.chmod(READ_ONLY)
        place.replace(target)
    return found.hexdigest()


def sha256_of(path: Path) -> str | None:
    """Return the SHA-256 of a plain file, or None where there is none."""
    try:
        with open_plain(path) as file:
            found = hashlib.sha256()
            while piece := file.read(PIECE_BYTES):
                found.update(piece)
            return found.hexdigest()
    except (OSError, UsageError, ValueError):  # of a name with a zero byte, which a record may bring
        return None


def open_plain(path: Path) -> BinaryIO:
    """Open a file for reading, through no link; UsageError where it is not a plain one, OSError where there is none."""
    # Not blocking: a named pipe in its place must not hang the run.
    descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise UsageError("not a plain file", where=path.name)
    return os.fdopen(descriptor, "rb")


def place_file(folder: Path, name: str, content: str) -> None:
    """Put a file into a folder that somebody else may write to: written beside it, then renamed, through no link.

    Where it cannot be done there is none, and bench goes on without.
    """
    fresh = f".{name}.{secrets.token_hex(8)}"
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
    with contextlib.suppress(OSError):
        place = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
        try:
            with os.fdopen(os.open(fresh, flags, READABLE, dir_fd=place), "w", encoding="ascii") as file:
                os.fchmod(file.fileno(), READABLE)
                file.write(content)
            # What stands in its place, a link too, is replaced and not written to.
            os.rename(fresh, name, src_dir_fd=place, dst_dir_fd=place)
        finally:
            with contextlib.suppress(OSError):
                os.unlink(fresh, dir_fd=place)
            os.close(place)
