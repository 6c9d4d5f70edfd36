"""A model's Hugging Face `config.json` as our own `ModelConfig`: three architectures of the Llama family.

Whatever would change what is computed, and that the GPT does not do, is refused: a figure for almost the same
model is none. Keys of transformers 4 (`rope_theta`, `rope_scaling`) and 5 (`rope_parameters`) are both read.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from pydantic import RootModel

from orchestrator.base.errors import UsageError
from orchestrator.base.files import read_json, unknown, validate
from orchestrator.base.paths import BENCH
from orchestrator.plan.workload import ModelConfig

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path


LLAMA, MISTRAL, QWEN2 = "LlamaForCausalLM", "MistralForCausalLM", "Qwen2ForCausalLM"
ARCHITECTURES = (LLAMA, MISTRAL, QWEN2)
DEFAULT_ROPE_BASE = 10_000.0  # the configurations of Llama 1 and 2 do not name it
MOST = 2**40  # of any size or setting; above it the file is wrong
SHOWN = 60  # characters of a value in a message
OTHER_MODEL = "take a checkpoint without it"


def from_huggingface(raw: dict[str, Any], name: str, *, file: str = "config.json") -> ModelConfig:
    """Return the shape of the model that `raw`, a parsed `config.json`, describes.

    `file` is how messages name the place. Raises UsageError for a missing or bad key, and for a model that the
    GPT would not compute exactly.
    """
    if not isinstance(raw, dict):
        raise UsageError("is no JSON object", where=file, remedy="give a model's config.json")
    keys = _Keys(raw, file)
    architecture = _architecture(keys)
    _refuse_what_differs(keys, architecture)
    heads = keys.count("num_attention_heads")
    # Only Llama's own configuration may leave it out; the other two have defaults that fit one size of theirs.
    kv_heads = keys.count("num_key_value_heads", heads if architecture == LLAMA else None)
    if heads % kv_heads:
        raise keys.bad("num_key_value_heads", f"{kv_heads} does not divide the {heads} attention heads")
    base, scaling = _rope(keys)
    return ModelConfig(
        name=name,
        layers=keys.count("num_hidden_layers"),
        width=keys.count("hidden_size"),
        heads=heads,
        kv_heads=kv_heads,
        head_size=_head_size(keys, heads),
        mlp_width=keys.count("intermediate_size"),
        vocabulary=keys.count("vocab_size"),
        block_size=keys.count("max_position_embeddings"),
        norm_eps=keys.number("rms_norm_eps"),
        rope_base=base,
        rope_scaling=scaling,
        tied_head=keys.flag("tie_word_embeddings"),
        qkv_bias=architecture == QWEN2,
        sliding_window=_sliding_window(keys, architecture),
    )


@dataclass(frozen=True)
class _Keys:
    """Typed access to the configuration; each error names the file and the key. `prefix` is for a nested object."""

    raw: dict[str, Any]
    file: str
    prefix: str = ""

    def bad(self, key: str, reason: str, remedy: str = "correct the file") -> UsageError:
        """Return the error for `key`, to be raised."""
        return UsageError(f"key {self.prefix}{key}: {reason}", where=self.file, remedy=remedy)

    def present(self, key: str) -> bool:
        """Say whether the key is there with a value: null is the same as absent for every key but one."""
        return self.raw.get(key) is not None

    def count(self, key: str, default: int | None = None) -> int:
        """Return a positive integer."""
        value = self.raw.get(key)
        value = default if value is None else value
        if value is None:
            raise self.bad(key, "is missing", "give the config.json that was saved with the model")
        if isinstance(value, bool) or not isinstance(value, int) or not 0 < value <= MOST:
            raise self.bad(key, f"{_short(value)} is no positive integer")
        return value

    def number(self, key: str, default: float | None = None) -> float:
        """Return a finite number above zero."""
        value = self.raw.get(key)
        value = default if value is None else value
        if value is None:
            raise self.bad(key, "is missing", "give the config.json that was saved with the model")
        is_number = isinstance(value, int | float) and not isinstance(value, bool)
        if not is_number or not 0 < value <= MOST:  # NaN and infinity, which Python's JSON lets through, are neither
            raise self.bad(key, f"{_short(value)} is no finite number above zero")
        return float(value)

    def flag(self, key: str) -> bool:
        """Return a truth value; absent means false in all three architectures."""
        value = self.raw.get(key)
        if value is not None and not isinstance(value, bool):
            raise self.bad(key, f"{_short(value)} is neither true nor false")
        return bool(value)

    def inside(self, key: str) -> _Keys:
        """Return access to the object at `key`, empty when absent."""
        value = self.raw.get(key)
        if value is not None and not isinstance(value, dict):
            raise self.bad(key, f"{_short(value)} is no object")
        return _Keys(value or {}, self.file, f"{self.prefix}{key}.")


def _short(value: object) -> str:
    """Return a value as a message may show it: a hostile file must not fill the terminal."""
    try:
        text = repr(value)
    except (ValueError, RecursionError):  # an integer of thousands of digits, nesting without end
        text = type(value).__name__
    return text if len(text) <= SHOWN else text[:SHOWN] + "..."


def _architecture(keys: _Keys) -> str:
    named = keys.raw.get("architectures")
    known = ", ".join(ARCHITECTURES)
    if named is None:
        raise keys.bad("architectures", "is missing", f"it must name one of {known}")
    if not isinstance(named, list) or len(named) != 1 or named[0] not in ARCHITECTURES:
        raise keys.bad("architectures", f"{_short(named)} is not supported", f"supported are {known}")
    return str(named[0])


def _refuse_what_differs(keys: _Keys, architecture: str) -> None:
    """Refuse the options that change what is computed and that the GPT does not have."""
    if keys.raw.get("hidden_act", "silu") != "silu":
        raise keys.bad(
            "hidden_act", f"{_short(keys.raw['hidden_act'])} is not silu", "only SwiGLU models are supported"
        )
    # transformers' Qwen2 and Mistral do not read attention_bias; Llama's puts a bias on the output projection too.
    if architecture != QWEN2 and keys.flag("attention_bias"):
        raise keys.bad("attention_bias", "true puts a bias on o_proj too, which is not supported", OTHER_MODEL)
    if keys.flag("mlp_bias"):
        raise keys.bad("mlp_bias", "a bias in the MLP is not supported", OTHER_MODEL)
    if keys.present("quantization_config"):
        reason = "quantised weights are not supported"
        raise keys.bad("quantization_config", reason, "give the checkpoint in float32, float16 or bfloat16")


def _head_size(keys: _Keys, heads: int) -> int:
    width = keys.count("hidden_size")
    if not keys.present("head_dim") and width % heads:
        raise keys.bad("hidden_size", f"{width} is no multiple of the {heads} attention heads", "or give head_dim")
    size = keys.count("head_dim", width // heads)
    if size % 2:
        raise keys.bad("head_dim", f"{size} is odd, so that its halves cannot be rotated")
    return size


def _rope(keys: _Keys) -> tuple[float, dict[str, Any] | None]:
    """Return the base and the scaling, in one form for both generations of keys."""
    # transformers prefers the old key when both are there
    name = "rope_scaling" if keys.raw.get("rope_scaling") else "rope_parameters"
    rope = keys.inside(name)
    base = rope.number("rope_theta", keys.number("rope_theta", DEFAULT_ROPE_BASE))
    if any(isinstance(value, dict) for value in rope.raw.values()):
        raise keys.bad(name, "rotary settings by layer type are not supported", OTHER_MODEL)
    for place in (keys, rope):
        if place.number("partial_rotary_factor", 1.0) != 1.0:
            raise place.bad("partial_rotary_factor", "rotating a part of the head is not supported", OTHER_MODEL)
    key = "type" if rope.present("type") and not rope.present("rope_type") else "rope_type"
    kind = rope.raw.get(key)
    if kind is None and not rope.present("factor"):
        kind = "default"
    if kind == "default":
        return base, None
    if kind == "linear":
        return base, {"rope_type": "linear", "factor": rope.number("factor")}
    if kind == "llama3":
        return base, _llama3(keys, rope)
    reason = f"rotary scaling {_short(kind)} is not supported"
    raise rope.bad(key, reason, "supported are default, linear and llama3: take another checkpoint")


def _llama3(keys: _Keys, rope: _Keys) -> dict[str, Any]:
    low, high = rope.number("low_freq_factor"), rope.number("high_freq_factor")
    if low >= high:
        raise rope.bad("low_freq_factor", f"{low} is not below high_freq_factor, {high}")
    # transformers lets a value beside the rotary settings win over one inside them
    place = keys if keys.present("original_max_position_embeddings") else rope
    return {
        "rope_type": "llama3",
        "factor": rope.number("factor"),
        "low_freq_factor": low,
        "high_freq_factor": high,
        "original_max_position_embeddings": place.count("original_max_position_embeddings"),
    }


def _sliding_window(keys: _Keys, architecture: str) -> int | None:
    """Return the attention window in tokens, None for full attention; the GPT has one for all its layers."""
    if architecture == LLAMA:
        return None
    if architecture == MISTRAL:
        # Absent is not null here: transformers would take 4096 then, which fits the first Mistral only.
        if "sliding_window" not in keys.raw:
            raise keys.bad("sliding_window", "is missing", "give the window in tokens, or null for full attention")
        return keys.count("sliding_window") if keys.present("sliding_window") else None
    if not keys.flag("use_sliding_window"):
        return None
    layers = keys.count("num_hidden_layers")
    if keys.present("layer_types"):
        kinds = keys.raw["layer_types"]
        sliding = kinds.count("sliding_attention") if isinstance(kinds, list) and len(kinds) == layers else -1
        key = "layer_types"
    else:
        first = keys.raw.get("max_window_layers")
        sliding = max(layers - first, 0) if isinstance(first, int) and first >= 0 else -1
        key = "max_window_layers"
    if sliding == 0:
        return None
    if sliding != layers:
        raise keys.bad(key, "a window on some of the layers only is not supported", OTHER_MODEL)
    return keys.count("sliding_window")


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
    if name not in models:
        raise unknown("model", name, list(models), where=where)
    return models[name]
