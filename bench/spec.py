"""The cell's order, as the orchestrator (or a person) wrote it to `spec.json`."""

from __future__ import annotations

import json
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any


@dataclass(frozen=True)
class ModelConfig:
    """Sizes in elements. Llama 2 and 3, Mistral and Qwen2 differ in what stands from `kv_heads` on."""

    name: str
    layers: int
    width: int
    heads: int
    kv_heads: int
    head_size: int
    mlp_width: int
    vocabulary: int
    block_size: int
    norm_eps: float
    rope_base: float
    rope_scaling: dict[str, Any] | None
    tied_head: bool
    qkv_bias: bool
    sliding_window: int | None

    @property
    def qkv_width(self) -> int:
        """Rows of the fused projection: every query head, then every key head, then every value head."""
        return (self.heads + 2 * self.kv_heads) * self.head_size

    @property
    def linear_parameters(self) -> int:
        """Weights that every token is multiplied with: all but the embedding and the norms."""
        attention = self.width * self.qkv_width + self.heads * self.head_size * self.width
        mlp = 3 * self.width * self.mlp_width
        return self.layers * (attention + mlp) + self.width * self.vocabulary


@dataclass(frozen=True)
class Workload:
    """What is computed; a field that a benchmark does not use is None. Sizes in elements."""

    benchmark: str
    model: ModelConfig | None
    weights: dict[str, Any] | None
    dtype: str
    seed: int
    iterations: int
    warmup: int
    batch: int | None = None
    sequence: int | None = None
    shortest: int | None = None
    ids_below: int | None = None
    prompt: tuple[int, ...] | None = None
    prompt_text: str | None = None
    new_tokens: int | None = None
    temperature: float | None = None
    learning_rate: float | None = None
    weight_decay: float | None = None
    matrix_sizes: tuple[int, ...] | None = None
    copy_bytes: int | None = None
    precisions: tuple[str, ...] | None = None
    soak_s: float | None = None
    sustained_s: float | None = None
    subjects: tuple[Workload, ...] | None = None
    beside: tuple[Workload, ...] | None = None

    @property
    def sharp(self) -> bool:
        """Whether its weights are a probe's."""
        return self.weights is not None and self.weights["source"] == "probe"


@dataclass(frozen=True)
class Spec:
    """One round of one cell. `raw` is the workload as it came, to be repeated in the record.

    `reference` is the file to check against, as this process sees it. `repeats`: someone answers which samples to
    measure again. `only_first`: make the first call, record it, and end (a warm start).
    `method_source` is the hash of the method's file, where it is a user's own, put beside bench's.
    `subject_ids` are the ids of a reference's `subjects`, in their order. `beside`: for each workload that is run
    beside this one by a process of its own, the keys of its spec that are others than here.
    """

    folder: Path
    cell_id: str
    workload_id: str
    round: int
    stack: str
    method: str
    device: str
    workload: Workload
    raw: dict[str, Any]
    bench_source: str | None = None
    method_source: str | None = None
    threads: int | None = None
    cache: str = "cold"
    cache_folder: str | None = None
    checkpoint: str | None = None
    role: str = "row"
    reference: str | None = None
    reference_sha256: str | None = None
    repeats: bool = False
    only_first: bool = False
    subject_ids: tuple[str, ...] = ()
    beside: tuple[dict[str, Any], ...] = ()


def read_spec(path: Path) -> Spec:
    """Read `spec.json`; an error says which key is missing or, in the workload, unknown."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except RecursionError as error:
        raise ValueError("spec: nested too deeply") from error
    raw = content["workload"]
    given = {field.name: content[field.name] for field in fields(Spec) if field.name in content}
    given.update(folder=path.resolve().parent, workload=read_workload(raw), raw=raw)
    lists = {key: tuple(content.get(key) or ()) for key in ("subject_ids", "beside")}
    return Spec(**{**given, **lists})


def read_workload(raw: dict[str, Any]) -> Workload:
    """Make a workload of its JSON; ValueError names unknown keys."""
    if not isinstance(raw, dict):
        raise ValueError("spec: a workload is not an object")  # noqa: TRY004 - a bad file's, as all others
    if unknown := sorted(set(raw) - {field.name for field in fields(Workload)}):
        raise ValueError(f"spec: workload has unknown keys {unknown}")
    values: dict[str, Any] = {key: tuple(value) if isinstance(value, list) else value for key, value in raw.items()}
    if values["model"] is not None:
        values["model"] = from_dict(values["model"])
    for key in ("subjects", "beside"):
        if values.get(key) is not None:
            values[key] = tuple(read_workload(one) for one in values[key])
    return Workload(**values)


def from_dict(content: dict[str, Any]) -> ModelConfig:
    """Make a config from a spec's `model`; ValueError names what is missing or unknown."""
    known = {field.name for field in fields(ModelConfig)}
    missing, unknown = sorted(known - set(content)), sorted(set(content) - known)
    if missing or unknown:
        raise ValueError(f"model: missing keys {missing}, unknown keys {unknown}")
    return ModelConfig(**content)


def named(name: str) -> ModelConfig:
    """One of the models in `models.json`; KeyError for others."""
    models = json.loads(Path(__file__).with_name("models.json").read_text(encoding="utf-8"))
    return from_dict({"name": name, **models[name]})
