"""Slurm from the orchestrator's side: an allocation is asked for, its nodes become workers, their records come back."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

from orchestrator.base import interrupt
from orchestrator.base.errors import InfrastructureError, StackbenchError
from orchestrator.base.files import bench_source, write_text
from orchestrator.base.text import Say, counted
from orchestrator.host.gpu import HostGpu
from orchestrator.launchers import Job, Launcher, Prepared, slurm_spool
from orchestrator.launchers import slurm_queue as slurm
from orchestrator.launchers.slurm import CLEAN_S, Cluster, SlurmLauncher, collect
from orchestrator.launchers.slurm_orders import EVENT, CellAnswer, StepEvent, read
from orchestrator.launchers.slurm_queue import Queue
from orchestrator.launchers.slurm_scripts import job_script, time_limit
from orchestrator.launchers.slurm_settings import SlurmSettings
from orchestrator.launchers.slurm_spool import Spool, open_spool
from orchestrator.launchers.slurm_steps import Jobs, StepHandle, Steps
from orchestrator.launchers.worker import Opening, Worker
from orchestrator.measure.cell_spec import identity
from orchestrator.measure.supervise import SOAK_S, SUSTAIN_S, blank_record, provenance
from orchestrator.measure.watch import Event
from orchestrator.plan.hosts import HostEntry
from orchestrator.plan.workload import digest
from orchestrator.records.record import Record, Refusal

TICK_S, EVENT_S, QUEUE_S = 0.5, 2.0, 1.0
CLEAN_MINUTES = 5
AROUND_S = 600.0
"""What a step may take beside the cell's deadlines: its start, an image's import, a folder's removal."""


@contextlib.contextmanager
def open_host(entry: HostEntry, opening: Opening) -> Iterator[Sequence[Worker]]:
    """Get the entry's allocation, look at its nodes, and give a worker for each of their GPUs; end it at the exit.

    UsageError for settings that cannot be meant; InfrastructureError where no allocation begins in `entry.start_s`
    seconds, or no node of it can run cells.
    """
    settings = settings_of(entry)
    assert isinstance(entry.gpus, int)
    fingerprint = digest([entry.model_dump(mode="json"), bench_source(opening.bench), sorted(opening.stacks)])
    with open_spool(opening.state, fingerprint, opening.say) as spool, spool.alive(settings.orphan_s):
        queue, array = Queue(), settings.cells == "array"
        script = partial(
            job_script,
            settings,
            name=f"stackbench-{opening.run}",
            spool=spool.folder,
            nodes=entry.nodes,
            gpus=entry.gpus,
        )
        minutes = time_limit(settings, seconds=_seconds(entry, opening, each=array))
        write_text(spool.script, script(minutes=minutes, array=array))
        steps: Steps | Jobs
        if array:
            steps = Jobs(spool, settings, queue, start_s=entry.start_s)
            nodes: list[str | None] = [None]
        else:
            job = _allocation(spool, queue, entry, opening.say)
            steps = Steps(spool, settings, queue, job)
            nodes = [*_nodes(queue, job)]
        cluster = Cluster(
            settings,
            spool,
            steps,
            bench=opening.bench,
            devices=opening.devices,
            gpus=entry.gpus,
            nodes=nodes,
            allow_busy=opening.allow_busy,
            purpose=opening.purpose,
            say=opening.say,
        )

        def clean() -> None:
            if spool.left_on():
                write_text(spool.script, script(minutes=CLEAN_MINUTES, array=True))
                cluster.clean(Jobs(spool, settings, Queue(), start_s=CLEAN_S))

        spool.afterwards.append(clean)
        workers = _workers(cluster, entry, nodes, opening.say)
        if not workers:
            raise InfrastructureError("none of its nodes can run cells", where=entry.name)
        yield workers


def sweep(state: Path, say: Say) -> int:
    """End what killed orchestrators have left in Slurm, and return how many they were."""
    return slurm_spool.sweep(state, say)


def settings_of(entry: HostEntry) -> SlurmSettings:
    """Return the entry's settings."""
    return entry.settings_as(SlurmSettings)


def supervise_there(
    launcher: Launcher, prepared: Prepared, job: Job, on_event: Callable[[Event], None] = lambda _event: None, /
) -> Record:
    """Run one round on a node, whose own supervision writes the record, and return it; as `supervise` does here.

    Whatever happens to the step, its job, its node or Slurm itself is a record of status `infrastructure`, and there is
    an end to the wait in every case.
    """
    began = time.monotonic_ns()
    handle: StepHandle | None = None
    refusal: Refusal | None = None
    try:
        assert isinstance(launcher, SlurmLauncher)
        handle = launcher.start(prepared, job)
        with handle:
            refusal = _wait(handle, job, on_event)
    except InfrastructureError as error:
        refusal = Refusal("infrastructure", str(error))
    found = collect(handle, job) if handle is not None else None
    if found is not None:
        try:
            answer = read(found, CellAnswer)
            if answer.record is not None and not _another(answer.record, job):
                return answer.record
            refusal = Refusal("infrastructure", answer.trouble or "what its node wrote is another round's record")
        except StackbenchError as error:
            refusal = refusal or Refusal("infrastructure", str(error))
    refusal = refusal or Refusal("infrastructure", "its node wrote no record")
    if isinstance(launcher, SlurmLauncher):  # a record holds no host names
        refusal = Refusal(refusal.status, launcher.cluster.without_names(refusal.reason))
    ran = provenance(launcher, prepared, job, time.monotonic_ns() - began)
    return blank_record(job, refusal).model_copy(update={"provenance": ran})


