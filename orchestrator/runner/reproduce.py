"""`reproduce`: run the cell of a record again, also of a record that somebody sent, in a run of its own."""

from __future__ import annotations

import dataclasses
import itertools
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from orchestrator.analysis.reproduction import reproduction
from orchestrator.base import interrupt
from orchestrator.base.errors import EXIT_OK, StackbenchError, UsageError
from orchestrator.base.invalid import check_known
from orchestrator.base.paths import IMAGES
from orchestrator.base.text import NO_GPU, on_stderr, printable, show
from orchestrator.host.devices import look
from orchestrator.launchers.work_area import methods_of_bench
from orchestrator.plan.cell import Cell, Plan
from orchestrator.plan.checkpoint import Checkpoint
from orchestrator.plan.choice import FULL_SUITE, SMALL_SUITE, Choice, RunOptions, choose_launcher, offering
from orchestrator.plan.methods import OwnMethod, find_methods
from orchestrator.plan.planner import CEILINGS_METHOD
from orchestrator.plan.proof_cells import probe_cells, reference_cells, weights_cells
from orchestrator.plan.stack import BuiltImage, Gpu, ReadyImage, Stack, find_stacks
from orchestrator.plan.suite import load_suite
from orchestrator.records.find import find_records, probes_of
from orchestrator.records.record import Record, is_row
from orchestrator.records.runs import find_run
from orchestrator.records.store import Run, read_record, run_of
from orchestrator.report.reproduction import as_text
from orchestrator.runner import plan_text
from orchestrator.runner.estimate import estimate, history
from orchestrator.runner.run_all import REPRODUCE, run_all

IMAGE_ID = re.compile("sha256:[0-9a-f]{64}")
LEAST_TIMEOUT_S = 900.0
SLOWER_HERE = 4.0
"""Of the time that the round took then: the deadline now."""


def reproduce(row: str, run: str | None, options: RunOptions, *, dry: bool = False) -> int:
    """Run the cell that `row` names (in a run, or as a record's file) again; print how it compares.

    `options.rounds` is how many rounds to run; `dry`: print what would be run, and what this host lacks for it, and run
    nothing. Returns the exit code: 0 reproduced (or dry), 1 not, 2 undecided, 3 nothing ran.
    """
    then, folder = original(row, run, options.results)
    if dry:
        return _show_plan(then[-1], options, of_run=folder is not None)
    kept: list[Run] = []

    def choosing(options: RunOptions, *, gpu: str | None, engine: str | None, no_gpu: str, **_: str) -> Choice:
        return choose_again(then[-1], options, gpu=gpu, engine=engine, no_gpu=no_gpu, of_run=folder is not None)

    code = run_all(options, choosing, kept)
    if not kept or interrupt.exit_code() is not None:
        return code
    now = list(kept[0].records([]))
    if sum(map(is_row, now)) < (options.rounds or 1):
        return code  # It was stopped before the first round was done, and said so.
    probes = [] if folder is None else probes_of(folder, then[-1], [])
    found = reproduction([*then, *probes], now, alone=folder is None)
    show(as_text(found))
    return found.exit_code


def _show_plan(record: Record, options: RunOptions, *, of_run: bool) -> int:
    lacks: list[UsageError] = []
    host = look(options)
    choice = choose_again(
        record, options, gpu=host.gpu, engine=host.engine, no_gpu=host.no_gpu, of_run=of_run, lack=lacks.append
    )
    if record.stack in find_stacks([IMAGES, *options.stack_folders]):
        show(plan_text.render(choice, options.results, "text"))
    else:  # Nobody is asked for an image that a record names.
        known = history(options.results)
        show(plan_text.as_text(choice, known, estimate(choice.plan, choice.stacks, known, {record.stack})))
    for line in (*(f"{error.what}; {error.remedy}" for error in lacks), *host.beyond_memory(choice.plan)):
        on_stderr(f"cannot run here: {line}")
    return EXIT_OK


def _refuse(error: UsageError) -> None:
    raise error


