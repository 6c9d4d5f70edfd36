"""What a person sees during a run, on standard error: on a terminal a live line with the time left, else lines."""

from __future__ import annotations

import contextlib
import sys
import time
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from typing import TextIO

from orchestrator.analysis.evidence import check_counts
from orchestrator.analysis.reduce import Reduction
from orchestrator.base.text import in_words, printable, show, significant
from orchestrator.measure.watch import Event
from orchestrator.records.record import Record

REFRESH_PER_SECOND = 1
"""Seldom: drawing takes time from the host that is being measured."""
REASON_SHOWN = 160


@dataclass
class Progress(AbstractContextManager["Progress"]):
    """Plain lines: the start of a cell, its phases, its end with figure, elapsed and remaining time."""

    out: TextIO = field(default_factory=lambda: sys.stderr)
    title: str = ""
    number: int = 0
    of: int = 0
    left_s: float = 0.0
    began: float = 0.0
    phase: str = ""

    def say(self, line: str) -> None:
        """Show one line that stays."""
        with contextlib.suppress(OSError):  # a full disk below standard error ends no run
            show(line, self.out)

    def begin(self, title: str, number: int, of: int, left_s: float) -> None:
        """Say that round `number` of `of` starts; `left_s` is what it and all after it are expected to take."""
        self.title, self.number, self.of, self.left_s = title, number, of, left_s
        self.began, self.phase = time.monotonic(), ""
        self.started()

    def started(self) -> None:
        """Show the start of a cell."""
        self.say(f"[{self.number}/{self.of}] {self.title}: started, {in_words(self.left_s)} left in all")

    def event(self, event: Event) -> None:
        """Show a change of phase."""
        if event.phase != self.phase:
            self.phase = event.phase
            self.say(f"[{self.number}/{self.of}] {self.title}: {event.phase} ({self.elapsed():.1f} s)")

    def end(self, record: Record, left_s: float) -> None:
        """Show how the round came out."""
        rest = f"{in_words(left_s)} left" if self.number < self.of else "that was the last"
        took = f"took {self.elapsed():.1f} s, {rest}"
        self.say(f"[{self.number}/{self.of}] {self.title}: {outcome(record)}; {took}")

    def standing(self, what: str, number: int, of: int, left_s: float) -> None:
        """Show how a run on many GPUs stands, where a line can change in place: `number` rounds of `of` have ended."""

    def elapsed(self) -> float:
        """Return the seconds since the round started."""
        return time.monotonic() - self.began

    def __exit__(self, *_: object) -> None:
        """Leave nothing on the screen."""


class LiveProgress(Progress):
    """A terminal's: finished rounds stay as lines, the running one is a line that changes in place."""

    def __enter__(self) -> LiveProgress:  # noqa: PYI034  (Self is Python 3.11's)
        """Start the live line."""
        from rich.console import Console
        from rich.progress import BarColumn, MofNCompleteColumn, SpinnerColumn, TextColumn, TimeElapsedColumn
        from rich.progress import Progress as Bar

        # What a cell says of itself is in there: never markup.
        shown = TextColumn("{task.description}", markup=False)
        columns = (SpinnerColumn(), MofNCompleteColumn(), BarColumn(), shown, TimeElapsedColumn())
        console = Console(stderr=True)
        self._bar = Bar(*columns, console=console, refresh_per_second=REFRESH_PER_SECOND, transient=True, expand=False)
        self._task = self._bar.add_task("preparing", total=None)
        self._bar.start()
        return self

    def __exit__(self, *_: object) -> None:
        """Remove the live line."""
        self._bar.stop()

    def say(self, line: str) -> None:
        """Show one line above the live one."""
        from rich.text import Text

        self._bar.console.print(Text(printable(line)), soft_wrap=True)

    def started(self) -> None:
        """Show the start of a cell in the live line."""
        self._show("starting")

    def event(self, event: Event) -> None:
        """Show phase and sample in the live line."""
        sample = f" {event.index + 1}/{event.of}" if event.index is not None else ""
        self._show(f"{event.phase}{sample}")

    def standing(self, what: str, number: int, of: int, left_s: float) -> None:
        """Show it in the live line."""
        shown = f"{what}, {in_words(left_s)} left"
        self._bar.update(self._task, total=of, completed=number, description=printable(shown))

    def _show(self, what: str) -> None:
        shown = f"{self.title}: {what}, {in_words(max(self.left_s - self.elapsed(), 0))} left"
        self._bar.update(self._task, total=self.of, completed=self.number - 1, description=printable(shown))


def make_progress() -> Progress:
    """Return what suits standard error: live on a terminal, lines elsewhere."""
    return LiveProgress() if sys.stderr.isatty() else Progress()


def outcome(record: Record) -> str:
    """Return the round's figure as the tables would show it, or its status and why."""
    if record.status != "ok":
        reason = f" ({' '.join(record.reason.split())[:REASON_SHOWN]})" if record.reason else ""
        return f"{record.status}{reason}"
    reduction = Reduction()
    reduction.add(record)
    rows, counts = reduction.rows("steady"), check_counts(record)
    proved = f", {counts.passed} of {counts.total} checks passed" if counts else ""
    if not rows:
        return f"ok{proved}"
    figure, unit = rows[0].headline, rows[0].figure.unit
    shown = f"{significant(figure)} {unit}" if figure is not None else f"ok ({rows[0].figure.reason or 'no figure'})"
    return f"{shown}{proved}"
