"""Thunder: nvFuser's fusions, torch's attention by its `sdpa` executor, and torch for what is left; no CUDA graphs.

`thunder.jit` from 0.1.0 on. What Thunder refuses is `unsupported`, with its own message.
"""

from __future__ import annotations

import importlib
import os
import re
import traceback
from collections import Counter
from collections.abc import Callable, Iterator
from importlib import metadata
from typing import Any

import torch
from torch import Tensor

from bench import operators as plain
from bench.environment import torch_version
from bench.methods import fused_attention
from bench.model.traits import EXPERTS, traits
from bench.observe import compiles
from bench.operators import Operators, fallbacks
from bench.spec import Workload
from bench.status import Unsupported

PACKAGE = "lightning-thunder"
EXECUTORS = ("sdpa", "nvfuser")
"""In the order in which they are asked; those of torch and of plain Python always come last."""
BUILT_FOR = re.compile(r"^nvfuser[-_]cu\d+[-_]torch(\d)(\d+)$")
ANY_TORCH = "NVFUSER_ANY_TORCH"
SYMBOLIC = (0, 2)
"""The first version that can compile for sizes that it does not know."""
REFUSALS = ("not support", "unsupported", "not yet", "not implement", "nyi", "no method", "no attribute", "no executor")
REASON_CHARACTERS = 500

jitted: list[Callable[..., Any]] = []
"""What was compiled in this process, for the report."""


def refuse(workload: Workload, device: str) -> str | None:
    """Thunder must be there, and nvFuser's build must be for this torch: with another its behaviour is undefined.

    It traces no grouped product, and a mixture of experts computed in any other way would measure something else.
    """
    if workload and workload.model and EXPERTS in traits(workload.model):
        return f"Thunder has no grouped matrix product, which {EXPERTS} need"
    if reason := fallbacks.missing("thunder"):
        return reason
    built = built_for()
    if device == "cuda" and built not in (None, "{}.{}".format(*torch_version())) and os.environ.get(ANY_TORCH) != "1":
        return (
            f"nvFuser is built for torch {built}, and this is torch {torch.__version__}: install the build for it, "
            f"or set {ANY_TORCH}=1 to try it all the same"
        )
    return None


def operators() -> Operators:
    """Plain PyTorch's: Thunder fuses them itself."""
    return Operators(attention=attention)


def attention(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None, **asked: Any) -> Tensor:
    """The plain one; a mask [time, slots] gets the batch and the heads without which Thunder's `sdpa` raises."""
    return plain.attention(q, k, v, None if mask is None else mask.expand(q.shape[0], 1, *mask.shape), **asked)


def refuse_several(workload: Workload, device: str) -> str | None:  # noqa: ARG001
    """Only DDP, which goes around it: its traces take neither collective operations nor weights that come and go."""
    return None if workload.parallel == "ddp" else f"thunder's traces have no place for {workload.parallel}"


def settings(workload: Workload) -> dict[str, Any]:
    """The executors found, and what `thunder.jit` is given."""
    found = [name for name in EXECUTORS if executor(name) is not None]
    return {
        "executors": found,
        "without": [name for name in EXECUTORS if name not in found],
        "cache": cache(workload),
        "thunder": metadata.version(PACKAGE),
        "nvfuser": nvfuser(),
        "nvfuser_built_for_torch": built_for(),
    }


def expects(workload: Workload, device: str) -> tuple[str, ...]:
    """Kernels of nvFuser on a GPU, and one of torch's own fused attentions."""
    if device == "cpu":
        return ("matrix product",)
    return ("matrix product", "nvFuser", *fused_attention(workload))


def compile_model(target: Callable[..., Any], workload: Workload) -> Callable[..., Any]:
    """thunder.jit of the model's forward, and of its backward where gradients are asked for; or of the step.

    The step draws inside, from torch's own generator. Nothing is compiled before the first call.
    """
    thunder = importlib.import_module("thunder")
    compiled = thunder.jit(target, executors=executors(), cache=cache(workload))
    jitted[:] = [compiled]
    compiles.OTHERS[:] = [lambda: int(thunder.cache_misses(compiled))]
    return saying_why(compiled)


