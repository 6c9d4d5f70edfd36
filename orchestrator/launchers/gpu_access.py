"""How a container gets one GPU: by NVIDIA device request, by CDI, or by raw devices and the driver's libraries."""

from __future__ import annotations

import glob
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from docker.types import DeviceRequest

from orchestrator.base.errors import UsageError
from orchestrator.host.gpu import HostGpu
from orchestrator.plan.stack import GpuAccess, Stack

DRIVER_FOLDER = "/usr/local/nvidia/lib64"
CONTROL_DEVICES = ("/dev/nvidiactl", "/dev/nvidia-uvm", "/dev/nvidia-uvm-tools")
LIBRARIES = (
    "libcuda.so.1",
    "libnvidia-ml.so.1",
    "libnvidia-ptxjitcompiler.so.1",
    "libnvidia-nvvm.so.4",
    "libnvidia-gpucomp.so.*",
)
LIBRARY_FOLDERS = (
    "/usr/local/nvidia/lib64",
    "/usr/lib/x86_64-linux-gnu",
    "/usr/lib/aarch64-linux-gnu",
    "/usr/lib64",
    "/usr/lib/wsl/lib",
)


@dataclass(frozen=True)
class GpuGrant:
    """What a container is given so that it sees one GPU and no other."""

    environment: Mapping[str, str] = field(default_factory=dict)
    requests: tuple[Any, ...] = ()
    devices: tuple[str, ...] = ()
    libraries: tuple[tuple[str, str], ...] = ()
    """(file outside, file inside)"""


def gpu_grant(access: GpuAccess, gpu: HostGpu, stack: Stack) -> GpuGrant:
    """Return what gives `gpu` to a container of `stack` in the way `access`; UsageError where it gets none."""
    visible = {"CUDA_VISIBLE_DEVICES": gpu.uuid}
    if access == "request":
        wanted = DeviceRequest(driver="nvidia", device_ids=[gpu.uuid], capabilities=[["gpu", "compute", "utility"]])
        # The toolkit gives devices new numbers, but keeps UUIDs.
        return GpuGrant({**visible, "NVIDIA_DRIVER_CAPABILITIES": "compute,utility"}, requests=(wanted,))
    if access == "cdi":
        wanted = DeviceRequest(driver="cdi", device_ids=[f"nvidia.com/gpu={gpu.uuid}"])
        return GpuGrant({**visible, "NVIDIA_VISIBLE_DEVICES": "void"}, requests=(wanted,))
    if access == "raw":
        devices = tuple(f"{device}:{device}:rwm" for device in raw_devices(gpu, stack.gpu.devices))
        if stack.ready is not None and stack.ready.mounts:
            return GpuGrant(visible, devices=devices)  # the driver's libraries come with the mounts
        libraries = driver_libraries()
        environment = {**visible, "LD_LIBRARY_PATH": DRIVER_FOLDER} if libraries else visible
        return GpuGrant(environment, devices=devices, libraries=libraries)
    what, remedy = f'access "{access}" gives it no GPU', "write auto, or run on the CPU"
    raise UsageError(what, where=f"{stack.name}: gpu.access", remedy=remedy)


def raw_devices(gpu: HostGpu, patterns: tuple[str, ...] = ()) -> tuple[str, ...]:
    """Return the device files for `gpu` alone: those that `patterns` name, else the usual ones, that exist here."""
    usual = (*CONTROL_DEVICES, "/dev/nvidia[0-9]*")
    found = sorted({path for pattern in patterns or usual for path in glob.glob(pattern)})  # noqa: PTH207  (absolute)
    numbered = [path for path in found if path.removeprefix("/dev/nvidia").isdigit()]
    own = f"/dev/nvidia{gpu.minor}"
    # If this GPU's file is not among those that exist, NVML numbers them differently: leave the choice to CUDA.
    others = set(numbered) - {own} if own in numbered else set()
    return tuple(path for path in found if path not in others)


def driver_libraries(folders: tuple[str, ...] = LIBRARY_FOLDERS) -> tuple[tuple[str, str], ...]:
    """Return the driver's user-space libraries of this host, as (file outside, file inside)."""
    found: dict[str, str] = {}
    for folder in folders:
        for pattern in LIBRARIES:
            for path in sorted(Path(folder).glob(pattern)):
                found.setdefault(f"{DRIVER_FOLDER}/{path.name}", str(path.resolve()))
    return tuple((outside, inside) for inside, outside in found.items())
