"""The cell's order, as the orchestrator (or a person) wrote it to `spec.json`."""

from __future__ import annotations

import json
from dataclasses import MISSING, dataclass, fields
from pathlib import Path
from typing import Any

FSDP2 = ("fsdp2", "fsdp2_no_reshard")
"""Of `parallel`. The second keeps for the backward what it has gathered: less to send, more memory."""


@dataclass(frozen=True)
class Experts:
    """Of a mixture: how many there are, how many a token goes through, and the width of each, in elements.

    `normalised`: a token's weights are made to sum to 1. `dense_layers` have an ordinary MLP instead.
    `shared_width`: of an expert that every token goes through, behind a gate of its own.
    """

    count: int
    active: int
    width: int
    normalised: bool = False
    dense_layers: tuple[int, ...] = ()
    shared_width: int | None = None


@dataclass(frozen=True)
class ModelConfig:
    """Sizes in elements. A family is a set of values of what stands from `kv_heads` on; the defaults are Llama's.

    `activation`: of the MLP's gate. `norm_plus_one`: norms multiply by 1 + weight, before they round.
    `qk_norm`: each head's queries and keys are normed. `post_norms`: what a branch adds is normed too.
    `embedding_scaled`: by sqrt(width), rounded to the weights' dtype. `query_scalar`: scores are divided by its root,
    instead of the head size's. Caps: x becomes cap * tanh(x / cap), of scores and of logits. `full_layers`: layers
    without the sliding window. `local_rope_base`: rotary base of the layers with it, which nothing scales.
    `rotary_size`: the elements of a head that are rotated, the first ones; None: all.
    """

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
    activation: str = "silu"
    norm_plus_one: bool = False
    qk_norm: bool = False
    post_norms: bool = False
    embedding_scaled: bool = False
    query_scalar: float | None = None
    attention_cap: float | None = None
    logit_cap: float | None = None
    full_layers: tuple[int, ...] = ()
    local_rope_base: float | None = None
    rotary_size: int | None = None
    experts: Experts | None = None

    def is_local(self, layer: int) -> bool:
        """Whether a layer sees no further back than the sliding window."""
        return self.sliding_window is not None and layer not in self.full_layers

    def has_experts(self, layer: int) -> bool:
        """Whether a layer's MLP is a mixture of experts."""
        return self.experts is not None and layer not in self.experts.dense_layers

    @property
    def qkv_width(self) -> int:
        """Rows of the fused projection: every query head, then every key head, then every value head."""
        return (self.heads + 2 * self.kv_heads) * self.head_size

    @property
    def linear_parameters(self) -> int:
        """Weights that a token is multiplied with: not the embedding, the norms, and experts that it does not meet."""
        attention = self.width * self.qkv_width + self.heads * self.head_size * self.width
        total = self.layers * attention + self.width * self.vocabulary
        sparse = sum(map(self.has_experts, range(self.layers)))
        total += 3 * self.width * self.mlp_width * (self.layers - sparse)
        if (experts := self.experts) is not None:
            shared = 3 * experts.shared_width + 1 if experts.shared_width else 0
            total += sparse * self.width * (experts.count + 3 * experts.active * experts.width + shared)
        return total


@dataclass(frozen=True)
class Workload:
    """What is computed; a field that a benchmark does not use is None. Sizes in elements.

    `devices`: how many compute it together, and `parallel` how (bench/parallel/spread.py). `batch` is that of all
    of them together.
    """

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
    prompt_tokens: int | None = None
    devices: int = 1
    parallel: str | None = None

    @property
    def prompt_length(self) -> int:
        """Tokens of each prompt, whether the workload gives their ids or only says how many; 0 where there is none."""
        return self.prompt_tokens or len(self.prompt or ())

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
    `kind`: the method's, `engine` where it brings a whole inference engine; its `checkpoint` is then the folder of
    weights that was made for it.
    `subject_ids` are the ids of a reference's `subjects`, in their order. `beside`: for each workload that is run
    beside this one by a process of its own, the keys of its spec that are others than here. `rank`: which of the cell's
    devices this process has; `meeting` is the file by which its processes find one another.
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
    kind: str = "model"
    reference: str | None = None
    reference_sha256: str | None = None
    repeats: bool = False
    only_first: bool = False
    subject_ids: tuple[str, ...] = ()
    beside: tuple[dict[str, Any], ...] = ()
    rank: int = 0
    meeting: str | None = None

    @property
    def of_engine(self) -> bool:
        """Whether its method brings an engine."""
        return self.kind == "engine"

    @property
    def has_folder(self) -> bool:
        """Whether its weights are read from the folder `checkpoint`."""
        return self.of_engine or (self.workload.weights or {}).get("source") == "checkpoint"


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
    return _strict(ModelConfig, "model", content)


def _strict(kind: Any, what: str, content: dict[str, Any]) -> Any:
    known = {field.name: field for field in fields(kind)}
    missing = sorted(name for name, field in known.items() if field.default is MISSING and name not in content)
    unknown = sorted(set(content) - set(known))
    if missing or unknown:
        raise ValueError(f"{what}: missing keys {missing}, unknown keys {unknown}")
    values = {key: tuple(value) if isinstance(value, list) else value for key, value in content.items()}
    if isinstance(content.get("experts"), dict):
        values["experts"] = _strict(Experts, "model.experts", content["experts"])
    return kind(**values)


def named(name: str) -> ModelConfig:
    """One of the models in `models.json`; KeyError for others."""
    models = json.loads(Path(__file__).with_name("models.json").read_text(encoding="utf-8"))
    return from_dict({"name": name, **models[name]})
