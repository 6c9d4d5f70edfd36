"""What a cell computes, fully resolved: the part of a spec that `workload_id` hashes."""

from __future__ import annotations

import hashlib
import json
from collections import defaultdict
from collections.abc import Iterable, Mapping
from functools import cache
from typing import Annotated, Any, ClassVar, Literal

from pydantic import Field

from orchestrator.base.files import Count, Frozen, Json, Positive
from orchestrator.base.text import counted, size_in_words

Benchmark = Literal[
    "forward",
    "model_inference",
    "generation",
    "batched_generation",
    "train_static",
    "train_dynamic",
    "ceilings",
    "reference",
    "weights",
]
BATCHED: Benchmark = "batched_generation"
MEASURED: tuple[Benchmark, ...] = (
    *("forward", "model_inference", "generation", BATCHED),
    *("train_static", "train_dynamic"),
)
GENERATING: tuple[Benchmark, ...] = ("model_inference", "generation", BATCHED)
TRAINING: tuple[Benchmark, ...] = ("train_static", "train_dynamic")
Dtype = Literal["bfloat16", "float32", "float64"]
Parallel = Literal["ddp", "fsdp2", "fsdp2_no_reshard", "tensor"]
Scaled = Literal["strong", "weak"]
"""Whether several devices share the work of one, or each has as much as one."""
FSDP2: tuple[Parallel, ...] = ("fsdp2", "fsdp2_no_reshard")


def digest(content: Any) -> str:
    """Return sixteen hex digits of the SHA-256 of `content` as canonical JSON."""
    text = json.dumps(content, sort_keys=True, separators=(",", ":"), allow_nan=False)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


class Identified(Frozen):
    """A value that identities (`workload_id`, `cell_id`) are made of.

    Ids last: the records of years ago must match those of today. The fields of schema version 1 are always hashed, as
    they were when the first rows were committed. A field that came later is hashed only where it is not its default.

    So to add a field: give it a default that means what every row before it did, and leave `VERSION_1` alone. A field
    that changes nothing of what is computed goes into `NOT_HASHED`.
    """

    VERSION_1: ClassVar[frozenset[str]] = frozenset()
    NOT_HASHED: ClassVar[frozenset[str]] = frozenset()

    def hashed(self) -> dict[str, Any]:
        """Return the fields that an identity is made of, as JSON has them."""
        values = self.__dict__
        return {name: _hashed(values[name]) for name in self.VERSION_1} | self.hashed_later()

    def hashed_later(self) -> dict[str, Any]:
        """Return those of them that came after version 1: the ones that are not their default."""
        values = self.__dict__
        return {name: _hashed(values[name]) for name, default in _later(type(self)).items() if values[name] != default}


@cache
def _later(kind: type[Identified]) -> dict[str, Any]:
    """Return the defaults of the fields that came after version 1; a plan of thousands of cells asks very often."""
    old = kind.VERSION_1 | kind.NOT_HASHED
    fields = kind.model_fields.items()
    return {name: field.get_default(call_default_factory=True) for name, field in fields if name not in old}


def _hashed(value: Any) -> Any:
    if isinstance(value, Workload):
        return value.workload_id
    if isinstance(value, tuple):
        return [_hashed(item) for item in value]
    return value.hashed() if isinstance(value, Identified) else value


class Experts(Identified):
    """Of a mixture: how many there are, how many a token goes through, their width; see bench/spec.py for the rest."""

    count: Positive
    active: Positive
    width: Positive
    normalised: bool = False
    dense_layers: tuple[Count, ...] = ()
    shared_width: Positive | None = None


class ModelConfig(Identified):
    """A model's shape. Widths and sizes in elements; what the values mean that Llama does not need: bench/spec.py."""

    VERSION_1 = frozenset(
        {
            *("layers", "width", "heads", "kv_heads", "head_size", "mlp_width", "vocabulary", "block_size"),
            *("norm_eps", "rope_base", "rope_scaling", "tied_head", "qkv_bias", "sliding_window"),
        }
    )
    NOT_HASHED = frozenset({"name"})

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
    rope_scaling: dict[str, Json] | None
    tied_head: bool
    qkv_bias: bool
    sliding_window: Positive | None
    activation: Literal["silu", "gelu_tanh"] = "silu"
    norm_plus_one: bool = False
    qk_norm: bool = False
    post_norms: bool = False
    embedding_scaled: bool = False
    query_scalar: float | None = None
    attention_cap: float | None = None
    logit_cap: float | None = None
    full_layers: tuple[Count, ...] = ()
    local_rope_base: float | None = None
    rotary_size: Positive | None = None
    experts: Experts | None = None

    def is_local(self, layer: int) -> bool:
        """Whether a layer sees no further back than the sliding window."""
        return self.sliding_window is not None and layer not in self.full_layers

    def has_experts(self, layer: int) -> bool:
        """Whether a layer's MLP is a mixture of experts."""
        return self.experts is not None and layer not in self.experts.dense_layers


