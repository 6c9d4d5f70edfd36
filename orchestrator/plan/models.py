"""A model's Hugging Face `config.json` as our own `ModelConfig`: three architectures of the Llama family.

Whatever would change what is computed, and that the GPT does not do, is refused: a figure for almost the same
model is none. Keys of transformers 4 (`rope_theta`, `rope_scaling`) and 5 (`rope_parameters`) are both read.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar

from pydantic import BaseModel, Field, RootModel, ValidationError

from orchestrator.base.errors import UsageError
from orchestrator.base.files import check_known, read_json, validate
from orchestrator.base.paths import BENCH
from orchestrator.plan.workload import ModelConfig

T = TypeVar("T", bound=BaseModel)
MOST = 2**40  # of any size or setting; above it the file is wrong
SHOWN = 60  # characters of a value in a message
OTHER_MODEL = "take a checkpoint without it"
SAVED_FILE = "give the config.json that was saved with the model"
REFUSED = {
    "hidden_act": ("{} is not silu", "only SwiGLU models are supported"),
    "attention_bias": ("true puts a bias on o_proj too, which is not supported", OTHER_MODEL),
    "mlp_bias": ("a bias in the MLP is not supported", OTHER_MODEL),
    "quantization_config": (
        "quantised weights are not supported",
        "give the checkpoint in float32, float16 or bfloat16",
    ),
    "partial_rotary_factor": ("rotating a part of the head is not supported", OTHER_MODEL),
}
"""Options that change what is computed and that the GPT does not have: why, and what to do."""

# The description says what a value must be, and goes into the message for one that is not.
POSITIVE = Field(strict=True, gt=0, le=MOST, description="is not a positive integer")
REAL = Field(strict=True, gt=0, le=MOST, description="is not a finite number above zero")
FLAG = Field(strict=True, description="is neither true nor false")
Size = Annotated[int, POSITIVE]
MaybeSize = Annotated[int | None, POSITIVE]
Real = Annotated[float, REAL]
MaybeReal = Annotated[float | None, REAL]
Flag = Annotated[bool, FLAG]
Off = Annotated[bool, FLAG, Field(le=False)]
One = Annotated[float, REAL, Field(ge=1, le=1)]


class Config(BaseModel):
    """The keys that all three architectures have; those of a ModelConfig by its names."""

    hidden_act: Literal["silu"] = "silu"
    mlp_bias: Off = False
    quantization_config: None = None
    layers: Size = Field(alias="num_hidden_layers")
    width: Size = Field(alias="hidden_size")
    heads: Size = Field(alias="num_attention_heads")
    kv_heads: Size = Field(alias="num_key_value_heads")
    head_dim: MaybeSize = None
    mlp_width: Size = Field(alias="intermediate_size")
    vocabulary: Size = Field(alias="vocab_size")
    block_size: Size = Field(alias="max_position_embeddings")
    norm_eps: Real = Field(alias="rms_norm_eps")
    tied_head: Flag = Field(default=False, alias="tie_word_embeddings")
    rope_theta: Real = 10_000.0  # the configurations of Llama 1 and 2 do not name it
    partial_rotary_factor: One = 1.0
    original_max_position_embeddings: Any = None


class Llama(Config):
    """Llama's own: its attention_bias puts a bias on the output projection too; Qwen2's has no such key."""

    attention_bias: Off = False


class Mistral(Llama):
    """A window in each layer, or null. Absent is not null: transformers would take 4096, the first Mistral's."""

    sliding_window: MaybeSize


class Qwen2(Config):
    """Its window is used where the configuration says so, from some layer on."""

    use_sliding_window: Flag = False
    layer_types: Any = None
    max_window_layers: Any = None


class Window(BaseModel):
    """What a used window needs."""

    sliding_window: Size


class Rope(BaseModel):
    """Rotary settings in an object of their own, as all kinds have them."""

    rope_theta: MaybeReal = None
    partial_rotary_factor: One = 1.0


class Linear(BaseModel):
    """Linear scaling."""

    factor: Real


class Llama3(Linear):
    """Scaling as in Llama 3.1."""

    low_freq_factor: Real
    high_freq_factor: Real
    original_max_position_embeddings: Size


ARCHITECTURES: dict[str, type[Llama | Mistral | Qwen2]] = {
    "LlamaForCausalLM": Llama,
    "MistralForCausalLM": Mistral,
    "Qwen2ForCausalLM": Qwen2,
}


def from_huggingface(raw: dict[str, Any], name: str, *, file: str = "config.json") -> ModelConfig:
    """Return the shape of the model that `raw`, a parsed `config.json`, describes.

    `file` is how messages name the place. Raises UsageError for a missing or bad key, and for a model that the
    GPT would not compute exactly.
    """
    if not isinstance(raw, dict):
        raise UsageError("is not a JSON object", where=file, remedy="give a model's config.json")
    kind = _architecture(raw, file)
    if kind is Llama and raw.get("num_key_value_heads") is None:
        # Only Llama's own configuration may leave it out; the others' default fits one size of theirs.
        raw = {**raw, "num_key_value_heads": raw.get("num_attention_heads")}
    config = _read(kind, raw, file)
    heads, width = config.heads, config.width
    if heads % config.kv_heads:
        raise _bad(file, "num_key_value_heads", f"{config.kv_heads} does not divide the {heads} attention heads")
    if config.head_dim is None and width % heads:
        reason = f"{width} is not a multiple of the {heads} attention heads"
        raise _bad(file, "hidden_size", reason, "or give head_dim")
    head_size = config.head_dim or width // heads
    if head_size % 2:
        raise _bad(file, "head_dim", f"{head_size} is odd, so that its halves cannot be rotated")
    base, scaling = _rope(raw, config, file)
    return ModelConfig(
        **config.model_dump(include=set(ModelConfig.model_fields) - {"sliding_window"}),
        name=name,
        head_size=head_size,
        rope_base=base,
        rope_scaling=scaling,
        qkv_bias=isinstance(config, Qwen2),
        sliding_window=_window(raw, config, file),
    )


