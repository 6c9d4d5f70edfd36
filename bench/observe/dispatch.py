"""Evidence of dispatch: one profiled call after timing, its kernels (on a CPU: its operators) by name and by group.

A method says what it expects to see there (`expects`, see `bench.methods`); what is missing flags the row `not_fused`.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import re
import sys
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import torch
from torch.autograd import DeviceType

from bench.environment import torch_version
from bench.observe.kernels import group_of, precisions_of
from bench.record import write_json
from bench.spec import Spec

LISTING = "dispatch.json"
SETTLE = 2
TOP = 12
NAME_CHARACTERS = 160
USER_SCOPE = 7
"""at::RecordScope of `record_function`."""
REPLAY = "graph replay"
REPLAYS = ("cudaGraphLaunch", "cuGraphLaunch")
OPERATOR = re.compile(r"\w+::")
ALTERNATIVE = " or "
GRAPH_CALL = "## Call CompiledFxGraph ##"


@dataclass
class Count:
    """Of one name: launches, and nanoseconds of device time (on a CPU: of its own time)."""

    launches: int = 0
    ns: int = 0

    def add(self, ns: float) -> None:
        """One more launch."""
        self.launches += 1
        self.ns += round(ns)


@dataclass
class Profile:
    """What one call ran. `operators` are all of torch's own and others' operators, on either device."""

    kind: str
    names: dict[str, Count] = field(default_factory=dict)
    operators: set[str] = field(default_factory=set)
    replays: int | None = None


class Profiled(Protocol):
    """A benchmark's task, as far as it is needed here."""

    def inputs(self, index: int) -> Any:
        """Make sample `index`'s inputs."""

    def brief(self, inputs: Any) -> str:
        """Run what is to be profiled; return what that is, in words."""


def gather(task: Profiled, spec: Spec, record: dict[str, Any], expected: Sequence[str]) -> None:
    """Fill the record's `dispatch`; flag it `not_fused`, or `unchecked` where there is no evidence."""
    workload = spec.workload
    timed = [sample["shape"] for sample in record["samples"] if sample["phase"] == "timed"]
    changing = any(shape != timed[0] for shape in timed)
    # Where shapes change, one more sample as they were; else the last one again. What was compiled settles before: the
    # proof may have called for other things meanwhile, and a CUDA graph is replayed from the third call on.
    settle = SETTLE if record["compiles"] and not changing else 0
    inputs = task.inputs(workload.iterations if changing else workload.iterations - 1)
    flag: str | None = None
    try:
        for _ in range(settle):
            task.brief(inputs)
        record["dispatch"] = found = examine(lambda: task.brief(inputs), expected, spec.device, spec.folder)
    except Exception as error:  # noqa: BLE001  (a row without evidence is a row, and says so)
        record["detail"]["dispatch"] = f"no evidence: {type(error).__name__}: {error}"[:500]
        flag = "unchecked"
    else:
        if found["missing"]:
            flag = "not_fused"
    if flag is not None and flag not in record["flags"]:
        record["flags"].append(flag)


def examine(call: Callable[[], str], expected: Sequence[str], device: str, folder: Path) -> dict[str, Any]:
    """Profile `call` once and return the record's `dispatch`; the whole listing goes to `dispatch.json` in `folder`.

    `call` returns what it ran, in words. RuntimeError where the profiler saw nothing at all.
    """
    seen, what = profile(call, device)
    if not seen.names:
        raise RuntimeError(f"the profiler saw no {seen.kind}")
    groups = by_group(seen)
    total = sum(count.ns for count in seen.names.values())
    ordered = sorted(seen.names.items(), key=lambda item: (-item[1].ns, item[0]))
    missing = [wanted for wanted in expected if not found(wanted, seen, groups)]
    common = {"kind": seen.kind, "what": what, "graph_replays": seen.replays}
    names = [
        {"name": name, "group": group_of(name, seen.kind), "launches": count.launches, "duration_ns": count.ns}
        for name, count in ordered
    ]
    listing = {"schema_version": 1, **common, "names": names, "operators": sorted(seen.operators)}
    write_json(folder / LISTING, listing)
    return {
        **common,
        "launches": sum(count.launches for count in seen.names.values()),
        "groups": [entry(name, count, total) for name, count in groups.items()],
        "top": [
            {**entry(shorten(name), count, total), "group": group_of(name, seen.kind)} for name, count in ordered[:TOP]
        ],
        "lower_precisions": [
            f"{precision}: {shorten(name, 60)}"
            for precision, name in precisions_of([*(name for name, _ in ordered), *sorted(seen.operators)]).items()
        ],
        "expected": list(expected),
        "missing": missing,
        "instead": instead(groups, ordered, total) if missing else None,
        "listing_sha256": hashlib.sha256((folder / LISTING).read_bytes()).hexdigest(),
    }


def entry(name: str, count: Count, total: int) -> dict[str, Any]:
    """A group or a kernel as the record has it."""
    return {"name": name, "launches": count.launches, "share": share(count, total)}


