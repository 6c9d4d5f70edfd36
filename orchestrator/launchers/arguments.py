"""The arguments of a cell's container: no network, no rights, limits, one writable folder."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from docker.types import LogConfig, Mount, Ulimit

from orchestrator.launchers import CACHE_FOLDER, Job, cell_environment
from orchestrator.launchers.gpu_access import GpuGrant
from orchestrator.plan.stack import Stack

WORK, BENCH, CHECKPOINT, CACHE, REFERENCES = "/work", "/stackbench/bench", "/checkpoint", "/cache", "/references"
TMP_OPTIONS = "rw,exec,nosuid,nodev,size=2g,mode=1777"
PIDS_LIMIT = 8192
LOG_BYTES, LOG_FILES = "8m", "2"
OOM_SCORE_ADJ = 800
"""Where the host's memory runs out all the same, the kernel kills a cell before anything else."""
SECCOMP = Path(__file__).with_name("seccomp.json")
"""The engine's default profile as it is for a process without capabilities, less io_uring, 32-bit programs, and all
kinds of socket but those of Unix, IP and netlink. It is formed as the engine's own is; an engine ignores the names of
calls that it does not know."""
OPTIONAL = (
    *("init", "seccomp", "userns_mode", "log_config", "oom_score_adj", "ulimits", "shm_size"),
    *("nano_cpus", "pids_limit", "memswap_limit", "mem_limit"),
)
"""Options that a cell can do without, where the engine (or this image on it) refuses them: the least missed first."""


@dataclass(frozen=True)
class Limits:
    """What one container may use of the host."""

    memory_bytes: int
    cpus: int
    user: str
    cpuset: str | None = None
    """The CPUs that it may run on, as `0-15,32-47`; None: all."""
    pids: int = PIDS_LIMIT
    without: frozenset[str] = frozenset()
    """Those of OPTIONAL that are left out."""


@dataclass(frozen=True)
class Folders:
    """What a container sees beside bench and what its stack brings; a job has the same."""

    work: Path
    cache: Path | None = None
    checkpoint: Path | None = None
    references: Path | None = None


def container_arguments(
    image: str,
    stack: Stack,
    command: tuple[str, ...],
    *,
    bench: Path,
    job: Job | Folders | None,
    grant: GpuGrant,
    limits: Limits,
) -> dict[str, Any]:
    """Return the SDK's arguments for a container: `container` and `host_config`."""
    shared = job is not None and job.cache is not None
    cache = CACHE if shared else f"{WORK if job else '/tmp'}/{CACHE_FOLDER}"  # noqa: S108  (the container's own)
    environment = {
        **grant.environment,
        **cell_environment(stack, cache, python_path=str(Path(BENCH).parent), home="/tmp"),  # noqa: S108
        "TMPDIR": "/tmp",  # noqa: S108
    }
    libraries = [own["LD_LIBRARY_PATH"] for own in (stack.environment, grant.environment) if "LD_LIBRARY_PATH" in own]
    if libraries:
        environment["LD_LIBRARY_PATH"] = ":".join(libraries)
    return {
        "container": {
            "image": image,
            "entrypoint": [stack.python],
            "command": list(command),
            "environment": environment,
            "user": limits.user,
            "working_dir": WORK if job else "/tmp",  # noqa: S108
            "hostname": "stackbench",
            # An image's own health check would run beside the measurement.
            "healthcheck": {"test": ["NONE"]},
        },
        "host_config": {
            "network_mode": "none",
            "cap_drop": ["ALL"],
            "security_opt": ["no-new-privileges", *_profile(limits)],
            "read_only": True,
            "tmpfs": {"/tmp": TMP_OPTIONS},  # noqa: S108
            "mounts": _mounts(stack, bench, job, grant),
            **({"cpuset_cpus": limits.cpuset} if limits.cpuset else {}),
            "devices": list(grant.devices),
            "device_requests": list(grant.requests),
            **{
                option: value for option, value in _optional(limits, stack, job).items() if option not in limits.without
            },
        },
    }


def _optional(limits: Limits, stack: Stack, job: Job | Folders | None) -> dict[str, Any]:
    ranks = job.cell.workload.devices if isinstance(job, Job) else 1
    return {
        "init": True,
        "shm_size": f"{ranks}g",  # through it the ranks of a cell of several devices talk
        "pids_limit": limits.pids,
        "mem_limit": limits.memory_bytes,
        "memswap_limit": limits.memory_bytes,
        "nano_cpus": limits.cpus * 10**9,
        "oom_score_adj": OOM_SCORE_ADJ,
        "ulimits": [
            Ulimit(name=name, soft=most, hard=most) for name, most in (("core", 0), ("fsize", stack.work_bytes))
        ],
        "log_config": LogConfig(type="json-file", config={"max-size": LOG_BYTES, "max-file": LOG_FILES}),
        "userns_mode": "host",
    }


def _profile(limits: Limits) -> list[str]:
    return [] if "seccomp" in limits.without else [f"seccomp={SECCOMP.read_text(encoding='utf-8')}"]


def _mounts(stack: Stack, bench: Path, job: Job | Folders | None, grant: GpuGrant) -> list[Mount]:
    writable = {} if job is None else {WORK: job.work, CACHE: job.cache}
    readable = {} if job is None else {CHECKPOINT: job.checkpoint, REFERENCES: job.references}
    places = [(BENCH, str(bench)), *((place, place) for place in (stack.ready.mounts if stack.ready else ()))]
    places += [(inside, str(outside)) for inside, outside in readable.items() if outside is not None]
    places += [(inside, outside) for outside, inside in grant.mounts]
    mounts = [Mount(inside, str(outside), type="bind") for inside, outside in writable.items() if outside is not None]
    return mounts + [Mount(inside, outside, type="bind", read_only=True) for inside, outside in places]
