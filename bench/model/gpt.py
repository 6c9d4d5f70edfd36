"""The GPT of the Llama family: RMSNorm, rotary on the whole head, fused QKV, SwiGLU, untied or tied head, KV cache.

Its operators are passed in, so that a method which replaces some of them still loads the very same weights.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from bench.model.rope import rotary_tables
from bench.operators import Operators
from bench.spec import ModelConfig

# Attention kernels want a mask whose rows are whole 16-byte pieces; the slots beyond the asked length stay masked.
SLOT_MULTIPLE = 8


class Norm(nn.Module):
    """RMSNorm's weight."""

    def __init__(self, config: ModelConfig, operators: Operators) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(config.width))
        self.eps, self.operator = config.norm_eps, operators.norm

    def forward(self, x: Tensor) -> Tensor:
        """[..., width] -> [..., width]."""
        return self.operator(x, self.weight, self.eps)


class Cache(nn.Module):
    """Keys and values of one block, [batch, slots, kv heads, size]: buffers, so that their addresses never change."""

    def __init__(self, batch: int, slots: int, config: ModelConfig, like: Tensor) -> None:
        super().__init__()
        shape = (batch, slots, config.kv_heads, config.head_size)
        self.register_buffer("k", torch.zeros(shape, dtype=like.dtype, device=like.device), persistent=False)
        self.register_buffer("v", torch.zeros(shape, dtype=like.dtype, device=like.device), persistent=False)

    def update(self, positions: Tensor, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
        """Write [batch, time, kv heads, size] at `positions` [time]; return all slots."""
        self.k.index_copy_(1, positions, k)
        self.v.index_copy_(1, positions, v)
        return self.k, self.v


class Block(nn.Module):
    """Attention and MLP, each behind its norm and beside the residual stream."""

    def __init__(self, config: ModelConfig, operators: Operators) -> None:
        super().__init__()
        self.config, self.operators = config, operators
        self.norm_attention = Norm(config, operators)
        self.qkv = nn.Linear(config.width, config.qkv_width, bias=config.qkv_bias)
        self.out = nn.Linear(config.heads * config.head_size, config.width, bias=False)
        self.norm_mlp = Norm(config, operators)
        self.gate = nn.Linear(config.width, config.mlp_width, bias=False)
        self.up = nn.Linear(config.width, config.mlp_width, bias=False)
        self.down = nn.Linear(config.mlp_width, config.width, bias=False)
        self.cache: Cache | None = None

    def attend(self, x: Tensor, cos: Tensor, sin: Tensor, mask: Tensor | None, positions: Tensor | None) -> Tensor:
        """Mix the tokens of [batch, time, width]."""
        config, (batch, time, _) = self.config, x.shape
        qkv = self.qkv(x).view(batch, time, config.heads + 2 * config.kv_heads, config.head_size)
        # Turned one by one: Inductor copies both out of a joint result, which then stands beside its copies.
        q = self.operators.rotary(qkv[:, :, : config.heads], cos, sin)
        k = self.operators.rotary(qkv[:, :, config.heads : config.heads + config.kv_heads], cos, sin)
        v = qkv[:, :, config.heads + config.kv_heads :]
        if positions is not None:
            assert self.cache is not None
            k, v = self.cache.update(positions, k, v)
        mixed = self.operators.attention(q, k, v, mask)
        return self.out(mixed.reshape(batch, time, config.heads * config.head_size))

    def forward(self, x: Tensor, cos: Tensor, sin: Tensor, mask: Tensor | None, positions: Tensor | None) -> Tensor:
        """[batch, time, width] -> the same."""
        x = x + self.attend(self.norm_attention(x), cos, sin, mask, positions)
        return x + self.operators.swiglu(self.norm_mlp(x), self.gate.weight, self.up.weight, self.down.weight)


class GPT(nn.Module):
    """tokens [batch, time] -> logits [batch, time, vocabulary]. Made empty: weights come from `bench.model.weights`."""

    def __init__(self, config: ModelConfig, operators: Operators | None = None) -> None:
        super().__init__()
        self.config, self.operators = config, operators or Operators()
        # Given empty: torch's own initialisation on `meta` imports the whole compiler, a second in every process.
        self.embedding = nn.Embedding.from_pretrained(torch.empty(config.vocabulary, config.width), freeze=False)
        self.blocks = nn.ModuleList(Block(config, self.operators) for _ in range(config.layers))
        self.norm = Norm(config, self.operators)
        self.head = nn.Linear(config.width, config.vocabulary, bias=False)
        if config.tied_head:
            self.head.weight = self.embedding.weight

    def make_tables(self, device: torch.device | str) -> None:
        """Fill the rotary tables, [block size, head size / 2] in float32 whatever the weights' dtype."""
        config = self.config
        cos, sin = rotary_tables(config.block_size, config.head_size, config.rope_base, config.rope_scaling, device)
        self.register_buffer("cos", cos, persistent=False)
        self.register_buffer("sin", sin, persistent=False)

    def make_cache(self, batch: int, length: int) -> None:
        """Give every block a cache for `length` positions, rounded up to SLOT_MULTIPLE slots."""
        if length > self.config.block_size:
            raise ValueError(f"a cache of {length} positions is beyond the block size {self.config.block_size}")
        slots = -(-length // SLOT_MULTIPLE) * SLOT_MULTIPLE
        like = self.head.weight
        for block in self.blocks:
            block.cache = Cache(batch, slots, self.config, like)
        self.register_buffer("slots", torch.arange(slots, device=like.device), persistent=False)
        self.register_buffer("seen", torch.zeros((), dtype=like.dtype, device=like.device), persistent=False)
        self.register_buffer("unseen", torch.full_like(self.seen, float("-inf")), persistent=False)

    def forward(self, tokens: Tensor, positions: Tensor | None = None) -> Tensor:
        """With `positions` [time] the cache is read and written; without, the whole of `tokens` is its own context."""
        if positions is None:
            cos, sin = self.cos[: tokens.shape[1]], self.sin[: tokens.shape[1]]
            mask = band(tokens.shape[1], self.config.sliding_window, self.head.weight)
        else:
            cos, sin = self.cos[positions], self.sin[positions]
            mask = self.cache_mask(positions)
        x = self.embedding(tokens)
        for block in self.blocks:
            x = block(x, cos, sin, mask, positions)
        return self.head(self.norm(x))

    def cache_mask(self, positions: Tensor) -> Tensor:
        """0 where a slot may be seen from a position, -inf where not: [time, slots]."""
        visible = self.slots <= positions[:, None]
        if self.config.sliding_window is not None:
            visible = visible & (self.slots > positions[:, None] - self.config.sliding_window)
        return torch.where(visible, self.seen, self.unseen)


def band(time: int, window: int | None, like: Tensor) -> Tensor | None:
    """What is added to the scores: 0 where a token sees another, else -inf, [time, time].

    None (plain causal attention) unless a sliding window is shorter than the sequence.
    """
    if window is None or time <= window:
        return None
    place = torch.arange(time, device=like.device)
    visible = (place <= place[:, None]) & (place > place[:, None] - window)
    zero = like.new_zeros(())
    return torch.where(visible, zero, torch.full_like(zero, float("-inf")))


def build(config: ModelConfig, operators: Operators, dtype: torch.dtype, device: str) -> GPT:
    """Make the model with uninitialised parameters straight on the device, so that a 7B never exists twice."""
    with torch.device("meta"):
        model = GPT(config, operators)
    # One by one: torch's own `to_empty` imports much of the compiler where it meets `meta`.
    empty = {name: torch.empty(one.shape, dtype=dtype, device=device) for name, one in model.named_parameters()}
    return _with(model, {name: nn.Parameter(whole) for name, whole in empty.items()}, device)


def sharing(model: GPT, operators: Operators) -> GPT:
    """A model of the very same parameters with other operators, and with nothing that was done to the first one."""
    with torch.device("meta"):
        plain = GPT(model.config, operators)
    return _with(plain, dict(model.named_parameters()), model.head.weight.device)


def _with(model: GPT, parameters: Mapping[str, nn.Parameter], device: torch.device | str) -> GPT:
    for name, parameter in parameters.items():
        owner, _, leaf = name.rpartition(".")
        setattr(model.get_submodule(owner), leaf, parameter)
    if model.config.tied_head:
        model.head.weight = model.embedding.weight
    model.make_tables(device)
    return model
