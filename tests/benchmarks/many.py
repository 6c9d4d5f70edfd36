"""Many GPUs, simulated: 5,000 cells on 100 hosts of 8 GPUs, by the real planner, schedule, threads and store.

    python tests/benchmarks/many.py [--cells N] [--hosts N] [--gpus N] [--speed N]

Only the cells are not real: a stand-in for a launcher lets each take as long as a round of a committed record took,
over `--speed` (so at 10 the orchestrator has ten times the work it would have), and leaves that record under the
round's own name. What is supervised, judged, stored, reduced and written is what every run does. GPUs' drivers are not
asked, as those of other hosts are not.

Bars: the planner (schedule and forecast) takes less than 2 s of CPU time; the GPUs' time is used by 95 % until the
first of them finds nothing more to do; the orchestrator has at most 300 MB; nothing is noticed more than 1 s late,
neither by a thread that sleeps nor by those that wait for a cell. Exit code 1 where a bar is missed.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import random
import resource
import statistics
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

REPOSITORY = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(REPOSITORY), str(REPOSITORY / "tests" / "support")]

from arguments import positive  # noqa: E402 - found by the line above

from orchestrator.build.ready import Ready  # noqa: E402
from orchestrator.host.gpu import HostGpu  # noqa: E402
from orchestrator.launchers import Exit, Handle, Job, Places, Prepared  # noqa: E402
from orchestrator.launchers.work_area import WorkArea  # noqa: E402
from orchestrator.launchers.worker import Worker  # noqa: E402
from orchestrator.measure import supervise as measuring  # noqa: E402
from orchestrator.plan.cell import Cell, Plan  # noqa: E402
from orchestrator.plan.choice import Choice, RunOptions  # noqa: E402
from orchestrator.plan.planner import make_plan  # noqa: E402
from orchestrator.plan.stack import Gpu, ReadyImage, Stack  # noqa: E402
from orchestrator.plan.suite import load_suite  # noqa: E402
from orchestrator.plan.workload import digest  # noqa: E402
from orchestrator.records.record import Record  # noqa: E402
from orchestrator.records.references import References  # noqa: E402
from orchestrator.records.runs import readable  # noqa: E402
from orchestrator.records.stack_lock import StackLock  # noqa: E402
from orchestrator.records.store import Run, read_stored, record_files  # noqa: E402
from orchestrator.records.weights import WeightFolders  # noqa: E402
from orchestrator.runner import crew as crews  # noqa: E402
from orchestrator.runner.estimate import wall_seconds  # noqa: E402
from orchestrator.runner.one_round import Session  # noqa: E402
from orchestrator.runner.order import Agenda, first_turns  # noqa: E402
from orchestrator.runner.progress import Progress  # noqa: E402
from orchestrator.runner.schedule import Policy, Schedule, Seat, forecast  # noqa: E402

METHODS = ("eager", "inductor", "fused", "thunder")
BENCHMARKS = ("forward", "train_static")
STACK = "many"
MOST_PLANNER_S, LEAST_USED, MOST_BYTES, MOST_LAG_S = 2.0, 0.95, 300_000_000, 1.0
EVERY_S = 0.05
OWN = {
    *("cell_id", "round", "bench_source", "stack", "method", "device", "workload", "method_source", "kind"),
    *("workload_id", "detail"),
}
"""Keys of a record that the stand-in writes itself, before the rest of it, which is text already: a real cell's record
is made by another process and takes none of this one's time."""


class Taken(NamedTuple):
    """What a committed record says of anything but whose it is, as JSON, and how long its round took."""

    content: str
    seconds: float


@dataclass
class Seen:
    """What is measured while the simulation runs."""

    busy_s: float = 0.0
    noticed_s: list[float] = field(default_factory=list)
    """How late the end of each cell was noticed."""
    between_s: list[float] = field(default_factory=list)
    """From a cell's end to the start of its worker's next one."""
    late_s: float = 0.0
    """By how much a thread that sleeps 50 ms woke up too late at most."""
    most_running: int = 0
    first_idle: float | None = None
    handles: set[SimulatedHandle] = field(default_factory=set)
    """Those that run now."""

    def running(self) -> list[float]:
        """Return when each cell began that runs now."""
        return [handle.began for handle in tuple(self.handles)]


