"""What runs here: Python, every installed package, torch's build, the compiler, the CPU, the GPU and its driver."""

from __future__ import annotations

import contextlib
import ctypes
import hashlib
import importlib.metadata
import json
import os
import platform
import shutil
import subprocess
import sys
import sysconfig
import tempfile
from pathlib import Path
from typing import Any

# What changes how a cell runs without being a package; recorded when set.
WATCHED = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "CUDA_MODULE_LOADING", "PYTORCH_CUDA_ALLOC_CONF", "PYTORCH_ALLOC_CONF")
WATCHED_PREFIXES = ("TORCHINDUCTOR_", "TORCH_", "TRITON_", "NVIDIA_TF32", "CUBLAS_", "NVFUSER_", "THUNDER_", "NCCL_")
PLACES = ("_DIR", "_HOME", "_PATH")
PRELOADED = "LD_PRELOAD"
"""Libraries put before all others, such as another allocator: recorded by name, without their folders."""
LEFT_OUT = "left-out.txt"
"""A file at the environment's root: one line for each part that its image was built without, and why."""
LEFT_OUT_LINES, LINE_CHARACTERS = 40, 300
COMPILE_S = 120


def packages() -> dict[str, str]:
    """Name (as PyPI normalises it) and full version of each installed distribution."""
    found: dict[str, str] = {}
    for distribution in importlib.metadata.distributions():
        name = distribution.metadata["Name"]
        if name:
            found.setdefault(name.lower().replace("_", "-"), distribution.version)
    return dict(sorted(found.items()))


def fingerprint() -> dict[str, Any]:
    """Python, packages and one hash over both; torch is not imported for it."""
    content = {"python": platform.python_version(), "packages": packages()}
    text = json.dumps(content, sort_keys=True).encode()
    return {"fingerprint": hashlib.sha256(text).hexdigest()[:16], **content}


def facts() -> dict[str, Any]:
    """The fingerprint, with torch's build (null where torch cannot be imported) and what was left out."""
    return {**fingerprint(), "torch": _torch(), "left_out": left_out()}


def environment(device: str) -> dict[str, Any]:
    """The record's `environment`: the fingerprint and what torch reports once it is imported."""
    import torch

    return {
        **fingerprint(),
        "platform": f"{platform.system()} {platform.machine()}",
        "torch": torch.__version__,
        "torch_git": torch.version.git_version,
        "cuda": torch.version.cuda,
        "cudnn": str(torch.backends.cudnn.version()) if device == "cuda" else None,
        "triton": version_of("triton") or version_of("pytorch-triton"),
        "compiler": _first_line([cxx, "--version"]) if (cxx := compiler()) else None,
        "cpu": _cpu(),
        "cores": len(os.sched_getaffinity(0)),
        "threads": torch.get_num_threads(),
        "gpu": _gpu() if device == "cuda" else None,
        "settings": settings(),
    }


def settings() -> dict[str, str]:
    """Environment variables that change what is computed or how fast; never those that only name a place."""
    chosen = {
        name: value
        for name, value in os.environ.items()
        if (name in WATCHED or name.startswith(WATCHED_PREFIXES)) and not name.endswith(PLACES)
    }
    if preloaded := os.environ.get(PRELOADED, "").replace(":", " ").split():
        chosen[PRELOADED] = " ".join(Path(library).name for library in preloaded)
    return dict(sorted(chosen.items()))


def version_of(package: str) -> str | None:
    """The version of an installed package, or None."""
    with contextlib.suppress(importlib.metadata.PackageNotFoundError):
        return importlib.metadata.version(package)
    return None


def torch_version() -> tuple[int, int]:
    """torch's, as (major, minor)."""
    import torch

    major, minor = torch.__version__.split(".")[:2]
    return int(major), int(minor)


def compiler(device: str = "cpu") -> str | None:
    """The compiler that a compiled method would take, or None: Inductor's for C++ on a CPU, Triton's for C on a GPU."""
    if device == "cpu":
        return shutil.which(os.environ.get("CXX") or "g++")
    named = (os.environ["CC"],) if os.environ.get("CC") else ("gcc", "clang")
    return next((path for name in named if (path := shutil.which(name))), None)


