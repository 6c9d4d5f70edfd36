"""Slurm from a node's side: `python -m orchestrator.runner.slurm_node` looks at it, readies stacks, runs cells there.

What it is to do stands in the folder's order, and the answer is written beside it as the last thing. All that it makes
lies below the node's scratch folder and is gone when it ends.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import shutil
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from orchestrator.base import interrupt
from orchestrator.base.errors import EXIT_BAD_ROWS, EXIT_OK, InfrastructureError, StackbenchError, UsageError
from orchestrator.base.files import make_folder, os_errors, write_text
from orchestrator.base.paths import STATE
from orchestrator.base.text import on_stderr
from orchestrator.base.untrusted import SIDE_FILE_LIMIT_BYTES, take_over
from orchestrator.build.environment import find_python
from orchestrator.build.shared_image import shared_image
from orchestrator.host import locks
from orchestrator.host.folders import WorkArea
from orchestrator.host.gpu import HostGpu, gpus
from orchestrator.host.owner import Owner, signature
from orchestrator.launchers import Prepared
from orchestrator.launchers import work_area as areas
from orchestrator.launchers.local import LocalLauncher, sweep_processes
from orchestrator.launchers.slurm_orders import (
    ANSWER,
    AT_WORK,
    EVENT,
    FIRST,
    ORDER,
    CellAnswer,
    CellOrder,
    Container,
    LookAnswer,
    LookOrder,
    StackAnswer,
    StackOrder,
    StepEvent,
    at_work,
    write,
)
from orchestrator.launchers.slurm_orders import (
    read as read_order,
)
from orchestrator.measure.supervise import TELEMETRY_FILE, supervise
from orchestrator.measure.warm import wanted, with_warm_start
from orchestrator.measure.watch import Event
from orchestrator.plan.stack import GpuAccess, Stack
from orchestrator.records.record import Record
from orchestrator.records.references import ENDING, LIMIT_BYTES
from orchestrator.records.store import LISTING_FILE, LOG_LIMIT_BYTES

IMAGES = "images"
"""Below the node's folder: what enroot has imported."""
LEAST_SCRATCH_BYTES = 2_000_000_000
EVENT_EVERY_S, SIGNAL_S = 1.0, 0.5


