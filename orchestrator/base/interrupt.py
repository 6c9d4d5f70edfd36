"""Signals: Ctrl-C and a stop by the system (SIGTERM, SIGHUP) set a flag; who loops or waits looks at it.

Nothing is raised where a signal happens to come: inside a library's import or lock it would be lost, or be a traceback.
"""

from __future__ import annotations

import contextlib
import math
import os
import signal
import subprocess
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from types import FrameType
from typing import Any, TypeVar

T = TypeVar("T")
SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
EXIT_BASE = 128
TICK_S = 0.1
ONE_STOP_S = 0.5
"""Signals so close are one stop: a closed terminal and `timeout` send theirs twice. A later one ends at once."""
pending: list[int] = []
"""The signal that nobody has acted on yet. Empty: go on; else call `check`."""
_came: list[tuple[int, float]] = []
_raised_in: set[int] = set()
"""Threads beside the main one that have raised for it: once each, and the main thread last, which has it cleared."""


class Interrupted(KeyboardInterrupt):
    """A signal ends this command. `exit_code` is what a shell expects: 130 for Ctrl-C."""

    def __init__(self, number: int) -> None:
        super().__init__()
        self.exit_code = EXIT_BASE + number


@contextlib.contextmanager
def interruptible(*, patient: bool = False) -> Iterator[None]:
    """Note the first signal, for `check` to raise once; end the process at a second, cleaning nothing up.

    Inside another one it does nothing. `patient`: later signals change nothing, where they are no person's.
    """
    before = heed()
    for number in before if patient else ():
        signal.signal(number, _note)
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def heed() -> dict[int, Any]:
    """Note signals from here on; return the handlers that were there. What `nohup` says is kept to."""
    if threading.current_thread() is not threading.main_thread() or signal.getsignal(signal.SIGTERM) is _take:
        return {}  # only the main thread gets signals
    pending.clear()
    _came.clear()
    _raised_in.clear()
    heeded = [number for number in SIGNALS if number != signal.SIGHUP or signal.getsignal(number) != signal.SIG_IGN]
    return {number: signal.signal(number, _take) for number in heeded}


def check() -> None:
    """Raise Interrupted where a signal has come and this thread has not raised it: its cleaning up is left in peace.

    The main thread clears it, so it looks last where other threads run cells.
    """
    if pending:
        number, thread = pending[0], threading.get_ident()
        if threading.current_thread() is threading.main_thread():
            pending.clear()
        elif thread in _raised_in:
            return
        else:
            _raised_in.add(thread)
        raise Interrupted(number)


def stop() -> None:
    """Have every thread that runs a cell raise Interrupted, as at SIGTERM, for what this process itself has met."""
    pending.append(signal.SIGTERM)


def cleared() -> None:
    """Take back what `stop` has asked for, once every thread has acted on it."""
    if not _came:
        pending.clear()
    _raised_in.clear()


def exit_code() -> int | None:
    """Return the exit code of a command that a signal has come to, whether it was looked at or not; else None."""
    return EXIT_BASE + _came[0][0] if _came else None


def patiently(call: Callable[[], T]) -> T:
    """Return what `call` returns. A signal ends the wait for it (Interrupted), and the call with the process."""
    done, returned, raised = threading.Event(), list[T](), list[BaseException]()

    def run() -> None:
        try:
            returned.append(call())
        except BaseException as error:  # noqa: BLE001  (raised again where it is waited for)
            raised.append(error)
        done.set()

    threading.Thread(target=run, daemon=True).start()
    while not done.wait(TICK_S):
        check()
    check()
    if raised:
        raise raised[0]
    return returned[0]


def run_process(
    command: Sequence[str], *, env: Mapping[str, str], cwd: str | None = None, timeout_s: float = math.inf
) -> subprocess.CompletedProcess[str]:
    """Run a command and return its output, as `subprocess.run` does; at a signal it is killed (Interrupted)."""
    ends = time.monotonic() + timeout_s
    with subprocess.Popen(  # noqa: S603  (the caller's business)
        command,
        env=env,
        cwd=cwd,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        encoding="utf-8",
        errors="replace",
    ) as process:
        try:
            while True:
                try:
                    out, error = process.communicate(timeout=TICK_S)
                    break
                except subprocess.TimeoutExpired:
                    check()
                    if time.monotonic() > ends:
                        raise
        except BaseException:
            process.kill()
            raise
    check()  # Ctrl-C goes to every process of a terminal: that one has not failed by itself
    return subprocess.CompletedProcess(command, process.returncode, out, error)


def _note(number: int, _frame: FrameType | None) -> None:
    if not _came:
        _came.append((number, time.monotonic()))
        pending.append(number)


def _take(number: int, frame: FrameType | None) -> None:
    if not _came:
        _note(number, frame)
    elif time.monotonic() - _came[0][1] > ONE_STOP_S:
        os._exit(EXIT_BASE + number)
