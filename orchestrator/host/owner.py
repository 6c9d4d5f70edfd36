"""Who started a container or a process: enough to know, later and elsewhere, whether that process still lives."""

from __future__ import annotations

import ctypes
import os
import signal
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from pathlib import Path

PROC = Path("/proc")
LABEL = "stackbench.owner"
"""Of every container of ours: whose it is."""
PR_SET_PDEATHSIG = 1
START_FIELD = 19
"""Field 22 of /proc/PID/stat is the start in clock ticks; counted here after the command's closing bracket."""


@dataclass(frozen=True)
class Owner:
    """One certain process: its number alone may belong to another by now; its start and the boot identify it."""

    pid: int
    start_ticks: int
    boot: str
    """Boot id and, after a dot, the process namespace: numbers mean nothing outside their namespace."""

    def __str__(self) -> str:
        return f"{self.pid}:{self.start_ticks}:{self.boot}"

    @classmethod
    def parse(cls, text: str) -> Owner | None:
        """Return the owner written as `pid:ticks:boot`, or None where the text is not one."""
        pid, _, rest = text.partition(":")
        ticks, _, boot = rest.partition(":")
        if not (pid.isdigit() and ticks.isdigit() and boot):
            return None
        return cls(int(pid), int(ticks), boot)

    def dead(self) -> bool | None:
        """Whether that process has ended; None where this cannot be known here (another process namespace)."""
        here = boot()
        if self.boot.partition(".")[0] != here.partition(".")[0]:
            return True
        if self.boot != here:
            return None
        return start_ticks(self.pid) != self.start_ticks


@cache
def boot() -> str:
    """Return this kernel's boot id and this process namespace's number, joined by a dot."""
    try:
        identity = (PROC / "sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
        namespace = (PROC / "self/ns/pid").stat().st_ino
    except OSError:
        return "unknown.0"
    return f"{identity}.{namespace}"


def start_ticks(pid: int) -> int | None:
    """Return when process `pid` started, in clock ticks since boot; None where there is none, or only a zombie."""
    try:
        fields = (PROC / str(pid) / "stat").read_text(encoding="ascii", errors="replace").rpartition(")")[2].split()
    except OSError:
        return None
    return None if fields[0] in "ZX" else int(fields[START_FIELD])


def myself() -> Owner:
    """Return this process as an owner."""
    pid = os.getpid()
    return Owner(pid, start_ticks(pid) or 0, boot())


@cache
def signature() -> str:
    """Return this process as text: whatever it starts carries that in a label or a variable."""
    return str(myself())


def ending_with_us() -> Callable[[], None]:
    """Return what a child of ours calls so that the kernel kills it when the thread that started it ends.

    Without it, who is killed outright leaves its children behind.
    """
    # Loaded here, in the parent: between fork and exec there must be no import and no allocation to wait for.
    libc, parent = ctypes.CDLL(None, use_errno=False), os.getpid()

    def ask() -> None:
        libc.prctl(PR_SET_PDEATHSIG, int(signal.SIGKILL), 0, 0, 0)
        if os.getppid() != parent:
            os._exit(1)

    return ask
