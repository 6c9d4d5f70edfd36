"""How a container gets GPUs: by NVIDIA device request, by CDI, or by raw devices and the driver's libraries."""

from __future__ import annotations

import glob
import os
import shutil
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from docker.types import DeviceRequest

from orchestrator.base.errors import UsageError
from orchestrator.base.files import make_folder
from orchestrator.base.paths import STATE
from orchestrator.host.gpu import HostGpu
from orchestrator.plan.stack import GpuAccess, Stack
from orchestrator.plan.workload import digest

DRIVER_FOLDER = "/usr/local/nvidia/lib64"
NVIDIA_SMI = "/usr/bin/nvidia-smi"
READABLE = 0o755
LOADER_CACHE = "/etc/ld.so.cache"
"""What `ldconfig -p` lists, and the loader finds without LD_LIBRARY_PATH."""
CONTROL_DEVICES = ("/dev/nvidiactl", "/dev/nvidia-uvm", "/dev/nvidia-uvm-tools")
LIBRARIES = (
    "libcuda.so.1",
    "libnvidia-ml.so.1",
    "libnvidia-ptxjitcompiler.so.1",
    "libnvidia-nvvm*.so.4",
    "libnvidia-gpucomp.so.*",
)
LIBRARY_FOLDERS = (
    "/usr/local/nvidia/lib64",
    "/usr/lib/x86_64-linux-gnu",
    "/usr/lib/aarch64-linux-gnu",
    "/usr/lib64",
    "/usr/lib/wsl/lib",
)


# Makes a loader's cache of the image's libraries and the driver's, and prints it: a container has no other way out.
MAKE_LOADER_CACHE = f"""
import base64, shutil, subprocess
tool = shutil.which("ldconfig", path="/sbin:/usr/sbin:/bin:/usr/bin")
subprocess.run([tool, "-X", "-i", "-C", "/tmp/ld.so.cache", "{DRIVER_FOLDER}"], check=True, stderr=subprocess.DEVNULL)
print(base64.b64encode(open("/tmp/ld.so.cache", "rb").read()).decode())
"""
# Names what compilers look for and do not find in a container, each on a line, with the way in which it is not found.
FIND_DRIVER = """
import ctypes, shutil, subprocess
tool = shutil.which("ldconfig", path="/sbin:/usr/sbin:/bin:/usr/bin")
listed = subprocess.run([tool, "-p"], capture_output=True, text=True).stdout if tool else None
for name in ("libcuda.so.1", "libcuda.so", "libnvidia-ml.so.1", "libnvidia-ptxjitcompiler.so.1"):
    if listed is not None and f"\t{name} (" not in listed:
        print(name, "is not listed by ldconfig -p")
    try:
        ctypes.CDLL(name)
    except OSError as error:
        print(name, "cannot be loaded:", error)
if shutil.which("nvidia-smi") is None:
    print("nvidia-smi is not on the PATH")
"""


@dataclass(frozen=True)
class GpuGrant:
    """What a container is given so that it sees these GPUs and no other."""

    environment: Mapping[str, str] = field(default_factory=dict)
    requests: tuple[Any, ...] = ()
    devices: tuple[str, ...] = ()
    mounts: tuple[tuple[str, str], ...] = ()
    """(file or folder outside, inside)"""


def gpu_grant(access: GpuAccess, gpu: HostGpu | Sequence[HostGpu], stack: Stack, state: Path = STATE) -> GpuGrant:
    """Return what gives GPUs to a container of `stack` in the way `access`; UsageError where it gets none.

    `state` is where a folder of the driver's names is kept.
    """
    gpus = (gpu,) if isinstance(gpu, HostGpu) else tuple(gpu)
    visible = {"CUDA_VISIBLE_DEVICES": ",".join(one.uuid for one in gpus)}
    if access == "request":
        wanted = DeviceRequest(
            driver="nvidia", device_ids=[one.uuid for one in gpus], capabilities=[["gpu", "compute", "utility"]]
        )
        # The toolkit gives devices new numbers, but keeps UUIDs.
        return GpuGrant({**visible, "NVIDIA_DRIVER_CAPABILITIES": "compute,utility"}, requests=(wanted,))
    if access == "cdi":
        wanted = DeviceRequest(driver="cdi", device_ids=[f"nvidia.com/gpu={one.uuid}" for one in gpus])
        return GpuGrant({**visible, "NVIDIA_VISIBLE_DEVICES": "void"}, requests=(wanted,))
    if access == "raw":
        found = dict.fromkeys(device for one in gpus for device in raw_devices(one, stack.gpu.devices))
        devices = tuple(f"{device}:{device}:rwm" for device in sorted(found))
        if stack.ready is not None and stack.ready.mounts:
            return GpuGrant(visible, devices=devices)  # the driver's libraries come with the mounts
        mounts = driver_mounts(state)
        environment = {**visible, "LD_LIBRARY_PATH": DRIVER_FOLDER} if mounts else visible
        return GpuGrant(environment, devices=devices, mounts=mounts)
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


def driver_libraries(folders: tuple[str, ...]) -> dict[str, Path]:
    """Return the driver's user-space libraries of this host: the file of each name that programs ask for."""
    found: dict[str, Path] = {}
    for folder in folders:
        for pattern in LIBRARIES:
            for path in sorted(Path(folder).glob(pattern)):
                found.setdefault(path.name, path.resolve())
    return found


def driver_mounts(state: Path, folders: tuple[str, ...] | None = None) -> tuple[tuple[str, str], ...]:
    """Return what is mounted so that a container has the driver's libraries and nvidia-smi; nothing where none is here.

    The libraries lie in one folder by all of their names, the one without a version too: some compilers look for
    `libcuda.so` alone, as a file of LD_LIBRARY_PATH or as a link that `ldconfig -p` lists.
    """
    libraries = driver_libraries(folders or LIBRARY_FOLDERS)
    if not libraries:
        return ()
    files = {path.name: str(path) for path in libraries.values()}
    links = {name: path.name for name, path in libraries.items()}
    links |= {f"{name.partition('.so')[0]}.so": name for name in libraries}
    found = [(_folder_of(files, links, state), DRIVER_FOLDER)]
    found += [(outside, f"{DRIVER_FOLDER}/{name}") for name, outside in files.items()]
    tool = shutil.which("nvidia-smi")
    return (*found, *([(os.path.realpath(tool), NVIDIA_SMI)] if tool else []))


def _folder_of(files: Mapping[str, str], links: Mapping[str, str], state: Path) -> str:
    """Return a folder of the links and of empty files, onto which the libraries' own are mounted."""
    place = state / "driver" / digest([sorted(files), sorted(links.items())])
    if not place.is_dir():
        make_folder(place.parent)
        made = Path(tempfile.mkdtemp(dir=place.parent))
        made.chmod(READABLE)  # the containers' user is another than this one
        for name in files:
            (made / name).touch()
        for name in links.keys() - files.keys():
            (made / name).symlink_to(links[name])
        try:
            made.rename(place)
        except OSError:  # another process was first
            shutil.rmtree(made)
    return str(place)