class SimulatedHandle(Handle):
    """A cell that takes its time and then leaves the record that it was given."""

    def __init__(self, launcher: SimulatedLauncher, job: Job, taken: Taken) -> None:
        self._launcher, self._job, self._taken = launcher, job, taken
        self._cancelled = threading.Event()
        self.began, self.ended_at = time.monotonic(), 0.0
        super().__init__("simulated cell")

    def _wait_for_end(self) -> Exit:
        seconds = self._taken.seconds / self._launcher.speed
        self._cancelled.wait(max(0.0, self.began + seconds - time.monotonic()))
        cell, detail = self._job.cell, {}
        for subject in cell.workload.subjects or ():
            name = f"reference-{subject.workload_id}.safetensors"
            (self._job.work / name).write_bytes(subject.workload_id.encode())
            detail[subject.workload_id] = {"seconds": 1.0}
        same = measuring.identity(self._job)
        own = json.dumps({key: same[key] for key in same if key != "workload"})
        more = json.dumps({"references": detail} if detail else {})
        workload = self._launcher.workload(cell)
        (self._job.work / "record.json").write_text(
            f'{{{own[1:-1]}, "workload": {workload}, "detail": {more}, {self._taken.content[1:]}'
        )
        self.ended_at = time.monotonic()
        self._launcher.ended(self)
        return Exit(0)

    def wait(self, timeout_s: float) -> Exit | None:
        """Wait as a real one does, and note how late its end is noticed."""
        found = super().wait(timeout_s)
        if found is not None:
            self._launcher.seen.noticed_s.append(time.monotonic() - self.ended_at)
        return found

    def pids(self) -> frozenset[int] | None:
        return None

    def cancel(self) -> None:
        self._cancelled.set()
        self.wait(5.0)

    def __exit__(self, *_: object) -> None:
        self._cancelled.set()


class SimulatedLauncher:
    """Of one worker."""

    name = "simulated"

    def __init__(
        self, seen: Seen, draws: dict[str, list[Taken]], seed: int, speed: float, known: dict[int, str]
    ) -> None:
        self.seen, self.speed, self._draws, self._known = seen, speed, draws, known
        self._random = random.Random(seed)  # noqa: S311 - durations
        self._last_end: float | None = None

    def prepare(self, stack: Stack) -> Prepared:
        return Prepared(stack, "python3", "0" * 16)

    def facts(self, _prepared: Prepared) -> str:
        return ""

    def places(self, _job: Job) -> Places:
        return Places()

    def workload(self, cell: Cell) -> str:
        key = id(cell.workload)
        if key not in self._known:
            self._known[key] = cell.workload.model_dump_json()
        return self._known[key]

    def start(self, _prepared: Prepared, job: Job) -> SimulatedHandle:
        if self._last_end is not None:
            self.seen.between_s.append(time.monotonic() - self._last_end)
        handle = SimulatedHandle(self, job, self._random.choice(self._draws[kind_of(job.cell)]))
        self.seen.handles.add(handle)
        return handle

    def ended(self, handle: SimulatedHandle) -> None:
        self._last_end = handle.ended_at
        self.seen.busy_s += handle.ended_at - handle.began
        self.seen.handles.discard(handle)


def kind_of(cell: Cell) -> str:
    """Return which committed records a cell's durations are drawn from."""
    return cell.role if cell.role in ("ceilings", "reference", "probe") else f"{cell.benchmark} {cell.method}"


def committed() -> dict[str, list[Taken]]:
    """Return the committed records by kind of cell."""
    found: dict[str, list[Taken]] = {}
    for run in readable(REPOSITORY / "results", lambda _line: None, bundled=True):
        for path in record_files(run.folder):
            record: Record = read_stored(path)
            seconds = wall_seconds(record)
            if record.status != "ok" or seconds is None:
                continue
            role = "ceilings" if record.workload.benchmark == "ceilings" else record.role
            kind = role if role != "row" else f"{record.workload.benchmark} {record.method}"
            plain = record.model_copy(
                update={"provenance": None, "log_sha256": None, "telemetry": None, "host_load": None}
            )
            plain = plain.model_copy(update={"dispatch": None, "compiles": None})
            content = plain.model_dump(mode="json", exclude=OWN)
            for sample in content["samples"]:
                sample.update(taint=None, energy_joules=None)
            for rate in content["rates"]:
                rate.update(energy_joules=None)
            found.setdefault(kind, []).append(Taken(json.dumps(content), seconds))
    return found


