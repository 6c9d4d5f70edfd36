"""The GPT: RMSNorm, rotary, fused QKV, a gated MLP or experts, untied or tied head, KV cache.

A family of models is a set of configuration values. What they ask for beyond Llama is found here by `config.`: Qwen3
norms queries and keys; Gemma scales its embedding, adds 1 to its norms' weights, norms what a branch adds, caps scores
or logits, and has a window on some layers; Phi rotates a part of the head; Mixtral's and Qwen3-MoE's MLP is `Experts`.

Its operators are passed in, so that a method which replaces some of them still loads the very same weights.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from bench.model.rope import rotary_tables
from bench.model.traits import keywords
from bench.operators import Operators
from bench.spec import ModelConfig

# Attention kernels want a mask whose rows are whole 16-byte pieces; the slots beyond the asked length stay masked.
SLOT_MULTIPLE = 8

Tables = Mapping[bool, "tuple[Tensor, Tensor]"]
"""Rotary cosine and sine, [positions, rotated size / 2] in float32, of the layers with a window and of the others."""
Views = Mapping[bool, "tuple[Tensor, Tensor, Tensor | None]"]
"""The same at the positions of a call, each with its mask."""


class Norm(nn.Module):
    """RMSNorm's weight."""

    def __init__(self, width: int, config: ModelConfig, operators: Operators) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(width))
        self.eps, self.operator, self.asked = config.norm_eps, operators.norm, keywords(config)["norm"]

    def forward(self, x: Tensor) -> Tensor:
        """[..., width] -> [..., width]."""
        return self.operator(x, self.weight, self.eps, **self.asked)


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


class Experts(nn.Module):
    """A mixture: each token goes through those experts that the router, or the hash, chooses for it."""

    def __init__(self, config: ModelConfig, operators: Operators) -> None:
        super().__init__()
        assert config.experts is not None
        self.config, self.operators, self.asked = config.experts, operators, keywords(config)["swiglu"]
        count, inner, width = config.experts.count, config.experts.width, config.width
        self.router = nn.Linear(width, count, bias=False)
        self.gate, self.up = (nn.Parameter(torch.empty(count, inner, width)) for _ in range(2))
        self.down = nn.Parameter(torch.empty(count, width, inner))
        if (shared := config.experts.shared_width) is not None:
            self.shared_router = nn.Linear(width, 1, bias=False)
            self.shared_gate, self.shared_up = (nn.Linear(width, shared, bias=False) for _ in range(2))
            self.shared_down = nn.Linear(shared, width, bias=False)
        self.register_buffer("order", None, persistent=False)

    def forward(self, x: Tensor, routes: Tensor | None) -> Tensor:
        """[batch, time, width] -> the same; `routes` [time, active]: places in this layer's `order` of the experts."""
        flat = x.flatten(0, 1)
        chosen = None
        if routes is not None:
            chosen = self.order[routes].expand(x.shape[0], -1, -1).flatten(0, 1)
        scores = self.router(flat)
        weights, chosen = self.operators.route(scores, self.config.active, chosen, normalised=self.config.normalised)
        mixed = self.operators.experts(flat, weights, chosen, self.gate, self.up, self.down, **self.asked)
        if self.config.shared_width is not None:
            linears = (self.shared_gate.weight, self.shared_up.weight, self.shared_down.weight)
            mixed = mixed + torch.sigmoid(self.shared_router(flat)) * self.operators.swiglu(
                flat, *linears, **self.asked
            )
        return mixed.view(x.shape)


