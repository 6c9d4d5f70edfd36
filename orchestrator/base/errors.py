"""Errors a person can act on: what is wrong, where, and what to do about it."""

from __future__ import annotations

import errno
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

EXIT_OK = 0
EXIT_BAD_ROWS = 1
EXIT_INCONCLUSIVE = 2
EXIT_NOTHING_MEASURED = 3
EXIT_WRONG_USAGE = 4

REMEDIES = {
    errno.ENOENT: "check the path",
    errno.EACCES: "check who may read and write there",
    errno.EPERM: "check who may read and write there",
    errno.EROFS: "name a folder that can be written to",
    errno.ENOSPC: "make room or name another folder",
    errno.EDQUOT: "make room or name another folder",
    errno.ENOTDIR: "name a folder, not a file",
    errno.EISDIR: "name a file, not a folder",
    errno.EEXIST: "name a folder, not a file",
    errno.ELOOP: "links are not followed here: copy the file itself there",
    errno.ENAMETOOLONG: "use a shorter path",
}


class StackbenchError(Exception):
    """One clear line for the user. `exit_code` is the command's (design: closed list)."""

    exit_code = EXIT_WRONG_USAGE

    def __init__(self, what: str, *, where: str = "", remedy: str = "") -> None:
        self.what, self.where, self.remedy = what, where, remedy
        line = f"{where}: {what}" if where else what
        super().__init__(f"{line}; {remedy}" if remedy else line)


class UsageError(StackbenchError):
    """Wrong option, bad file, folder that cannot be used: exit 4."""


class InfrastructureError(StackbenchError):
    """The engine, the disk or the node failed; nothing is said about the stack."""

    exit_code = EXIT_BAD_ROWS


# What the operating system refuses.


def os_error(error: OSError, where: Path | str) -> UsageError:
    """Return the line for a failed call of the operating system."""
    what = (error.strerror or str(error)).lower()
    remedy = REMEDIES.get(error.errno or 0, "check the path and the disk")
    return UsageError(what, where=str(where), remedy=remedy)


def disk_full(error: BaseException) -> bool:
    """Whether the error, or what it was raised from, is that of a disk, or a quota, without room."""
    cause = error if isinstance(error, OSError) else error.__cause__
    return isinstance(cause, OSError) and cause.errno in (errno.ENOSPC, errno.EDQUOT)


@contextmanager
def os_errors(where: Path | str) -> Iterator[None]:
    """Turn what fails inside, calls of the operating system alone, into a UsageError about `where`."""
    try:
        yield
    except OSError as error:
        raise os_error(error, where) from error
    except ValueError as error:  # a zero byte in the name
        raise UsageError(str(error), where=repr(str(where)), remedy="check the path") from error
