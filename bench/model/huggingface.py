"""A model as an ordinary Hugging Face folder, for engines: config.json, safetensors and their index.

The exact inverse of what `checkpoint` reads: its own list says which part of which tensor each parameter is. Written
with torch alone, one tensor at a time, in the parameters' dtype.
"""

from __future__ import annotations

import ctypes
import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from bench.model.checkpoint import INDEX, layout
from bench.spec import ModelConfig
from bench.status import Unsupported

CONFIG = "config.json"
SHARD_BYTES = 4_000_000_000
"""Of a file at most, unless a single tensor is larger."""
CODES = {torch.float64: "F64", torch.float32: "F32", torch.bfloat16: "BF16"}
FULL, LOCAL = "full_attention", "sliding_attention"
NO_SPECIAL = {"bos_token_id": None, "eos_token_id": None, "pad_token_id": None}
"""Engines end a text at no id, and put none before it."""


class Names:
    """Which tensors a family's folder has, as `checkpoint.layout` asks: what it joins, how it calls its experts."""

    def __init__(self, family: str) -> None:
        self.joined, self.mixtral = family == "phi3", family == "mixtral"

    def __contains__(self, name: object) -> bool:
        text = str(name)
        if "qkv_proj" in text or "gate_up_proj" in text:
            return self.joined
        if "block_sparse_moe" in text:
            return self.mixtral
        return text.startswith("model.embed_tokens") or text == "lm_head.weight"


def family_of(config: ModelConfig) -> str:
    """The `model_type` of the family that computes what `config` says; Unsupported where none does."""
    if (experts := config.experts) is not None:
        asked = {"qwen2_moe": experts.shared_width is not None, "qwen3_moe": config.qk_norm}
        plain = experts.width == config.mlp_width and not experts.dense_layers and experts.normalised
        asked["mixtral"] = plain
        if True not in asked.values():
            raise Unsupported(f"no family of Hugging Face's has the experts of {config.name}")
        return next(family for family, wanted in asked.items() if wanted)
    longrope = (config.rope_scaling or {}).get("rope_type") == "longrope"
    asked = {
        "gemma3_text": config.norm_plus_one and config.qk_norm,
        "gemma2": config.norm_plus_one,
        "phi3": config.rotary_size is not None or longrope,
        "qwen3": config.qk_norm,
        "qwen2": config.qkv_bias,
        "mistral": config.sliding_window is not None,
    }
    return next((family for family, wanted in asked.items() if wanted), "llama")


ARCHITECTURES = {
    "llama": "LlamaForCausalLM",
    "mistral": "MistralForCausalLM",
    "mixtral": "MixtralForCausalLM",
    "qwen2": "Qwen2ForCausalLM",
    "qwen2_moe": "Qwen2MoeForCausalLM",
    "qwen3": "Qwen3ForCausalLM",
    "qwen3_moe": "Qwen3MoeForCausalLM",
    "gemma2": "Gemma2ForCausalLM",
    "gemma3_text": "Gemma3ForCausalLM",
    "phi3": "Phi3ForCausalLM",
}


def configuration(config: ModelConfig, dtype: str) -> dict[str, Any]:
    """The content of config.json, in keys that every version of transformers reads; `dtype` as `bfloat16`."""
    family = family_of(config)
    content: dict[str, Any] = {
        "architectures": [ARCHITECTURES[family]],
        "model_type": family,
        "torch_dtype": dtype,
        "num_hidden_layers": config.layers,
        "hidden_size": config.width,
        "num_attention_heads": config.heads,
        "num_key_value_heads": config.kv_heads,
        "head_dim": config.head_size,
        "intermediate_size": config.mlp_width,
        "vocab_size": config.vocabulary,
        "max_position_embeddings": config.block_size,
        "rms_norm_eps": config.norm_eps,
        "tie_word_embeddings": config.tied_head,
        "rope_theta": config.rope_base,
        "rope_scaling": rope_scaling(config),
        "hidden_act": "silu",
        **NO_SPECIAL,
    }
    return {**content, **window(config, family), **own_keys(config, family)}


def rope_scaling(config: ModelConfig) -> dict[str, Any] | None:
    """The rotary scaling; of longrope with the factors that it has beyond the block size, which nothing reaches."""
    scaling = config.rope_scaling
    if scaling is None or scaling.get("rope_type") != "longrope":
        return scaling
    return {**scaling, "long_factor": scaling["short_factor"]}