def _bad(file: str, key: str, reason: str, remedy: str = "correct the file") -> UsageError:
    return UsageError(f"key {key}: {reason}", where=file, remedy=remedy)


def _read(kind: type[T], raw: dict[str, Any], file: str, inside: str = "") -> T:
    """Return the keys that `kind` has; the first that is wrong is a UsageError. `inside`: where an object lies."""
    # Null is the same as absent, but for these.
    kept = ("hidden_act", "sliding_window") if kind is Mistral else ("hidden_act",)
    given = {key: value for key, value in raw.items() if value is not None or key in kept}
    try:
        return kind.model_validate(given)
    except ValidationError as error:
        problem = error.errors(include_url=False)[0]
        key, value = str(problem["loc"][0]), _short(problem["input"])
        if problem["type"] == "missing":
            raise _bad(file, inside + key, "is missing", SAVED_FILE) from error
        if key in REFUSED and not problem["type"].endswith("_type"):
            reason, remedy = REFUSED[key]
            raise _bad(file, inside + key, reason.format(value), remedy) from error
        wanted = {field.alias or name: field.description for name, field in kind.model_fields.items()}[key]
        raise _bad(file, inside + key, f"{value} {wanted}") from error


def _short(value: object) -> str:
    """Return a value as a message may show it: a hostile file must not fill the terminal."""
    try:
        text = repr(value)
    except (ValueError, RecursionError):  # an integer of thousands of digits, nesting without end
        text = type(value).__name__
    return text if len(text) <= SHOWN else text[:SHOWN] + "..."


def _architecture(raw: dict[str, Any], file: str) -> type[Config]:
    named, known = raw.get("architectures"), ", ".join(ARCHITECTURES)
    if named is None:
        raise _bad(file, "architectures", "is missing", f"it must name one of {known}")
    if not isinstance(named, list) or len(named) != 1 or named[0] not in list(ARCHITECTURES):
        raise _bad(file, "architectures", f"{_short(named)} is not supported", f"supported are {known}")
    return ARCHITECTURES[named[0]]


def _rope(raw: dict[str, Any], config: Config, file: str) -> tuple[float, dict[str, Any] | None]:
    """Return the base and the scaling, in one form for both generations of keys."""
    # transformers prefers the old key when both are there
    name = "rope_scaling" if raw.get("rope_scaling") else "rope_parameters"
    own = {} if raw.get(name) is None else raw[name]
    if not isinstance(own, dict):
        raise _bad(file, name, f"{_short(own)} is not an object")
    if any(isinstance(value, dict) for value in own.values()):
        raise _bad(file, name, "rotary settings by layer type are not supported", OTHER_MODEL)
    rope = _read(Rope, own, file, f"{name}.")
    base = rope.rope_theta or config.rope_theta
    key = "type" if own.get("type") is not None and own.get("rope_type") is None else "rope_type"
    kind = "default" if own.get(key) is None and own.get("factor") is None else own.get(key)
    if kind == "default":
        return base, None
    if kind == "linear":
        return base, {"rope_type": "linear", **_read(Linear, own, file, f"{name}.").model_dump()}
    if kind != "llama3":
        reason = f"rotary scaling {_short(kind)} is not supported"
        raise _bad(file, f"{name}.{key}", reason, "supported are default, linear and llama3: take another checkpoint")
    # transformers lets a value beside the rotary settings win over one inside them
    beside = config.original_max_position_embeddings
    llama3 = _read(
        Llama3, {**own, "original_max_position_embeddings": beside} if beside is not None else own, file, f"{name}."
    )
    if llama3.low_freq_factor >= llama3.high_freq_factor:
        reason = f"{llama3.low_freq_factor} is not below high_freq_factor, {llama3.high_freq_factor}"
        raise _bad(file, f"{name}.low_freq_factor", reason)
    return base, {"rope_type": "llama3", **llama3.model_dump()}


def _window(raw: dict[str, Any], config: Config, file: str) -> int | None:
    """Return the attention window in tokens, None for full attention; the GPT has one for all its layers."""
    if isinstance(config, Mistral):
        return config.sliding_window
    if not isinstance(config, Qwen2) or not config.use_sliding_window:
        return None
    layers, kinds, first = config.layers, config.layer_types, config.max_window_layers
    if kinds is not None:
        windows = kinds.count("sliding_attention") if isinstance(kinds, list) and len(kinds) == layers else -1
    else:
        windows = max(layers - first, 0) if isinstance(first, int) and first >= 0 else -1
    if windows not in (0, layers):
        key = "max_window_layers" if kinds is None else "layer_types"
        raise _bad(file, key, "a window on some of the layers only is not supported", OTHER_MODEL)
    return _read(Window, raw, file).sliding_window if windows else None


MODELS = BENCH / "models.json"


class _Models(RootModel[dict[str, ModelConfig]]):
    """The file: name to dimensions."""


def named_models(path: Path = MODELS) -> dict[str, ModelConfig]:
    """Return the built-in models."""
    raw = read_json(path)
    named = {name: {**dims, "name": name} if isinstance(dims, dict) else dims for name, dims in raw.items()}
    return validate(_Models, named, path).root


def resolve_model(name: str, models: Mapping[str, ModelConfig], *, where: str = "") -> ModelConfig:
    """Return the model called `name`; an unknown one is a UsageError that lists the known."""
    check_known("model", [name], models, where=where)
    return models[name]
