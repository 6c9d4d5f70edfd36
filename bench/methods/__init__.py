"""One module a method, loaded by name when a cell asks for it.

A method module has four functions:

    refuse(workload, device) -> str | None      why it cannot run this here; asked before any weight is made
    operators() -> Operators                    what the GPT computes with
    compile_model(model, workload) -> callable  tokens [, positions] -> logits
    compile_step(step, workload) -> callable    tokens, positions, temperature -> (token, logits)

and `settings(workload)`, what it will set, for the record.
"""

from __future__ import annotations

import importlib
from types import ModuleType

from bench.status import Unsupported


def load(name: str) -> ModuleType:
    """Import `bench.methods.<name>`; Unsupported when this bench has no such method."""
    if not name.isidentifier():
        raise Unsupported(f"{name!r} is no method name")
    try:
        return importlib.import_module(f"{__name__}.{name}")
    except ModuleNotFoundError as error:
        if error.name == f"{__name__}.{name}":
            raise Unsupported(f"this bench has no method {name}") from error
        raise
