"""Thunder behind torch.compile: Dynamo finds the graph, Thunder compiles what it can of it, Inductor the rest."""

from __future__ import annotations

import importlib
from collections import Counter
from collections.abc import Callable
from typing import Any

import torch

from bench.methods import inductor, thunder
from bench.observe import compiles
from bench.operators import fallbacks
from bench.spec import Workload

REASONS = 5
REASON_CHARACTERS = 300

made: list[Any] = []
"""The backend of this process, for the report."""

operators, expects, refuse_several = thunder.operators, thunder.expects, thunder.refuse_several


def refuse(workload: Workload, device: str) -> str | None:
    """As `thunder` and, for what Thunder leaves, `inductor`; the backend came with Thunder 0.2."""
    if reason := thunder.refuse(workload, device) or inductor.refuse(workload, device):
        return reason
    if reason := fallbacks.missing("thunder.dynamo"):
        return f"this Thunder is not a backend of torch.compile: {reason}"
    return None


def settings(workload: Workload) -> dict[str, Any]:
    """The arguments of torch.compile, and the executors of `thunder`."""
    return {
        **thunder.settings(workload),
        "compile": {"backend": "thunder", "fullgraph": True, "dynamic": workload.benchmark == "train_dynamic"},
    }


def compile_model(target: Callable[..., Any], workload: Workload) -> Callable[..., Any]:
    """torch.compile with Thunder's backend; nothing is compiled before the first call."""
    library = importlib.import_module("thunder")
    backend = importlib.import_module("thunder.dynamo").ThunderCompiler(
        executors=thunder.executors(), cache=thunder.cache(workload)
    )
    made[:] = [backend]
    compiles.OTHERS[:] = [lambda: 1 + compiled_again(library, backend)]
    return thunder.saying_why(torch.compile(target, **{**settings(workload)["compile"], "backend": backend}))


compile_step = compile_model


def compiled_again(library: Any, backend: Any) -> int:
    """How often Thunder compiled one part of a graph again, which Dynamo, whose graph is still the same, never sees."""
    parts = [part for graph in backend.subgraph_infos for part in graph.thunder_compiled_fns or ()]
    return sum(max(int(library.cache_misses(part)) - 1, 0) for part in parts)


def report() -> dict[str, Any]:
    """How many parts Thunder and Inductor compiled, and why Thunder did not take all."""
    parts: Counter[str] = Counter()
    reasons: dict[str, None] = {}
    for backend in made:
        for graph in backend.subgraph_infos:
            for compiled in (graph.submodule_to_compiled_functions or {}).values():
                parts[str(compiled.compiler.name).lower()] += 1
            for reason in graph.split_reasons or ():
                text = reason.info or reason.exception or reason.reason_type.name
                reasons[" ".join(str(text).split())[:REASON_CHARACTERS]] = None
    library = importlib.import_module("thunder")
    return {
        "thunder": {
            "parts": dict(sorted(parts.items())),
            "compiled_again": sum(compiled_again(library, backend) for backend in made),
            "left_to_others": list(reasons)[:REASONS],
        }
    }
