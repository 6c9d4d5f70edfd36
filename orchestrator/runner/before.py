"""What a run on many GPUs has already, and where that was run: records, results, the GPUs' own references."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import count

from orchestrator.base.text import counted
from orchestrator.launchers.worker import Worker
from orchestrator.plan.cell import Cell, Plan
from orchestrator.records.record import Record
from orchestrator.records.references import References
from orchestrator.records.store import Run, finished_keys
from orchestrator.runner.order import Turn, replaced
from orchestrator.runner.progress import Progress
from orchestrator.runner.schedule import OF_THE_GPU, GroupKey, comparable

Turns = Mapping[int, Turn]
"""Each cell's first turn, by the `id` of the cell."""


class Before:
    """A run's records when it is taken up, by the workers that there are now; `turns` are those of each worker."""

    def __init__(
        self, run: Run, plan: Plan, workers: Sequence[Worker], turns: Sequence[Turns], progress: Progress
    ) -> None:
        """Read the records; those that the rounds to come replace are removed, what cannot be read is said."""
        self._run, self._plan, self._turns, self._say = run, plan, turns, progress.say
        self._kinds = list({id(kind): kind for kind in turns}.values())
        self._uuids = [worker.uuid for worker in workers]
        self._rows = comparable(plan)
        self.records = self._read()
        self.done = finished_keys(self.records)
        self.ordinals = self._ordinals()
        """Which round each worker's own ceilings and references have."""
        self._known: dict[int, References] = {}

    @property
    def homes(self) -> dict[GroupKey, int]:
        """The workers whose GPUs have results of groups."""
        numbers = {uuid: number for number, uuid in enumerate(self._uuids) if uuid is not None}
        return {key: numbers[uuid] for key, uuid in self._ran_on().items() if uuid in numbers}

    def references(self, number: int) -> References:
        """Return the references that were made on a worker's own GPU."""
        if number not in self._known:
            ordinal = self.ordinals[number]
            own = [record for record in self.records if record.round == ordinal]
            self._known[number] = References.of_run(self._run.folder, own, ordinal)
        return self._known[number]

    def is_done(self, number: int, cell: Cell, place: int) -> bool:
        """Whether a round has a result: of a row on any kind of worker, of a reference with its files of this GPU."""
        if cell.role not in OF_THE_GPU:
            return any((turns[id(cell)].cell_id, place) in self.done for turns in self._kinds)
        if (self._turns[number][id(cell)].cell_id, place) not in self.done:
            return False
        known = self.references(number).known
        return all(subject.workload_id in known for subject in cell.workload.subjects or ())

    def forget_homeless(self) -> None:
        """Remove the records of groups that were begun on a GPU which is not here now: these begin again."""
        homes = self.homes
        away = [key for key in self._ran_on() if key not in homes and not self._complete(key)]
        ids = {turns[id(cell)].cell_id for key in away for cell in self._rows[key] for turns in self._kinds}
        gone = [record for record in self.records if record.cell_id in ids]
        if not gone:
            return
        for record in gone:
            self._run.forget(record)
        self.records = [record for record in self.records if record.cell_id not in ids]
        self.done = finished_keys(self.records)
        self._say(
            f"{counted(len(gone), 'round')} of {counted(len(away), 'workload')} ran on a GPU that is not here now: "
            "they are run again, as compared cells stay on one GPU (--spread gives that up)"
        )

    def _read(self) -> list[Record]:
        current = {turn.cell_id for turns in self._kinds for turn in turns.values()}
        found, unreadable = list[Record](), list[str]()
        for record in self._run.records(unreadable):
            if replaced(record, current):
                self._run.forget(record)
            else:
                found.append(record)
        for line in unreadable:
            self._say(f"{line}: it counts as missing")
        return found

    def _ordinals(self) -> list[int]:
        """Return for each worker the round that its GPU's ceilings and references have had so far, else a new one."""
        known = {
            record.provenance.gpu: record.round
            for record in self.records
            if record.role in OF_THE_GPU and record.provenance is not None and record.provenance.gpu is not None
        }
        taken = set(known.values())
        free = (number for number in count() if number not in taken)
        return [known[uuid] if uuid in known else next(free) for uuid in self._uuids]

    def _ran_on(self) -> dict[GroupKey, str]:
        """Return the UUID of the GPU that has results of each group."""
        groups = {
            turns[id(cell)].cell_id: key for key, cells in self._rows.items() for cell in cells for turns in self._kinds
        }
        return {
            groups[record.cell_id]: record.provenance.gpu
            for record in self.records
            if record.cell_id in groups
            and (record.cell_id, record.round) in self.done
            and record.provenance is not None
            and record.provenance.gpu is not None
        }

    def _complete(self, key: GroupKey) -> bool:
        rounds = [(cell, number) for cell in self._rows[key] for number in range(cell.rounds)]
        return all(self.is_done(-1, cell, number) for cell, number in rounds)