def original(row: str, run: str | None, results: Path) -> tuple[list[Record], Path | None]:
    """Return the records of the one row that `row` names, a file or a cell of a run, and the folder of their run.

    A record's file that lies in a run stands for its row there, with all of its rounds; of one that lies elsewhere the
    run is not known. Nothing in the records is believed.
    """
    place = Path(row)
    if run is None and "/" in row and not place.is_file():
        raise UsageError("no such record", where=row, remedy="name a record's file, or a cell as `explain` does")
    folder: Path | None
    if run is None and place.is_file():
        records = [read_record(place)]
        folder = run_of(place, records[0])
        records = records if folder is None else find_records(folder, place.name, [])
    else:
        folder = find_run(results, run).folder
        records = find_records(folder, row, [])
    last = records[-1]
    if not is_row(last):
        raise UsageError(f"is a record of {last.role}, not of a row", where=row, remedy="name a row's record")
    if any(record.workload.workload_id != record.workload_id for record in records):
        raise UsageError("its workload is not the one that its workload_id names", where=row, remedy="it was changed")
    return records, folder


def choose_again(
    record: Record,
    options: RunOptions,
    *,
    gpu: str | None,
    engine: str | None,
    no_gpu: str = NO_GPU,
    of_run: bool = False,
    lack: Callable[[UsageError], None] = _refuse,
) -> Choice:
    """Return the one cell of the record as a choice on this host, with what proves it; UsageError where it cannot be.

    The stack is this host's of that name; where there is none, and the record is of a run (`of_run`), it is taken from
    the record: an image that this host built for it, or with plain processes its own Python. No record brings any code.
    `lack` gets what this host lacks for it.
    """
    own = find_methods(options.method_folders)
    if record.method_source is not None and record.method not in own:
        remedy = "name its folder with --methods (a run keeps the files in its folder `methods`)"
        lack(UsageError(f"the record's method {record.method} is somebody's own", where="reproduce", remedy=remedy))
    launcher = choose_launcher(options, engine)
    stack, said = _stack(record, find_stacks([IMAGES, *options.stack_folders]), own, launcher, of_run=of_run, lack=lack)
    if record.device == "cuda" and gpu is None:
        remedy = "run it on a GPU's host"
        lack(UsageError(f"the record was made on a GPU, and {no_gpu}", where="reproduce", remedy=remedy))
    source = own[record.method].sha256 if record.method in own else None
    if source != record.method_source and source is not None:
        said += f", by another file of the method {record.method}"
    checkpoints = _checkpoints(record, options, lack)
    suite = load_suite(FULL_SUITE if record.device == "cuda" else SMALL_SUITE)
    task = suite.ceilings(record.device, [record.workload.dtype])[-1]
    took_s = (record.provenance.wall_ns or 0) / 1e9 if record.provenance else 0.0
    cell = Cell(
        stack=stack.name,
        method=record.method,
        device=record.device,
        workload=record.workload,
        timeout_s=options.timeout_s or max(LEAST_TIMEOUT_S, SLOWER_HERE * took_s),
        cache=record.provenance.cache if record.provenance else "cold",
        rounds=options.rounds or 1,
        warm=False,
        method_source=source,
        kind=record.kind,
    )
    other = {"workload": task.workload, "method": CEILINGS_METHOD, "timeout_s": task.timeout_s, "method_source": None}
    other["kind"] = "model"
    ceilings = cell.model_copy(update={**other, "role": "ceilings", "rounds": 1})
    probes = probe_cells([cell])
    maker = ceilings.model_copy(update={"timeout_s": cell.timeout_s})
    before = [make([*probes, cell], maker) for make in (weights_cells, reference_cells)]
    plan = Plan(suite=REPRODUCE, cells=(ceilings, *itertools.chain(*before), *probes, cell))
    place = (gpu or "a GPU") if record.device == "cuda" else "the CPU"
    line = f"again: {cell.title}, workload {record.workload_id}, cell {record.cell_id}, on {place}, {said}"
    again = dataclasses.replace(suite, name=REPRODUCE)
    return Choice(printable(line), plan, again, {stack.name: stack}, launcher, checkpoints, own)


