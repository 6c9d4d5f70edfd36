"""Operators with several implementations: the first that can take what comes is taken, and the record says which.

Nothing falls back in silence: what an operator dispatched to is noted when that is decided, once for every device,
dtype and size that it meets, together with the reason of each implementation that was passed over.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from bench import operators

Operator = Callable[..., Tensor]
PLAIN: dict[str, Operator] = vars(operators.Operators())
HALF = (torch.float16, torch.bfloat16)
REASON_CHARACTERS = 200
ASKED = {"plus": "norm of 1 + weight", "scale": "scale of its own", "cap": "cap on the scores", "activation": "GeGLU"}
"""Keyword arguments of operators, in words."""


@dataclass(frozen=True)
class Given:
    """What an operator is asked to work on; `size` is the length of its first argument's last axis.

    `asked` are the names of its keyword arguments: what the model's family asks for beyond Llama's.
    """

    device: str
    dtype: torch.dtype
    size: int
    asked: tuple[str, ...] = ()

    @classmethod
    def of(cls, x: Tensor, asked: Iterable[str] = ()) -> Given:
        """What `x` is."""
        return cls(x.device.type, x.dtype, x.shape[-1], tuple(asked))


Refuses = Callable[[Given], "str | None"]
"""Why something cannot take what is given, or None."""


@dataclass(frozen=True)
class Implementation:
    """One way to compute an operator, with that operator's own arguments.

    `called` says by the arguments what it dispatches to in turn. `needs_trial`: it is tried on a few small numbers
    first, forward and backward, since it may lack the kernel for one size or one GPU. `takes`: those keyword arguments
    of the operator that it has too.
    """

    name: str
    refuses: Refuses
    run: Operator
    called: Callable[..., str] | None = None
    needs_trial: bool = False
    takes: tuple[str, ...] = ()

    def lacks(self, given: Given) -> str | None:
        """Why it cannot do what the model's family asks for."""
        lacking = [ASKED[name] for name in given.asked if name not in self.takes]
        return f"has no {' and no '.join(lacking)}" if lacking else None


class WithFallbacks:
    """Stands where an operator stands. `kind` is a key of `PLAIN`, which is what is left when all others refuse."""

    def __init__(self, kind: str, implementations: Sequence[Implementation]) -> None:
        self.kind, self.implementations = kind, tuple(implementations)
        self.run_plain = PLAIN[kind]
        self.forget()

    def forget(self) -> None:
        """Decide again."""
        self.decided: dict[Given, Operator] = {}
        self.notes: dict[str, None] = {}
        self.settled: Operator | None = None

    def __call__(self, *arguments: Any, **asked: Any) -> Tensor:
        """Compute the operator."""
        if self.settled is not None:
            return self.settled(*arguments, **asked)
        given = Given.of(arguments[0], asked)
        run = self.decided.get(given)
        if run is None:
            run = self.decide(given, arguments)
        return run(*arguments, **asked)

    def settle(self, given: Given) -> None:
        """Decide now and for good: a compiler that traces the operator finds one implementation, and no choice."""
        self.settled = self.decide(given, None)

    def decide(self, given: Given, arguments: Sequence[Any] | None) -> Operator:
        """Take the first implementation that does not refuse, and note it with the others' reasons."""
        passed: list[str] = []
        run, name = self.run_plain, "eager"
        for implementation in self.implementations:
            reason = implementation.lacks(given) or implementation.refuses(given)
            if reason is None and implementation.needs_trial:
                reason = trial(self.kind, implementation, given)
            if reason is None:
                run, called = implementation.run, implementation.called
                name = called(*arguments) if called and arguments is not None else implementation.name
                break
            passed.append(f"{implementation.name}: {reason}")
        self.decided[given] = run
        self.notes[f"{name} ({'; '.join(passed)})" if passed else name] = None
        return run

    def report(self) -> str:
        """What it dispatched to, and why not to what comes before that."""
        return " | ".join(self.notes) or "not called"


class AttentionWithFallbacks:
    """Attention, whose implementations may differ with and without a mask."""

    def __init__(self, causal: Sequence[Implementation], masked: Sequence[Implementation]) -> None:
        self.causal, self.masked = WithFallbacks("attention", causal), WithFallbacks("attention", masked)

    def __call__(self, q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None, **asked: Any) -> Tensor:
        """As `operators.attention`."""
        return (self.causal if mask is None else self.masked)(q, k, v, mask, **asked)

    def forget(self) -> None:
        """Decide again."""
        self.causal.forget()
        self.masked.forget()

    def settle(self, given: Given) -> None:
        """Decide both now and for good."""
        self.causal.settle(given)
        self.masked.settle(given)