compile_step = compile_model


def executors() -> list[Any]:
    """Thunder's objects of the executors that there are."""
    return [found for name in EXECUTORS if (found := executor(name)) is not None]


def executor(name: str) -> Any:
    """Thunder's object, or None where there is none: nvFuser only registers itself beside a GPU."""
    importlib.import_module("thunder")
    return importlib.import_module("thunder.extend").get_executor(name)


def cache(workload: Workload) -> str:
    """Compile for each shape, as Thunder does by itself; but once for all sizes where every sample has others."""
    version = tuple(int(part) for part in metadata.version(PACKAGE).split(".")[:2])
    symbolic = workload.benchmark == "train_dynamic" and version >= SYMBOLIC
    return "symbolic values" if symbolic else "constant values"


def saying_why(compiled: Callable[..., Any]) -> Callable[..., Any]:
    """Turn what Thunder raises because it does not support something into Unsupported."""

    def call(*arguments: Any) -> Any:
        try:
            return compiled(*arguments)
        except Exception as error:
            if reason := refusal(error):
                raise Unsupported(reason) from error
            raise

    return call


def refusal(error: BaseException) -> str | None:
    """Thunder's own words, where one in the chain of exceptions was raised in Thunder and speaks of missing support."""
    for each in chain(error):
        frames = traceback.extract_tb(each.__traceback__)
        inside = bool(frames) and "thunder" in re.split(r"[\\/]", frames[-1].filename)[:-1] and not ours(frames[-1])
        text = " ".join(str(each).split())
        refused = isinstance(each, NotImplementedError) or any(sign in text.lower() for sign in REFUSALS)
        if inside and refused:
            return f"Thunder {metadata.version(PACKAGE)}: {type(each).__name__}: {text}"[:REASON_CHARACTERS]
    return None


def ours(frame: traceback.FrameSummary) -> bool:
    """Whether a frame is of this very file or of its neighbours."""
    return os.path.dirname(frame.filename) == os.path.dirname(__file__)  # noqa: PTH120  (a string is all there is)


def chain(error: BaseException) -> Iterator[BaseException]:
    """The exception and those that it came from."""
    current: BaseException | None = error
    while current is not None:
        yield current
        current = current.__cause__ or current.__context__


def report() -> dict[str, Any]:
    """How often Thunder compiled, and how many operations of its last traces each executor took."""
    thunder = importlib.import_module("thunder")
    found: dict[str, Any] = {}
    for compiled in jitted:
        took: Counter[str] = Counter()
        for last in (thunder.last_traces, thunder.last_backward_traces):
            traces = last(compiled)
            if traces:
                chosen = (getattr(symbol.sym, "executor", None) for symbol in traces[-1].bound_symbols)
                took.update(str(getattr(executor, "name", None) or "python") for executor in chosen)
        found["thunder"] = {
            "compiled": thunder.cache_misses(compiled),
            "reused": thunder.cache_hits(compiled),
            "executors": {str(name): count for name, count in sorted(took.items())},
        }
    return found


def nvfuser() -> str | None:
    """The version of nvFuser, whatever build it is of."""
    return next((found.version for found in nvfuser_builds()), None)


def built_for() -> str | None:
    """The torch (2.10) that nvFuser was built for, by its package's name."""
    for found in nvfuser_builds():
        if match := BUILT_FOR.match(found.metadata["Name"].lower()):
            return f"{match[1]}.{match[2]}"
    return None


def nvfuser_builds() -> Iterator[metadata.Distribution]:
    """What is installed under a name of nvFuser's."""
    return (found for found in metadata.distributions() if str(found.metadata["Name"]).lower().startswith("nvfuser"))
