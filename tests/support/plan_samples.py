"""Small suites, stacks and records for the tests of the plan side."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from orchestrator.plan.cell import Cell
from orchestrator.plan.stack import Stack
from orchestrator.plan.suite import load_suite
from orchestrator.plan.workload import BATCHED, MEASURED
from orchestrator.records.record import Record

if TYPE_CHECKING:
    from pathlib import Path

    from orchestrator.plan.workload import Workload

OF_THE_NOTE = tuple(name for name in MEASURED if name != BATCHED)
"""The five benchmarks that its suites have."""
SUITE = """
schema_version = 1
name = "mine"
description = "for a test"

[ceilings]
matrix_sizes = [64]
copy_bytes = 1024

[[cells]]
benchmark = "forward"
model = "tiny"
batch = 2
sequence = 64

[[cells]]
benchmark = "generation"
model = "tiny"
prompt = [1, 2, 3]
new_tokens = 8
"""

STACK = """
schema_version = 1
name = "{name}"
description = "for a test"
methods = [{methods}]

[build]

[gpu]
access = "{access}"
required = {required}
"""


def write_suite(folder: Path, text: str = SUITE) -> Path:
    path = folder / "mine.toml"
    path.write_text(text)
    return path


def write_stack(
    folder: Path,
    name: str = "cpu",
    *,
    methods: tuple[str, ...] = ("inductor", "eager"),
    access: str = "none",
    required: bool = False,
) -> Path:
    place = folder / name
    place.mkdir(parents=True)
    (place / "Dockerfile").write_text("FROM scratch\n")
    (place / "requirements.lock").write_text("")
    named = ", ".join(f'"{method}"' for method in methods)
    (place / "stack.toml").write_text(
        STACK.format(name=name, methods=named, access=access, required=str(required).lower())
    )
    return place


def stack(name: str = "cpu", methods: tuple[str, ...] = ("inductor", "eager"), **more: Any) -> Stack:
    return Stack.model_validate(
        {"schema_version": 1, "name": name, "description": "d", "methods": methods, "build": {}, **more}
    )


def smoke_workload() -> Workload:
    return load_suite("smoke").expand()[0].workload


def smoke_cell(**changes: Any) -> Cell:
    fields = {"stack": "cpu", "method": "eager", "device": "cpu", "workload": smoke_workload(), "timeout_s": 60.0}
    return Cell.model_validate({**fields, **changes})


def record(cell: Cell | None = None, *, number: int = 0, status: str = "ok", **changes: Any) -> Record:
    """A record as a cell's first round would leave it; `number` makes its cell_id another."""
    cell = cell or smoke_cell()
    fields = {
        "schema_version": 1,
        "written_by": "bench",
        "cell_id": f"{number:016x}",
        "workload_id": cell.workload.workload_id,
        "round": 0,
        "stack": cell.stack,
        "method": cell.method,
        "workload": cell.workload,
        "device": cell.device,
        "status": status,
        "reason": None if status == "ok" else "said the test",
        "flags": (),
        "bench_source": "0" * 16,
        "started_utc": "2026-11-23T00:00:00Z",
        "samples": tuple(
            {
                "index": index,
                "phase": "first" if index == 0 else "timed",
                "shape": (2, 64),
                "begin_ns": index * 1000,
                "end_ns": index * 1000 + 900,
                "device_ns": None,
            }
            for index in range(10)
        ),
    }
    return Record.model_validate({**fields, **changes})