def report(chosen: operators.Operators) -> dict[str, dict[str, str]]:
    """What each operator dispatched to, for the record's detail; attention with and without a mask where called so."""
    found: dict[str, str] = {}
    for name, operator in vars(chosen).items():
        if isinstance(operator, WithFallbacks):
            found[name] = operator.report()
        elif isinstance(operator, AttentionWithFallbacks):
            parts = {"attention": operator.causal, "attention with a mask": operator.masked}
            found.update({part: each.report() for part, each in parts.items() if each.notes})
        elif name not in ("route", "experts"):  # no method replaces them
            found[name] = "eager"
    return {"operators": found}


def forget(chosen: operators.Operators) -> operators.Operators:
    """Make all of them decide again: a process may build several models."""
    for operator in vars(chosen).values():
        if isinstance(operator, (WithFallbacks, AttentionWithFallbacks)):
            operator.forget()
    return chosen


def missing(*modules: str) -> str | None:
    """Why one of `modules` cannot be imported, in one line; None where all can."""
    module = ""
    try:
        for module in modules:
            importlib.import_module(module)
    except ModuleNotFoundError as error:
        return f"{error.name} is not installed"
    except Exception as error:  # noqa: BLE001  (a broken package raises whatever it likes: it is a reason)
        return f"{module} cannot be loaded: {one_line(error)}"
    return None


def trial(kind: str, implementation: Implementation, given: Given) -> str | None:
    """Why a small forward and backward fails; None where it works."""
    arguments = example(kind, given)
    try:
        # Its numbers are made outside of the inference mode that a cell may be in: autograd takes none from inside.
        with torch.inference_mode(False), torch.enable_grad():
            leaves = [x.clone().requires_grad_() if differentiable(kind, i) else x for i, x in enumerate(arguments)]
            # Work in place is on copies: a leaf must not be changed.
            copies = [x.clone() if isinstance(x, Tensor) else x for x in leaves]
            asked = {name: EXAMPLES[name] for name in given.asked}
            implementation.run(*copies, **asked).float().sum().backward()
    except Exception as error:  # noqa: BLE001  (whatever is missing is a reason, and recorded)
        return f"fails a trial: {one_line(error)}"
    return None


def differentiable(kind: str, index: int) -> bool:
    """Whether an operator's argument has a gradient: tables, targets, masks and numbers have none."""
    return index < {"norm": 2, "rotary": 1, "attention": 3, "swiglu": 4, "loss": 1}[kind]


EXAMPLES: dict[str, Any] = {"plus": 1.0, "scale": 0.1, "cap": 2.0, "activation": "gelu_tanh"}
"""Values of keyword arguments, for a trial."""
Fill = Callable[[torch.Size], Tensor]
"""Numbers of about unit size in float64, for a shape."""


def waves(shape: torch.Size) -> Tensor:
    """They take nothing from the generators that a sampler draws from."""
    places = torch.arange(shape.numel(), dtype=torch.float64)
    return torch.sin(places * (places % 7 + 1.3)).reshape(shape)


def example(kind: str, given: Given, *, batch: int = 2, time: int = 16, fill: Fill = waves) -> list[Any]:
    """Arguments for an operator, on its device and in its dtype; attention has half as many heads of keys."""

    def numbers(*shape: int, times: float = 1.0, plus: float = 0.0, dtype: torch.dtype = given.dtype) -> Tensor:
        return (fill(torch.Size(shape)) * times + plus).to(given.device, dtype)

    size = given.size
    with torch.inference_mode(False):
        if kind == "norm":
            return [numbers(batch, time, size), numbers(size, times=0.2, plus=1.0), 1e-6]
        if kind == "rotary":
            angles = numbers(time, size // 2, times=3.0, dtype=torch.float32)
            return [numbers(batch, time, 4, size), angles.cos(), angles.sin()]
        if kind == "attention":
            keys, values = numbers(batch, time, 2, size, times=-1.0), numbers(batch, time, 2, size, plus=0.1)
            return [numbers(batch, time, 4, size), keys, values, None]
        if kind == "swiglu":
            inner, scale = 3 * size, size**-0.5
            gate, up = numbers(inner, size, times=scale), numbers(inner, size, times=-scale)
            return [numbers(batch, time, size), gate, up, numbers(size, inner, times=scale)]
        targets = torch.arange(batch * time, device=given.device).reshape(batch, time) * 5 % size
        targets[:, ::4] = -1
        return [numbers(batch, time, size, times=3.0), targets]


def one_line(error: Exception) -> str:
    """The first line of what an exception says."""
    text = str(error).strip()
    return f"{type(error).__name__}: {text.splitlines()[0] if text else ''}"[:REASON_CHARACTERS]
