"""Stands for nvidia-ml-py where a test needs a GPU that does what a script says: no GPU, and no driver, is behind it.

Values are constants or functions of the time in ns; an Exception as a value is raised. Its energy counter stands for
500 W.
"""

# ruff: noqa: N801, N802, N818 - names are nvidia-ml-py's

from __future__ import annotations

import time
from types import SimpleNamespace
from typing import Any

UUID = "GPU-0"
POWER_CAP, HARDWARE, SOFTWARE_THERMAL, HARDWARE_THERMAL, POWER_BRAKE = 0x4, 0x8, 0x20, 0x40, 0x80


class NVMLError(Exception):
    pass


class NVMLError_NotSupported(NVMLError):
    pass


class NVMLError_GpuIsLost(NVMLError):
    pass


class ScriptedNvml:
    """`asked` counts the calls by name."""

    NVMLError = NVMLError
    NVML_CLOCK_SM, NVML_CLOCK_MEM, NVML_TEMPERATURE_GPU, NVML_PERF_POLICY_THERMAL = 1, 2, 0, 1

    def __init__(self, **script: Any) -> None:
        self.script = {
            "sm": 1980, "memory": 2619, "reasons": 0, "energy": lambda now: now // 2_000, "thermal": 0,
            "power": 500_000, "celsius": 60, "used": 2**34,
            "limit": 350_000, "default": 700_000, "ecc": [1, 0], "pids": [], "handle": None, "cost_s": 0.0, **script,
        }  # fmt: skip
        self.asked: dict[str, int] = {}

    def _value(self, name: str) -> Any:
        self.asked[name] = self.asked.get(name, 0) + 1
        value = self.script[name]
        if callable(value):
            value = value(time.monotonic_ns())
        if isinstance(value, Exception):
            raise value
        return value

    def nvmlInit(self) -> None: ...

    def nvmlShutdown(self) -> None: ...

    def nvmlDeviceGetHandleByUUID(self, uuid: str) -> str:
        if uuid != UUID:
            raise NVMLError(uuid)
        if isinstance(self.script["handle"], Exception):
            raise self.script["handle"]
        return uuid

    def nvmlDeviceGetTotalEnergyConsumption(self, _handle: str) -> int:
        time.sleep(self.script["cost_s"])
        return self._value("energy")

    def nvmlDeviceGetClockInfo(self, _handle: str, which: int) -> int:
        return self._value("sm" if which == self.NVML_CLOCK_SM else "memory")

    def nvmlDeviceGetCurrentClocksThrottleReasons(self, _handle: str) -> int:
        return self._value("reasons")

    def nvmlDeviceGetViolationStatus(self, _handle: str, _policy: int) -> Any:
        return SimpleNamespace(violationTime=self._value("thermal"))

    def nvmlDeviceGetPowerUsage(self, _handle: str) -> int:
        return self._value("power")

    def nvmlDeviceGetTemperature(self, _handle: str, _sensor: int) -> int:
        return self._value("celsius")

    def nvmlSystemGetDriverVersion(self) -> bytes:
        return b"580.159.04"

    def nvmlDeviceGetEnforcedPowerLimit(self, _handle: str) -> int:
        return self._value("limit")

    def nvmlDeviceGetPowerManagementDefaultLimit(self, _handle: str) -> int:
        return self._value("default")

    def nvmlDeviceGetEccMode(self, _handle: str) -> list[int]:
        return self._value("ecc")

    def nvmlDeviceGetMemoryInfo(self, _handle: str) -> Any:
        return SimpleNamespace(used=self._value("used"))

    def nvmlDeviceGetComputeRunningProcesses(self, _handle: str) -> list[Any]:
        return [SimpleNamespace(pid=pid) for pid in self._value("pids")]

    def nvmlSystemGetProcessName(self, pid: int) -> str:
        return f"/home/somebody/bin/job{pid} --secret /data"
