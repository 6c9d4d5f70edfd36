"""Which tensors a checkpoint holds, by name and shape: what each family calls them, and which it joins."""

from __future__ import annotations

from collections.abc import Container, Iterator

from orchestrator.plan.workload import ModelConfig

EMBEDDING, HEAD = "embed_tokens.weight", "lm_head.weight"
PREFIXES = ("model.", "language_model.model.", "model.language_model.")
"""How the names of a text model's tensors begin: alone, and in a model of several kinds of input, old and new."""
QWEN, MIXTRAL = ("gate_proj", "up_proj", "down_proj"), ("w1", "w3", "w2")


def expected(
    model: ModelConfig, names: Container[str], prefixes: tuple[str, ...] = PREFIXES
) -> Iterator[tuple[str, tuple[int, ...]]]:
    """Yield name and shape of every tensor that a checkpoint of this model holds; the embedding first.

    What a family calls its tensors, and which it joins, is seen from `names`: bench/model/checkpoint.py reads them so.
    """
    begin = next((one for one in prefixes if f"{one}{EMBEDDING}" in names), prefixes[0])
    yield f"{begin}{EMBEDDING}", (model.vocabulary, model.width)
    for layer in range(model.layers):
        yield from _expected_block(model, f"{begin}layers.{layer}", names, sparse=model.has_experts(layer))
    yield f"{begin}norm.weight", (model.width,)
    if not model.tied_head:
        nested = f"{begin.removesuffix('model.')}{HEAD}"
        yield nested if nested in names else HEAD, (model.vocabulary, model.width)


def _expected_block(
    model: ModelConfig, place: str, names: Container[str], *, sparse: bool
) -> Iterator[tuple[str, tuple[int, ...]]]:
    """Yield those of one block."""
    width, mlp, attention = model.width, model.mlp_width, f"{place}.self_attn"
    q_rows, kv_rows = model.heads * model.head_size, model.kv_heads * model.head_size
    yield f"{place}.input_layernorm.weight", (width,)
    if f"{attention}.qkv_proj.weight" in names:
        yield f"{attention}.qkv_proj.weight", (q_rows + 2 * kv_rows, width)
    else:
        for part, rows in (("q_proj", q_rows), ("k_proj", kv_rows), ("v_proj", kv_rows)):
            yield f"{attention}.{part}.weight", (rows, width)
            if model.qkv_bias:
                yield f"{attention}.{part}.bias", (rows,)
    for part in ("q_norm", "k_norm") if model.qk_norm else ():
        yield f"{attention}.{part}.weight", (model.head_size,)
    yield f"{attention}.o_proj.weight", (width, q_rows)
    yield f"{place}.post_attention_layernorm.weight", (width,)
    for part in ("pre_feedforward_layernorm", "post_feedforward_layernorm") if model.post_norms else ():
        yield f"{place}.{part}.weight", (width,)
    if sparse:
        yield from _expected_experts(model, place, names)
    elif f"{place}.mlp.gate_up_proj.weight" in names:
        yield f"{place}.mlp.gate_up_proj.weight", (2 * mlp, width)
        yield f"{place}.mlp.down_proj.weight", (width, mlp)
    else:
        yield from _gated(f"{place}.mlp", QWEN, width, mlp)


def _expected_experts(model: ModelConfig, place: str, names: Container[str]) -> Iterator[tuple[str, tuple[int, ...]]]:
    """Yield those of one block's experts: by Mixtral's names, or by Qwen's."""
    assert model.experts is not None
    mixtral = f"{place}.block_sparse_moe.gate.weight" in names
    mlp, width = f"{place}.block_sparse_moe" if mixtral else f"{place}.mlp", model.width
    yield f"{mlp}.gate.weight", (model.experts.count, width)
    for expert in range(model.experts.count):
        yield from _gated(f"{mlp}.experts.{expert}", MIXTRAL if mixtral else QWEN, width, model.experts.width)
    if model.experts.shared_width is not None:
        yield f"{mlp}.shared_expert_gate.weight", (1, width)
        yield from _gated(f"{mlp}.shared_expert", QWEN, width, model.experts.shared_width)


def _gated(place: str, parts: tuple[str, str, str], width: int, inner: int) -> Iterator[tuple[str, tuple[int, ...]]]:
    """Yield gate, up and down."""
    for part, shape in zip(parts, ((inner, width), (inner, width), (width, inner)), strict=True):
        yield f"{place}.{part}.weight", shape
