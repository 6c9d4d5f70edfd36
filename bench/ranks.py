"""A cell of several devices: one process (a rank) for each, started and watched by this one, which computes nothing.

Rank 0 works in the cell's folder and writes its record, the others in folders inside of it. Ranks wait for one another
in every collective operation: so one that dies, or fails by itself, ends them all, and the record says which and why.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

from bench import caches, children
from bench.record import blank, write_json
from bench.spec import Spec

POLL_S = 0.05
GRACE_S = 30.0
"""How long the others may go on where one has ended by itself."""
DEAD_S = 2.0
"""The same where it died: what they still say then is that they miss it."""
FINE = ("ok", "incorrect")
VARIABLES = {
    # No network but loopback. NVLink multicast stays off: used wrongly it takes a host's GPUs out of service.
    "GLOO_SOCKET_IFNAME": "lo",
    "NCCL_SOCKET_IFNAME": "lo",
    "NCCL_NVLS_ENABLE": "0",
    "TORCH_SYMM_MEM_DISABLE_MULTICAST": "1",
    "NVSHMEM_DISABLE_NVLS": "1",
}
"""What every rank gets, before it imports torch."""


def of(spec: Spec, rank: int) -> Spec:
    """The spec of one rank: rank 0's is the cell's own. Each has a compile cache of its own, inside of rank 0's."""
    if not 0 <= rank < spec.workload.devices:
        raise ValueError(f"there is no rank {rank} of {spec.workload.devices}")
    meeting = str(spec.folder / "meeting")
    if rank == 0:
        return replace(spec, meeting=meeting)
    folder, cache = spec.folder / f"rank-{rank}", caches.folder(spec) / f"rank-{rank}"
    folder.mkdir(exist_ok=True)
    return replace(spec, rank=rank, folder=folder, cache_folder=str(cache), meeting=meeting)


def run(spec: Spec, command: Sequence[str] = (sys.executable, "-m", "bench")) -> dict[str, Any]:
    """Run the cell and return its record, which is in its folder then. `command` takes a spec and `--rank N`."""
    (spec.folder / "meeting").unlink(missing_ok=True)
    numbers = range(spec.workload.devices)
    start = [*command, str(spec.folder / "spec.json"), "--rank"]
    environment = {**os.environ, **VARIABLES}
    records = [of(spec, rank).folder / "record.json" for rank in numbers]  # the folders are there before the ranks
    processes = [children.start([*start, str(rank)], environment) for rank in numbers]
    try:
        dead = watch(processes, records)
    finally:
        for process in processes:
            if process.poll() is None:
                process.kill()
        for process in processes:
            process.wait()
    return settle(spec, dead)


def watch(processes: Sequence[subprocess.Popen[bytes]], records: Sequence[Path]) -> str | None:
    """Wait until all have ended, or until those that are left wait in vain. Returns which died first, and how."""
    until, dead = float("inf"), None
    while time.monotonic() < until:
        codes = [process.poll() for process in processes]
        ended = [rank for rank, code in enumerate(codes) if code is not None]
        died = [rank for rank in ended if codes[rank] or not records[rank].is_file()]
        if died and dead is None:
            unsaid = "" if codes[died[0]] else " and left no record"
            dead = f"rank {died[0]} of {len(codes)} {how(codes[died[0]] or 0)}{unsaid}"
            until = min(until, time.monotonic() + DEAD_S)
        if len(ended) == len(codes):
            break
        if ended:
            until = min(until, time.monotonic() + GRACE_S)
        time.sleep(POLL_S)
    return dead


def how(code: int) -> str:
    """How a process ended, in words."""
    if code >= 0:
        return f"ended with exit code {code}"
    with suppress(ValueError):
        return f"was killed by signal {-code} ({signal.Signals(-code).name})"
    return f"was killed by signal {-code}"


def settle(spec: Spec, dead: str | None) -> dict[str, Any]:
    """Write and return the cell's record: rank 0's, unless another died, or failed before it did."""
    found = {rank: content for rank in range(spec.workload.devices) if (content := read(of(spec, rank).folder))}
    record = found.get(0)
    failed = {rank: one for rank, one in found.items() if one["status"] not in FINE}
    if dead is not None:
        record = {**(record or blank(spec)), "status": "crashed", "reason": dead}
    elif failed:
        first = min(failed, key=lambda rank: failed[rank]["written_ns"])
        status, reason = (failed[first][key] for key in ("status", "reason"))
        # What all ranks say alike needs no name.
        alike = len(failed) == spec.workload.devices and len({one["reason"] for one in failed.values()}) == 1
        said = reason if alike else f"rank {first} of {spec.workload.devices}: {reason}"
        record = {**(record or blank(spec)), "status": status, "reason": said}
    elif record is None or len(found) < spec.workload.devices:
        missing = next(rank for rank in range(spec.workload.devices) if rank not in found)
        reason = f"rank {missing} of {spec.workload.devices} was not done {GRACE_S:g} s after another"
        record = {**(record or blank(spec)), "status": "crashed", "reason": reason}
    record.pop("written_ns", None)
    write_json(spec.folder / "record.json", record)
    return record


def read(folder: Path) -> dict[str, Any] | None:
    """A rank's record with the time when it was written; None where there is none."""
    path = folder / "record.json"
    with suppress(OSError, ValueError):
        content: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        return {**content, "written_ns": path.stat().st_mtime_ns}
    return None
