"""One file a benchmark. Each has `build(context) -> Task`; the cell's page times `task.call` and nothing else.

Building compiles, makes cache and optimizer, and runs nothing yet.
"""

from __future__ import annotations

import importlib
from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from types import ModuleType
from typing import Any

from torch import Tensor

from bench.model.gpt import GPT
from bench.observe.clock import Clock
from bench.parallel import ALONE, Team
from bench.spec import ModelConfig, Workload
from bench.status import Incorrect, Unsupported

NAMES = ("forward", "model_inference", "generation", "train_static", "train_dynamic")


@dataclass(frozen=True)
class Context:
    """What a benchmark is built from: the filled model, the method's module, the clock, a checkpoint's tokenizer."""

    workload: Workload
    model: GPT
    method: ModuleType
    clock: Clock
    device: str
    tokenizer: Any = None
    refill: Callable[[], None] | None = None
    """Gives the model its first weights again, in place."""
    team: Team = ALONE
    """Those that compute it together; of them `model` may be one rank's part."""

    @property
    def whole(self) -> GPT:
        """A plain model of the weights as they are, or were when it was first asked for; for the proof."""
        found: Any = getattr(self.model, "whole", self.model)
        return found

    def write_head(self, rows: Tensor) -> None:
        """Give the head other weights, [vocabulary, width]."""
        if hasattr(self.model, "write_head"):
            self.model.write_head(rows)
        else:
            self.model.head.weight.copy_(rows)


class Task(ABC):
    """A benchmark that is ready to be timed."""

    inference = True

    def __init__(self, context: Context) -> None:
        self.context, self.workload = context, context.workload

    @property
    def config(self) -> ModelConfig:
        """The model's."""
        assert self.workload.model is not None
        return self.workload.model

    @property
    def ids_below(self) -> int:
        """Above all ids of the inputs; Unsupported where the vocabulary has not that many."""
        below, vocabulary = self.workload.ids_below or self.config.vocabulary, self.config.vocabulary
        if below > vocabulary:
            raise Unsupported(f"ids_below: {below} is beyond the vocabulary of {self.config.name} ({vocabulary} ids)")
        return below

    @abstractmethod
    def inputs(self, index: int) -> Any:
        """Make sample `index`'s inputs on the device; not timed. Every index has other inputs."""

    @abstractmethod
    def content(self, inputs: Any) -> tuple[Tensor, ...]:
        """The tensors whose checksum says what went in."""

    @abstractmethod
    def shape(self, inputs: Any) -> list[int]:
        """Sizes that decide the sample's work, [batch, time]."""

    @abstractmethod
    def call(self, inputs: Any) -> Any:
        """Run one sample; timed."""

    def look(self, output: Any) -> object:  # noqa: ARG002
        """Read one element of what `call` returned; Incorrect where it is no plain tensor. Timed, after the wait."""
        return None

    def make_room(self, samples: int) -> None:  # noqa: B027  (most need none)
        """Allocate what `keep` needs for so many samples."""

    def keep(self, index: int, inputs: Any, output: Any) -> None:  # noqa: B027
        """Keep of a sample what it is judged by after timing; not timed."""

    @abstractmethod
    def brief(self, inputs: Any) -> str:
        """Run what is to be profiled: a sample, or as much of it as shows what runs; return what that is."""

    def loss(self, output: Any) -> float | None:  # noqa: ARG002
        """The training loss of a sample, or None."""
        return None

    @abstractmethod
    def work(self, shapes: list[list[int]]) -> dict[str, int | None]:
        """FLOPs, bytes and tokens of one sample; of all the given samples together where their shapes differ."""

    @abstractmethod
    def proof(self, output: Any) -> dict[str, Any]:
        """What the last output shows; raises Incorrect where it is not finite."""


def read_element(output: object) -> float:
    """Wait for, and read, the last element of a plain tensor that exists; Incorrect for anything else."""
    if not isinstance(output, Tensor) or type(output) is not Tensor:
        raise Incorrect(f"the output is a {type(output).__name__}, not a plain tensor")
    return float(output[(-1,) * output.dim()])


def load(name: str) -> ModuleType:
    """Import `bench.benchmarks.<name>`."""
    if name not in NAMES:
        raise Unsupported(f"this bench has no benchmark {name}")
    return importlib.import_module(f"{__name__}.{name}")
