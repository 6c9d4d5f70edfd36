"""What a cell's process is told, in `spec.json`."""

from __future__ import annotations

from pathlib import PurePosixPath
from typing import Any, Literal

from orchestrator.base.files import Frozen, os_errors
from orchestrator.launchers import Job, Places
from orchestrator.plan.cell import Cache, Device
from orchestrator.plan.workload import MEASURED, Kind, Role, Workload
from orchestrator.records.references import ENDING as REFERENCE_ENDING

SPEC_FILE = "spec.json"


class Beside(Frozen):
    """What the spec of a workload that is run beside another says that is not in the other's."""

    workload: Workload
    checkpoint: str | None
    reference: str | None
    reference_sha256: str | None


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
    method_source: str | None
    """SHA-256 of the method's file, where it is a user's own."""
    workload: Workload
    threads: int | None
    """CPU threads; None: torch's own choice."""
    cache: Cache
    cache_folder: str | None
    """None: an empty one in the work folder."""
    checkpoint: str | None
    deadline_s: float
    role: Role
    kind: Kind
    reference: str | None
    """The file to check against."""
    reference_sha256: str | None
    subject_ids: tuple[str, ...]
    beside: tuple[Beside, ...]
    """What is run beside it."""
    repeats: bool
    """The orchestrator answers which samples are to be measured again."""
    only_first: bool
    """Only the first call is wanted."""


def identity(job: Job) -> dict[str, Any]:
    """Return what the spec and the record say of a job with the same keys and values."""
    of_job = {name: getattr(job, name) for name in ("cell_id", "round", "bench_source")}
    of_cell = {
        name: getattr(job.cell, name) for name in ("stack", "method", "device", "workload", "method_source", "kind")
    }
    return {**of_job, **of_cell, "workload_id": job.cell.workload.workload_id}


def write_spec(job: Job, places: Places) -> Spec:
    """Write `spec.json` into the job's work folder; return what it says."""
    cell, same = job.cell, identity(job)
    own_id, *beside_ids = job.part_ids or (same["workload_id"],)
    beside = zip(cell.workload.beside or (), beside_ids, job.beside_sha256, strict=True)
    spec = Spec(
        **same,
        threads=job.threads,
        cache=cell.cache,
        cache_folder=places.cache,
        checkpoint=places.checkpoint,
        deadline_s=cell.timeout_s,
        role=cell.role,
        **_reference(places, own_id, job.reference_sha256),
        subject_ids=tuple(subject.workload_id for subject in cell.workload.subjects or ()),
        beside=tuple(
            Beside(workload=one, checkpoint=_weights(job, places, number), **_reference(places, name, sha256))
            for number, (one, name, sha256) in enumerate(beside, 1)
        ),
        repeats=cell.role == "row" and cell.workload.benchmark in MEASURED and not job.only_first,
        only_first=job.only_first,
    )
    path = job.work / SPEC_FILE
    with os_errors(path):  # read before anything could be lost: nothing waits for the disk
        path.write_text(spec.model_dump_json(indent=1) + "\n", encoding="utf-8")
    return spec


def _weights(job: Job, places: Places, number: int) -> str | None:
    """Return the folder of weights of a part of the workload: an engine's parts have one each."""
    if places.checkpoint is None or not job.weights_ids:
        return places.checkpoint
    return str(PurePosixPath(places.checkpoint).with_name(job.weights_ids[number]))


def _reference(places: Places, workload_id: str, sha256: str | None) -> dict[str, Any]:
    """Return what a spec says of the reference that a workload is checked against."""
    there = sha256 is not None and places.references is not None
    path = f"{places.references}/{workload_id}{REFERENCE_ENDING}" if there else None
    return {"reference": path, "reference_sha256": sha256}