class Block(nn.Module):
    """Attention and MLP, each behind its norm and beside the residual stream.

    `sparse`: its MLP is `Experts`. `local`: it has the sliding window.
    """

    def __init__(self, config: ModelConfig, operators: Operators, layer: int) -> None:
        super().__init__()
        self.config, self.operators, self.asked = config, operators, keywords(config)
        self.sparse, self.local = config.has_experts(layer), config.is_local(layer)
        self.norm_attention = Norm(config.width, config, operators)
        self.qkv = nn.Linear(config.width, config.qkv_width, bias=config.qkv_bias)
        if config.qk_norm:
            self.norm_q, self.norm_k = (Norm(config.head_size, config, operators) for _ in range(2))
        self.out = nn.Linear(config.heads * config.head_size, config.width, bias=False)
        self.norm_mlp = Norm(config.width, config, operators)
        if self.sparse:
            self.experts = Experts(config, operators)
        else:
            self.gate = nn.Linear(config.width, config.mlp_width, bias=False)
            self.up = nn.Linear(config.width, config.mlp_width, bias=False)
            self.down = nn.Linear(config.mlp_width, config.width, bias=False)
        if config.post_norms:
            self.norm_after_attention, self.norm_after_mlp = (Norm(config.width, config, operators) for _ in range(2))
        self.cache: Cache | None = None

    def attend(self, x: Tensor, cos: Tensor, sin: Tensor, mask: Tensor | None, positions: Tensor | None) -> Tensor:
        """Mix the tokens of [batch, time, width]."""
        config, (batch, time, _) = self.config, x.shape
        qkv = self.qkv(x).view(batch, time, config.heads + 2 * config.kv_heads, config.head_size)
        q, k = qkv[:, :, : config.heads], qkv[:, :, config.heads : config.heads + config.kv_heads]
        if config.qk_norm:
            q, k = self.norm_q(q), self.norm_k(k)
        # Turned one by one: Inductor copies both out of a joint result, which then stands beside its copies.
        q = self.rotate(q, cos, sin)
        k = self.rotate(k, cos, sin)
        v = qkv[:, :, config.heads + config.kv_heads :]
        if positions is not None:
            assert self.cache is not None
            k, v = self.cache.update(positions, k, v)
        mixed = self.operators.attention(q, k, v, mask, **self.asked["attention"])
        return self.out(mixed.reshape(batch, time, config.heads * config.head_size))

    def rotate(self, x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
        """Turn [batch, time, heads, size], or the first `rotary_size` elements of each head."""
        size = self.config.rotary_size
        if size is None:
            return self.operators.rotary(x, cos, sin)
        return torch.cat((self.operators.rotary(x[..., :size], cos, sin), x[..., size:]), dim=-1)

    def mlp(self, x: Tensor, routes: Tensor | None) -> Tensor:
        """[batch, time, width] -> the same, each token for itself."""
        if self.sparse:
            return self.experts(x, routes)
        linears = (self.gate.weight, self.up.weight, self.down.weight)
        return self.operators.swiglu(x, *linears, **self.asked["swiglu"])

    def forward(  # noqa: PLR0917  (a view's parts, which compilers take better than an object)
        self,
        x: Tensor,
        cos: Tensor,
        sin: Tensor,
        mask: Tensor | None,
        positions: Tensor | None,
        routes: Tensor | None = None,
    ) -> Tensor:
        """[batch, time, width] -> the same."""
        mixed = self.attend(self.norm_attention(x), cos, sin, mask, positions)
        x = x + (self.norm_after_attention(mixed) if self.config.post_norms else mixed)
        made = self.mlp(self.norm_mlp(x), routes)
        return x + (self.norm_after_mlp(made) if self.config.post_norms else made)


class GPT(nn.Module):
    """tokens [batch, time] -> logits [batch, time, vocabulary]. Made empty: weights come from `bench.model.weights`."""

    def __init__(self, config: ModelConfig, operators: Operators | None = None) -> None:
        super().__init__()
        self.config, self.operators = config, operators or Operators()
        # Given empty: torch's own initialisation on `meta` imports the whole compiler, a second in every process.
        self.embedding = nn.Embedding.from_pretrained(torch.empty(config.vocabulary, config.width), freeze=False)
        self.blocks = nn.ModuleList(Block(config, self.operators, layer) for layer in range(config.layers))
        self.norm = Norm(config.width, config, self.operators)
        self.head = nn.Linear(config.width, config.vocabulary, bias=False)
        if config.tied_head:
            self.head.weight = self.embedding.weight
        self.kinds = {config.is_local(layer) for layer in range(config.layers)}
        self.two_bases = len(self.kinds) > 1 and config.local_rope_base is not None
        self.embedding_scale: float | None = None
        self.register_buffer("routes", None, persistent=False)

    def make_tables(self, device: torch.device | str) -> None:
        """Fill the rotary tables, in float32 whatever the weights' dtype, and round the embedding's scale to that."""
        for local, (cos, sin) in rotations(self.config, device).items():
            ending = "_local" if local and self.two_bases else ""
            self.register_buffer(f"cos{ending}", cos, persistent=False)
            self.register_buffer(f"sin{ending}", sin, persistent=False)
        self.embedding_scale = embedding_scale(self.config, self.embedding.weight.dtype)

    def make_routes(self, orders: Mapping[int, Tensor]) -> None:
        """Let the hash choose the experts, and not the router, which still weighs them: another order in each layer.

        Of that order a position takes the places after those of the position before, and begins again at its end: so
        any stretch of positions loads all experts alike, but for one token. The rows of a batch take the same experts.
        """
        config, device = self.config, self.head.weight.device
        assert config.experts is not None
        count, active = config.experts.count, config.experts.active
        for layer, order in orders.items():
            self.blocks[layer].experts.order = order.to(device)
        slots = torch.arange(config.block_size * active, device=device) % count
        self.routes = slots.view(config.block_size, active)

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
        time, routes = tokens.shape[1], self.routes
        if positions is None:
            views = whole_views(self.config, self.tables(), time, self.head.weight)
            routes = routes[:time] if routes is not None else None
        else:
            tables = self.tables()
            views = {
                local: (*(t[positions] for t in tables[local]), self.cache_mask(positions, local)) for local in tables
            }
            routes = routes[positions] if routes is not None else None
        x = self.embed(tokens)
        for block in self.blocks:  # alone: Thunder 0.1 does not see where a block comes from that a zip returns
            cos, sin, mask = views[block.local]
            x = block(x, cos, sin, mask, positions, routes)
        return self.logits(self.norm(x))

    def tables(self) -> Tables:
        """The rotary tables of each kind of layer that there is."""
        own = (self.cos, self.sin)
        local = (self.cos_local, self.sin_local) if self.two_bases else own
        return {kind: local if kind else own for kind in self.kinds}

    def embed(self, tokens: Tensor) -> Tensor:
        """[batch, time] -> [batch, time, width]."""
        x = self.embedding(tokens)
        return x if self.embedding_scale is None else x * self.embedding_scale

    def logits(self, hidden: Tensor) -> Tensor:
        """[batch, time, width] behind the last norm -> [batch, time, vocabulary]."""
        return capped(self.head(hidden), self.config.logit_cap)

    def cache_mask(self, positions: Tensor, local: bool) -> Tensor:
        """0 where a slot may be seen from a position, -inf where not: [time, slots]."""
        visible = self.slots <= positions[:, None]
        if local:
            visible = visible & (self.slots > positions[:, None] - self.config.sliding_window)
        return torch.where(visible, self.seen, self.unseen)


def embedding_scale(config: ModelConfig, dtype: torch.dtype) -> float | None:
    """What an embedding is multiplied with, rounded to its weights' dtype as transformers does; None: nothing."""
    return float(torch.tensor(config.width**0.5, dtype=dtype, device="cpu")) if config.embedding_scaled else None


def capped(x: Tensor, cap: float | None) -> Tensor:
    """Bend x so that it stays between -cap and cap; None: as it is."""
    return x if cap is None else torch.tanh(x / cap) * cap


def rotations(config: ModelConfig, device: torch.device | str) -> Tables:
    """Make the rotary tables, [block size, rotated size / 2], of each kind of layer that the model has."""
    size = config.rotary_size or config.head_size
    own = rotary_tables(config.block_size, size, config.rope_base, config.rope_scaling, device)
    local = own
    if config.local_rope_base is not None:
        local = rotary_tables(config.block_size, size, config.local_rope_base, None, device)
    return {kind: local if kind else own for kind in set(map(config.is_local, range(config.layers)))}


def whole_views(config: ModelConfig, tables: Tables, time: int, like: Tensor) -> Views:
    """What each kind of layer needs where `time` tokens are their own context; masks in the dtype of `like`."""
    masks = {local: band(time, config.sliding_window if local else None, like) for local in tables}
    return {local: (cos[:time], sin[:time], masks[local]) for local, (cos, sin) in tables.items()}


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
    return with_parameters(model, {name: nn.Parameter(whole) for name, whole in empty.items()}, device)


def sharing(model: GPT, operators: Operators) -> GPT:
    """A model of the very same parameters with other operators, and with nothing that was done to the first one."""
    with torch.device("meta"):
        plain = GPT(model.config, operators)
    plain = with_parameters(plain, dict(model.named_parameters()), model.head.weight.device)
    plain.routes = model.routes
    for own, theirs in zip(plain.blocks, model.blocks):  # noqa: B905  (Python 3.10's zip)
        if own.sparse:
            own.experts.order = theirs.experts.order
    return plain


def with_parameters(model: GPT, parameters: Mapping[str, nn.Parameter], device: torch.device | str) -> GPT:
    """Put parameters into a model that has none yet, by their names; return it with its tables."""
    for name, parameter in parameters.items():
        owner, _, leaf = name.rpartition(".")
        setattr(model.get_submodule(owner), leaf, parameter)
    if model.config.tied_head:
        model.head.weight = model.embedding.weight
    model.make_tables(device)
    return model
