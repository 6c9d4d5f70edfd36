"""A suite: a data file that names cells. A list in it is an axis; all combinations of the axes are taken."""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal, NamedTuple, TypeVar

from pydantic import BeforeValidator, Field, GetJsonSchemaHandler, model_validator
from pydantic_core import CoreSchema

from orchestrator.base.errors import UsageError
from orchestrator.base.files import Frozen, Json, read_json, read_toml, validate
from orchestrator.base.invalid import check_known
from orchestrator.base.limits import MOST_ROUNDS
from orchestrator.base.paths import SUITES
from orchestrator.plan.cell import Device
from orchestrator.plan.checkpoint import Checkpoint, inspect_checkpoint
from orchestrator.plan.models import from_huggingface, named_models, resolve_model
from orchestrator.plan.workload import (
    FSDP2,
    MEASURED,
    Dtype,
    ModelConfig,
    Parallel,
    Routing,
    Weights,
    Workload,
    fits_into_a_record,
)

V = TypeVar("V")

# Far above anything real; below what the formats that follow can hold.
Size = Annotated[int, Field(gt=0, lt=2**31)]
Seed = Annotated[int, Field(ge=0, lt=2**63)]
Bytes = Annotated[int, Field(gt=0, lt=2**44)]
Real = Annotated[float, Field(gt=0, allow_inf_nan=False)]
Rate = Annotated[float, Field(ge=0, allow_inf_nan=False)]
Seconds = Annotated[float, Field(gt=0, le=7 * 86400, allow_inf_nan=False)]
MOST_DEVICES = 64
Name = Annotated[str, Field(pattern="^[a-z0-9][a-z0-9_-]*$", max_length=60)]


class _OneOrMore:
    """In the JSON Schema, too, a value alone stands for a list of one."""

    def __get_pydantic_json_schema__(self, core: CoreSchema, handler: GetJsonSchemaHandler) -> dict[str, Any]:
        schema = handler(core)
        return {"anyOf": [schema["items"], schema]}


def _as_tuple(value: Any) -> tuple[Any, ...]:
    return tuple(value) if isinstance(value, list) else (value,)


Axis = Annotated[tuple[V, ...], Field(min_length=1), BeforeValidator(_as_tuple), _OneOrMore()]


class Settings(Frozen):
    """Keys that `[defaults]` and every `[[cells]]` may have."""

    methods: Annotated[tuple[str, ...], Field(min_length=1)] | None = None
    weights: Literal["hash", "probe"] | None = None
    """Of a model without a checkpoint. `probe`: the hash, scaled so that heads attend sharply and faults show."""
    routing: Routing | None = None
    """Who chooses the experts of a mixture whose weights the hash makes; in an engine always the router."""
    dtype: Axis[Dtype] | None = None
    seed: Axis[Seed] | None = None
    iterations: Size | None = None
    warmup: Annotated[int, Field(ge=0, lt=2**31)] | None = None
    batch: Axis[Size] | None = None
    sequence: Axis[Size] | None = None
    shortest: Axis[Size] | None = None
    ids_below: Axis[Size] | None = None
    prompt: Annotated[tuple[Annotated[int, Field(ge=0, lt=2**31)], ...], Field(min_length=1)] | None = None
    prompt_text: Annotated[str, Field(min_length=1, max_length=10_000)] | None = None
    prompt_tokens: Axis[Size] | None = None
    """Of each prompt of `batched_generation`, whose ids come from the hash."""
    new_tokens: Axis[Size] | None = None
    temperature: Axis[Real] | None = None
    learning_rate: Axis[Rate] | None = None
    weight_decay: Axis[Rate] | None = None
    devices: Axis[Annotated[int, Field(gt=0, le=MOST_DEVICES)]] | None = None
    """Of one host, that compute a cell together."""
    parallel: Axis[Parallel] | None = None
    """How several devices train: `ddp`, `fsdp2` or `fsdp2_no_reshard`. All else is tensor parallelism, `tensor`."""
    scaling: Literal["strong", "weak"] | None = None
    """Of training on several devices. `weak`: each has a batch of `batch`; `strong`: they share it."""
    timeout_s: Seconds | None = None
    rounds: Annotated[int, Field(gt=0, le=MOST_ROUNDS)] | None = None


