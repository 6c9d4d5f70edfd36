"""Peak memory, both ways: of the whole process, never reset; and steady, from the end of the warm-up on.

What a CUDA graph uses while it replays lies in a private pool and counts as reserved, not as allocated: under CUDA
graphs the steady peak says too little, and the reserved peak stands beside it.
"""

from __future__ import annotations

import resource
from collections.abc import Iterator
from contextlib import contextmanager

import torch


class Memory:
    """Bytes that torch's allocator handed out at most. On a CPU the process's resident peak stands in `host_bytes`."""

    def __init__(self, device: str) -> None:
        self.cuda = device == "cuda"
        self._before = self._reserved = 0
        self._aside = [0, 0]

    @contextmanager
    def aside(self) -> Iterator[None]:
        """What is allocated inside, and kept, is ours: it is in no figure, allocated or reserved."""
        if not self.cuda:
            yield
            return
        self.steady()
        before = torch.cuda.memory_allocated(), torch.cuda.memory_reserved()
        yield
        after = torch.cuda.memory_allocated(), torch.cuda.memory_reserved()
        self._aside = [ours + b - a for ours, a, b in zip(self._aside, before, after)]  # noqa: B905  (Python 3.10's zip)
        torch.cuda.reset_peak_memory_stats()

    def steady(self) -> None:
        """From now on count the steady peak."""
        if self.cuda:
            torch.cuda.synchronize()
            allocated, reserved = self._now()
            self._before, self._reserved = max(self._before, allocated), max(self._reserved, reserved)
            torch.cuda.reset_peak_memory_stats()

    def peaks(self) -> dict[str, int | None]:
        """The record's `memory`."""
        host = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
        if not self.cuda:
            return {"process_bytes": None, "steady_bytes": None, "reserved_bytes": None, "host_bytes": host}
        steady, reserved = self._now()
        return {
            "process_bytes": max(self._before, steady),
            "steady_bytes": steady,
            "reserved_bytes": max(self._reserved, reserved),
            "host_bytes": host,
        }

    def _now(self) -> tuple[int, int]:
        """The peaks, allocated and reserved, since the last reset."""
        allocated, reserved = self._aside
        return torch.cuda.max_memory_allocated() - allocated, torch.cuda.max_memory_reserved() - reserved
