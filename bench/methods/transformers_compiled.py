"""transformers with a static cache, whose decode step it compiles by torch.compile."""

from __future__ import annotations

from typing import Any

from bench.methods import inductor, transformers
from bench.spec import Workload

KIND = "engine"


def refuse(workload: Workload, device: str) -> str | None:
    """Say which package, or which part of the compiler, is missing here."""
    return transformers.refuse(workload, device) or inductor.refuse(workload, device)


def settings(workload: Workload) -> dict[str, Any]:  # noqa: ARG001
    """The arguments of torch.compile; they are those that transformers takes by itself."""
    return {"cache_implementation": "static", "compile": {"fullgraph": True, "mode": "reduce-overhead"}}


def load(folder: str, workload: Workload, device: str) -> transformers.Transformers:
    """Read the folder; the first call compiles."""
    from transformers import CompileConfig

    compiled = CompileConfig(**settings(workload)["compile"])
    compiled._compile_all_devices = True  # noqa: SLF001  (on a CPU too: it has no other switch)
    return transformers.Transformers(folder, workload, device, cache_implementation="static", compile_config=compiled)


def expects(workload: Workload, device: str) -> tuple[str, ...]:  # noqa: ARG001
    """What the compiler made."""
    return ("compiled",) if device == "cpu" else ("Triton",)