def cannot_compile(device: str) -> str | None:
    """Why nothing can be compiled here, or None: compiles a library over Python's headers and loads it, as methods do.

    OSError where it was made and the cell's folder is not one that libraries can be loaded from.
    """
    language, names, first = ("C++", "CXX", "g++") if device == "cpu" else ("C", "CC", "gcc")
    tool, include = compiler(device), sysconfig.get_path("include")
    if tool is None:
        named = os.environ.get(names) or first
        return f"compiling needs a {language} compiler, and there is no {named}; install {first}"
    if not Path(include, "Python.h").is_file():
        package = f"python{sys.version_info.major}.{sys.version_info.minor}-dev"
        return f"Python's headers are missing, and compiling needs them (no Python.h); install {package}"
    with tempfile.TemporaryDirectory() as folder:
        source, library = Path(folder, f"trial.{'cpp' if device == 'cpu' else 'c'}"), Path(folder, "trial.so")
        parallel = ["-fopenmp"] if device == "cpu" and "clang" not in Path(tool).name else []
        headers = ["omp.h", "Python.h"] if parallel else ["Python.h"]
        source.write_text("".join(f"#include <{name}>\n" for name in headers) + "int trial;\n", encoding="ascii")
        command = [tool, "-shared", "-fPIC", *parallel, f"-I{include}", str(source), "-o", str(library)]
        try:
            done = subprocess.run(  # noqa: S603  (the compiler that the method takes)
                command, capture_output=True, text=True, errors="replace", timeout=COMPILE_S, check=False
            )
        except (OSError, subprocess.TimeoutExpired) as error:
            return f"the {language} compiler {Path(tool).name} does not run: {error}"
        if done.returncode:
            lines = done.stderr.splitlines() or [f"exit code {done.returncode}"]
            what = next((line for line in lines if "error" in line), lines[-1])
            return f"the {language} compiler {Path(tool).name} cannot make a library: {what.strip()[:LINE_CHARACTERS]}"
        ctypes.CDLL(str(library))
    return None


def _first_line(command: list[str]) -> str | None:
    try:
        done = subprocess.run(  # noqa: S603  (a fixed command)
            command, capture_output=True, text=True, timeout=20, check=False
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout.splitlines()[0] if done.returncode == 0 and done.stdout else None


def _cpu() -> str | None:
    with contextlib.suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or None


def _gpu() -> dict[str, Any]:
    """What torch and the kernel say; the rest is the orchestrator's to ask: an image may have no nvidia-smi."""
    import torch

    properties = torch.cuda.get_device_properties(torch.cuda.current_device())
    return {
        "name": properties.name,
        "uuid": f"GPU-{properties.uuid}" if hasattr(properties, "uuid") else None,
        "memory_bytes": properties.total_memory,
        "compute_capability": f"{properties.major}.{properties.minor}",
        "driver": _driver(),
    }


def _driver() -> str | None:
    with contextlib.suppress(OSError):
        words = Path("/proc/driver/nvidia/version").read_text(encoding="utf-8").split()
        return next((word for word in words if word[:1].isdigit() and word.count(".") >= 1), None)
    return None


def left_out(root: Path | None = None) -> list[str]:
    """Lines that say what this environment was built without; `root` is where it lies."""
    with contextlib.suppress(OSError):
        text = (Path(sys.prefix if root is None else root) / LEFT_OUT).read_text(encoding="utf-8", errors="replace")
        return [line.strip()[:LINE_CHARACTERS] for line in text.splitlines() if line.strip()][:LEFT_OUT_LINES]
    return []


def _torch() -> dict[str, Any] | None:
    """Torch's build; `arch_list` has the GPUs that it was compiled for, as `sm_90`, known without a GPU too."""
    try:
        import torch
    except (ImportError, OSError):
        return None
    # torch.cuda.get_arch_list answers only where there is a GPU; what it asks is there in every CUDA build.
    flags = getattr(torch._C, "_cuda_getArchFlags", None)  # noqa: SLF001
    return {
        "version": torch.__version__,
        "git": torch.version.git_version,
        "cuda": torch.version.cuda,
        "arch_list": str(flags() or "").split() if flags is not None else [],
    }
