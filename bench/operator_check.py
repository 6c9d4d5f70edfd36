"""`python -m bench.operator_check METHOD` compares a method's operators with the plain ones in float64.

Random inputs, forward and backward, each operator at the sizes of the note's two models (on a CPU: tiny ones), in
bfloat16 and float32. Prints one JSON object, what it ran in and one finding each; exits 1 when an operator is further
off than its limit, or fails.
"""

from __future__ import annotations

import argparse
import itertools
import json
import sys
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

from bench import methods
from bench.environment import environment
from bench.operators import fallbacks
from bench.operators.fallbacks import PLAIN, AttentionWithFallbacks, Fill, Given, Operator, WithFallbacks

LIMITS = {"bfloat16": 1e-2, "float32": 1e-5}
"""Of the relative error, in the sense of Euclid's norm over a whole tensor."""
WIDTHS, HEAD_SIZES = (3200, 4096), (100, 128)
SIZES: dict[str, dict[str, tuple[int, ...]]] = {
    "cuda": {"norm": WIDTHS, "rotary": HEAD_SIZES, "attention": HEAD_SIZES, "swiglu": WIDTHS, "loss": (32000,)},
    "cpu": {"norm": (64,), "rotary": (16,), "attention": (16,), "swiglu": (64,), "loss": (512,)},
}
TIMES = {"cuda": 256, "cpu": 16}
HEADS = 4


def main() -> int:
    """Exit 0 when all passed, 1 when one did not, 4 where there is nothing to check."""
    parser = argparse.ArgumentParser(prog="python -m bench.operator_check", description=__doc__.splitlines()[0])
    parser.add_argument("method", help="eager, tinyllama, tinyllama_full, fused, ...")
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--dtype", action="append", choices=sorted(LIMITS), help="may be given again; default: all")
    parser.add_argument("--compiled", action="store_true", help="each operator under torch.compile, the loss apart")
    options = parser.parse_args()
    try:
        method = methods.load(options.method)
    except Exception as error:  # noqa: BLE001  (one line is all that a person needs)
        print(f"bench: {fallbacks.one_line(error)}", file=sys.stderr)
        return 4
    found = list(check(method, options.device, options.dtype or sorted(LIMITS), compiled=options.compiled))
    report = {"method": options.method, "environment": environment(options.device), "findings": found}
    print(json.dumps({"schema_version": 1, **report}, indent=1))
    return 1 if any(item["status"] == "failed" for item in found) else 0


def check(method: Any, device: str, dtypes: list[str], *, compiled: bool = False) -> Iterator[dict[str, Any]]:
    """One finding for each operator, size and dtype."""
    for dtype in dtypes:
        for kind, sizes in SIZES[device].items():
            for size in sizes:
                given = Given(device, getattr(torch, dtype), size)
                for variant in ("", "with a mask") if kind == "attention" else ("",):
                    yield check_one(method, kind, given, variant, LIMITS[dtype], compiled=compiled and kind != "loss")


def check_one(
    method: Any, kind: str, given: Given, variant: str, limit: float, *, compiled: bool = False
) -> dict[str, Any]:
    """Compare one operator; an exception is a failure with its line."""
    operator = getattr(method.operators(), kind)
    finding: dict[str, Any] = {
        "operator": f"{kind} {variant}".strip(),
        "dtype": str(given.dtype).removeprefix("torch."),
        "size": given.size,
        "compiled": compiled,
        "limit": limit,
        "forward": None,
        "backward": None,
    }
    try:
        arguments = fallbacks.example(kind, given, time=TIMES[given.device], fill=random(kind, given.size))
        if variant:
            # 0 where a slot may be seen, -inf where not, [time, slots], as the model makes it for its cache.
            time = arguments[0].shape[1]
            arguments[-1] = arguments[0].new_full((time, time), float("-inf")).triu(1)
        direction = random("direction", given.size)
        expected = outcome(PLAIN[kind], kind, [exact(x) for x in arguments], direction, given.dtype)
        run = operator
        if compiled:
            if isinstance(operator, (WithFallbacks, AttentionWithFallbacks)):
                operator.settle(given)
            # All operators of a method share one `__call__`: what was compiled for the one before would otherwise make
            # every size of this one a symbol, as it is in no model.
            torch.compiler.reset()
            run = torch.compile(operator, fullgraph=True, dynamic=False)
        side_by_side = kind == "swiglu" and hasattr(method, "lay_side_by_side")
        direction = random("direction", given.size)
        result = outcome(run, kind, arguments, direction, given.dtype, side_by_side=side_by_side)
        finding["forward"] = relative(result[0], expected[0])
        finding["backward"] = max(relative(a, b) for a, b in zip(result[1:], expected[1:]))  # noqa: B905
        passed = finding["forward"] < limit and finding["backward"] < limit
        finding["status"] = "passed" if passed else "failed"
    except Exception as error:  # noqa: BLE001  (it is a finding)
        finding["status"], finding["error"] = "failed", fallbacks.one_line(error)
    finding["dispatched"] = implementation_of(operator, variant)
    return finding


def outcome(
    run: Operator, kind: str, arguments: list[Any], direction: Fill, dtype: torch.dtype, *, side_by_side: bool = False
) -> list[Tensor]:
    """The result, and the gradient in one direction, rounded to `dtype`, of each argument that has one."""
    has_gradient = [fallbacks.differentiable(kind, i) for i in range(len(arguments))]
    leaves = [x.clone().requires_grad_() if has else x for x, has in zip(arguments, has_gradient)]  # noqa: B905
    if side_by_side:
        gate_and_up = torch.stack([leaves[1].detach(), leaves[2].detach()])
        leaves[1], leaves[2] = (part.requires_grad_() for part in gate_and_up.unbind())
    given = list(leaves)
    if kind == "rotary":
        # As in the model: part of a larger tensor, the rest of which must stay as it is.
        whole = torch.cat([leaves[0], arguments[0][:, :, :2]], dim=2)
        given[0] = whole[:, :, :HEADS]
    elif kind == "loss":
        given[0] = leaves[0] * 1  # it may be overwritten
    result = run(*given)
    if kind == "rotary" and not torch.equal(whole[:, :, HEADS:], arguments[0][:, :, :2]):
        raise ValueError("what lies beside the turned heads was changed")
    toward = direction(result.shape).to(result.device, dtype).to(result.dtype)
    gradients = torch.autograd.grad(result, list(itertools.compress(leaves, has_gradient)), toward)
    return [result.detach(), *gradients]


def random(kind: str, size: int) -> Fill:
    """Normal numbers, the same in every run."""
    generator = torch.Generator().manual_seed(sum(map(ord, kind)) + size)
    return lambda shape: torch.randn(shape, dtype=torch.float64, generator=generator)


def exact(x: Any) -> Any:
    """Floating point as float64: the same numbers, computed with in more digits."""
    return x.double() if isinstance(x, Tensor) and x.is_floating_point() else x


def relative(found: Tensor, expected: Tensor) -> float:
    """How far off, over how large."""
    difference = torch.linalg.vector_norm(found.double() - expected) / torch.linalg.vector_norm(expected)
    return float(difference) if bool(torch.isfinite(difference)) else float("inf")


def implementation_of(operator: Any, variant: str) -> str:
    """What it dispatched to; a plain function is plain."""
    if isinstance(operator, AttentionWithFallbacks):
        operator = operator.masked if variant else operator.causal
    return operator.report() if isinstance(operator, WithFallbacks) else "eager"


if __name__ == "__main__":
    sys.exit(main())