class CellEntry(Settings):
    """One `[[cells]]`: a benchmark and a model, each possibly a list."""

    benchmark: Axis[Annotated[str, Field(min_length=1)]]
    model: Axis[Annotated[str, Field(min_length=1)]]


DIMENSIONS = ("layers", "width", "heads", "mlp_width", "vocabulary", "block_size")


class ModelEntry(Frozen):
    """One `[models.NAME]`: dimensions, or `config` (a Hugging Face config.json), or `checkpoint` (a folder)."""

    config: str | None = None
    checkpoint: str | None = None
    layers: Size | None = None
    width: Size | None = None
    heads: Size | None = None
    kv_heads: Size | None = None
    head_size: Size | None = None
    mlp_width: Size | None = None
    vocabulary: Size | None = None
    block_size: Size | None = None
    norm_eps: Real = 1e-6
    rope_base: Real = 10000.0
    rope_scaling: dict[str, Json] | None = None
    tied_head: bool = False
    qkv_bias: bool = False
    sliding_window: Size | None = None

    @model_validator(mode="after")
    def _one_source(self) -> ModelEntry:
        given = self.model_fields_set
        if given & {"config", "checkpoint"} and len(given) > 1:
            raise ValueError("give exactly one of dimensions, config, checkpoint")
        lacking = [key for key in DIMENSIONS if key not in given]
        if not given & {"config", "checkpoint"} and lacking:
            raise ValueError(f"missing: {', '.join(lacking)}")
        return self


class CeilingsEntry(Frozen):
    """What the GPU can do: square matrix products of these sizes, and copies of a buffer of so many bytes.

    Products are measured in the types of the rows, and in `dtype` too where it is given. On a GPU each runs
    back to back for `sustained_s` too (0: not), after a soak.
    """

    matrix_sizes: Annotated[tuple[Size, ...], Field(min_length=1)]
    copy_bytes: Bytes
    dtype: Dtype | None = None
    iterations: Size = 20
    warmup: Annotated[int, Field(ge=0, lt=2**31)] = 3
    sustained_s: Annotated[float, Field(ge=0, le=600)] = 20.0
    timeout_s: Seconds = 300.0


class SuiteFile(Frozen):
    """A suite as it stands in the file."""

    schema_version: Annotated[int, Field(ge=1, le=1)]
    name: Name
    description: Annotated[str, Field(min_length=1)]
    references: bool = True
    """Whether rows are checked against references in higher precision."""
    probes: bool = True
    """Whether each method is also run on a tiny model with weights that show faults."""
    warm: bool = True
    """Whether a row that compiles is started a second time over its own compile cache, for its first call alone."""
    defaults: Settings = Settings()
    models: dict[str, ModelEntry] = Field(default_factory=dict)
    ceilings: CeilingsEntry | None = None
    cells: Annotated[tuple[CellEntry, ...], Field(min_length=1)]


SOAK_S = 5.0
"""A GPU at its power cap has settled by then: the product of 16384 falls by a tenth within its first 0.24 s."""
# What a suite that says nothing of ceilings gets: seconds on either device.
CEILINGS: dict[Device, CeilingsEntry] = {
    "cuda": CeilingsEntry(matrix_sizes=(8192, 16384), copy_bytes=2**32),
    "cpu": CeilingsEntry(matrix_sizes=(512, 1024), copy_bytes=2**26, iterations=5, warmup=1),
}


def _keys(iterations: int, warmup: int, timeout_s: float, **own: Any) -> dict[str, Any]:
    general = {"methods": None, "weights": "hash", "routing": "hash", "dtype": ("bfloat16",), "seed": (0,)}
    general |= {"devices": (1,), "parallel": ("tensor",)}
    return {**general, "iterations": iterations, "warmup": warmup, "timeout_s": timeout_s, "rounds": 1, **own}


