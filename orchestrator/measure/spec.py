"""What a cell's process is told: `spec.json` in its work folder."""

from __future__ import annotations

from typing import TYPE_CHECKING

from orchestrator.base.files import write_json

if TYPE_CHECKING:
    from pathlib import Path

    from orchestrator.plan.cell import Cell

SPEC_FILE = "spec.json"


def write_spec(
    folder: Path,
    cell: Cell,
    *,
    cell_id: str,
    round: int,  # noqa: A002  # the word for it everywhere else
    bench_source: str,
    threads: int | None = None,
    cache_folder: str | None = None,
    checkpoint: str | None = None,
    reference: str | None = None,
    reference_sha256: str | None = None,
    repeats: bool = False,
    only_first: bool = False,
) -> Path:
    """Write `spec.json` into `folder` and return its path.

    `threads` is the number of CPU threads (None: torch's own choice). `cache_folder` and `checkpoint` are folders as
    the cell's process sees them; no `cache_folder` means an empty one in the work folder. `reference` is the file to
    check against, as the process sees it. `repeats`: somebody answers which samples are to be measured again.
    `only_first`: nothing but the first call is wanted.
    """
    path = folder / SPEC_FILE
    write_json(
        path,
        {
            "schema_version": 1,
            "cell_id": cell_id,
            "workload_id": cell.workload.workload_id,
            "round": round,
            "stack": cell.stack,
            "method": cell.method,
            "device": cell.device,
            "bench_source": bench_source,
            "workload": cell.workload.model_dump(mode="json"),
            "threads": threads,
            "cache": cell.cache,
            "cache_folder": cache_folder,
            "checkpoint": checkpoint,
            "deadline_s": cell.timeout_s,
            "role": cell.role,
            "reference": reference,
            "reference_sha256": reference_sha256,
            "subject_ids": [subject.workload_id for subject in cell.workload.subjects or ()],
            "repeats": repeats,
            "only_first": only_first,
        },
    )
    return path
