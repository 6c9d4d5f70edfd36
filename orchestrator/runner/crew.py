"""Many rounds at once: a thread for each worker runs round after round, as the schedule hands them out."""

from __future__ import annotations

import contextlib
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from orchestrator.analysis.reduce import Reduction
from orchestrator.analysis.reduced_run import Report, report_of
from orchestrator.base import interrupt
from orchestrator.base.errors import InfrastructureError
from orchestrator.base.text import counted
from orchestrator.launchers import Job, Launcher, Prepared
from orchestrator.launchers.worker import Supervise, Worker
from orchestrator.measure.supervise import blank_record
from orchestrator.measure.watch import Event
from orchestrator.records.record import Record, Refusal
from orchestrator.runner.one_round import Session, run_round
from orchestrator.runner.order import USED_UP, Agenda, Turn, nth
from orchestrator.runner.outcomes import EVERY_S, Outcomes
from orchestrator.runner.progress import Progress
from orchestrator.runner.schedule import Piece, Schedule
from orchestrator.runner.side_by_side import Trials

TICK_S = 0.2
"""How often the main thread looks at signals, and whether tables are due."""
TICK_EACH_S, LONGEST_TICK_S = 0.00125, 1.0
"""Of many cells each is looked at less often, so that looking takes no more than some percent of a CPU; bench waits for
an answer five times the longest."""
HANDS = 16
"""So many rounds are prepared or stored at once, the others wait for their turn."""
SWITCH_EACH_S = 0.000025
"""Threads that wait for the interpreter ask for it every 5 ms. Where 800 cells begin at once, asking took more time
than all else: of many workers each asks less often."""
_saying = threading.Lock()
TABLES_SHARE = 20
"""Tables are not written again before so many times as long has passed as writing them took."""


class SharedOutcomes(Outcomes):
    """Outcomes that several threads add to, and one writes tables of, without keeping the others waiting for them."""

    def __init__(self, *arguments: Any) -> None:
        self._lock, self._took = threading.RLock(), 0.0
        super().__init__(*arguments)

    def add(self, record: Record) -> None:
        """Take in a round's record, in the place of an earlier one."""
        with self._lock:
            super().add(record)

    @property
    def counts(self) -> Any:
        """How many rounds came out how."""
        with self._lock:
            return super().counts

    def write_tables(self, *, now: bool = False) -> None:
        """Write the run's tables, unless that was done not long ago; `now`: in any case."""
        began = time.monotonic()
        if now or began - self._written >= max(EVERY_S, TABLES_SHARE * self._took):
            try:
                super().write_tables(now=True)
            finally:
                self._took = time.monotonic() - began

    def report(self) -> Report:
        """Return what the tables say, of what was there when it was asked."""
        seen = Reduction()
        with self._lock:
            seen.take_over(self._reduction)
        return report_of(self._run.header, seen, self._published)


def from_afar(worker: Worker) -> Supervise | None:
    """Return what runs a worker's rounds where they are supervised on its host: what keeps it from that is a record."""
    if worker.supervise is None:
        return None
    supervise = worker.supervise

    def run(launcher: Launcher, prepared: Prepared, job: Job, on_event: Callable[..., None], /) -> Record:
        def tell(phase: str, index: int | None = None, of: int | None = None) -> None:
            on_event(Event(phase, index, of))

        try:
            with job.away():
                record = supervise(launcher, prepared, job, tell)
        except InfrastructureError as error:
            return blank_record(job, Refusal("infrastructure", error.what))
        if record.provenance is None or job.worker is None:
            return record
        own = record.provenance.model_copy(update={"worker": {**(record.provenance.worker or {}), **job.worker}})
        return record.model_copy(update={"provenance": own})

    return run


class WorkerProgress(Progress):
    """What one worker's rounds show: a line at their start and at their end, with its name."""

    def __init__(self, shared: Progress, name: str) -> None:
        super().__init__(out=shared.out)
        self._shared, self._name = shared, name

    def say(self, line: str) -> None:
        """Show one line that stays, whole."""
        with _saying:
            self._shared.say(line)

    def begin(self, title: str, number: int, of: int, left_s: float) -> None:
        """Say that a round starts here; `left_s` is how long the whole run is expected to take."""
        super().begin(f"{title} on {self._name}", number, of, left_s)

    def event(self, event: Event) -> None:
        """Show nothing: phases of many cells at once are noise."""


@dataclass(frozen=True)
class Member:
    """A worker with what its rounds need."""

    worker: Worker
    session: Session
    turns: Mapping[int, Turn]
    """Each cell's first turn, by the `id` of the cell: its cell_id depends on the worker's GPU and environment."""