_BATCH: dict[str, Any] = {"batch": ..., "sequence": ...}
_TRAINING: dict[str, Any] = {"ids_below": None, "learning_rate": (6e-4,), "weight_decay": (0.1,)}
_TRAINING |= {"parallel": ("ddp",), "scaling": "strong"}
_PROMPT: dict[str, Any] = {"batch": (1,), "prompt": ..., "prompt_text": None, "new_tokens": ..., "temperature": (1.0,)}
KEYS: dict[str, dict[str, Any]] = {
    "forward": _keys(10, 2, 600.0, **_BATCH, ids_below=None),
    "model_inference": _keys(10, 2, 900.0, **_PROMPT),
    "generation": _keys(10, 2, 900.0, **_PROMPT),
    "batched_generation": _keys(
        8, 2, 1200.0, batch=..., prompt_tokens=..., new_tokens=..., temperature=_PROMPT["temperature"]
    ),
    "train_static": _keys(50, 4, 900.0, **_BATCH, **_TRAINING),
    "train_dynamic": _keys(50, 4, 1500.0, **_BATCH, shortest=..., **_TRAINING),
}
"""The keys that each benchmark reads, with what holds where a suite says nothing, mostly the note's; `...`: it must."""
MOST_WORKLOADS = 10_000
LISTS = ("methods", "prompt")
"""Keys whose value is a list and not an axis."""
NOT_COMPUTED = ("methods", "weights", "routing", "scaling", "timeout_s", "rounds")
"""Keys of how a workload is run."""


class Place(NamedTuple):
    """Where what a cell asks for stands: its entry, and `[defaults]` for the keys that it has from there."""

    entry: str
    defaults: str = ""
    common: frozenset[str] = frozenset()

    def of(self, key: str) -> str:
        """Return where a key's value stands."""
        return f"{self.defaults if key in self.common else self.entry}.{key}"


@dataclass(frozen=True)
class Request:
    """A workload that a suite asks for, with how it is to be run. `methods` None: all that a stack offers."""

    workload: Workload
    methods: tuple[str, ...] | None
    timeout_s: float
    rounds: int
    where: Place


@dataclass(frozen=True)
class Suite:
    """A suite with its models resolved. `checkpoints` maps a fingerprint to the checkpoint with these weights."""

    name: str
    path: Path
    file: SuiteFile
    models: Mapping[str, ModelConfig]
    weights: Mapping[str, Weights]
    checkpoints: Mapping[str, Checkpoint]

    def ceilings(self, device: Device, dtypes: Iterable[Dtype] = ()) -> tuple[Request, ...]:
        """Return the requests to measure the ceilings of `device`, for rows of these types."""
        entry = self.file.ceilings or CEILINGS[device]
        computed = entry.model_dump(exclude={"timeout_s", "dtype", "sustained_s"})
        if device == "cuda" and entry.sustained_s:
            computed.update(soak_s=SOAK_S, sustained_s=entry.sustained_s)
        measured: list[Dtype] = list(dict.fromkeys([*([entry.dtype] if entry.dtype else []), *dtypes])) or ["bfloat16"]
        workload = Workload(benchmark="ceilings", model=None, weights=None, seed=0, dtype="bfloat16", **computed)

        def in_type(dtype: Dtype) -> Workload:
            lower = ("tf32",) if device == "cuda" and dtype == "float32" else None
            return workload.model_copy(update={"dtype": dtype, "precisions": lower})

        where = Place(f"{self.path}: ceilings")
        return tuple(Request(in_type(dtype), None, entry.timeout_s, 1, where) for dtype in measured)

    def links(self, device: Device, devices: Iterable[int]) -> tuple[Request, ...]:
        """Return the requests to measure what connects so many devices, for rows of several."""
        entry, where = self.file.ceilings or CEILINGS[device], Place(f"{self.path}: ceilings")
        own = entry.model_dump(include={"copy_bytes", "iterations", "warmup"})
        common = Workload(benchmark="ceilings", model=None, weights=None, seed=0, dtype="bfloat16", **own)
        counts = sorted({count for count in devices if count > 1})
        return tuple(
            Request(common.model_copy(update={"devices": count}), None, entry.timeout_s, 1, where) for count in counts
        )

    def expand(self, model: ModelConfig | None = None, weights: Weights | None = None) -> tuple[Request, ...]:
        """Return all requests in the file's order; `model` and `weights` stand in for every cell's own."""
        cells = enumerate(self.file.cells)
        every = (request for index, entry in cells for request in self._expand(index, entry, model, weights))
        requests = tuple(itertools.islice(every, MOST_WORKLOADS + 1))
        if len(requests) > MOST_WORKLOADS:
            what = f"more than {MOST_WORKLOADS} workloads"
            remedy = "give fewer values: each is run with each other"
            raise UsageError(what, where=requests[-1].where.entry, remedy=remedy)
        return requests

    def _expand(
        self, index: int, entry: CellEntry, model: ModelConfig | None, weights: Weights | None
    ) -> Iterator[Request]:
        where = f"{self.path}: cells[{index}]"
        common = self.file.defaults.model_fields_set - entry.model_fields_set
        place = Place(where, f"{self.path}: defaults", frozenset(common))
        for benchmark in entry.benchmark:
            check_known("benchmark", [benchmark], MEASURED, where=f"{where}.benchmark")
            settings = _settings(benchmark, entry, self.file.defaults, where)
            axes = {key: value for key, value in settings.items() if isinstance(value, tuple) and key not in LISTS}
            for name in entry.model:
                shape = model or resolve_model(name, self.models, where=f"{where}.model")
                # Of a model without experts nobody chooses: one workload, whatever a suite's defaults say.
                own = Weights(source=settings["weights"], routing=settings["routing"] if shape.experts else "hash")
                source = weights or self.weights.get(name, own)
                for values in itertools.product(*axes.values()):
                    chosen = {**settings, **dict(zip(axes, values, strict=True))}
                    if chosen["devices"] == 1:
                        if chosen["parallel"] != settings["parallel"][0]:
                            continue  # one device is the same whatever several would do
                        chosen["parallel"] = None
                    yield _request(benchmark, shape, source, chosen, place)


