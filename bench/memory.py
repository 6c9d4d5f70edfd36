"""Peak memory, both ways: of the whole process, never reset; and steady, from the end of the warm-up on."""

from __future__ import annotations

import resource

import torch


class Memory:
    """Bytes that torch's allocator handed out at most. On a CPU the process's resident peak stands in `host_bytes`."""

    def __init__(self, device: str) -> None:
        self.cuda = device == "cuda"
        self._before = 0

    def steady(self) -> None:
        """From now on count the steady peak."""
        if self.cuda:
            torch.cuda.synchronize()
            self._before = torch.cuda.max_memory_allocated()
            torch.cuda.reset_peak_memory_stats()

    def peaks(self) -> dict[str, int | None]:
        """The record's `memory`."""
        host = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
        if not self.cuda:
            return {"process_bytes": None, "steady_bytes": None, "host_bytes": host}
        steady = torch.cuda.max_memory_allocated()
        return {"process_bytes": max(self._before, steady), "steady_bytes": steady, "host_bytes": host}
