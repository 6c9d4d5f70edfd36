"""One module a method, loaded by name when a cell asks for it.

A method module has six functions:

    refuse(workload, device) -> str | None      why it cannot run this here; asked before any weight is made
    operators() -> Operators                    what the GPT computes with
    compile_model(model, workload) -> callable  tokens [, positions] -> logits
    compile_step(step, workload) -> callable    tokens, positions, temperature -> (token, logits); often the same one
    settings(workload) -> dict                  what it will set, for the record
    expects(workload, device) -> tuple          what a profiled call must show, or the row is flagged `not_fused`

A package that brings Triton kernels is loaded by one of them, and not in the first call: only then is it counted what
Triton compiles in that call (bench/observe/compiles.py).

Two more are optional:

    report() -> dict                            what it really ran, asked after the samples, for the record's detail
    refuse_several(workload, device)            as refuse, of a workload of several devices

A user's own (`--methods`) is such a module too: its file is put beside these in the cell's copy of bench.

A variant of a method takes over what it shares with it by name: `refuse = inductor.refuse`.

Each expectation is one of these, or several joined by " or ", any of which will do:

    a group of bench/observe/kernels.py         Triton, attention flash, matrix product, compiled, ...
    graph replay                                a CUDA graph was replayed
    kernel:PATTERN                              a kernel's name: kernel:(?<!pytorch_)flash::flash_fwd (flash-attn's own)
    operator:PATTERN                            an operator's name, on a GPU as on a CPU: operator:^xformers

Only eager code shows its operators: in a CUDA graph, or in what a compiler made, expect kernels. A method that replaces
operators names one expectation for each, so that a fallback to plain PyTorch is seen whichever it is.
"""

from __future__ import annotations

import importlib
from types import ModuleType

from bench.spec import Workload
from bench.status import Unsupported

FUSED_ATTENTION = "attention flash or attention cuDNN or attention efficient"


def fused_attention(workload: Workload) -> tuple[str, ...]:
    """Expect one of torch's own fused attentions: none takes float64, and none caps its scores."""
    capped = workload.model is not None and workload.model.attention_cap is not None
    return () if capped or workload.dtype == "float64" else (FUSED_ATTENTION,)


def load(name: str) -> ModuleType:
    """Import `bench.methods.<name>`; Unsupported when this bench has no such method."""
    if not name.isidentifier():
        raise Unsupported(f"{name!r} is not a method's name")
    try:
        return importlib.import_module(f"{__name__}.{name}")
    except ModuleNotFoundError as error:
        if error.name == f"{__name__}.{name}":
            raise Unsupported(f"this bench has no method {name}") from error
        raise
