"""A model's Hugging Face `config.json` as our own `ModelConfig`: the families of `families.py`.

Whatever would change what is computed, and that the GPT does not do, is refused: a figure for almost the same
model is none. Keys of transformers 4 (`rope_theta`, `rope_scaling`) and 5 (`rope_parameters`) are both read.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypeVar

from pydantic import BaseModel, RootModel, ValidationError

from orchestrator.base.errors import UsageError
from orchestrator.base.files import read_json, validate
from orchestrator.base.invalid import check_known
from orchestrator.base.paths import BENCH
from orchestrator.plan import families
from orchestrator.plan.families import ARCHITECTURES, FULL, LOCAL, NESTED, Config
from orchestrator.plan.workload import ModelConfig

T = TypeVar("T", bound=BaseModel)
SHOWN = 60  # characters of a value in a message
OTHER_MODEL = "take a checkpoint without it"
SAVED_FILE = "give the config.json that was saved with the model"
REFUSED = {
    "hidden_act": ("{} is not silu", "only SwiGLU models are supported"),
    "hidden_activation": ("{} is not gelu_pytorch_tanh", "only GeGLU models are supported here"),
    "attention_bias": ("true puts a bias on o_proj too, which is not supported", OTHER_MODEL),
    "mlp_bias": ("a bias in the MLP is not supported", OTHER_MODEL),
    "lm_head_bias": ("a bias of the head is not supported", OTHER_MODEL),
    "quantization_config": (
        "quantised weights are not supported",
        "give the checkpoint in float32, float16 or bfloat16",
    ),
    "partial_rotary_factor": ("rotating a part of the head is not supported", OTHER_MODEL),
    "attn_logit_softcapping": ("a cap on the scores is not supported here", OTHER_MODEL),
    "use_bidirectional_attention": ("attention to later tokens is not supported", OTHER_MODEL),
    "use_sliding_window": ("a window is not supported here", OTHER_MODEL),
    "output_router_logits": ("true adds a loss of the router, which is not supported", "set it to false"),
    "router_jitter_noise": ("noise in the router is not supported", "set it to 0"),
}
for _key in ("attention_dropout", "embd_pdrop", "resid_pdrop"):
    REFUSED[_key] = ("dropout is not supported", "set it to 0")
"""Options that change what is computed and that the GPT does not have: why, and what to do."""


def from_huggingface(raw: dict[str, Any], name: str, *, file: str = "config.json") -> ModelConfig:
    """Return the shape of the model that `raw`, a parsed `config.json`, describes.

    `file` is how messages name the place. Raises UsageError for a missing or bad key, and for a model that the
    GPT would not compute exactly.
    """
    if not isinstance(raw, dict):
        raise UsageError("is not a JSON object", where=file, remedy="give a model's config.json")
    architecture, raw, file = _text_model(raw, file)
    kind = ARCHITECTURES[architecture]
    if kind in (families.Llama, families.Phi3) and raw.get("num_key_value_heads") is None:
        # Only their own configurations may leave it out; the others' default fits one size of theirs.
        raw = {**raw, "num_key_value_heads": raw.get("num_attention_heads")}
    for old, new in kind.RENAMED.items():
        raw = {(old if key == new else key): value for key, value in raw.items()}
    config = _read(kind, raw, file)
    if (key := families.unknown(raw, kind)) is not None:
        taken = ", ".join(sorted(field.alias or name for name, field in kind.model_fields.items()))
        what = f"{_short(raw[key])} may change what {architecture} computes, and is not known"
        raise _bad(file, key, what, f"remove it if it does not; taken are {taken}, rope_parameters, rope_scaling")
    heads, width = config.heads, config.width
    if heads % config.kv_heads:
        raise _bad(file, "num_key_value_heads", f"{config.kv_heads} does not divide the {heads} attention heads")
    if config.head_dim is None and width % heads:
        reason = f"{width} is not a multiple of the {heads} attention heads"
        raise _bad(file, "hidden_size", reason, "or give head_dim")
    head_size = config.head_dim or width // heads
    if head_size % 2:
        raise _bad(file, "head_dim", f"{head_size} is odd, so that its halves cannot be rotated")
    values = {**config.model_dump(include=SHARED), "qkv_bias": False, **config.values()}
    values.update(name=name, head_size=head_size, **_windows(config, file), **_rotary(raw, config, head_size, file))
    return _sound(values, config, file)


SHARED = {
    *("layers", "width", "heads", "kv_heads", "mlp_width", "vocabulary", "block_size", "norm_eps", "tied_head"),
}
"""Fields that a Config and a ModelConfig have in common."""


def _sound(values: dict[str, Any], config: Config, file: str) -> ModelConfig:
    """Return the ModelConfig; without experts where no layer has them."""
    experts = values.get("experts")
    if experts is not None and experts.active > experts.count:
        raise _bad(file, "num_experts_per_tok", f"{experts.active} of {experts.count} experts cannot be chosen")
    if experts is not None and len(experts.dense_layers) == config.layers:
        values["experts"] = None
    return ModelConfig(**values)


LANGUAGE = "ForCausalLM"


def is_nested(raw: Mapping[str, Any]) -> bool:
    """Whether this is the `config.json` of a model of several kinds of input, whose text model is taken."""
    return raw.get("architectures") in [[name] for name in NESTED]


def _text_model(raw: dict[str, Any], file: str) -> tuple[str, dict[str, Any], str]:
    """Return the architecture, its settings, and how to name their place; those of a nested text model."""
    named = raw.get("architectures")
    known = ", ".join(sorted(name.removesuffix(LANGUAGE) for name in ARCHITECTURES))
    known = f"{known}, each with {LANGUAGE} behind it, and {', '.join(NESTED)}"
    if named is None:
        raise _bad(file, "architectures", "is missing", f"it must name one of {known}")
    if not isinstance(named, list) or len(named) != 1 or named[0] not in [*ARCHITECTURES, *NESTED]:
        raise _bad(file, "architectures", f"{_short(named)} is not supported", f"supported are {known}")
    if named[0] in ARCHITECTURES:
        return named[0], raw, file
    text = raw.get("text_config")
    if not isinstance(text, dict):
        raise _bad(file, "text_config", "is not an object", SAVED_FILE)
    beside = {key: raw[key] for key in ("quantization_config", "tie_word_embeddings") if key in raw}
    return NESTED[named[0]], {**beside, **text}, f"{file}: text_config"


def _bad(file: str, key: str, reason: str, remedy: str = "correct the file") -> UsageError:
    return UsageError(f"key {key}: {reason}", where=file, remedy=remedy)


def _read(kind: type[T], raw: dict[str, Any], file: str, inside: str = "") -> T:
    """Return the keys that `kind` has; the first that is wrong is a UsageError. `inside`: where an object lies."""
    kept = kind.NULLS if issubclass(kind, Config) else ()
    given = {key: value for key, value in raw.items() if value is not None or key in kept}
    try:
        return kind.model_validate(given)
    except ValidationError as error:
        problem = error.errors(include_url=False)[0]
        key = str(problem["loc"][0])
        value = _short(problem["input"] if len(problem["loc"]) == 1 else given.get(key))
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


def _windows(config: Config, file: str) -> dict[str, Any]:
    """Return the attention window in tokens, None for full attention, and the layers that have none."""
    kinds = config.kinds()
    if not isinstance(kinds, str) and len(kinds) != config.layers:
        raise _bad(file, "layer_types", f"names {len(kinds)} layers of {config.layers}")
    if LOCAL not in kinds:
        return {"sliding_window": None}
    if config.window() is None:
        raise _bad(file, "sliding_window", "is missing", SAVED_FILE)
    full = () if isinstance(kinds, str) else tuple(layer for layer, kind in enumerate(kinds) if kind == FULL)
    return {"sliding_window": config.window(), "full_layers": full}


def _rotary(raw: dict[str, Any], config: Config, head_size: int, file: str) -> dict[str, Any]:
    """Return bases, scaling and rotated size, in one form for both generations of keys."""
    # transformers prefers the old key when both are there
    name = "rope_scaling" if raw.get("rope_scaling") else "rope_parameters"
    own = {} if raw.get(name) is None else raw[name]
    if not isinstance(own, dict):
        raise _bad(file, name, f"{_short(own)} is not an object")
    local = None
    if isinstance(config, families.Gemma3):
        own, local = _by_layer(own, name, config, file)
    elif any(isinstance(value, dict) for value in own.values()):
        raise _bad(file, name, "rotary settings by layer type are not supported", OTHER_MODEL)
    found = _scaling(own, config, head_size, file, name)
    unscaled = found["rope_scaling"] is None and found["rope_base"] == local
    windowed = LOCAL in config.kinds()
    return {**found, "local_rope_base": None if unscaled or not windowed else local}


def _by_layer(own: dict[str, Any], name: str, config: families.Gemma3, file: str) -> tuple[dict[str, Any], float]:
    """Return the rotary settings of the layers without a window, and the base of those with it."""
    if name == "rope_scaling" or not own:  # old keys: the scaling is of the layers without a window
        return own, config.rope_local_base_freq
    parts = {kind: own.get(kind) or {} for kind in (FULL, LOCAL)}
    if set(own) - set(parts) or not all(isinstance(part, dict) for part in parts.values()):
        raise _bad(file, name, f"is not an object of {FULL} and {LOCAL}", SAVED_FILE)
    local = _read(families.Rope, parts[LOCAL], file, f"{name}.{LOCAL}.")
    if (local.rope_type or local.type) not in (None, "default"):
        raise _bad(file, f"{name}.{LOCAL}", "a scaled rotary of the layers with a window is not supported", OTHER_MODEL)
    return parts[FULL], local.rope_theta or config.rope_local_base_freq


SCALINGS: dict[str, type[families.Rope]] = {
    "default": families.Default,
    "linear": families.Linear,
    "dynamic": families.Linear,
    "llama3": families.Llama3,
    "yarn": families.Yarn,
    "longrope": families.LongRope,
}


def _scaling(own: dict[str, Any], config: Config, head_size: int, file: str, name: str) -> dict[str, Any]:
    """Return base, scaling, rotated size and block size by one object of rotary settings."""
    key = "type" if own.get("type") is not None and own.get("rope_type") is None else "rope_type"
    kind = "default" if own.get(key) is None and own.get("factor") is None else own.get(key)
    if isinstance(config, families.Phi3) and kind in ("su", "yarn"):
        kind = "longrope"  # what the first files of Phi-3 call it
    if kind not in list(SCALINGS):
        reason, known = f"rotary scaling {_short(kind)} is not supported", ", ".join(SCALINGS)
        raise _bad(file, f"{name}.{key}", reason, f"supported are {known}: take another checkpoint")
    # transformers lets a value beside the rotary settings win over one inside them
    beside = config.original_max_position_embeddings
    given = {**own, "original_max_position_embeddings": beside} if beside is not None else own
    rope = _read(SCALINGS[kind], given, file, f"{name}.")
    if (odd := families.unknown(own, SCALINGS[kind])) is not None and kind != "default":
        raise _bad(file, f"{name}.{odd}", f"{_short(own[odd])} is not known for {kind}", OTHER_MODEL)
    size = _rotated(rope, config, head_size, file, name)
    found: dict[str, Any] = {"rope_base": rope.rope_theta or config.rope_theta, "rope_scaling": None}
    found["rotary_size"] = None if size == head_size else size
    if isinstance(rope, families.Llama3):
        found["rope_scaling"] = _llama3(rope, f"{file}: {name}")
    elif isinstance(rope, families.Yarn):
        found["rope_scaling"] = _yarn(rope)
    elif isinstance(rope, families.LongRope):
        found.update(_longrope(rope, config, size, f"{file}: {name}"))
    elif isinstance(rope, families.Linear):
        found["rope_scaling"] = {"rope_type": kind, "factor": rope.factor}
    return found


def _rotated(rope: families.Rope, config: Config, head_size: int, file: str, name: str) -> int:
    """Return how many elements of a head are rotated."""
    size = int(head_size * (rope.partial_rotary_factor or config.partial_rotary_factor))
    if size != head_size and not isinstance(config, families.Phi3):
        raise _bad(file, f"{name}.partial_rotary_factor", *REFUSED["partial_rotary_factor"])
    if size % 2 or not size:
        raise _bad(file, "partial_rotary_factor", f"{size} rotated elements of {head_size} are not pairs")
    return size


def _llama3(rope: families.Llama3, where: str) -> dict[str, Any]:
    if rope.low_freq_factor >= rope.high_freq_factor:
        reason = f"{rope.low_freq_factor} is not below high_freq_factor, {rope.high_freq_factor}"
        raise _bad(where, "low_freq_factor", reason)
    keys = ("factor", "low_freq_factor", "high_freq_factor", "original_max_position_embeddings")
    return {"rope_type": "llama3", **{key: getattr(rope, key) for key in keys}}


def _yarn(rope: families.Yarn) -> dict[str, Any]:
    """Return yarn's settings with its attention factor written out (as transformers computes it)."""

    def temperature(scale: float, times: float = 1.0) -> float:
        return 1.0 if scale <= 1 else 0.1 * times * math.log(scale) + 1.0

    factor = rope.attention_factor
    if factor is None and rope.mscale and rope.mscale_all_dim:
        factor = temperature(rope.factor, rope.mscale) / temperature(rope.factor, rope.mscale_all_dim)
    keys = ("factor", "original_max_position_embeddings", "beta_fast", "beta_slow", "truncate")
    taken = {key: getattr(rope, key) for key in keys}
    return {"rope_type": "yarn", **taken, "attention_factor": factor or temperature(rope.factor)}


def _longrope(rope: families.LongRope, config: Config, size: int, where: str) -> dict[str, Any]:
    """Return longrope's settings within the original context, which is then the block size.

    Beyond it other factors hold for all positions, earlier ones too: no table does both exactly.
    """
    for key in ("short_factor", "long_factor"):
        if len(getattr(rope, key)) != size // 2:
            raise _bad(where, key, f"has {len(getattr(rope, key))} numbers for {size // 2} pairs")
    original, factor = rope.original_max_position_embeddings, rope.attention_factor
    if factor is None:
        longer = rope.factor or config.block_size / original
        factor = 1.0 if longer <= 1 else math.sqrt(1 + math.log(longer) / math.log(original))
    scaling = {"rope_type": "longrope", "short_factor": list(rope.short_factor), "attention_factor": factor}
    return {"rope_scaling": scaling, "block_size": min(original, config.block_size)}


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
