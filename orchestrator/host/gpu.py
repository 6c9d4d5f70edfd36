"""The GPUs of this host as NVML lists them. Whatever NVML raises is no error here: something is not known, and why.

A GPU that is there but cannot be asked is not the same as no GPU.
"""

from __future__ import annotations

import contextlib
import glob
import os
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple

import pynvml

from orchestrator.base.errors import UsageError
from orchestrator.base.limits import LARGEST
from orchestrator.base.text import NO_GPU, counted, one_line, shortened

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
NEVER_ANSWERED = ("NVMLError_NotSupported", "NVMLError_FunctionNotFound", "NVMLError_NoPermission", "AttributeError")
LOST = ("NVMLError_GpuIsLost", "NVMLError_ResetRequired")
GONE = (*LOST, "NVMLError_NotFound", "NVMLError_LibRmVersionMismatch", "NVMLError_DriverNotLoaded")
"""Answers to opening NVML, or to a GPU's UUID, that a GPU which was there before does not give."""
NO_LIBRARY = "NVMLError_LibraryNotFound"
REMEDIES = {
    "NVMLError_LibRmVersionMismatch": "the driver was updated under a running system: reboot",
    "NVMLError_DriverNotLoaded": "load the driver's kernel module",
    "NVMLError_NoPermission": "check who may open /dev/nvidia*",
    "NVMLError_GpuIsLost": "reset it or reboot",
}
NAME_CHARACTERS, SHOWN_CHARACTERS = 40, 100
VISIBLE = "CUDA_VISIBLE_DEVICES"
DEVICES = "/dev/nvidia[0-9]*"
PCI_DEVICES = Path("/sys/bus/pci/devices")
CPU_LIST = re.compile(r"\d+(-\d+)?(,\d+(-\d+)?)*")


class Answer(NamedTuple):
    """What a call of NVML gave: a value, or why there is none (`kind` is the error's type)."""

    value: Any = None
    why: str | None = None
    kind: str = ""

    @property
    def reason(self) -> str:
        """Why there is no value, with what can be done."""
        remedy = REMEDIES.get(self.kind)
        return f"{self.why} ({remedy})" if remedy else str(self.why)


def ask(function: str, *arguments: Any, read: Callable[[Any], Any] | None = None) -> Answer:
    """Return what NVML answers to a call, taken apart by `read`. Every call of the library goes through here."""
    try:
        try:
            value = getattr(pynvml, function)(*arguments)
        except UnicodeDecodeError as error:  # pynvml believes that every name is UTF-8
            value = error.object
        if isinstance(value, bytes):
            value = value.decode("utf-8", "replace")
        value = read(value) if read else value
        if isinstance(value, int) and abs(value) > LARGEST:
            return Answer(why=f"{value} is not a sane value", kind="ValueError")
        return Answer(value)
    except Exception as error:  # noqa: BLE001 - a driver's answers are not worth a run, whatever they raise
        kind = type(error).__name__
        try:
            words = str(error)
        except Exception:  # noqa: BLE001 - pynvml asks the library for an error's text
            words = ""
        return Answer(why=shortened(one_line(words), SHOWN_CHARACTERS) or kind, kind=kind)


@dataclass(frozen=True)
class HostGpu:
    """One GPU. `minor` is N of /dev/nvidiaN; what NVML does not say is None."""

    uuid: str
    index: int
    name: str
    driver: str | None
    memory_bytes: int | None = None
    compute_capability: str | None = None
    minor: int | None = None
    processes: tuple[int, ...] = ()
    utilisation: int | None = None
    """Percent of the last sampling period in which a kernel ran."""
    visible: bool = True
    """Whether CUDA_VISIBLE_DEVICES leaves it to us."""

    @property
    def identity(self) -> str:
        """What a cell's identity says of the GPU: its model and its driver, not which of them."""
        return f"{self.name}|{self.driver}"

    def alike(self, found: Sequence[HostGpu]) -> tuple[HostGpu, ...]:
        """Return the others of the same model among `found`, which a cell of several may take."""
        return tuple(one for one in found if one.uuid != self.uuid and one.name == self.name)

    @property
    def busy(self) -> str | None:
        """Why a measurement there would be disturbed, or None."""
        if self.processes:
            return f"{len(self.processes)} other process{'es use' if len(self.processes) > 1 else ' uses'} it"
        if (self.utilisation or 0) >= BUSY_PERCENT:
            return f"{self.utilisation} % utilised"
        return None