def _stack(
    record: Record,
    found: Mapping[str, Stack],
    own: Mapping[str, OwnMethod],
    launcher: str,
    *,
    of_run: bool,
    lack: Callable[[UsageError], None],
) -> tuple[Stack, str]:
    """Return the stack for the record's cell, one of those `found` where it can be, and in words where it is from."""
    taken = of_run and record.stack not in found
    if not taken:
        check_known("stack", [record.stack], found, where="the record (--stacks names a folder of more)")
    # Empty where bench's files are not here: nothing is known of its methods then.
    methods = methods_of_bench() if taken else found[record.stack].methods
    if record.method_source is None and methods:
        where = "the record" if taken else f"the record, stack {record.stack}"
        check_known("method", [record.method], [*methods, *own], where=where)
    if taken:
        return _taken(record, launcher, lack)
    stack = offering(found[record.stack], own)
    return same_image(stack, record) if launcher == "docker" else (stack, f"launcher {launcher}")


def _taken(record: Record, launcher: str, lack: Callable[[UsageError], None]) -> tuple[Stack, str]:
    """Return a stack of the record's name for a host that has none, and where it comes from in words."""
    image = record.provenance.image_id if record.provenance else None
    none_here = f"stack {record.stack} is taken from the run, as none of that name is here"
    if launcher == "local":
        ready, said = ReadyImage(name="none"), f"{none_here}: this host's own Python"
    else:
        ready, said = ReadyImage(name=image or "not known", python=BuiltImage().python), f"{none_here}: its image"
        if image is None or not IMAGE_ID.fullmatch(image) or _built_for(image) != record.stack:
            what = f"neither the stack {record.stack} nor an image that was built for it is here"
            remedy = "name the stack's folder with --stacks, or use --launcher local"
            lack(UsageError(what, where="reproduce", remedy=remedy))
    return Stack(
        schema_version=1,
        name=record.stack,
        description="taken from a run",
        methods=(record.method,),
        ready=ready,
        gpu=Gpu(required=record.device == "cuda"),
    ), said


def same_image(stack: Stack, record: Record) -> tuple[Stack, str]:
    """Return the stack with the image that the record names, where this host built it for the stack; and in words.

    Else the stack as it is here: what differs is reported when it has run.
    """
    wanted = record.provenance.image_id if record.provenance else None
    if wanted is None or not IMAGE_ID.fullmatch(wanted):
        return stack, "in the stack's image here (the record names none)"
    if stack.build is None or _built_for(wanted) != stack.name:
        return stack, "in the stack's image here (the record's own is not here)" if stack.build else "in its image here"
    pinned = ReadyImage(name=wanted, python=stack.python)
    return stack.model_copy(update={"build": None, "ready": pinned}), "in the image that the record names"


def _built_for(image_id: str) -> str | None:
    """Return the stack that an image of this host was built for; None for any other image, or where it is not here."""
    from orchestrator.build.image import BUILD_LABEL
    from orchestrator.host import docker_engine as engine

    try:
        client = engine.connect()
        with engine.engine_errors():
            image: Any = client.images.get(image_id)
    except StackbenchError:
        return None
    label = (image.labels or {}).get(BUILD_LABEL)
    return label if isinstance(label, str) else None


def _checkpoints(
    record: Record, options: RunOptions, lack: Callable[[UsageError], None] = _refuse
) -> dict[str, Checkpoint]:
    from orchestrator.plan.checkpoint import inspect_checkpoint

    weights = record.workload.weights
    if weights is None or weights.source != "checkpoint":
        return {}
    if options.checkpoint is None:
        remedy = "name its folder with --checkpoint FOLDER"
        lack(UsageError("the record's weights come from a checkpoint", where="reproduce", remedy=remedy))
        return {}
    own = inspect_checkpoint(options.checkpoint)
    if own.fingerprint != weights.fingerprint:
        raise UsageError("holds other weights than the record's", where=str(options.checkpoint), remedy="name another")
    return {own.fingerprint: own}
