"""Processes that this one starts for its cell, and that must not outlive it: nobody else would end them."""

from __future__ import annotations

import ctypes
import os
import signal
import subprocess
from collections.abc import Mapping, Sequence

PR_SET_PDEATHSIG = 1


def start(command: Sequence[str], environment: Mapping[str, str]) -> subprocess.Popen[bytes]:
    """Start `command`, to be killed by the kernel when this process ends, also where that is killed itself.

    To be called from the main thread: the kernel goes by the end of the thread that started it.
    """
    # Loaded here, in the parent: between fork and exec there must be no import.
    libc, parent = ctypes.CDLL(None), os.getpid()

    def end_with_us() -> None:
        libc.prctl(PR_SET_PDEATHSIG, int(signal.SIGKILL), 0, 0, 0)
        if os.getppid() != parent:  # it has ended before the kernel was asked
            os._exit(1)

    return subprocess.Popen(command, env=environment, preexec_fn=end_with_us)  # noqa: S603, PLW1509  (this program)
