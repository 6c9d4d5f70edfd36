"""What a cell computes, fully resolved: the part of a spec that `workload_id` hashes."""

from __future__ import annotations

import hashlib
import json
from typing import Annotated, Any, Literal

from pydantic import Field

from orchestrator.base.files import Frozen
from orchestrator.base.text import counted, size_in_words

Benchmark = Literal[
    "forward", "model_inference", "generation", "train_static", "train_dynamic", "ceilings", "reference"
]
MEASURED: tuple[Benchmark, ...] = ("forward", "model_inference", "generation", "train_static", "train_dynamic")
GENERATING: tuple[Benchmark, ...] = ("model_inference", "generation")
TRAINING: tuple[Benchmark, ...] = ("train_static", "train_dynamic")
Dtype = Literal["bfloat16", "float32", "float64"]
Positive = Annotated[int, Field(gt=0)]
Count = Annotated[int, Field(ge=0)]


class ModelConfig(Frozen):
    """A Llama-family model's shape. Widths and sizes in elements, `norm_eps` dimensionless."""

    name: str
    layers: Positive
    width: Positive
    heads: Positive
    kv_heads: Positive
    head_size: Positive
    mlp_width: Positive
    vocabulary: Positive
    block_size: Positive
    norm_eps: float
    rope_base: float
    rope_scaling: dict[str, Any] | None
    tied_head: bool
    qkv_bias: bool
    sliding_window: Positive | None


class Weights(Frozen):
    """Where weights come from: the counter-based hash, or a checkpoint (named by what it holds, not by its path).

    `probe` is the hash too, scaled so that heads attend sharply: faults stand far out.
    """

    source: Literal["hash", "checkpoint", "probe"] = "hash"
    seed: Count = 0
    fingerprint: str | None = None


class Workload(Frozen):
    """Everything that decides what is computed. A field that a benchmark does not use is null."""

    benchmark: Benchmark
    model: ModelConfig | None
    weights: Weights | None
    dtype: Dtype
    seed: Count
    iterations: Positive
    warmup: Count
    batch: Positive | None = None
    sequence: Positive | None = None
    shortest: Positive | None = None
    ids_below: Positive | None = None
    prompt: tuple[Count, ...] | None = None
    prompt_text: str | None = None
    new_tokens: Positive | None = None
    temperature: Annotated[float, Field(gt=0)] | None = None
    learning_rate: float | None = None
    weight_decay: float | None = None
    matrix_sizes: tuple[Positive, ...] | None = None
    copy_bytes: Positive | None = None
    subjects: tuple[Workload, ...] | None = None
    """Of the benchmark `reference`: the workloads of one model, one weights and one dtype to make references of."""

    @property
    def workload_id(self) -> str:
        """Sixteen hex digits over every field but the model's name: equal workloads have equal ids."""
        content = self.model_dump(mode="json")
        if content["model"] is not None:
            del content["model"]["name"]
        if content["subjects"] is None:
            del content["subjects"]
        else:
            content["subjects"] = [subject.workload_id for subject in self.subjects or ()]
        return digest(content)


def digest(content: Any) -> str:
    """Return sixteen hex digits of the SHA-256 of `content` as canonical JSON."""
    text = json.dumps(content, sort_keys=True, separators=(",", ":"), allow_nan=False)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


WHAT: dict[Benchmark, str] = {
    "forward": "One forward pass, in seconds",
    "model_inference": "Generation with a compiled model, in tokens per second",
    "generation": "Generation with a compiled step (model and sampling), in tokens per second",
    "train_static": "One training step at one shape, in milliseconds",
    "train_dynamic": "Training steps at shapes that change, in seconds for all of them",
}


def describe(workload: Workload) -> str:
    """Return model, sizes and type of a workload in words."""
    sequence = f"sequence {workload.sequence}"
    if workload.shortest is not None:
        sequence = f"sequences of {workload.shortest} to {workload.sequence}"
    sizes = ", ".join(map(str, workload.matrix_sizes or ()))
    parts = [
        workload.model.name if workload.model else None,
        f"batch {workload.batch}" if workload.batch is not None else None,
        sequence if workload.sequence is not None else None,
        counted(len(workload.prompt), "prompt token") if workload.prompt is not None else None,
        f"{workload.new_tokens} new tokens" if workload.new_tokens is not None else None,
        f"matrices of {sizes}" if sizes else None,
        f"copy of {size_in_words(workload.copy_bytes)}" if workload.copy_bytes is not None else None,
        workload.dtype,
    ]
    return ", ".join(part for part in parts if part)


Role = Literal["row", "ceilings", "reference", "probe"]
"""What a cell is for: a row of a table; or what rows are measured against, checked against, or probed by."""
