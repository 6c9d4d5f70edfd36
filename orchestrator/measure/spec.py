"""What a cell's process reads first: `spec.json` in its work folder."""

from __future__ import annotations

from typing import Any, Literal

from orchestrator.base.files import Frozen, write_text
from orchestrator.launchers import Job, Places
from orchestrator.plan.cell import Cache, Device
from orchestrator.plan.workload import MEASURED, Role, Workload
from orchestrator.records.references import ENDING as REFERENCE_ENDING

SPEC_FILE = "spec.json"


class Spec(Frozen):
    """What `spec.json` says. Folders and files are where the cell's process sees them."""

    schema_version: Literal[1] = 1
    cell_id: str
    workload_id: str
    round: int
    stack: str
    method: str
    device: Device
    bench_source: str
    workload: Workload
    threads: int | None
    """CPU threads; None: torch's own choice."""
    cache: Cache
    cache_folder: str | None
    """None: an empty one in the work folder."""
    checkpoint: str | None
    deadline_s: float
    role: Role
    reference: str | None
    """The file to check against."""
    reference_sha256: str | None
    subject_ids: tuple[str, ...]
    repeats: bool
    """The orchestrator answers which samples are to be measured again."""
    only_first: bool
    """Only the first call is wanted."""


def identity(job: Job) -> dict[str, Any]:
    """Return what the spec and the record say of a job with the same keys and values."""
    of_job = {name: getattr(job, name) for name in ("cell_id", "round", "bench_source")}
    of_cell = {name: getattr(job.cell, name) for name in ("stack", "method", "device", "workload")}
    return {**of_job, **of_cell, "workload_id": job.cell.workload.workload_id}


def write_spec(job: Job, places: Places) -> Spec:
    """Write `spec.json` into the job's work folder; return what it says."""
    cell, same = job.cell, identity(job)
    has_reference = job.reference_sha256 is not None and places.references is not None
    spec = Spec(
        **same,
        threads=job.threads,
        cache=cell.cache,
        cache_folder=places.cache,
        checkpoint=places.checkpoint,
        deadline_s=cell.timeout_s,
        role=cell.role,
        reference=f"{places.references}/{same['workload_id']}{REFERENCE_ENDING}" if has_reference else None,
        reference_sha256=job.reference_sha256,
        subject_ids=tuple(subject.workload_id for subject in cell.workload.subjects or ()),
        repeats=cell.role == "row" and cell.workload.benchmark in MEASURED and not job.only_first,
        only_first=job.only_first,
    )
    write_text(job.work / SPEC_FILE, spec.model_dump_json(indent=1) + "\n")
    return spec
