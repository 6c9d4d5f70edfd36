"""What has become of other processes."""

from __future__ import annotations

import os
import time
from pathlib import Path


def gone(pid: int) -> bool:
    for _ in range(50):
        try:
            os.kill(pid, 0)
        except ProcessLookupError:
            return True
        if Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z":
            return True
        time.sleep(0.1)
    return False


def wait_for(path: Path) -> None:
    """Wait until somebody has written to `path`."""
    for _ in range(600):
        if path.exists() and path.read_text():
            return
        time.sleep(0.1)
    raise AssertionError(path)