def load_suite(name_or_path: str) -> Suite:
    """Return the suite called so in `orchestrator/plan/suites`, or the one in the file that is named."""
    path = _find(name_or_path)
    file = validate(SuiteFile, read_toml(path), path)
    models, weights, checkpoints = named_models(), dict[str, Weights](), dict[str, Checkpoint]()
    for name, entry in file.models.items():
        where = f"{path}: models.{name}"
        if name in models:
            raise UsageError("this name is taken by a built-in model", where=where, remedy="choose another name")
        if entry.checkpoint is not None:
            checkpoint = inspect_checkpoint(path.parent / Path(entry.checkpoint).expanduser())
            models[name] = checkpoint.model.model_copy(update={"name": name})
            weights[name] = Weights(source="checkpoint", fingerprint=checkpoint.fingerprint)
            checkpoints[checkpoint.fingerprint] = checkpoint
        elif entry.config is not None:
            config = path.parent / Path(entry.config).expanduser()
            models[name] = from_huggingface(read_json(config), name, file=str(config))
        else:
            models[name] = _inline(name, entry, where)
    suite = Suite(file.name, path, file, models, weights, checkpoints)
    suite.expand()  # Every bad combination is found when the file is read, not halfway through a run.
    return suite


def suite_names() -> tuple[str, ...]:
    """Return the names of the suites that come with Stackbench."""
    return tuple(sorted(path.stem for path in SUITES.glob("*.toml")))


def _find(name_or_path: str) -> Path:
    # A word is a name; a path has a separator or an ending.
    if re.fullmatch(r"[\w-]+", name_or_path) and not Path(name_or_path).is_file():
        check_known("suite", [name_or_path], [*suite_names(), "or a path to a .toml file"])
        return SUITES / f"{name_or_path}.toml"
    return Path(name_or_path)


def _inline(name: str, entry: ModelEntry, where: str) -> ModelConfig:
    dims = entry.model_dump(exclude={"config", "checkpoint"})
    heads, width = dims["heads"], dims["width"]
    if dims["head_size"] is None and width % heads:
        raise UsageError(f"width {width} is not a multiple of heads {heads}", where=where, remedy="give head_size")
    dims["head_size"] = dims["head_size"] or width // heads
    dims["kv_heads"] = dims["kv_heads"] or heads
    model = ModelConfig(name=name, **dims)
    if heads % model.kv_heads:
        what = f"heads {heads} is not a multiple of kv_heads {model.kv_heads}"
        raise UsageError(what, where=where, remedy="correct one of them")
    if model.head_size % 2:
        remedy = "rotary angles go by pairs: make it even"
        raise UsageError(f"head_size {model.head_size} is odd", where=where, remedy=remedy)
    return model


