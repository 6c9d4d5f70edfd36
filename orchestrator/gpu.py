"""The GPUs of this host as NVML tells: none where there is no driver, never an error."""

from __future__ import annotations

import contextlib
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import pynvml

from orchestrator.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

BUSY_PERCENT = 10


@dataclass(frozen=True)
class HostGpu:
    """One GPU. `minor` is N of /dev/nvidiaN; what NVML would not tell is None."""

    uuid: str
    index: int
    name: str
    driver: str
    memory_bytes: int | None = None
    used_bytes: int | None = None
    compute_capability: str | None = None
    minor: int | None = None
    processes: tuple[int, ...] = ()
    utilisation: int | None = None
    """Percent of the last sampling period in which a kernel ran."""

    @property
    def identity(self) -> str:
        """What a cell's identity says of the GPU: its model and its driver, not which of them."""
        return f"{self.name}|{self.driver}"

    @property
    def busy(self) -> str | None:
        """Why a measurement there would be disturbed, or None."""
        if self.processes:
            return f"{len(self.processes)} other process{'es use' if len(self.processes) > 1 else ' uses'} it"
        if (self.utilisation or 0) >= BUSY_PERCENT:
            return f"{self.utilisation} % utilised"
        return None


def gpus() -> tuple[HostGpu, ...]:
    """Return this host's GPUs in NVML's order; empty where there is no driver, no GPU, or NVML does not answer."""
    with _nvml() as working:
        if not working:
            return ()
        driver = _text(pynvml.nvmlSystemGetDriverVersion())
        found = []
        for index in range(pynvml.nvmlDeviceGetCount()):
            with contextlib.suppress(pynvml.NVMLError):
                found.append(_describe(pynvml.nvmlDeviceGetHandleByIndex(index), index, driver))
        return tuple(found)


def choose_gpu(found: Sequence[HostGpu], wanted: str | None, *, allow_busy: bool) -> HostGpu:
    """Return the GPU to run on: the one that is wanted (a UUID), else the first idle one.

    A busy GPU is refused (UsageError) unless `allow_busy`.
    """
    if not found:
        raise UsageError("no GPU on this host", where="--gpu", remedy="leave it out: the CPU is used then")
    known = ", ".join(f"{gpu.uuid} ({gpu.name})" for gpu in found)
    if wanted is not None:
        matches = [gpu for gpu in found if gpu.uuid == wanted]
        if not matches:
            raise UsageError(f'no GPU "{wanted}"', where="--gpu", remedy=f"known: {known}")
        if matches[0].busy and not allow_busy:
            raise _busy(matches[0])
        return matches[0]
    idle = [gpu for gpu in found if not gpu.busy]
    if idle:
        return idle[0]
    if allow_busy:
        return min(found, key=lambda gpu: (len(gpu.processes), gpu.utilisation or 0))
    raise _busy(found[0])


def refuse_busy(uuid: str) -> None:
    """UsageError where other processes use that GPU at this moment."""
    for gpu in gpus():
        if gpu.uuid == uuid and gpu.busy:
            raise _busy(gpu)


def _busy(gpu: HostGpu) -> UsageError:
    return UsageError(
        f"this GPU is busy: {gpu.busy}",
        where=f"{gpu.uuid} ({gpu.name})",
        remedy="wait, choose another with --gpu UUID, or measure all the same with --allow-busy",
    )


@contextlib.contextmanager
def _nvml() -> Iterator[bool]:
    try:
        pynvml.nvmlInit()
    except (pynvml.NVMLError, OSError):
        yield False
        return
    try:
        yield True
    finally:
        with contextlib.suppress(pynvml.NVMLError):
            pynvml.nvmlShutdown()


def _describe(handle: Any, index: int, driver: str) -> HostGpu:
    def ask(function: str) -> Any:
        try:
            return getattr(pynvml, function)(handle)
        except (pynvml.NVMLError, AttributeError):
            return None

    memory, capability = ask("nvmlDeviceGetMemoryInfo"), ask("nvmlDeviceGetCudaComputeCapability")
    load, minor = ask("nvmlDeviceGetUtilizationRates"), ask("nvmlDeviceGetMinorNumber")
    running = ask("nvmlDeviceGetComputeRunningProcesses") or []
    return HostGpu(
        uuid=_text(pynvml.nvmlDeviceGetUUID(handle)),
        index=index,
        name=_text(pynvml.nvmlDeviceGetName(handle)),
        driver=driver,
        memory_bytes=int(memory.total) if memory else None,
        used_bytes=int(memory.used) if memory else None,
        compute_capability=f"{capability[0]}.{capability[1]}" if capability else None,
        minor=int(minor) if minor is not None else None,
        processes=tuple(int(process.pid) for process in running),
        utilisation=int(load.gpu) if load else None,
    )


def _text(value: str | bytes) -> str:
    return value.decode() if isinstance(value, bytes) else value
