"""Files beside the record that a cell's process wrote: taken over only where they are plain files of a sane size."""

from __future__ import annotations

import contextlib
import hashlib
import os
import stat
from typing import TYPE_CHECKING, BinaryIO

from orchestrator.base.errors import UsageError
from orchestrator.base.files import os_error
from orchestrator.base.writing import make_folder

if TYPE_CHECKING:
    from pathlib import Path

SIDE_FILE_LIMIT_BYTES = 2_000_000
READ_ONLY = 0o444
PIECE_BYTES = 2**22


def take_over(source: Path, target: Path, *, limit: int = SIDE_FILE_LIMIT_BYTES) -> str:
    """Copy `source`, which a container wrote, to `target`, whole or not at all; return its SHA-256.

    No link is followed and nothing but a plain file of at most `limit` bytes is taken; else a UsageError.
    """
    make_folder(target.parent)
    beside = target.with_name(f".{target.name}.{os.getpid()}.tmp")
    try:
        with _open_plain(source) as file:
            found, copied = hashlib.sha256(), 0
            with beside.open("wb") as out:
                while piece := file.read(PIECE_BYTES):
                    copied += len(piece)
                    if copied > limit:
                        raise UsageError(f"more than {limit} bytes", where=source.name)
                    found.update(piece)
                    out.write(piece)
            beside.chmod(READ_ONLY)
            beside.replace(target)
    except OSError as error:
        raise os_error(error, source.name) from error
    finally:
        with contextlib.suppress(OSError):
            beside.unlink(missing_ok=True)
    return found.hexdigest()


def sha256_of(path: Path) -> str | None:
    """Return the SHA-256 of a plain file, or None where there is none."""
    try:
        with _open_plain(path) as file:
            found = hashlib.sha256()
            while piece := file.read(PIECE_BYTES):
                found.update(piece)
            return found.hexdigest()
    except (OSError, UsageError):
        return None


def _open_plain(path: Path) -> BinaryIO:
    # Not blocking: a named pipe in its place must not hang the run.
    descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise UsageError("not a plain file", where=path.name)
    return os.fdopen(descriptor, "rb")