def _settings(benchmark: str, entry: CellEntry, defaults: Settings, where: str) -> dict[str, Any]:
    """Return the keys that `benchmark` reads: from the cell, else from [defaults], else the standard."""
    reads = KEYS[benchmark]
    own = entry.model_dump(exclude_unset=True, exclude={"benchmark", "model"})
    # With several benchmarks in one entry, a key that one of them reads is not a mistake.
    unread = [key for key in own if not any(key in KEYS.get(name, ()) for name in entry.benchmark)]
    if unread:
        what = f"{benchmark} does not use this key"
        raise UsageError(what, where=f"{where}.{unread[0]}", remedy=f"it uses: {', '.join(reads)}")
    common = defaults.model_dump(exclude_unset=True)
    settings = {key: own.get(key, common.get(key, standard)) for key, standard in reads.items()}
    for key, value in settings.items():
        if value is ...:
            raise UsageError(f"missing; {benchmark} needs it", where=f"{where}.{key}", remedy="add this key")
    return settings


def _request(benchmark: str, model: ModelConfig, weights: Weights, chosen: dict[str, Any], place: Place) -> Request:
    if "ids_below" in chosen and chosen["ids_below"] is None:
        chosen["ids_below"] = model.vocabulary
    _check(model, chosen, place)
    _spread(benchmark, chosen, place)
    computed = {"benchmark": benchmark} | {key: value for key, value in chosen.items() if key not in NOT_COMPUTED}
    workload = Workload(model=model, weights=weights, **computed)
    return Request(workload, chosen["methods"], chosen["timeout_s"], chosen["rounds"], place)


def _spread(benchmark: str, chosen: dict[str, Any], place: Place) -> None:
    """Give each of several devices its part of the batch, or refuse what cannot be shared out."""
    devices, parallel, batch = chosen["devices"], chosen["parallel"], chosen.get("batch", 1)
    training = "learning_rate" in chosen
    if devices > 1 and training == (parallel == "tensor"):
        ways = " or ".join(("ddp", *FSDP2))
        remedy = f"training takes {ways}, all else tensor: give each kind an entry of its own, or leave this key out"
        raise UsageError(f"{benchmark} is not parallel by {parallel}", where=place.of("parallel"), remedy=remedy)
    if devices > 1 and training and chosen["scaling"] == "weak":
        chosen["batch"] = batch * devices
    elif devices > 1 and training and batch % devices:
        what = f"{batch} cannot be divided by {devices} devices"
        raise UsageError(what, where=place.of("batch"), remedy='choose another, or scaling = "weak"')


def _check(model: ModelConfig, chosen: Mapping[str, Any], place: Place) -> None:
    """Refuse what cannot be computed: beyond the block size, ids beyond the vocabulary, no timed sample."""
    block, ids, name = model.block_size, model.vocabulary, model.name
    sequence, shortest = chosen.get("sequence", 0), chosen.get("shortest", 0)
    prompt, new_tokens = chosen.get("prompt", (0,)), chosen.get("new_tokens", 0)
    length = chosen.get("prompt_tokens", len(prompt))
    below, iterations, least = chosen.get("ids_below", 0), chosen["iterations"], chosen["warmup"] + 2
    beyond, vocabulary = f"beyond the block size {block} of {name}", f"the vocabulary of {name} ({ids} ids)"
    if model.rope_scaling is not None and model.rope_scaling.get("rope_type") in ("longrope", "dynamic"):
        beyond += ", behind which its rotary scaling turns by the length of the text: no table does that exactly"
    room, after = block - length, f"{new_tokens} after a prompt of {length} is {beyond}"
    fits, many = fits_into_a_record(iterations, len(prompt) + new_tokens), "do not fit into a record"
    few = f"{iterations} leaves no timed sample after the first and {least - 2} for warm-up"
    for wrong, key, what, remedy in (
        (sequence > block, "sequence", f"{sequence} is {beyond}", f"choose at most {block}, or another model"),
        (new_tokens > room, "new_tokens", after, f"choose at most {room}, or another model"),
        (max(prompt) >= ids, "prompt", f"id {max(prompt)} is not in {vocabulary}", f"use ids below {ids}"),
        (shortest > sequence, "shortest", f"{shortest} is more than sequence {sequence}", f"choose at most {sequence}"),
        (below > ids, "ids_below", f"{below} is beyond {vocabulary}", f"choose at most {ids}"),
        (iterations < least, "iterations", few, f"choose at least {least}"),
        (not fits, "iterations", f"{iterations} samples and their tokens {many}", "choose fewer, and more rounds"),
    ):
        if wrong:
            raise UsageError(what, where=place.of(key), remedy=remedy)