@dataclass(frozen=True)
class Gpus:
    """The host's GPUs in NVML's order, those too that CUDA_VISIBLE_DEVICES (`allowed`) hides.

    `trouble` says what NVML answered where it could not be asked.
    """

    found: tuple[HostGpu, ...] = ()
    trouble: str | None = None
    allowed: str | None = None

    @property
    def why_none(self) -> str:
        """Why there is no GPU to run on."""
        if self.trouble:
            return f"no GPU can be asked (NVML: {self.trouble})"
        return self.choice if self.found and self.allowed is not None else NO_GPU

    @property
    def choice(self) -> str:
        """Which of them CUDA_VISIBLE_DEVICES leaves, in words."""
        left = ", ".join(str(gpu.index) for gpu in self.found if gpu.visible)
        mig = " (a slice of a GPU by MIG is not one)" if "MIG-" in (self.allowed or "") else ""
        which = f"GPU {left} of {len(self.found)}" if left else f"none of {counted(len(self.found), 'GPU')}"
        shown = shortened(one_line(self.allowed or ""), SHOWN_CHARACTERS) or '""'
        return f"{VISIBLE}={shown} leaves {which}{mig}"

    def remark(self, wanted: str | None) -> str:
        """Return what is worth knowing besides the name of the GPU that was chosen, or nothing."""
        by_hand = f"by --gpu; {VISIBLE} is not asked" if wanted is not None else self.choice
        parts = [by_hand if self.allowed is not None else "", f"NVML: {self.trouble}" if self.trouble else ""]
        return "; ".join(filter(None, parts))


def gpus() -> Gpus:
    """Return this host's GPUs; never an error."""
    allowed = os.environ.get(VISIBLE)
    with _nvml() as opened:
        if opened.why:
            there = opened.kind != NO_LIBRARY or glob.glob(DEVICES)  # noqa: PTH207 - absolute
            return Gpus(trouble=opened.reason if there else None, allowed=allowed)
        count, driver = ask("nvmlDeviceGetCount", read=int), ask("nvmlSystemGetDriverVersion", read=one_line)
        trouble = [f"{what}: {said.reason}" for what, said in (("GPUs", count), ("driver", driver)) if said.why]
        found = list[HostGpu]()
        for index in range(count.value or 0):
            described = _describe(index, driver.value)
            if isinstance(described, HostGpu):
                found.append(described)
            else:
                trouble.append(f"GPU {index}: {described.reason}")
    if allowed is not None:
        left = visible(found, allowed)
        found = [replace(gpu, visible=gpu in left) for gpu in found]
    return Gpus(tuple(found), "; ".join(trouble) or None, allowed)


def visible(found: Sequence[HostGpu], allowed: str) -> list[HostGpu]:
    """Return the GPUs that a CUDA_VISIBLE_DEVICES of `allowed` leaves, by CUDA's rules.

    Entries are numbers, or the beginnings of UUIDs if the first is one; the list ends at the first that names no GPU
    or several, and one that is named twice leaves none.
    """
    left = list[HostGpu]()
    by_uuid = allowed.lstrip().startswith("GPU-")
    for entry in map(str.strip, allowed.split(",")):
        if by_uuid:
            matches = [gpu for gpu in found if entry.startswith("GPU-") and gpu.uuid.startswith(entry)]
        else:
            number = re.match(r"\+?0*(\d+)", entry)  # as strtoul reads it: `1abc` is 1
            matches = [gpu for gpu in found if number and str(gpu.index) == number[1]]
        if len(matches) != 1:
            break
        if matches[0] in left:
            return []
        left += matches
    return left


def selected(found: Sequence[HostGpu], wanted: str | None) -> list[HostGpu]:
    """Return the GPUs that `wanted` (a number, or the beginning of a UUID) names; of None all that are visible."""
    if wanted is None:
        return [gpu for gpu in found if gpu.visible]
    start = wanted.lower()
    uuids = [(gpu, gpu.uuid.lower()) for gpu in found]
    by_number = [gpu for gpu in found if str(gpu.index) == wanted]
    exact = [gpu for gpu, uuid in uuids if uuid == start]
    begins = [gpu for gpu, uuid in uuids if start and (uuid.startswith(start) or uuid[4:].startswith(start))]
    return by_number or exact or begins


