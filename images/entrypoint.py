"""Start of a compose service: become the owner of results/, then become the orchestrator.

A container starts as root, and what root writes into a mounted folder is root's on the host too. Which user the host
wants is seen from who owns results/. Where that is root (or an engine without root privileges, which shows its user as
root), nothing is changed.
"""

from __future__ import annotations

import contextlib
import os
import sys
from pathlib import Path

RESULTS = Path("/stackbench/results")
PYTHON = "/opt/orchestrator/bin/python"
EVERYBODY = 0o1777


def main() -> None:
    """Replace this process by `orchestrator`, with this process's arguments; it keeps process number and signals."""
    owner = RESULTS.stat()
    if os.getuid() == 0:
        share(os.environ.get("STACKBENCH_LOCKS"))
        if owner.st_uid != 0:
            os.setgroups([])
            os.setgid(owner.st_gid)
            os.setuid(owner.st_uid)
    os.execv(PYTHON, [PYTHON, "-m", "orchestrator", *sys.argv[1:]])  # noqa: S606  (a shell would be one more process)


def share(folder: str | None) -> None:
    """Let every user lock in the folder of locks: an engine that had to make it made it root's alone."""
    if folder is not None:
        # Somebody else's folder has its mode already.
        with contextlib.suppress(PermissionError):
            Path(folder).chmod(EVERYBODY)


if __name__ == "__main__":
    main()
