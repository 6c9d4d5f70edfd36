"""Which way of giving a container the GPU works on this host: each is tried, and the answer kept."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from orchestrator.base.errors import InfrastructureError
from orchestrator.base.files import make_folder, write_json
from orchestrator.base.paths import STATE
from orchestrator.host.owner import boot
from orchestrator.plan.workload import digest

if TYPE_CHECKING:
    from orchestrator.launchers.docker import DockerLauncher
    from orchestrator.plan.stack import GpuAccess, Stack


WAYS: tuple[GpuAccess, ...] = ("request", "cdi", "raw")
CACHE_FILE = "gpu-access.json"

# Asks the driver itself, so that any image with a Python will do.
PROBE = """
import ctypes
cuda, count = ctypes.CDLL("libcuda.so.1"), ctypes.c_int(-1)
error = cuda.cuInit(0) or cuda.cuDeviceGetCount(ctypes.byref(count))
print("cuda error", error, "devices", count.value)
raise SystemExit(0 if error == 0 and count.value == 1 else 1)
"""


def find_access(launcher: DockerLauncher, stack: Stack, state: Path = STATE) -> GpuAccess:
    """Return the first way in which a container of `stack` really sees the GPU; tried once per boot and driver.

    InfrastructureError, with what each way answered, where none works.
    """
    assert launcher.gpu is not None
    key = digest([boot(), launcher.client.version().get("Version"), launcher.gpu.driver, launcher.gpu.uuid])
    known = _read(state / CACHE_FILE).get(key)
    for way in WAYS:
        if way == known:
            return way
    answers = try_ways(launcher, stack)
    for way, answer in answers.items():
        if answer is None:
            make_folder(state)
            write_json(state / CACHE_FILE, {key: way})
            return way
    told = "; ".join(f"{way}: {answer}" for way, answer in answers.items())
    raise InfrastructureError(f"no container sees the GPU ({told})", where=stack.name, remedy="`orchestrator doctor`")


def try_ways(launcher: DockerLauncher, stack: Stack, *, every: bool = False) -> dict[GpuAccess, str | None]:
    """Really start containers of `stack`: None for a way that works, else why not. Stops at the first that works."""
    answers: dict[GpuAccess, str | None] = {}
    for way in WAYS:
        try:
            code, output = launcher.ask(stack, ("-c", PROBE), "cuda", way)
        except InfrastructureError as error:
            answers[way] = error.what
            continue
        line = output.strip().splitlines()[-1] if output.strip() else f"exit code {code}"
        answers[way] = None if code == 0 else line
        if code == 0 and not every:
            break
    return answers


def _read(path: Path) -> dict[str, Any]:
    try:
        told = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return told if isinstance(told, dict) else {}