def longest_s(job: Job) -> float:
    """Return the longest that a round's step may take: the cell, extra samples, its warm start, and what is around."""
    return 3 * job.cell.timeout_s + SOAK_S + SUSTAIN_S + AROUND_S


def _wait(handle: StepHandle, job: Job, on_event: Callable[[Event], None]) -> Refusal | None:
    """Wait for the step's end, telling what the cell does; return what is to be said against it."""
    began_s: float | None = None
    looked, told = 0.0, None
    while (ended := handle.wait(TICK_S)) is None:
        interrupt.check()
        now = time.monotonic()
        if began_s is None and handle.began:
            began_s = now
        # Until the node has begun, the job may wait in the queue: that has a limit of its own.
        if began_s is not None and now - began_s > longest_s(job):
            handle.cancel()
            return Refusal("infrastructure", f"nothing came from its node in {longest_s(job):.0f} s")
        if now - looked >= EVENT_S:
            looked = now
            with contextlib.suppress(StackbenchError):
                said = read(handle.folder / EVENT, StepEvent)
                if said != told:
                    told = said
                    on_event(Event(said.phase, said.index, said.of))
    if ended.error is None:
        return None
    if handle.ending is not None and handle.ending.name == "OUT_OF_MEMORY":
        return Refusal("out_of_memory", ended.error)
    ran_s = 0.0 if began_s is None else time.monotonic() - began_s
    if handle.ending is not None and handle.ending.name == "TIMEOUT" and ran_s >= job.cell.timeout_s:
        return Refusal("timeout", f"not done after {job.cell.timeout_s:g} s, and {ended.error}")
    return Refusal("infrastructure", ended.error)


def _another(record: Record, job: Job) -> bool:
    return any(getattr(record, name) != value for name, value in identity(job).items())


def _seconds(entry: HostEntry, opening: Opening, *, each: bool) -> float:
    """Return how long a job may need: all rounds' deadlines on its GPUs, or those of one round."""
    assert isinstance(entry.gpus, int)
    one = 3 * opening.longest_s + SOAK_S + SUSTAIN_S + AROUND_S
    return one if each else opening.total_s / (entry.nodes * entry.gpus) + one


def _allocation(spool: Spool, queue: Queue, entry: HostEntry, say: Say) -> str:
    """Return the run's allocation once it runs: a killed orchestrator's, where it is still there, or a new one."""
    job = _still_there(spool) if spool.adopted else None
    if job is not None:
        say(f"{entry.name}: going on in job {job}, which a killed orchestrator has left")
    else:
        job = slurm.submit(str(spool.script))
        spool.note(job)
        say(f"{entry.name}: job {job} is in the queue")
    queue.watch(job)
    until = time.monotonic() + entry.start_s
    while True:
        interrupt.check()
        state = queue.state(job)
        if state is not None and state.name == "RUNNING":
            return job
        if state is not None and state.over:
            raise InfrastructureError(f"its job {job} {state.told}", where=entry.name)
        if time.monotonic() > until:
            waits = f" ({state.reason})" if state is not None else f" ({queue.trouble})"
            remedy = "give it more time with start_s, or another partition"
            raise InfrastructureError(
                f"job {job} did not begin in {entry.start_s:g} s{waits}", where=entry.name, remedy=remedy
            )
        time.sleep(TICK_S)


def _still_there(spool: Spool) -> str | None:
    jobs = spool.jobs()
    with contextlib.suppress(InfrastructureError):
        states = slurm.queued(jobs) if jobs else {}
        return next((job for job in reversed(jobs) if job in states and states[job].name == "RUNNING"), None)
    return None


def _nodes(queue: Queue, job: str) -> list[str]:
    state = queue.state(job)
    return slurm.hostnames(state.nodes) if state is not None else []


def _workers(cluster: Cluster, entry: HostEntry, nodes: Sequence[str | None], say: Say) -> list[Worker]:
    """Look at every node at once; return the workers of those that can run cells, and say why the others cannot."""
    with ThreadPoolExecutor(len(nodes)) as pool:
        looks = [(node, pool.submit(cluster.look, node)) for node in nodes]
        workers: list[Worker] = []
        for node, look in looks:
            where = f"{entry.name}/{node}" if node else entry.name
            try:
                found = look.result()
            except InfrastructureError as error:
                say(f"{where}: left out: {error.what}")
                continue
            for remark in found.remarks:
                say(f"{where}: {remark}")
            if found.trouble is not None:
                say(f"{where}: left out: {found.trouble}")
                continue
            workers += _of_node(cluster, entry, node, where, found.gpus)
    say(f"{entry.name}: {counted(len(workers), 'worker')}")
    return workers


def _of_node(cluster: Cluster, entry: HostEntry, node: str | None, where: str, gpus: Sequence[HostGpu]) -> list[Worker]:
    assert isinstance(entry.gpus, int)
    facts = {"slurm": cluster.settings.cells, "container": cluster.settings.container}
    given: list[HostGpu | None] = [*gpus] or [None]
    if node is None:
        given = [given[0]] * (entry.nodes * entry.gpus)
    made: list[Worker] = []
    for number, gpu in enumerate(given):
        launcher = SlurmLauncher(cluster, node, gpu, tuple(gpus))
        name = f"{where}:{gpu.index if gpu is not None and node is not None else number}"
        # In an array each cell has a node of its own.
        host = where if node is not None else name
        made.append(Worker(name, host, gpu, launcher, supervise=supervise_there, alive=launcher.alive, facts=facts))
    return made