def choose_gpu(
    found: Sequence[HostGpu], wanted: str | None, *, allow_busy: bool, why_none: str = NO_GPU, where: str = "--gpu"
) -> HostGpu:
    """Return the GPU to run on: the one that is wanted (its number, or the beginning of its UUID), else the first idle.

    A busy GPU is refused (UsageError) unless `allow_busy`. `why_none`: what to say where there is none; `where`: what
    named the one that is wanted.
    """
    matches = selected(found, wanted)
    if not matches and (wanted is None or not found):
        raise UsageError(why_none, where=where, remedy="leave it out: the CPU is used then")
    if len(matches) != 1 and wanted is not None:
        known = ", ".join(f"{gpu.uuid} ({gpu.name})" for gpu in found)
        what = f'"{one_line(wanted)}" is the beginning of several UUIDs' if matches else f'no GPU "{one_line(wanted)}"'
        raise UsageError(what, where=where, remedy=f"known: {known}")
    # An idle one is the least busy.
    best = min(matches, key=lambda gpu: (bool(gpu.busy), len(gpu.processes), gpu.utilisation or 0 if gpu.busy else 0))
    if best.busy and not allow_busy:
        raise _busy(matches[0])
    return best


def refuse_busy(uuid: str) -> None:
    """UsageError where other processes use that GPU at this moment."""
    for gpu in gpus().found:
        if gpu.uuid == uuid and gpu.busy:
            raise _busy(gpu)


def near_cpus(uuid: str, devices: Path = PCI_DEVICES) -> tuple[str | None, str]:
    """Return the CPUs of the GPU's NUMA node as the kernel writes them (`0-15,32-47`), or None and why."""
    with _nvml() as opened:
        handle = opened if opened.why else ask("nvmlDeviceGetHandleByUUID", uuid)
        bus = handle if handle.why else ask("nvmlDeviceGetPciInfo", handle.value, read=lambda pci: pci.busId)
    if bus.why:
        return None, bus.reason
    # NVML writes the domain with eight digits, the kernel with four.
    place = devices / str(bus.value).split("\0")[0][-12:].lower()
    try:
        node, cpus = ((place / name).read_text(encoding="ascii").strip() for name in ("numa_node", "local_cpulist"))
    except (OSError, ValueError) as error:
        return None, f"the kernel does not say ({getattr(error, 'strerror', None) or error})"
    if node == "-1" or not CPU_LIST.fullmatch(cpus):
        return None, "the kernel knows no NUMA node of this GPU"
    return cpus, ""


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


# NVML's own numbers.
SM_CLOCK, MEMORY_CLOCK, TEMPERATURE, THERMAL = 1, 2, 0, 1


