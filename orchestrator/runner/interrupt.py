"""Ctrl-C once stops cleanly, twice at once; a stop by the system (SIGTERM, SIGHUP) counts as Ctrl-C."""

from __future__ import annotations

import contextlib
import os
import signal
import threading
from collections.abc import Iterator
from types import FrameType

SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
EXIT_BASE = 128


class Interrupted(KeyboardInterrupt):
    """The first signal. `exit_code` is what a shell expects: 130 for Ctrl-C."""

    def __init__(self, number: int) -> None:
        super().__init__()
        self.exit_code = EXIT_BASE + number


@contextlib.contextmanager
def interruptible() -> Iterator[None]:
    """Raise `Interrupted` at the first signal, once; end the process at the second, cleaning nothing up."""
    if threading.current_thread() is not threading.main_thread():
        yield  # only the main thread gets signals
        return
    seen: list[int] = []

    def take(number: int, _frame: FrameType | None) -> None:
        seen.append(number)
        if len(seen) > 1:
            os._exit(EXIT_BASE + number)
        raise Interrupted(number)

    before = {number: signal.signal(number, take) for number in SIGNALS}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
