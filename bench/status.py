"""What became of a cell: from an exception to a status of the closed list and a reason a person can use."""

from __future__ import annotations

import re
import sys

DEVICE_FAILED = (
    "no CUDA-capable device is detected",
    "CUDA-capable device(s) is/are busy or unavailable",
    "uncorrectable ECC error encountered",
    "uncorrectable NVLink error",
    "CUDA unknown error",
    "CUDA error: unknown error",
    "CUDA driver initialization failed",
    "GPU is lost",
)
"""What CUDA says where the GPU or its driver failed, whatever ran there."""
DRIVER_LIBRARY = re.compile(r"libcuda\.so cannot found|lib(cuda|nvidia-[\w-]+)\.so[.\d]*: cannot open shared object")
"""What compilers and loaders say where they do not find the driver's own libraries."""
NOT_ALLOCATED = ("CUDA out of memory", "DefaultCPUAllocator: ", "Storage size calculation overflowed")
"""That there was no memory in words, wrapped by a compiler or raised as something else."""
NO_CACHE = (
    "No available memory for the cache blocks",
    "larger than the available KV cache memory",
    "Not enough memory. Please try to increase --mem-fraction-static",
)
"""What vLLM and SGLang say where their cache does not fit beside the weights."""


class Unsupported(Exception):  # noqa: N818  (it is the name of a status)
    """The method cannot run this workload here; the message says why."""


class Infrastructure(Exception):  # noqa: N818
    """The host failed, whatever ran on it; the message says where."""


class OutOfMemory(Exception):  # noqa: N818
    """The device or the host had no room; the message says for what."""


class Crashed(Exception):  # noqa: N818
    """What ran elsewhere crashed; the message says what it said."""


class Incorrect(Exception):  # noqa: N818
    """What was computed is wrong; the message names the first place."""


SAYS = {
    Unsupported: "unsupported",
    Infrastructure: "infrastructure",
    Incorrect: "incorrect",
    OutOfMemory: "out_of_memory",
    Crashed: "crashed",
}


def exception_for(status: str) -> type[Exception]:
    """What is to be raised so that a cell gets `status`; any that is not listed is a crash."""
    return next((kind for kind, name in SAYS.items() if name == status), Crashed)


def classify(error: Exception) -> tuple[str, str]:
    """Return (status, reason) for what a cell raised."""
    text = f"{type(error).__name__}: {error}".strip()
    for kind, status in SAYS.items():
        if isinstance(error, kind):
            return status, str(error)
    first = text if len(text) <= 2000 else text[:2000] + " …"  # noqa: PLR2004
    # A compiler wraps what its kernels raised.
    torch = sys.modules.get("torch")  # this file is read where there is none, too
    kinds = (MemoryError, torch.cuda.OutOfMemoryError) if torch is not None else (MemoryError,)
    memory = any(isinstance(each, kinds) for each in (error, error.__cause__ or error.__context__))
    if memory or any(words in text for words in (*NOT_ALLOCATED, *NO_CACHE)):
        return "out_of_memory", first
    if isinstance(error, ModuleNotFoundError):
        return "unsupported", f"the package {error.name} is not installed in this stack"
    if DRIVER_LIBRARY.search(text):
        return "infrastructure", f"{first} (`orchestrator doctor` names what of the driver a container lacks)"
    return "infrastructure" if any(words in text for words in DEVICE_FAILED) else "crashed", first