def main(arguments: list[str]) -> int:
    """Do what the order in the folder says; return 0 where an answer was written."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--scratch", type=Path, required=True)
    parser.add_argument("what", choices=("look", "stack", "cell"))
    parser.add_argument("folder", type=Path)
    given = parser.parse_args(arguments)
    folder, state = given.folder, given.scratch / f"stackbench-{os.getuid()}"
    own = os.environ.get("SLURMD_NODENAME", "")
    with contextlib.suppress(StackbenchError):
        write_text(folder / AT_WORK, f"{own}\n{signature()}")
    try:
        # Whoever ends a step signals it several times, and kills it in the end: it has that time to clean up.
        with interrupt.interruptible(patient=True):
            if given.what == "look":
                answer: LookAnswer | StackAnswer | CellAnswer = look(read_order(folder / ORDER, LookOrder), state)
                _forget_killed(folder.parent, own)
            elif given.what == "stack":
                answer = ready_stack(read_order(folder / ORDER, StackOrder), state)
            else:
                answer = run_cell(read_order(folder / ORDER, CellOrder), state, folder)
            write(folder / ANSWER, answer)
    except interrupt.Interrupted as stop:
        on_stderr("ended by a signal")
        return stop.exit_code
    except StackbenchError as error:
        on_stderr(str(error))
        return EXIT_BAD_ROWS
    finally:
        for place in (state / "work", state):
            with contextlib.suppress(OSError):
                place.rmdir()
        with contextlib.suppress(OSError):
            (folder / AT_WORK).unlink()
    return EXIT_OK


def look(order: LookOrder, state: Path) -> LookAnswer:
    """Return what this node is, after what killed runs have left here was removed."""
    try:
        return _look(order, state)
    except StackbenchError as error:
        return LookAnswer(trouble=str(error))


def _look(order: LookOrder, state: Path) -> LookAnswer:
    remarks: list[str] = []
    with os_errors(state):
        own = areas.folder_in(state / "work")
        free = shutil.disk_usage(own).free
        own.rmdir()
    if free < LEAST_SCRATCH_BYTES:
        return LookAnswer(trouble=f"its scratch folder has only {free / 1e9:.1f} GB free")
    _sweep(_client(order.container), state, remarks.append)
    found = gpus()
    visible = tuple(gpu for gpu in found.found if gpu.visible)
    if order.gpus == 0:
        return LookAnswer(remarks=tuple(remarks))
    free_ones = visible if order.allow_busy else tuple(gpu for gpu in visible if not gpu.busy)
    remarks += [f"GPU {gpu.index} is left out: {gpu.busy}" for gpu in visible if gpu not in free_ones]
    if len(visible) < order.gpus:
        remarks.append(f"Slurm gives {order.gpus} GPUs, and {len(visible)} answer ({found.why_none})")
    trouble = None if free_ones else f"no GPU of it can be used ({'; '.join(remarks) or found.why_none})"
    return LookAnswer(gpus=free_ones, trouble=trouble, remarks=tuple(remarks))


def _forget_killed(steps: Path, node: str) -> None:
    """Say that nothing is here any more of the steps that were killed on this node."""
    for path, name, who in at_work(steps):
        owner = Owner.parse(who)
        if name == node and owner is not None and owner.dead():
            with contextlib.suppress(OSError):
                path.unlink()


def ready_stack(order: StackOrder, state: Path) -> StackAnswer:
    """Return the stack, ready on this node and asked what is installed; for a GPU, whether a container sees each."""
    said: list[str] = []
    stack = order.with_folder()
    try:
        with _area(state, order.bench) as area:
            gpu = order.gpus[0] if order.gpus else None
            place = _launcher(order.container, area, gpu, said.append, images=state / IMAGES)
            if order.container == "docker":
                place.images[stack.name] = _image(place, stack, order)
            prepared = place.prepare(stack)
            facts = place.facts(prepared)
            access: GpuAccess = stack.gpu.access
            unfit: dict[str, str] = {}
            if order.container == "docker" and order.device == "cuda":
                access, unfit = _gpu_check(place, stack, order.gpus, area.folder)
            return StackAnswer(prepared=prepared, facts=facts, access=access, unfit=unfit, said=tuple(said))
    except InfrastructureError as error:
        return StackAnswer(trouble=str(error), said=tuple(said))


def _gpu_check(place: Any, stack: Stack, found: tuple[HostGpu, ...], state: Path) -> tuple[GpuAccess, dict[str, str]]:
    """Return how containers get GPUs here, and why those do not that no container can use."""
    from orchestrator.launchers.docker import PROBE, find_access

    access = find_access(place, stack, state) if stack.gpu.access == "auto" else stack.gpu.access
    unfit: dict[str, str] = {}
    for gpu in found:
        place.gpu = gpu
        code, output = place.ask(stack, ("-c", PROBE), "cuda", access)
        if code != 0:
            unfit[gpu.uuid] = f"GPU {gpu.index} failed its check ({output.strip().splitlines()[-1:] or code})"
    return access, unfit


def run_cell(order: CellOrder, state: Path, folder: Path) -> CellAnswer:
    """Run the round here, watched from here, and leave its files in `folder`; return its record or why not."""
    try:
        return _run_cell(order, state, folder)
    except StackbenchError as error:
        return CellAnswer(trouble=str(error))


def _run_cell(order: CellOrder, state: Path, folder: Path) -> CellAnswer:
    stack = order.prepared.stack.model_copy(update={"folder": order.folder})
    prepared = replace(order.prepared, stack=stack)
    gpu = _given_gpu(order)
    uuids = [one.uuid for one in (gpu, *order.peers) if one]
    with (
        locks.hold_all(uuids or [None], purpose=order.purpose, say=on_stderr),
        _area(state, order.bench) as area,
        area.cell(f"{order.job.cell.workload.benchmark}-{order.job.cell.method}") as place,
    ):
        job = replace(order.job, work=place / "work", log=place / "log.txt", gpu=gpu.uuid if gpu else None)
        if job.cache is not None:
            make_folder(job.cache)
        read = [folder for folder in (job.checkpoint, job.references) if folder is not None]
        written = [job.cache] if job.cache is not None else []
        launcher = _launcher(
            order.container, area, gpu, on_stderr, images=state / IMAGES, readable=read, writable=written
        )
        launcher.peers = order.peers
        if order.container == "pyxis":
            # The script that stands for its Python is this process's own.
            prepared = replace(prepared, python=str(launcher.python(stack)))
        if order.container == "docker":
            launcher.images[stack.name] = _image(launcher, stack, order)
            _same_image(launcher, prepared)
            launcher.access = order.access
        show = _telling(folder)
        record = supervise(launcher, prepared, job, show)
        if record.status == "crashed":
            # Whoever ends this step signals every process of it: the cell's too, which then ends a moment before us.
            time.sleep(SIGNAL_S)
            interrupt.check()
        write(folder / FIRST, CellAnswer(record=record))
        if wanted(job.cell, record):
            record = with_warm_start(launcher, prepared, job, record, show)
        return CellAnswer(record=_left(record, place, folder))


def _given_gpu(order: CellOrder) -> HostGpu | None:
    """Return the GPU to run on: the one that is named, or in an array any of its model that Slurm has given us."""
    if order.gpu is None:
        return None
    found = [gpu for gpu in gpus().found if gpu.visible]
    if order.any_gpu:
        alike = [gpu for gpu in found if gpu.identity == order.gpu.identity]
        found = [gpu for gpu in alike if not gpu.busy] or alike
    else:
        found = [gpu for gpu in found if gpu.uuid == order.gpu.uuid]
    if not found:
        raise InfrastructureError("the GPU that the cell is for does not answer on this node", where=order.gpu.name)
    return found[0]


def _image(launcher: Any, stack: Stack, order: StackOrder | CellOrder) -> str:
    """Return the name of the stack's image, which this node's engine has from here on.

    The log of a build lies where all nodes, and whoever is told of it, see it.
    """
    own = locks.lock_folder()
    return shared_image(launcher.client, stack, order.images, own, keep=order.keep, say=on_stderr, state=STATE)


def _same_image(launcher: Any, prepared: Prepared) -> None:
    """InfrastructureError where this node's image of that name has another content than the run's."""
    import docker

    from orchestrator.host.docker_engine import engine_errors
    from orchestrator.launchers.docker import content_of

    with engine_errors():
        try:
            found = content_of(launcher.client.images.get(prepared.image).attrs)
        except docker.errors.ImageNotFound:
            found = None
    if found != prepared.image_content:
        what = "this image is not on the node" if found is None else "this image is another on the node than in the run"
        raise InfrastructureError(what, where=str(prepared.image))


def _left(record: Record, place: Path, folder: Path) -> Record:
    """Bring what is wanted of the cell's files to where the orchestrator sees them, through no link; return the record.

    A file that cannot be brought is said on standard error, and counts as one that the cell has not left.
    """
    wanted_files = [
        (place / "log.txt", folder / "log.txt", LOG_LIMIT_BYTES),
        (place / TELEMETRY_FILE, folder / TELEMETRY_FILE, SIDE_FILE_LIMIT_BYTES),
        (place / "work" / LISTING_FILE, folder / "work" / LISTING_FILE, SIDE_FILE_LIMIT_BYTES),
    ]
    for subject in record.workload.subjects or ():
        name = f"reference-{subject.workload_id}{ENDING}"
        wanted_files.append((place / "work" / name, folder / "work" / name, LIMIT_BYTES))
    for source, target, limit in wanted_files:
        if os.path.lexists(source):
            try:
                take_over(source, target, limit=limit)
            except (UsageError, OSError) as error:
                on_stderr(f"{source.name} cannot be brought back: {error}")
    return record


def _telling(folder: Path) -> Callable[[Event], None]:
    """Return what keeps the last event where the orchestrator looks, at most once a second."""
    told = 0.0

    def tell(event: Event) -> None:
        nonlocal told
        now = time.monotonic()
        if now - told >= EVENT_EVERY_S:
            told = now
            with contextlib.suppress(StackbenchError):
                write(folder / EVENT, StepEvent(phase=event.phase, index=event.index, of=event.of))

    return tell


@contextlib.contextmanager
def _area(state: Path, bench: Path) -> Iterator[WorkArea]:
    """Give a work area on the node's scratch, with a copy of the run's bench."""
    with areas.work_area(state, bench) as area:
        with os_errors(state):
            state.chmod(areas.READABLE_FOLDER)  # the containers' user is another than the one whose mask made it
        yield area


def _launcher(
    container: Container,
    area: WorkArea,
    gpu: HostGpu | None,
    say: Callable[[str], None],
    *,
    images: Path,
    readable: Sequence[Path] = (),
    writable: Sequence[Path] = (),
) -> Any:
    if container == "pyxis":
        from orchestrator.launchers.pyxis import on_node

        return on_node(area.bench, gpu, scripts=area.folder, images=images, readable=readable, writable=writable)
    found: Any
    if container == "docker":
        from orchestrator.launchers.docker import DockerLauncher

        found = DockerLauncher(_client(container), area.bench, gpu, images={}, say=say)
        found.state = area.folder  # this node's
    else:  # environments lie where all nodes find them
        found = LocalLauncher(area.bench, lambda stack: find_python(stack, say=say, again=False, state=STATE), gpu)
    found.name = "slurm"
    return found


def _client(container: Container) -> Any:
    if container != "docker":
        return None
    from orchestrator.host import docker_engine as engine

    return engine.connect()


def _sweep(client: Any, state: Path, say: Callable[[str], None]) -> None:
    """Remove what killed runs have left on this node: containers, processes, folders."""
    areas.sweep_folders(state, say)
    with contextlib.suppress(StackbenchError, OSError):
        sweep_processes()
    if client is not None:
        from orchestrator.host import docker_engine as engine

        with engine.engine_errors():
            engine.sweep(client)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