def window(config: ModelConfig, family: str) -> dict[str, Any]:
    """Which layers see no further back than the window."""
    kinds = [LOCAL if config.is_local(layer) else FULL for layer in range(config.layers)]
    if family in ("gemma2", "gemma3_text"):
        return {"sliding_window": config.sliding_window or config.block_size, "layer_types": kinds}
    if family in ("qwen2", "qwen3"):
        used = config.sliding_window is not None
        own = {"layer_types": kinds, "max_window_layers": 0} if used else {}
        return {"use_sliding_window": used, "sliding_window": config.sliding_window, **own}
    if config.full_layers:
        raise Unsupported(f"no family of Hugging Face's has the windows of {config.name}")
    if family == "qwen3_moe":
        used = config.sliding_window is not None
        return {"use_sliding_window": used, "sliding_window": config.sliding_window}
    return {"sliding_window": config.sliding_window} if family in ("mistral", "mixtral", "phi3") else {}


def own_keys(config: ModelConfig, family: str) -> dict[str, Any]:
    """What the family has beyond Llama's keys."""
    own: dict[str, Any] = {}
    if family in ("gemma2", "gemma3_text"):
        own.update(hidden_activation="gelu_pytorch_tanh", query_pre_attn_scalar=config.query_scalar or config.head_size)
        own.update(attn_logit_softcapping=config.attention_cap, final_logit_softcapping=config.logit_cap)
    if family == "gemma3_text":
        own.update(rope_local_base_freq=config.local_rope_base or config.rope_base)
    if family == "phi3":
        own.update(original_max_position_embeddings=config.block_size)
        own.update(partial_rotary_factor=(config.rotary_size or config.head_size) / config.head_size)
    if (experts := config.experts) is not None:
        own.update(num_experts_per_tok=experts.active)
        if family == "mixtral":
            return {**own, "num_local_experts": experts.count}
        own.update(num_experts=experts.count, moe_intermediate_size=experts.width, norm_topk_prob=experts.normalised)
        own.update(mlp_only_layers=list(experts.dense_layers), decoder_sparse_step=1)
        if family == "qwen2_moe":
            own.update(shared_expert_intermediate_size=experts.shared_width, qkv_bias=config.qkv_bias)
    return own


def tensors(config: ModelConfig, parameters: Mapping[str, Tensor]) -> dict[str, list[Tensor]]:
    """The folder's tensors by name, in its order; each the rows of one or more parts, which are views."""
    found: dict[str, list[Tensor]] = {}
    for ours, pieces in layout(config, Names(family_of(config))):
        for piece in pieces:
            whole = parameters[ours].detach()
            # Parts of one tensor come in the order of their rows.
            found.setdefault(piece.name, []).append(whole if piece.to is None else whole[piece.to])
    return found


def write_folder(folder: Path, config: ModelConfig, parameters: Mapping[str, Tensor]) -> dict[str, dict[str, Any]]:
    """Write the folder's files; return {name: {"sha256": …, "bytes": …}}. `parameters` are the GPT's, by its names."""
    parts = tensors(config, parameters)
    shards: list[list[str]] = [[]]
    size = 0
    for name, those in parts.items():
        more = sum(part.numel() * part.element_size() for part in those)
        if shards[-1] and size + more > SHARD_BYTES:
            shards, size = [*shards, []], 0
        shards[-1].append(name)
        size += more
    files: dict[str, dict[str, Any]] = {}
    names: dict[str, str] = {}
    for number, shard in enumerate(shards, 1):
        file = f"model-{number:05d}-of-{len(shards):05d}.safetensors"
        files[file] = _write_shard(folder / file, {name: parts[name] for name in shard})
        names.update(dict.fromkeys(shard, file))
    total = sum(entry["bytes"] for entry in files.values())
    dtype = str(next(iter(parameters.values())).dtype).removeprefix("torch.")
    for file, content in (
        (INDEX, {"metadata": {"total_size": total}, "weight_map": names}),
        (CONFIG, configuration(config, dtype)),
    ):
        text = json.dumps(content, indent=1).encode()
        (folder / file).write_bytes(text)
        files[file] = {"sha256": hashlib.sha256(text).hexdigest(), "bytes": len(text)}
    return files


def _write_shard(path: Path, parts: Mapping[str, list[Tensor]]) -> dict[str, Any]:
    """Write one safetensors file; return its SHA-256 and bytes."""
    header: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    end = 0
    for name, those in parts.items():
        begin, end = end, end + sum(part.numel() * part.element_size() for part in those)
        shape = list(those[0].shape)
        shape[0] = sum(part.shape[0] for part in those)
        header[name] = {"dtype": CODES[those[0].dtype], "shape": shape, "data_offsets": [begin, end]}
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    whole, size = hashlib.sha256(), 0
    with path.open("wb") as file:
        for piece in (len(text).to_bytes(8, "little"), text):
            whole.update(piece)
            size += file.write(piece)
        for part in (part for those in parts.values() for part in those):
            there = part.to("cpu").contiguous()
            # Not by numpy, which need not be installed; and not copied.
            content = (ctypes.c_char * (there.numel() * there.element_size())).from_address(there.data_ptr())
            whole.update(content)
            size += file.write(content)
    return {"sha256": whole.hexdigest(), "bytes": size}
