"""What cells at once on several GPUs of a host do to each other: each is run alone and beside the others, in turn.

The finding stands in the run's folder, and `run-all` goes by it: what was found to differ runs alone on its host, what
was found to be the same runs beside others. "The same" is the one rule by which rows are compared: the interval of the
difference lies within 1 %.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Literal, NamedTuple

from pydantic import ValidationError

from orchestrator.analysis.protocol import steady
from orchestrator.analysis.statistics import FEWEST_ROUNDS, Verdict, verdict
from orchestrator.base.errors import EXIT_BAD_ROWS, EXIT_INCONCLUSIVE, EXIT_NOTHING_MEASURED, EXIT_OK, UsageError
from orchestrator.base.files import Frozen, read_bytes, write_text
from orchestrator.base.grouping import grouped
from orchestrator.base.text import aligned, counted, gpu_in_short, shortened, show
from orchestrator.plan.cell import Cell, Plan
from orchestrator.plan.choice import RunOptions, choose
from orchestrator.records.record import BAD, Record, Status
from orchestrator.records.runs import readable
from orchestrator.records.store import Run
from orchestrator.report.remarks import more_rounds
from orchestrator.runner.estimate import Key
from orchestrator.runner.order import first_turns
from orchestrator.runner.schedule import OF_THE_GPU, Answer, Piece

FILE = "side-by-side.json"
FEWEST_GPUS = 2
RUNS_LOOKED_AT = 50
FAILING: tuple[Status, ...] = (*BAD, "out_of_memory")
"""With one of these a trial did not go well: running out of memory may be what cells at once do to each other."""


class Found(Frozen):
    """One cell on one GPU: its rounds beside others against those alone."""

    title: str
    key: tuple[str, str, str]
    """workload_id, method, device"""
    gpu: str | None
    verdict: Verdict


class Finding(Frozen):
    """What `side-by-side` found; `gpus` is how many ran cells at once."""

    schema_version: Literal[1] = 1
    gpus: int
    found: tuple[Found, ...]


class Rounds(NamedTuple):
    """The rounds of one cell on one GPU, in their order."""

    title: str
    key: Key
    gpu: str | None
    records: tuple[Record, ...]

    @property
    def without_result(self) -> Mapping[Status, tuple[Record, ...]]:
        """Those that did not come out, by status."""
        return grouped((record.status, record) for record in self.records if record.status != "ok")


class Trials:
    """A schedule in steps, each of which begins when all of the one before have ended: alone, beside, beside, alone.

    Round 2 G p + g is the one alone of pair p on worker g of G, and round G further that beside the others.
    """

    def __init__(
        self,
        plan: Plan,
        workers: int,
        pairs: int,
        seconds: Callable[[Cell], float],
        pace: Callable[[Cell], float] = lambda _cell: 1.0,
    ) -> None:
        """`seconds` is what a round is expected to take, `pace` how many times as long it takes, as is seen by now."""
        self._steps: list[dict[int, Piece]] = []
        self.taken = self.left_behind = self._place = self._running = 0
        self._workers = range(workers)
        for cell in plan.cells:
            if cell.role in OF_THE_GPU:
                self._steps.append({number: Piece(cell, number, alone=False) for number in self._workers})
            elif cell.role == "probe":
                self._steps.append({0: Piece(cell, 0, alone=False)})
        rows = [cell for cell in plan.cells if cell.role == "row"]
        self._steps += [step for pair in range(pairs) for cell in rows for step in self._pair(cell, pair)]
        self.waiting = sum(map(len, self._steps))
        self._cells = [next(iter(step.values())).cell for step in self._steps]
        self._take_s = lambda cell: seconds(cell) * pace(cell)

    @property
    def left_s(self) -> float:
        """What the steps that are not over are expected to take, times the workers: some of them wait meanwhile."""
        left = sum(map(self._take_s, self._cells[self._place :])) if self.waiting or self._running else 0.0
        return len(self._workers) * left

    def _pair(self, cell: Cell, pair: int) -> list[dict[int, Piece]]:
        count = len(self._workers)
        first = 2 * count * pair
        alone = [{number: Piece(cell, first + number, alone=True)} for number in self._workers]
        beside = {number: Piece(cell, first + count + number, alone=False) for number in self._workers}
        return [beside, *alone[::-1]] if pair % 2 else [*alone, beside]

    def take(self, number: int) -> Answer:
        """Return what worker `number` runs next."""
        while self._place < len(self._steps):
            step = self._steps[self._place]
            if number in step:
                self._running, self.taken, self.waiting = self._running + 1, self.taken + 1, self.waiting - 1
                return step.pop(number)
            if step or self._running:
                return "wait"
            self._place += 1
        return "over"

    def ended(self, _number: int) -> None:
        """Take in that what a worker ran has ended."""
        self._running -= 1

    def lose(self, _number: int) -> int:
        """Take in that a worker runs nothing more: without it there is nothing to compare."""
        self.left_behind, self.waiting = self.left_behind + self.waiting, 0
        self._steps.clear()
        return self.left_behind

    def neighbours(self, _number: int) -> Sequence[int]:
        """Return the workers for whom something may be there to run when one has ended: all."""
        return self._workers


def side_by_side(options: RunOptions) -> int:
    """Run every cell alone and beside others on the GPUs that `--gpus` names; print and keep what was found.

    `options.rounds` is how many rounds each cell has alone, and beside. Exit code: 0 all the same, 1 a cell differs
    or failed, 2 something is inconclusive, 3 nothing was measured.
    """
    from orchestrator.base import interrupt
    from orchestrator.report.tables.terminal import REASON_LENGTH
    from orchestrator.runner.many import steps
    from orchestrator.runner.progress import make_progress
    from orchestrator.runner.run_all import how_to_go_on

    if options.gpus is None:
        raise UsageError("no GPUs are named", where="side-by-side", remedy="name two or more with --gpus, or say all")
    made = list[Run]()
    try:
        with interrupt.interruptible(), make_progress() as progress:
            steps(options, choose, made, progress, pairs=options.rounds or FEWEST_ROUNDS)
    except interrupt.Interrupted as stop:
        show(how_to_go_on(made[0] if made else None, options))
        return stop.exit_code
    rounds = rounds_in(made[0])
    finding = found_in(rounds, made[0].header.at_once or 1)
    write_text(made[0].folder / FILE, finding.model_dump_json(indent=1) + "\n")
    lines = [("cell", "GPU", "beside others, against alone")]
    for one in finding.found:
        hint = f": {more_rounds(one.verdict)}" if one.verdict.outcome == "inconclusive" else ""
        lines.append((one.title, gpu_in_short(one.gpu), one.verdict.in_words + hint))
    for cell in rounds:
        for status, records in cell.without_result.items():
            why = shortened(records[0].reason or "it does not say why", REASON_LENGTH)
            lines.append((cell.title, gpu_in_short(cell.gpu), f"{counted(len(records), 'round')} {status}: {why}"))
    for line in aligned(lines):
        show(line)
    outcomes = {one.verdict.outcome for one in finding.found}
    if not outcomes:
        return EXIT_NOTHING_MEASURED
    if outcomes & {"faster", "slower"} or any(not cell.without_result.keys().isdisjoint(FAILING) for cell in rounds):
        return EXIT_BAD_ROWS
    return EXIT_INCONCLUSIVE if "inconclusive" in outcomes else EXIT_OK


def rounds_in(run: Run) -> list[Rounds]:
    """Return the rounds of the trial's rows by cell and GPU: which worker ran a round follows from its number."""
    count = run.header.at_once or 1
    turns = [turn for turn in first_turns(run.plan, lambda _cell: "").values() if turn.cell.role == "row"]
    titles = {(turn.workload_id, turn.cell.method, turn.cell.stack): turn.title for turn in turns}
    rows = sorted((record for record in run.records([]) if record.role == "row"), key=lambda record: record.round)
    found = []
    for records in grouped(((record.cell_id, record.round % count), record) for record in rows).values():
        some = records[0]
        title = titles[some.workload_id, some.method, some.stack]
        gpu = next((record.provenance.gpu for record in records if record.provenance), None)
        found.append(Rounds(title, (some.workload_id, some.method, some.device), gpu, records))
    return sorted(found, key=lambda one: (one.title, one.key, one.gpu or ""))


