"""Errors a person can act on: what is wrong, where, and what to do about it."""

from __future__ import annotations

EXIT_OK = 0
EXIT_BAD_ROWS = 1
EXIT_INCONCLUSIVE = 2
EXIT_NOTHING_MEASURED = 3
EXIT_WRONG_USAGE = 4


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
