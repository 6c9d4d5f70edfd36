"""What a run has already, and on which GPUs that was run: records, results, the GPUs' own references."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from itertools import count

from orchestrator.base.text import counted
from orchestrator.plan.cell import Cell, Plan
from orchestrator.plan.choice import RunOptions
from orchestrator.records.record import Record
from orchestrator.records.references import References
from orchestrator.records.store import Run, finished_keys
from orchestrator.runner.order import Turn, replaced
from orchestrator.runner.progress import Progress
from orchestrator.runner.schedule import OF_THE_GPU, GroupKey, comparable

Turns = Mapping[int, Turn]
"""Each cell's first turn, by the `id` of the cell."""

NOT_HERE, OTHERS = "a GPU that is not here now, or not this run's", "other GPUs than the one that goes on with it"


class Before:
    """A run's records when it is taken up, by workers with these GPUs; `turns` are those of each worker."""

    def __init__(
        self, run: Run, plan: Plan, uuids: Sequence[str | None], turns: Sequence[Turns], progress: Progress
    ) -> None:
        """Read the records; those that the rounds to come replace are removed, what cannot be read is said."""
        self._run, self._plan, self._turns, self._say = run, plan, turns, progress.say
        self._kinds = list({id(kind): kind for kind in turns}.values())
        self._uuids, self._rows = uuids, comparable(plan)
        self._groups = {
            turns[id(cell)].cell_id: key for key, cells in self._rows.items() for cell in cells for turns in self._kinds
        }
        self.records = self._read()
        self.done = finished_keys(self.records)
        self.ordinals = self._ordinals()
        """Which round each worker's own ceilings and references have."""
        self._known: dict[int, References] = {}

    @property
    def homes(self) -> dict[GroupKey, int]:
        """The workers whose GPUs have results of groups; of several that with most of them."""
        places = [(uuid, -number) for number, uuid in enumerate(self._uuids) if uuid is not None]
        most = {
            key: max(((count[uuid], place) for uuid, place in places), default=(0, 0))
            for key, count in self._ran_on().items()
        }
        return {key: -place for key, (results, place) in most.items() if results}

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

    def forget_strays(self, options: RunOptions) -> None:
        """Remove the records of groups to be gone on with that ran elsewhere than on the GPU where they go on.

        A group that no GPU of this run has begun begins again. A run on one GPU keeps all that there is: it may have
        been taken to another machine to be gone on with, and its rows say where their rounds ran.
        """
        if options.spread or options.rerun:
            return
        homes = self.homes
        going = {key for key in self._ran_on() if not self._complete(key)}
        strays = defaultdict[str, list[Record]](list)
        for record in self.records:
            key, gpu = self._groups.get(record.cell_id), _gpu(record)
            if key in going and (key not in homes or gpu not in (None, self._uuids[homes[key]])):
                strays[OTHERS if key in homes else NOT_HERE].append(record)
        if not options.several:
            away = [record for gone in strays.values() for record in gone]
            if away:
                self._say(f"{self._rounds(away)} ran on another GPU: they are kept, and the rows say so")
            return
        for where, gone in strays.items():
            for record in gone:
                self._run.forget(record)
            self._say(
                f"{self._rounds(gone)} ran on {where}: they are run again, as compared cells stay on one GPU "
                "(--spread gives that up)"
            )
        forgotten = {id(record) for gone in strays.values() for record in gone}
        self.records = [record for record in self.records if id(record) not in forgotten]
        self.done = finished_keys(self.records)

    def _rounds(self, records: Sequence[Record]) -> str:
        workloads = {self._groups[record.cell_id] for record in records}
        return f"{counted(len(records), 'round')} of {counted(len(workloads), 'workload')}"

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
            gpu: record.round
            for record in self.records
            if record.role in OF_THE_GPU and (gpu := _gpu(record)) is not None
        }
        taken = set(known.values())
        free = (number for number in count() if number not in taken)
        return [known[uuid] if uuid in known else next(free) for uuid in self._uuids]

    def _ran_on(self) -> dict[GroupKey, Counter[str]]:
        """Return how many results of each group are of which GPU, by its UUID."""
        found = defaultdict[GroupKey, Counter[str]](Counter)
        for record in self.records:
            gpu = _gpu(record)
            if record.cell_id in self._groups and (record.cell_id, record.round) in self.done and gpu is not None:
                found[self._groups[record.cell_id]][gpu] += 1
        return found

    def _complete(self, key: GroupKey) -> bool:
        rounds = [(cell, number) for cell in self._rows[key] for number in range(cell.rounds)]
        return all(self.is_done(-1, cell, number) for cell, number in rounds)


def _gpu(record: Record) -> str | None:
    return None if record.provenance is None else record.provenance.gpu