def found_in(rounds: Sequence[Rounds], count: int) -> Finding:
    """Return what the rounds on `count` GPUs say of each cell on each GPU."""
    found = []
    for one in rounds:
        if ok := [record for record in one.records if record.status == "ok"]:
            alone, beside = ([record for record in ok if record.round // count % 2 == half] for half in (0, 1))
            compared = verdict(_seconds(beside), _seconds(alone))
            found.append(Found(title=one.title, key=one.key, gpu=one.gpu, verdict=compared))
    return Finding(gpus=count, found=tuple(found))


def _seconds(records: Sequence[Record]) -> list[float]:
    figures = [steady(record).seconds for record in records]
    return [seconds for seconds in figures if seconds]


def findings(results: Path) -> Mapping[Key, bool]:
    """Return by workload, method and device whether cells at once were found to differ, by the newest run that says.

    What was imported is of another host.
    """
    found: dict[Key, bool] = {}
    for _, run in zip(range(RUNS_LOOKED_AT), readable(results, lambda _line: None), strict=False):
        if run.imported:
            continue
        with contextlib.suppress(UsageError, ValidationError):
            finding = Finding.model_validate_json(read_bytes(run.folder / FILE, follow_links=False))
            here: dict[Key, bool] = {}
            for one in finding.found:
                if one.verdict.outcome != "inconclusive":
                    here[one.key] = here.get(one.key, False) or one.verdict.outcome != "same"
            found = {**here, **found}
    return found
