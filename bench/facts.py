"""What an environment was made of, told once after it was made: packages, torch's build, what was left out of it."""

from __future__ import annotations

import contextlib
import sys
from pathlib import Path
from typing import Any

from bench.environment import fingerprint

LEFT_OUT = "left-out.txt"
"""A file at the environment's root: one line for each part that its image was built without, and why."""
LEFT_OUT_LINES, LINE_CHARACTERS = 40, 300


def facts() -> dict[str, Any]:
    """The fingerprint, with torch's build (null where torch cannot be imported) and what was left out."""
    return {**fingerprint(), "torch": _torch(), "left_out": left_out()}


def left_out(root: Path | None = None) -> list[str]:
    """Lines that say what this environment was built without; `root` is where it lies."""
    with contextlib.suppress(OSError):
        text = (Path(sys.prefix if root is None else root) / LEFT_OUT).read_text(encoding="utf-8", errors="replace")
        return [line.strip()[:LINE_CHARACTERS] for line in text.splitlines() if line.strip()][:LEFT_OUT_LINES]
    return []


def _torch() -> dict[str, Any] | None:
    try:
        import torch
    except (ImportError, OSError):
        return None
    return {
        "version": torch.__version__,
        "git": torch.version.git_version,
        "cuda": torch.version.cuda,
        "arch_list": _arch_list(torch),
    }


def _arch_list(torch: Any) -> list[str]:
    """GPUs that torch was compiled for, as `sm_90`; known without a GPU too."""
    # torch.cuda.get_arch_list answers only where there is a GPU; what it asks is there in every CUDA build.
    flags = getattr(torch._C, "_cuda_getArchFlags", None)  # noqa: SLF001
    return str(flags() or "").split() if flags is not None else []