def profile(call: Callable[[], str], device: str) -> tuple[Profile, str]:
    """Run `call` once under torch's profiler; return what ran and what `call` says."""
    if device == "cuda":
        # A profiler that is torn down, or loaded again, crashes later replays of CUDA graphs (CUDA before 12.6).
        os.environ.setdefault("DISABLE_CUPTI_LAZY_REINIT", "1")
        os.environ.setdefault("TEARDOWN_CUPTI", "0")
        torch.cuda.synchronize()
    with visible_graphs(), profiler(device) as seen:
        what = call()
        if device == "cuda":
            torch.cuda.synchronize()
    found = read_kernels(seen.kineto_results.events()) if device == "cuda" else read_operators(seen.function_events)
    return found, what


def profiler(device: str) -> Any:
    """Kineto's, without `torch.profiler.profile` around it, which imports the compiler for seconds on end."""
    wanted: dict[str, Any] = {}
    if device == "cuda":
        wanted = {"use_device": "cuda"} if torch_version() >= (2, 3) else {"use_cuda": True}
    return torch.autograd.profiler.profile(use_kineto=True, **wanted)


def read_kernels(events: Iterable[Any]) -> Profile:
    """Count kernels and copies among Kineto's own events: torch's list of them costs seconds for a decode step's."""
    seen, spans, launched, others = Profile("kernels", replays=0), set(), Counter[str](), []
    for event in events:
        name = event.name()
        if event.device_type() == DeviceType.CUDA:
            if not (hasattr(event, "is_user_annotation") and event.is_user_annotation()):
                ns = event.duration_ns() if hasattr(event, "duration_ns") else event.duration_us() * 1000
                others.append((name, ns))
        elif name in REPLAYS:
            launched[name] += 1
        elif event.scope() == USER_SCOPE:
            spans.add(name)
        elif OPERATOR.match(name):
            seen.operators.add(name)
    # The span of a `record_function` is shown on the device too, beside the kernels within it.
    for name, ns in others:
        if name not in spans or name.startswith("triton_"):
            seen.names.setdefault(name, Count()).add(ns)
    seen.replays = max(launched.values(), default=0)  # the runtime's call may show the driver's within it
    return seen


def read_operators(events: Iterable[Any]) -> Profile:
    """Count every operator of a CPU with its own time, which torch's list of events has worked out."""
    seen = Profile("operators")
    for event in events:
        if OPERATOR.match(event.name):
            seen.operators.add(event.name)
        name = GRAPH_CALL if "CompiledFxGraph" in event.name else event.name
        seen.names.setdefault(name, Count()).add(event.self_cpu_time_total * 1e3)
    return seen


@contextlib.contextmanager
def visible_graphs() -> Iterator[None]:
    """Calls of Inductor's graphs show as events of their own; later versions of torch do that themselves."""
    owner = getattr(sys.modules.get("torch._inductor.codecache"), "CompiledFxGraph", None)
    if owner is None or owner.__module__ != "torch._inductor.codecache" or "__call__" not in vars(owner):
        yield
        return
    before = owner.__call__

    def call(graph: Any, inputs: Any) -> Any:
        with torch.profiler.record_function(GRAPH_CALL):
            return before(graph, inputs)

    owner.__call__ = call
    try:
        yield
    finally:
        owner.__call__ = before


def by_group(seen: Profile) -> dict[str, Count]:
    """Launches and time of each group, the longest first."""
    groups: dict[str, Count] = {}
    for name, count in seen.names.items():
        total = groups.setdefault(group_of(name, seen.kind), Count())
        total.launches += count.launches
        total.ns += count.ns
    return dict(sorted(groups.items(), key=lambda item: (-item[1].ns, item[0])))


def found(wanted: str, seen: Profile, groups: dict[str, Count]) -> bool:
    """Whether one of the alternatives in `wanted` was seen."""
    for one in wanted.split(ALTERNATIVE):
        kind, _, pattern = one.partition(":")
        if kind == "kernel" and any(re.search(pattern, name) for name in seen.names):
            return True
        if kind == "operator" and any(re.search(pattern, name) for name in seen.operators):
            return True
        if one in groups or (one == REPLAY and seen.replays):
            return True
    return False


def instead(groups: dict[str, Count], ordered: Sequence[tuple[str, Count]], total: int) -> str:
    """What ran instead of what is missing: the groups and the names that took the most time."""
    most = ", ".join(f"{name} {round(100 * (share(count, total) or 0))} %" for name, count in list(groups.items())[:4])
    return f"{most}; longest: {', '.join(shorten(name, 60) for name, _ in ordered[:4])}"


def share(count: Count, total: int) -> float | None:
    """Of the whole; None where nothing took any time."""
    return count.ns / total if total else None


def shorten(name: str, characters: int = NAME_CHARACTERS) -> str:
    """A kernel's name is a whole signature: its beginning identifies it."""
    return name if len(name) <= characters else name[: characters - 2] + " …"
