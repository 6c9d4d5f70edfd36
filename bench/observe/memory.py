"""Peak memory, both ways: of the whole process, never reset; and steady, from the end of the warm-up on.

What a CUDA graph uses while it replays lies in a private pool and counts as reserved, not as allocated: under CUDA
graphs the steady peak says too little, and the reserved peak stands beside it.
"""

from __future__ import annotations

import resource

import torch


class Memory:
    """Bytes that torch's allocator handed out at most. On a CPU the process's resident peak stands in `host_bytes`."""

    def __init__(self, device: str) -> None:
        self.cuda = device == "cuda"
        self._before = self._reserved = 0

    def steady(self) -> None:
        """From now on count the steady peak."""
        if self.cuda:
            torch.cuda.synchronize()
            self._before = torch.cuda.max_memory_allocated()
            self._reserved = torch.cuda.max_memory_reserved()
            torch.cuda.reset_peak_memory_stats()

    def peaks(self) -> dict[str, int | None]:
        """The record's `memory`."""
        host = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
        if not self.cuda:
            return {"process_bytes": None, "steady_bytes": None, "reserved_bytes": None, "host_bytes": host}
        steady = torch.cuda.max_memory_allocated()
        return {
            "process_bytes": max(self._before, steady),
            "steady_bytes": steady,
            "reserved_bytes": max(self._reserved, torch.cuda.max_memory_reserved()),
            "host_bytes": host,
        }
