"""Start of a compose service: the orchestrator becomes the owner of results/, and its cells another user.

A container starts as root, and what root writes into a mounted folder is root's on the host too. Which user the host
wants is seen from who owns results/. Cells are started as nobody, who can write to the cell's own folder and not to
results/; over that user the orchestrator keeps the rights to start processes, to end them, and to remove their files.
"""

from __future__ import annotations

import contextlib
import os
import sys
from pathlib import Path

RESULTS = Path("/stackbench/results")
PYTHON = "/opt/orchestrator/bin/python"
EVERYBODY = 0o1777
READABLE = 0o005
NOBODY = 65534
RIGHTS = "+setuid,+setgid,+kill,+dac_override"


def main() -> None:
    """Replace this process by `orchestrator`, with this process's arguments; it keeps process number and signals."""
    owner = RESULTS.stat()
    command = [PYTHON, "-m", "orchestrator", *sys.argv[1:]]
    if os.getuid() == 0:
        share(os.environ.get("STACKBENCH_LOCKS"))
        if owner.st_mode & READABLE != READABLE:
            print("results/ is closed to other users: cells see no references there; `chmod o+rx results`", flush=True)
        cells = NOBODY if owner.st_uid != NOBODY else NOBODY - 1
        leaves = (
            "--inh-caps=-all",
            "--ambient-caps=-all",
            "--pdeathsig=KILL",
        )  # a new user's death signal is forgotten
        os.environ["STACKBENCH_CELL_PREFIX"] = " ".join((*become(cells, cells), *leaves))
        command = [*become(owner.st_uid, owner.st_gid), f"--inh-caps={RIGHTS}", f"--ambient-caps={RIGHTS}", *command]
    os.execvp(command[0], command)  # noqa: S606  (a shell would be one more process)


def become(uid: int, gid: int) -> tuple[str, ...]:
    """Return the beginning of a command that is run as another user."""
    return "setpriv", f"--reuid={uid}", f"--regid={gid}", "--clear-groups"


def share(folder: str | None) -> None:
    """Let every user lock in the folder of locks: an engine that had to make it made it root's alone."""
    if folder is not None:
        # Somebody else's folder has its mode already.
        with contextlib.suppress(PermissionError):
            Path(folder).chmod(EVERYBODY)


if __name__ == "__main__":
    main()