class Gauge:
    """Reads one GPU again and again. A call that its driver does not know is not made a second time."""

    def __init__(self, handle: Any, lost: str | None = None) -> None:
        self._handle = handle
        self._never: set[tuple[Any, ...]] = set()
        self.lost = lost
        """What NVML said when the GPU was gone."""

    def quick(self) -> Quick:
        """Return the counters and clocks of this moment, the energy first: it belongs to the caller's time."""
        return Quick(
            energy_mj=self.ask("nvmlDeviceGetTotalEnergyConsumption"),
            thermal_ns=self.ask("nvmlDeviceGetViolationStatus", THERMAL, read=lambda status: int(status.violationTime)),
            sm_mhz=self.ask("nvmlDeviceGetClockInfo", SM_CLOCK),
            memory_mhz=self.ask("nvmlDeviceGetClockInfo", MEMORY_CLOCK),
            reasons=self.ask("nvmlDeviceGetCurrentClocksThrottleReasons"),
        )

    def slow(self) -> Slow:
        """Return power (the driver's own average), temperature and memory in use."""
        return Slow(
            power_mw=self.ask("nvmlDeviceGetPowerUsage"),
            celsius=self.ask("nvmlDeviceGetTemperature", TEMPERATURE),
            used_bytes=self.ask("nvmlDeviceGetMemoryInfo", read=lambda memory: int(memory.used)),
        )

    def settings(self) -> dict[str, Any]:
        """Return what somebody can set, and the driver, by the names that a record has for them; only what is known."""
        found = {
            "driver": ask("nvmlSystemGetDriverVersion", read=one_line).value,
            "power_limit_watts": self.ask("nvmlDeviceGetEnforcedPowerLimit", read=_watts),
            "power_default_watts": self.ask("nvmlDeviceGetPowerManagementDefaultLimit", read=_watts),
            "ecc": self.ask("nvmlDeviceGetEccMode", read=lambda modes: bool(modes[0])),  # now, and after a reboot
        }
        return {name: value for name, value in found.items() if value is not None}

    def processes(self) -> frozenset[int] | None:
        """Return the numbers of the processes that compute there, as this host's; None where it does not say."""
        found: frozenset[int] | None = self.ask("nvmlDeviceGetComputeRunningProcesses", read=_pids)
        return found

    def ask(self, function: str, *arguments: int, read: Callable[[Any], Any] = int) -> Any:
        """Return what the driver answers, or None."""
        if (function, *arguments) in self._never:
            return None
        answer = ask(function, self._handle, *arguments, read=read)
        if answer.kind in NEVER_ANSWERED:
            self._never.add((function, *arguments))
        if answer.kind in LOST:
            self.lost = answer.why
        return answer.value


@contextlib.contextmanager
def gauge(uuid: str) -> Iterator[Gauge | None]:
    """Give a gauge of the GPU `uuid`, `lost` already where it is gone; None without a driver or such a GPU."""
    with _nvml() as opened:
        handle = opened if opened.why else ask("nvmlDeviceGetHandleByUUID", uuid)
        known = handle.why is None or handle.kind in GONE
        yield Gauge(handle.value, handle.why) if known else None


def process_name(pid: int) -> str:
    """Return the name of a process as the driver knows it: the file's alone, without its folder and arguments."""
    name = str(ask("nvmlSystemGetProcessName", pid).value or "").split("\0")[0].split(" ")[0].rpartition("/")[2]
    shown = "".join(letter for letter in name if letter.isascii() and letter.isprintable())
    return shown[:NAME_CHARACTERS] or "unknown"


def _busy(gpu: HostGpu) -> UsageError:
    remedy = "wait, choose another with --gpu, or measure all the same with --allow-busy"
    return UsageError(f"this GPU is busy: {gpu.busy}", where=f"{gpu.uuid} ({gpu.name})", remedy=remedy)


@contextlib.contextmanager
def _nvml() -> Iterator[Answer]:
    """Open NVML; give its answer to that."""
    opened = ask("nvmlInit")
    try:
        yield opened
    finally:
        if opened.why is None:
            ask("nvmlShutdown")


def _describe(index: int, driver: str | None) -> HostGpu | Answer:
    """Return what NVML says of a GPU; its error where it does not even name it."""
    handle = ask("nvmlDeviceGetHandleByIndex", index)
    uuid = handle if handle.why else ask("nvmlDeviceGetUUID", handle.value, read=one_line)
    if uuid.why:
        return uuid
    of = Gauge(handle.value).ask
    return HostGpu(
        uuid=uuid.value,
        index=index,
        name=of("nvmlDeviceGetName", read=one_line) or "NVIDIA GPU",
        driver=driver,
        memory_bytes=of("nvmlDeviceGetMemoryInfo", read=lambda memory: int(memory.total)),
        compute_capability=of("nvmlDeviceGetCudaComputeCapability", read=lambda pair: f"{pair[0]}.{pair[1]}"),
        minor=of("nvmlDeviceGetMinorNumber"),
        processes=tuple(sorted(of("nvmlDeviceGetComputeRunningProcesses", read=_pids) or ())),
        utilisation=of("nvmlDeviceGetUtilizationRates", read=lambda rates: int(rates.gpu)),
    )


def _watts(milliwatts: int) -> float:
    return int(milliwatts) / 1e3


def _pids(running: Any) -> frozenset[int]:
    return frozenset(int(process.pid) for process in running)
