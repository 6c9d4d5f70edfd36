"""What a run keeps of its records: one reduction that each is added to once, and the tables that are made of it."""

from __future__ import annotations

import math
import time
from collections import Counter
from collections.abc import Iterable
from contextlib import AbstractContextManager

from orchestrator.analysis.published import read_published
from orchestrator.analysis.reduce import Reduction
from orchestrator.analysis.reduced_run import Report, report_of
from orchestrator.base.errors import EXIT_BAD_ROWS, EXIT_NOTHING_MEASURED, EXIT_OK, UsageError
from orchestrator.base.text import Say
from orchestrator.records.record import BAD, COMPUTED, Record, Status, is_row
from orchestrator.records.store import Run
from orchestrator.report.tables import write_tables

EVERY_S = 30.0
"""Tables are written at most this often while rounds are run: writing them takes longer with every round."""


class Outcomes(AbstractContextManager["Outcomes"]):
    """How the rounds of a run came out so far; leaving the context writes the tables. Nothing is read from the run."""

    def __init__(self, run: Run, records: Iterable[Record] = ()) -> None:
        self.exhausted: list[Record] = []
        """Those that ran out of memory: larger shapes need not be tried."""
        self.incorrect: list[Record] = []
        """Rows' and probes': their cells need no more rounds, for what is wrong shows no speed."""
        self._run, self._reduction, self._published = run, Reduction(), read_published()
        self._statuses: dict[tuple[str, int], tuple[Status, bool]] = {}
        """Of each round its status, and whether it is one of a row."""
        self._written, self._said = -math.inf, ""
        for record in records:
            self.add(record)

    def add(self, record: Record) -> None:
        """Take in a round's record, in the place of an earlier one."""
        self._reduction.forget(record.cell_id, record.round)
        self._reduction.add(record)
        self._statuses[record.cell_id, record.round] = record.status, is_row(record)
        key = (record.cell_id, record.round)
        for status, kept in (("out_of_memory", self.exhausted), ("incorrect", self.incorrect)):
            kept[:] = [one for one in kept if (one.cell_id, one.round) != key]
            if record.status == status:
                kept.append(record)

    def forget_failures(self) -> None:
        """Let nothing that earlier rounds came to keep one from being run: all are run again."""
        self.exhausted.clear()
        self.incorrect.clear()

    def __exit__(self, *_: object) -> None:
        if not self._run.finished:  # else it was closed with its tables
            self.write_tables(now=True)

    def status(self, cell_id: str, number: int) -> Status:
        """Return how a round came out."""
        return self._statuses[cell_id, number][0]

    @property
    def counts(self) -> Counter[Status]:
        """How many rounds came out how."""
        return Counter(status for status, _ in self._statuses.values())

    @property
    def exit_code(self) -> int:
        """0 where all is well, 1 where a round is bad, 3 where nothing at all was measured."""
        rows = [status for status, row in self._statuses.values() if row] or list(self.counts)
        if not any(status in COMPUTED for status in rows):
            return EXIT_NOTHING_MEASURED
        return EXIT_BAD_ROWS if any(status in BAD for status in self.counts) else EXIT_OK

    def write_tables(self, *, now: bool = False) -> None:
        """Write the run's tables, unless that was done a moment ago; `now`: in any case."""
        if now or time.monotonic() - self._written >= EVERY_S:
            try:
                write_tables(self._run.folder, self.report())
                self._said = ""
            finally:  # a full disk is not tried more often
                self._written = time.monotonic()

    def update_tables(self, say: Say) -> None:
        """Write them so; `say` gets why they cannot be, once: they are made of the records, which are safe."""
        try:
            self.write_tables()
        except UsageError as error:
            line = f"the tables could not be brought up to date: {error}"
            if line != self._said:
                say(line)
            self._said = line

    def report(self) -> Report:
        """Return what the tables say."""
        return report_of(self._run.header, self._reduction, self._published)