Routing = Literal["hash", "router"]


class Weights(Identified):
    """Where weights come from: the counter-based hash, or a checkpoint (named by what it holds, not by its path).

    `probe` is the hash too, scaled so that heads attend sharply: faults stand far out. `routing`: who chooses the
    experts of a mixture that the hash makes, the hash itself, evenly, or the model's router.
    """

    VERSION_1 = frozenset({"source", "seed", "fingerprint"})

    source: Literal["hash", "checkpoint", "probe"] = "hash"
    seed: Count = 0
    fingerprint: str | None = None
    routing: Routing = "hash"


class Workload(Identified):
    """Everything that decides what is computed. A field that a benchmark does not use is null."""

    VERSION_1 = frozenset(
        {
            *("benchmark", "model", "weights", "dtype", "seed", "iterations", "warmup", "batch", "sequence"),
            *("shortest", "ids_below", "prompt", "prompt_text", "new_tokens", "temperature"),
            *("learning_rate", "weight_decay", "matrix_sizes", "copy_bytes"),
        }
    )

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
    precisions: tuple[Literal["tf32"], ...] | None = None
    """Of `ceilings`: lower ones in which products of the dtype are measured too."""
    soak_s: Annotated[float, Field(ge=0)] | None = None
    """Of `ceilings`: seconds of products before the sustained ones."""
    sustained_s: Annotated[float, Field(gt=0)] | None = None
    """Of `ceilings`: seconds of back-to-back products; null: only a burst."""
    subjects: tuple[Workload, ...] | None = None
    """Of the benchmarks `reference` and `weights`: the workloads to make references, or folders of weights, for."""
    beside: tuple[Workload, ...] | None = None
    """Of a probe: the same in other precisions, each run by a process beside the cell's own."""
    prompt_tokens: Positive | None = None
    """Of each prompt of a batch whose ids are the hash's; null where `prompt` has them."""
    devices: Positive = 1
    """How many of one host compute it together; `batch` is that of all of them."""
    parallel: Parallel | None = None
    """How they share it; null on one device."""

    @property
    def prompt_length(self) -> int:
        """Tokens of each prompt; 0 where there is none."""
        return self.prompt_tokens or len(self.prompt or ())

    @property
    def counted_tokens(self) -> int | None:
        """New tokens that a figure in tokens/s counts: those of one sequence, of a batch of different prompts all."""
        if self.benchmark == BATCHED and self.new_tokens is not None:
            return self.new_tokens * (self.batch or 1)
        return self.new_tokens

    @property
    def parts(self) -> tuple[Workload, ...]:
        """The workloads that a cell runs and has references for, its own first."""
        return (self.model_copy(update={"beside": None}), *self.beside) if self.beside else (self,)

    @property
    def alone(self) -> Workload:
        """The same on one device: whose reference it is checked against, for what is to come out is the same."""
        return self.model_copy(update={"devices": 1, "parallel": None})

    @property
    def share(self) -> Workload | None:
        """What each of several devices has to do in training, on one; None where that is not a whole batch."""
        if self.parallel in (None, "tensor") or self.batch is None or self.batch % self.devices:
            return None
        return self.alone.model_copy(update={"batch": self.batch // self.devices})

    @property
    def referred(self) -> tuple[Workload, ...]:
        """The workloads of its references, in the order of its parts."""
        return tuple(part.alone for part in self.parts)

    @property
    def routed(self) -> Workload:
        """The same with the model's router choosing the experts, as it does in an engine: it cannot know the hash."""
        if self.model is None or self.model.experts is None or self.weights is None:
            return self
        if self.weights.source == "checkpoint":
            return self
        return self.model_copy(update={"weights": self.weights.model_copy(update={"routing": "router"})})

    @property
    def is_own_probe(self) -> bool:
        """Whether a row on this workload shows a fault by itself: sharp weights, and no rounding to hide behind."""
        return self.weights is not None and self.weights.source == "probe" and self.dtype in ("float32", "float64")

    @property
    def workload_id(self) -> str:
        """Sixteen hex digits over every field but the model's name: equal workloads have equal ids."""
        return digest(self.hashed())


RECORD_LIMIT_BYTES = 16_000_000
"""No record is larger: what bench writes may have half of it, for the orchestrator puts nulls, taints and more in."""
SAMPLE_BYTES, TOKEN_BYTES, ELSE_BYTES = 800, 16, 400_000
"""What a sample with its repeat, a token and all else take at most of what bench writes."""


def fits_into_a_record(iterations: int, tokens: int) -> bool:
    """Whether a record has room for so many samples, and so many tokens of prompt and output."""
    return iterations * SAMPLE_BYTES + tokens * TOKEN_BYTES + ELSE_BYTES <= RECORD_LIMIT_BYTES // 2


WHAT: dict[Benchmark, str] = {
    "forward": "One forward pass, in seconds",
    "model_inference": "Generation with a compiled model, in tokens per second",
    "generation": "Generation with a compiled step (model and sampling), in tokens per second",
    "batched_generation": "Generation for a batch of different prompts given at once, in tokens per second of them all",
    "train_static": "One training step at one shape, in milliseconds",
    "train_dynamic": "Training steps at shapes that change, in seconds for all of them",
}


def describe(workload: Workload) -> str:
    """Return model, sizes and type of a workload in words."""
    sequence = f"sequence {workload.sequence}"
    if workload.shortest is not None:
        sequence = f"sequences of {workload.shortest} to {workload.sequence}"
    sizes = ", ".join(map(str, workload.matrix_sizes or ()))
    lower = "".join(f" and {precision.upper()}" for precision in workload.precisions or ())
    parts = [
        workload.model.name if workload.model else None,
        f"batch {workload.batch}" if workload.batch is not None else None,
        sequence if workload.sequence is not None else None,
        counted(workload.prompt_length, "prompt token") if workload.prompt_length else None,
        f"{workload.new_tokens} new tokens" if workload.new_tokens is not None else None,
        f"matrices of {sizes}" if sizes else None,
        "its router chooses the experts" if workload.weights and workload.weights.routing == "router" else None,
        f"copy of {size_in_words(workload.copy_bytes)}" if workload.copy_bytes is not None else None,
        f"{workload.sustained_s:g} s sustained" if workload.sustained_s is not None else None,
        workload.dtype + lower,
        f"{workload.devices} devices" + (f" by {workload.parallel}" if workload.parallel else "")
        if workload.devices > 1
        else None,
    ]
    return ", ".join(part for part in parts if part)


def on_one_device(workloads: Iterable[Workload]) -> dict[str, tuple[Scaled, str]]:
    """Return for each workload_id of several devices what shows how it scales: in which way, and that on one device.

    Where a device's share of every batch is there on one, each device has as much to do as one (weak scaling). Of
    batches that are shared out the smallest has no such share, and the whole of each is what counts (strong scaling).
    """
    given = list(workloads)
    if all(workload.devices == 1 for workload in given):
        return {}  # ids take a while
    by_id = {workload.workload_id: workload for workload in given}
    several = {name: workload for name, workload in by_id.items() if workload.devices > 1}
    shares = {name: workload.share.workload_id if workload.share else "" for name, workload in several.items()}
    alike = {name: workload.model_copy(update={"batch": None}).workload_id for name, workload in several.items()}
    shared_out = {alike[name] for name, share in shares.items() if share not in by_id}
    found = dict[str, tuple[Scaled, str]]()
    for name, workload in several.items():
        if alike[name] not in shared_out:
            found[name] = "weak", shares[name]
        elif (whole := workload.alone.workload_id) in by_id:
            found[name] = "strong", whole
        elif shares[name] in by_id:
            found[name] = "weak", shares[name]
    return found


TELLING = {
    "ids_below": "ids below {}",
    "seed": "seed {}",
    "temperature": "temperature {}",
    "learning_rate": "learning rate {}",
    "weight_decay": "weight decay {}",
    "iterations": "{} iterations",
    "warmup": "{} to warm up",
}
"""How it is said of a workload what `describe` leaves out."""


def told_apart(workloads: Mapping[str, Workload]) -> dict[str, str]:
    """Return what `describe` says of each, by its id, and what they differ in where two would read the same."""
    alike = defaultdict[tuple[str, str], dict[str, Workload]](dict)
    for key, one in workloads.items():
        alike[one.benchmark, describe(one)][key] = one
    found = dict[str, str]()
    for (_, words), those in alike.items():
        differ = [name for name in TELLING if len({getattr(one, name) for one in those.values()}) > 1]
        said = {
            key: ", ".join([words, *(TELLING[name].format(getattr(one, name)) for name in differ)])
            for key, one in those.items()
        }
        same = len(set(said.values())) < len(said)  # in the prompt's ids, say
        found |= {key: f"{text}, workload {key[:8]}" if same else text for key, text in said.items()}
    return found


def particular(workloads: Mapping[str, Workload]) -> dict[str, str]:
    """Return the benchmark of each by its id, with what others of it among these do not share: `forward (float32)`."""
    said = {key: text.split(", ") for key, text in told_apart(workloads).items()}
    found = dict[str, str]()
    for key, one in workloads.items():
        others = [said[other] for other, it in workloads.items() if it.benchmark == one.benchmark and other != key]
        own = [part for part in said[key] if any(part not in parts for parts in others)]
        found[key] = one.benchmark + (f" ({', '.join(own)})" if own else "")
    return found


Role = Literal["row", "ceilings", "reference", "probe", "weights"]
"""What a cell is for: a row of a table; or what rows are measured against, checked against, probed by, or read."""
Kind = Literal["model", "engine"]
"""What a method brings: operators and compilers for bench's own model, or a whole inference engine."""