class Crew:
    """The workers' threads, and what they share. `run` returns when no round is left that may be started."""

    def __init__(self, members: Sequence[Member], schedule: Schedule | Trials, agenda: Agenda) -> None:
        self._members, self._schedule, self._agenda = members, schedule, agenda
        self._lock, self._hands = threading.Lock(), threading.Semaphore(HANDS)
        self._nudges = [threading.Event() for _ in members]
        self._running = 0
        self._resting = set[int]()
        """Workers for whom there is nothing to run since the last round ended that could have changed it."""
        self._errors: list[BaseException] = []
        self._live = len(members)
        self._ended = threading.Event()
        self._used_up = self.over = ""
        """Why no further round was started, in words; empty where none is left."""
        self.lost: list[str] = []
        """The workers that ended before the others, and why."""

    def run(self, every_tick: Callable[[], None] = lambda: None) -> None:
        """Run rounds until none is left, or there is no time; a signal (Interrupted) or an error ends all of them."""
        threads = [
            threading.Thread(target=self._work, args=(number,), name=member.worker.name, daemon=True)
            for number, member in enumerate(self._members)
        ]
        interval = sys.getswitchinterval()
        sys.setswitchinterval(max(interval, SWITCH_EACH_S * len(threads)))
        for thread in threads:
            thread.start()
        try:
            while not self._ended.wait(TICK_S):
                if interrupt.pending:
                    self._wake_all()
                every_tick()
        except BaseException:
            interrupt.stop()
            raise
        finally:
            self._wake_all()
            for thread in threads:
                thread.join()
            sys.setswitchinterval(interval)
        self.over = self.over or self._used_up
        if self._errors:
            interrupt.cleared()
        interrupt.check()
        if self._errors:
            raise self._errors[0]

    @property
    def state(self) -> str:
        """How many rounds run now, and how many are left, in words."""
        with self._lock:
            running, left = self._running, self._schedule.waiting
        return f"{counted(running, 'round')} running, {left} to come"

    @property
    def left_s(self) -> float:
        """How long everything that was not started yet will take, at best, on the workers that are left."""
        return self._schedule.left_s / max(len(self._members) - len(self.lost), 1)

    def _work(self, number: int) -> None:
        """Run this worker's rounds, one after the other."""
        session = replace(self._members[number].session, away=self._away)
        try:
            while (turn := self._next(number)) is not None:
                with self._hands:
                    record = run_round(session, turn)
                self._done(number, turn, record)
        except interrupt.Interrupted:
            pass  # the main thread says so
        except BaseException as error:  # noqa: BLE001  (raised by the main thread, once every cell has ended)
            self._errors.append(error)
            interrupt.stop()
        finally:
            with self._lock:
                self._live -= 1
                last = self._live == 0
            if last:
                self._ended.set()

    @contextlib.contextmanager
    def _away(self) -> Iterator[None]:
        """Let another round be worked on while one's process runs."""
        self._hands.release()
        try:
            yield
        finally:
            self._hands.acquire()

    def _next(self, number: int) -> Turn | None:
        """Return the worker's next round, waiting for it where something else has to end first; None: there is none."""
        member, nudge = self._members[number], self._nudges[number]
        while not interrupt.pending:
            with self._lock:
                nudge.clear()
                piece = "over" if self.over else self._schedule.take(number)
                if isinstance(piece, Piece):
                    turn = nth(member.turns[id(piece.cell)], piece.round)
                    why = self._agenda.over(turn)
                    if not why:
                        self._running += 1
                        self._resting.discard(number)
                        of = self._schedule.taken + self._schedule.waiting
                        member.session.progress.begin(turn.title, self._schedule.taken, of, self.left_s)
                        return turn
                    self._schedule.ended(number)
                    if why == USED_UP:  # what first rounds need comes behind other rows' further rounds
                        self._used_up = why
                        continue
                    self.over = why
                self._resting.add(number)
                if len(self._resting) == len(self._members):
                    self._wake_all()  # nobody runs anything that another could wait for
                    return None
            nudge.wait()
        return None

    def _done(self, number: int, turn: Turn, record: Record) -> None:
        """Take in how a round came out; whoever waited for its end looks again."""
        member, why = self._members[number], None
        if record.status == "infrastructure":
            why = member.worker.alive()
        with self._lock:
            self._agenda.done(turn, record)
            self._schedule.ended(number)
            self._running -= 1
            behind = self._schedule.lose(number) if why else 0
            again = range(len(self._members)) if why else self._schedule.neighbours(number)
            self._resting.difference_update(again)
            left_s = self.left_s
        member.session.progress.end(record, left_s)
        if why:
            kept = f"; {counted(behind, 'round')} that it had begun with stay for another run" if behind else ""
            self.lost.append(f"{member.worker.name} runs nothing more: {why}{kept}")
            member.session.progress.say(self.lost[-1])
        for other in again:
            self._nudges[other].set()

    def _wake_all(self) -> None:
        for nudge in self._nudges:
            nudge.set()


def sessions(base: Session, workers: Sequence[Worker]) -> list[Session]:
    """Return a session for each worker: what is shared, with a launcher, a GPU and lines of its own."""
    on_host = {worker.host: sum(other.host == worker.host for other in workers) for worker in workers}
    made = []
    for worker in workers:
        facts = {**worker.facts, **({"gpus": str(on_host[worker.host])} if on_host[worker.host] > 1 else {})}
        run = from_afar(worker)
        session = replace(
            base,
            gpu=worker.gpu,
            launcher=worker.launcher,
            progress=WorkerProgress(base.progress, worker.name),
            peers=len(getattr(worker.launcher, "peers", ())),
            tick_s=min(LONGEST_TICK_S, max(base.tick_s, TICK_EACH_S * len(workers))),
            worker=facts,
        )
        made.append(session if run is None else replace(session, supervise=run))
    return made