def suite(folder: Path, cells: int) -> Path:
    """Write a suite of so many cells: workloads that differ by their seed, each by four methods."""
    seeds = ", ".join(map(str, range(cells // (len(METHODS) * len(BENCHMARKS)))))
    entry = 'model = "open_llama_7b"\nbatch = 1\nsequence = 2048\niterations = 10\nwarmup = 2\n'
    path = folder / "many.toml"
    path.write_text(
        'schema_version = 1\nname = "many"\ndescription = "simulated"\nprobes = false\n[defaults]\ntimeout_s = 3600.0\n'
        + "".join(f'[[cells]]\nbenchmark = "{name}"\nseed = [{seeds}]\n{entry}' for name in BENCHMARKS)
    )
    return path


def main() -> int:
    """Run the simulation, print the figures; return 1 where a bar is missed."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--cells", type=positive, default=5000)
    parser.add_argument("--hosts", type=positive, default=100)
    parser.add_argument("--gpus", type=positive, default=8)
    parser.add_argument("--speed", type=float, default=1.0)
    given = parser.parse_args()
    draws, seen = committed(), Seen()
    with tempfile.TemporaryDirectory(prefix="stackbench-many-") as name:
        bars = simulated(Path(name), given, draws, seen)
    missed = [bar for bar, kept in bars.items() if not kept]
    for bar in missed:
        print(f"many: bar missed: {bar}", file=sys.stderr)
    return 1 if missed else 0


def simulated(folder: Path, given: argparse.Namespace, draws: dict[str, list[Taken]], seen: Seen) -> dict[str, bool]:
    """Plan, run and print; return the bars and whether each is kept."""
    stack = Stack(
        schema_version=1, name=STACK, description="simulated", methods=METHODS,
        ready=ReadyImage(name="none"), gpu=Gpu(required=True),
    )  # fmt: skip
    chosen_suite = load_suite(str(suite(folder, given.cells)))
    began = time.process_time()
    plan = make_plan(chosen_suite, {STACK: stack}, device="cuda")
    listed_s = time.process_time() - began
    workers, known = [], dict[int, str]()
    for number in range(given.hosts * given.gpus):
        launcher = SimulatedLauncher(seen, draws, number, given.speed, known)
        host, index = divmod(number, given.gpus)
        gpu = HostGpu(f"GPU-{number:08x}", index, "Simulated GPU", "1", 2**37)
        workers.append(Worker(f"h{host}:{index}", f"h{host}", gpu, launcher))
    expected = {kind: statistics.mean(taken.seconds for taken in found) for kind, found in draws.items()}
    policy = Policy(lambda cell: expected[kind_of(cell)])
    seats = [Seat(worker.host, worker.uuid, number) for number, worker in enumerate(workers)]
    began = time.process_time()
    looked = forecast(plan, seats, policy)
    planner_s = time.process_time() - began
    print(f"plan: {len(plan.cells)} cells for {len(seats)} GPUs of {given.hosts} hosts")
    print(f"listing the cells {listed_s:.2f} s, schedule and forecast {planner_s:.2f} s (CPU)")
    print(f"forecast: {looked.makespan_s:.0f} s, {looked.busy_s / 3600:.1f} GPU-hours")
    with watched(seen) as most_bytes:
        used, took, rounds = run(folder, plan, workers, seats, policy, stack=stack, seen=seen)
        memory = most_bytes()
    noticed, between = max(seen.noticed_s), seen.between_s
    ordered = sorted(between)
    print(f"{rounds} rounds in {took:.1f} s at {given.speed:g} times the speed, {seen.most_running} at once at most")
    print(f"GPU time used until the first GPU had nothing more to do: {used:.2%}")
    print(f"from a cell's end to the next one's start: median {statistics.median(between):.3f} s, "
          f"99 % within {ordered[int(0.99 * len(ordered))]:.3f} s, at most {ordered[-1]:.3f} s")  # fmt: skip
    print(f"latest notice of a cell's end {noticed:.3f} s, latest wake-up of a sleeping thread {seen.late_s:.3f} s")
    print(f"memory: {memory / 1e6:.0f} MB at most")
    return {
        f"the planner takes less than {MOST_PLANNER_S:g} s": planner_s < MOST_PLANNER_S,
        f"at least {LEAST_USED:.0%} of GPU time used": used >= LEAST_USED,
        f"at most {MOST_BYTES / 1e6:.0f} MB": memory <= MOST_BYTES,
        f"no lag over {MOST_LAG_S:g} s": max(noticed, seen.late_s) <= MOST_LAG_S,
        "every round has its record": rounds >= len(plan.cells),
    }


def run(
    folder: Path, plan: Plan, workers: list[Worker], seats: list[Seat], policy: Policy, *, stack: Stack, seen: Seen
) -> tuple[float, float, int]:
    """Run the whole plan; return the share of GPU time used until the first idle GPU, seconds, and rounds."""
    made = Run.create(folder / "results", plan, "b" * 16)
    choice = Choice("simulated", plan, None, {STACK: stack}, "docker", {})  # type: ignore[arg-type]
    unknown = dict.fromkeys(("image", "image_id", "image_digest", "requirements", "python", "torch"))
    lock = StackLock(
        schema_version=1, stack=STACK, written_utc="2026-01-01", fingerprint="0" * 16, packages={}, **unknown
    )
    ready = Ready({STACK: Prepared(stack, "python3", "0" * 16)}, {}, {STACK: lock})
    (folder / "work").mkdir()
    outcomes = crews.SharedOutcomes(made)
    lines = (folder / "lines.txt").open("w", encoding="utf-8")
    base = Session(
        choice, WorkArea(folder / "work", folder), None, None, workers[0].launcher, ready, Progress(out=lines),
        state=folder, source="b" * 16, orchestrator="c" * 16, run=made, references=References(folder),
        weights=WeightFolders(folder / "weights"), outcomes=outcomes, todo=(),
    )  # fmt: skip
    turns = first_turns(plan, lambda cell: digest([cell.key, "simulated"]))
    members = [
        crews.Member(
            worker, crews.replace(session, references=References(made.folder / "references" / str(number))), turns
        )
        for number, (worker, session) in enumerate(zip(workers, crews.sessions(base, workers), strict=True))
    ]
    schedule = Schedule(plan, seats, policy)
    take = schedule.take

    def taking(number: int) -> Any:
        piece = take(number)
        if piece == "over" and seen.first_idle is None:
            seen.first_idle = time.monotonic()
            idle.append(seen.busy_s + sum(time.monotonic() - began for began in seen.running()))
        return piece

    idle: list[float] = []
    schedule.take = taking  # type: ignore[method-assign]

    measuring.watch_host = contextlib.nullcontext  # type: ignore[assignment,attr-defined] - this host says nothing of them
    crew = crews.Crew(members, schedule, Agenda((), RunOptions(), {}, time.monotonic()))
    began = time.monotonic()

    def tick() -> None:
        outcomes.write_tables()
        seen.most_running = max(seen.most_running, len(seen.running()))

    with outcomes:
        crew.run(tick)
        took = time.monotonic() - began
    lines.close()
    until = (seen.first_idle or time.monotonic()) - began
    used = (idle[0] if idle else seen.busy_s) / (until * len(workers))
    return used, took, sum(outcomes.counts.values())


@contextlib.contextmanager
def watched(seen: Seen) -> Iterator[Any]:
    """Note how late a sleeping thread wakes; give what tells the most memory that the process had."""
    over = threading.Event()

    def look() -> None:
        while True:
            before = time.monotonic()
            if over.wait(EVERY_S):
                return
            seen.late_s = max(seen.late_s, time.monotonic() - before - EVERY_S)

    thread = threading.Thread(target=look, daemon=True)
    thread.start()
    try:
        yield lambda: resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    finally:
        over.set()
        thread.join()


if __name__ == "__main__":
    sys.exit(main())
