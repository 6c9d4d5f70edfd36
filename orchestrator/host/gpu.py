"""The GPUs of this host as NVML lists them: none where there is no driver, never an error."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import pynvml

from orchestrator.base.errors import UsageError

BUSY_PERCENT = 10
REASONS = {
    "idle": 0x1,
    "application clocks": 0x2,
    "software power cap": 0x4,
    "hardware slowdown": 0x8,
    "sync boost": 0x10,
    "software thermal slowdown": 0x20,
    "hardware thermal slowdown": 0x40,
    "power brake": 0x80,
    "display clocks": 0x100,
    "board limit": 0x200,
    "reliability": 0x400,
}
"""Bits of NVML's clocks event reasons (once called throttle reasons)."""
NEVER_ANSWERED = ("NVMLError_NotSupported", "NVMLError_FunctionNotFound", "NVMLError_NoPermission")
NAME_CHARACTERS = 40


@dataclass(frozen=True)
class HostGpu:
    """One GPU. `minor` is N of /dev/nvidiaN; what NVML does not say is None."""

    uuid: str
    index: int
    name: str
    driver: str
    memory_bytes: int | None = None
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
    matches = [gpu for gpu in found if wanted in (None, gpu.uuid)]
    if not matches:
        known = ", ".join(f"{gpu.uuid} ({gpu.name})" for gpu in found)
        raise UsageError(f'no GPU "{wanted}"', where="--gpu", remedy=f"known: {known}")
    # An idle one is the least busy.
    best = min(matches, key=lambda gpu: (bool(gpu.busy), len(gpu.processes), gpu.utilisation or 0 if gpu.busy else 0))
    if best.busy and not allow_busy:
        raise _busy(matches[0])
    return best


def refuse_busy(uuid: str) -> None:
    """UsageError where other processes use that GPU at this moment."""
    for gpu in gpus():
        if gpu.uuid == uuid and gpu.busy:
            raise _busy(gpu)


class Quick(NamedTuple):
    """What may change from one moment to the next. What the driver does not say is None."""

    energy_mj: int | None = None
    """The device's own counter, in millijoules since the driver was loaded."""
    sm_mhz: int | None = None
    memory_mhz: int | None = None
    reasons: int | None = None
    thermal_ns: int | None = None
    """How long it was slowed down for its temperature, a counter."""


class Slow(NamedTuple):
    """What changes slowly, or is an average anyway."""

    power_mw: int | None = None
    celsius: int | None = None
    used_bytes: int | None = None


class Gauge:
    """Reads one GPU again and again. A call that its driver does not know is not made a second time."""

    def __init__(self, handle: Any) -> None:
        self._handle = handle
        self._never: set[tuple[Any, ...]] = set()

    def quick(self) -> Quick:
        """Return the counters and clocks of this moment, the energy first: it belongs to the caller's time."""
        energy = self.ask("nvmlDeviceGetTotalEnergyConsumption")
        violation = self.ask("nvmlDeviceGetViolationStatus", pynvml.NVML_PERF_POLICY_THERMAL)
        return Quick(
            energy_mj=energy,
            sm_mhz=self.ask("nvmlDeviceGetClockInfo", pynvml.NVML_CLOCK_SM),
            memory_mhz=self.ask("nvmlDeviceGetClockInfo", pynvml.NVML_CLOCK_MEM),
            reasons=self.ask("nvmlDeviceGetCurrentClocksThrottleReasons"),
            thermal_ns=None if violation is None else int(violation.violationTime),
        )

    def slow(self) -> Slow:
        """Return power (the driver's own average), temperature and memory in use."""
        memory = self.ask("nvmlDeviceGetMemoryInfo")
        return Slow(
            power_mw=self.ask("nvmlDeviceGetPowerUsage"),
            celsius=self.ask("nvmlDeviceGetTemperature", pynvml.NVML_TEMPERATURE_GPU),
            used_bytes=None if memory is None else int(memory.used),
        )

    def processes(self) -> frozenset[int] | None:
        """Return the numbers of the processes that compute there, as this host's; None where it does not say."""
        running = self.ask("nvmlDeviceGetComputeRunningProcesses")
        return None if running is None else frozenset(int(process.pid) for process in running)

    def ask(self, function: str, *arguments: int) -> Any:
        """Return what the driver answers, or None."""
        if (function, *arguments) in self._never:
            return None
        try:
            return getattr(pynvml, function)(self._handle, *arguments)
        except (pynvml.NVMLError, AttributeError) as error:
            if isinstance(error, AttributeError) or type(error).__name__ in NEVER_ANSWERED:
                self._never.add((function, *arguments))
            return None


@contextlib.contextmanager
def gauge(uuid: str) -> Iterator[Gauge | None]:
    """Give a gauge of the GPU `uuid`; None where there is no driver or no such GPU."""
    with _nvml() as working:
        handle = None
        if working:
            with contextlib.suppress(pynvml.NVMLError):
                handle = pynvml.nvmlDeviceGetHandleByUUID(uuid)
        yield None if handle is None else Gauge(handle)


def process_name(pid: int) -> str:
    """Return the name of a process as the driver knows it: the file's alone, without its folder and arguments."""
    try:
        text = _text(pynvml.nvmlSystemGetProcessName(pid))
    except (pynvml.NVMLError, UnicodeError):
        return "unknown"
    name = text.split("\0")[0].split(" ")[0].rpartition("/")[2]
    shown = "".join(letter for letter in name if letter.isascii() and letter.isprintable())
    return shown[:NAME_CHARACTERS] or "unknown"


def _busy(gpu: HostGpu) -> UsageError:
    remedy = "wait, choose another with --gpu UUID, or measure all the same with --allow-busy"
    return UsageError(f"this GPU is busy: {gpu.busy}", where=f"{gpu.uuid} ({gpu.name})", remedy=remedy)


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
    ask = Gauge(handle).ask
    memory, capability = ask("nvmlDeviceGetMemoryInfo"), ask("nvmlDeviceGetCudaComputeCapability")
    load, minor = ask("nvmlDeviceGetUtilizationRates"), ask("nvmlDeviceGetMinorNumber")
    return HostGpu(
        uuid=_text(pynvml.nvmlDeviceGetUUID(handle)),
        index=index,
        name=_text(pynvml.nvmlDeviceGetName(handle)),
        driver=driver,
        memory_bytes=int(memory.total) if memory else None,
        compute_capability=f"{capability[0]}.{capability[1]}" if capability else None,
        minor=int(minor) if minor is not None else None,
        processes=tuple(int(process.pid) for process in ask("nvmlDeviceGetComputeRunningProcesses") or ()),
        utilisation=int(load.gpu) if load else None,
    )


def _text(value: str | bytes) -> str:
    return value.decode() if isinstance(value, bytes) else value
