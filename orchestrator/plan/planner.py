"""Suite, stacks and methods make a plan: a pure function, so a plan can be printed without running anything.

Its order: ceilings, weights, references, probes, rows.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType

from orchestrator.base.errors import UsageError
from orchestrator.base.invalid import check_known
from orchestrator.plan.cell import Cache, Cell, Device, Plan
from orchestrator.plan.checkpoint import Checkpoint, inspect_checkpoint
from orchestrator.plan.proof_cells import probe_cells, reference_cells, weights_cells
from orchestrator.plan.stack import Stack
from orchestrator.plan.suite import Request, Suite
from orchestrator.plan.workload import MEASURED, Weights

CEILINGS_METHOD = "torch"
FIRST_METHOD = "eager"


def make_plan(
    suite: Suite,
    stacks: Mapping[str, Stack],
    *,
    device: Device | Mapping[str, Device],
    benchmarks: Sequence[str] = (),
    methods: Sequence[str] = (),
    rounds: int | None = None,
    cache: Cache = "cold",
    checkpoint: Checkpoint | Path | None = None,
    timeout_s: float | None = None,
    known_methods: Sequence[str] = (),
    sources: Mapping[str, str] = MappingProxyType({}),
    engines: Mapping[str, Collection[str]] = MappingProxyType({}),
) -> Plan:
    """Return the cells to run: what rows need before them, then the rows in the suite's order, eager first.

    `device` is one for all stacks, or one for each by name. Empty `benchmarks` and `methods` mean all; of
    `method@stack` only that stack's is run. `rounds` and `timeout_s` stand in for the suite's; a checkpoint for the
    model and the weights of every cell.
    `known_methods` are names of methods that stacks left out of `stacks` offer: they are not a mistake.
    `sources` are the hashes of the files of own methods, by name; `engines` the benchmarks of those that bring one.
    """
    own = inspect_checkpoint(checkpoint) if isinstance(checkpoint, Path) else checkpoint
    known = tuple(dict.fromkeys([*_offered(stacks), *known_methods]))
    check_known("benchmark", benchmarks, (*MEASURED, "ceilings"))
    _check_methods(methods, known, stacks)
    weights = Weights(source="checkpoint", fingerprint=own.fingerprint) if own else None
    requests = suite.expand(own.model if own else None, weights)
    for request in requests:
        check_known("method", request.methods or (), known, where=request.where.of("methods"))
    devices = {name: device if isinstance(device, str) else device[name] for name in stacks}

    def cell(request: Request, method: str, stack: str) -> Cell:
        return Cell(
            stack=stack,
            method=method,
            device=devices[stack],
            workload=request.workload.routed if method in engines else request.workload,
            timeout_s=timeout_s or request.timeout_s,
            cache=cache,
            rounds=rounds or request.rounds,
            warm=suite.file.warm,
            method_source=sources.get(method),
            kind="engine" if method in engines else "model",
        )

    rows: dict[str, Cell] = {}
    origins: dict[str, str] = {}
    for request in requests:
        if benchmarks and request.workload.benchmark not in benchmarks:
            continue
        for method, stack in _runs(request, stacks, methods):
            if request.workload.benchmark not in engines.get(method, (request.workload.benchmark,)):
                continue
            one = cell(request, method, stack)
            key = one.key
            origin = origins.setdefault(key, request.where.entry)
            # A checkpoint in place of all models makes cells equal that differed in the model alone, and an engine
            # those that differed in who chooses the experts.
            if origin != request.where.entry and own is None and one.workload is request.workload:
                what = f"names {one.title} of {origin} again"
                raise UsageError(what, where=request.where.entry, remedy="remove one of them")
            rows.setdefault(key, one)
    if not rows and tuple(benchmarks) != ("ceilings",):
        what = f"nothing to run: no cell of suite {suite.name} is left by this selection"
        raise UsageError(what, remedy="leave out --benchmark or --method, or choose another suite or stack")
    # By every stack that has rows: what a device can do is the best that any of them shows.
    once, dtypes = {"rounds": 1, "role": "ceilings"}, [row.workload.dtype for row in rows.values()]
    several = [row.workload.devices for row in rows.values()]
    with_rows = {row.stack for row in rows.values()} or set(stacks)
    ceilings = [
        cell(request, CEILINGS_METHOD, name).model_copy(update=once)
        for name in stacks
        if name in with_rows
        for request in (*suite.ceilings(devices[name], dtypes), *suite.links(devices[name], several))
    ]
    probes = probe_cells(tuple(rows.values())) if suite.file.probes else []
    references: list[Cell] = []
    weights_made: list[Cell] = []
    if rows:
        longest = max(row.timeout_s for row in rows.values())
        # The first stack; one that uses the GPU goes before one that does not, one with eager before others.
        maker = min(stacks, key=lambda name: (devices[name] != "cuda", FIRST_METHOD not in stacks[name].methods))
        place = {"stack": maker, "device": devices[maker], "timeout_s": longest, "rounds": 1}
        made_there, proven = ceilings[0].model_copy(update=place), (*probes, *rows.values())
        weights_made = weights_cells(proven, made_there)
        references = reference_cells(proven, made_there) if suite.file.references else []
    return Plan(suite=suite.name, cells=(*ceilings, *weights_made, *references, *probes, *rows.values()))


def _check_methods(names: Sequence[str], known: Sequence[str], stacks: Mapping[str, Stack]) -> None:
    for method, _, stack in (name.partition("@") for name in names):
        check_known("method", [method], known)
        if stack:
            check_known("stack", [stack], stacks, where="--method")
            check_known(f"method of stack {stack}", [method], stacks[stack].methods, where="--method")


def _offered(stacks: Mapping[str, Stack]) -> list[str]:
    return list(dict.fromkeys(method for stack in stacks.values() for method in stack.methods))


def _runs(request: Request, stacks: Mapping[str, Stack], methods: Sequence[str]) -> Iterator[tuple[str, str]]:
    """Yield (method, stack), eager first, then as the stacks list them; stacks side by side within a method."""
    for method in sorted(_offered(stacks), key=lambda method: method != FIRST_METHOD):
        if request.methods is None or method in request.methods:
            for name, stack in stacks.items():
                if method in stack.methods and (not methods or method in methods or f"{method}@{name}" in methods):
                    yield method, name
