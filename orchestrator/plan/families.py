"""What each family of models is, by the keys of its Hugging Face `config.json`: which are read, and what they mean.

Defaults are those of transformers, and stand only where published configurations leave a key out.
"""

from __future__ import annotations

from typing import Annotated, Any, ClassVar, Literal

from pydantic import BaseModel, Field

from orchestrator.plan.workload import Experts

MOST = 2**40  # of any size or setting; above it the file is wrong
MOST_LAYERS = 10_000  # of a model whose layers are listed
# The description says what a value must be, and goes into the message for one that is not.
POSITIVE = Field(strict=True, gt=0, le=MOST, description="is not a positive integer")
REAL = Field(strict=True, gt=0, le=MOST, description="is not a finite number above zero")
FLAG = Field(strict=True, description="is neither true nor false")
Size = Annotated[int, POSITIVE]
MaybeSize = Annotated[int | None, POSITIVE]
Count = Annotated[int, Field(strict=True, ge=0, le=MOST, description="is not a count")]
Few = Annotated[int, Field(strict=True, gt=0, le=MOST_LAYERS, description=f"is not a count up to {MOST_LAYERS}")]
Real = Annotated[float, REAL]
MaybeReal = Annotated[float | None, REAL]
Flag = Annotated[bool, FLAG]
Off = Annotated[bool, FLAG, Field(le=False)]
One = Annotated[float, REAL, Field(ge=1, le=1)]
Share = Annotated[float, REAL, Field(le=1)]
Zero = Annotated[float, Field(strict=True, ge=0, le=0, description="is not 0")]
Kinds = Annotated[
    tuple[Literal["full_attention", "sliding_attention"], ...] | None,
    Field(description="is not a list of full_attention and sliding_attention"),
]
Layers = Annotated[tuple[Count, ...], Field(description="is not a list of layers")]
Factors = Annotated[tuple[Real, ...], Field(min_length=1, description="is not a list of numbers above zero")]

FULL, LOCAL = "full_attention", "sliding_attention"


class Config(BaseModel):
    """The keys that all families have; those of a ModelConfig by its names."""

    NULLS: ClassVar[frozenset[str]] = frozenset({"hidden_act"})
    """Keys whose null is not the same as their absence."""
    RENAMED: ClassVar[dict[str, str]] = {}
    """What transformers 5 writes, by what the key was called before."""

    hidden_act: Literal["silu"] = "silu"
    mlp_bias: Off = False
    quantization_config: None = None
    attention_dropout: Zero = 0.0
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
    original_max_position_embeddings: MaybeSize = None

    def values(self) -> dict[str, Any]:
        """Return the values of a ModelConfig in which the family differs from Llama."""
        return {}

    def kinds(self) -> tuple[str, ...] | str:
        """Return FULL or LOCAL, of all layers, or for each of them."""
        return FULL

    def window(self) -> int | None:
        """Return the tokens that a LOCAL layer sees, None if the file does not say."""
        return getattr(self, "sliding_window", None)


class Llama(Config):
    """Llama's own: its attention_bias puts a bias on the output projection too; Qwen2's has no such key."""

    attention_bias: Off = False


class Mistral(Llama):
    """A window in each layer, or null. Absent is not null: transformers would take 4096, the first Mistral's."""

    NULLS = Config.NULLS | {"sliding_window"}

    sliding_window: MaybeSize

    def kinds(self) -> tuple[str, ...] | str:
        return FULL if self.sliding_window is None else LOCAL


class Qwen2(Config):
    """Its window is used where the configuration says so, from some layer on or by the layers' kinds."""

    layers: Few = Field(alias="num_hidden_layers")
    use_sliding_window: Flag = False
    sliding_window: MaybeSize = None
    layer_types: Kinds = None
    max_window_layers: Annotated[int | None, Field(strict=True, ge=0, le=MOST, description="is not a count")] = None

    def values(self) -> dict[str, Any]:
        return {"qkv_bias": True}

    def kinds(self) -> tuple[str, ...] | str:
        if not self.use_sliding_window:
            return super().kinds()
        if self.layer_types is not None:
            return self.layer_types
        first = 28 if self.max_window_layers is None else self.max_window_layers  # transformers' own default
        return tuple(LOCAL if layer >= first else FULL for layer in range(self.layers))


class Qwen3(Qwen2):
    """Qwen2 without biases, with norms of queries and keys, and with a head size of its own."""

    attention_bias: Off = False
    head_dim: Size

    def values(self) -> dict[str, Any]:
        return {"qk_norm": True}


class Gemma2(Config):
    """Caps, and a window on every other layer. Its norms, activation and embedding are Gemma's."""

    NULLS = Config.NULLS | {"attn_logit_softcapping", "final_logit_softcapping"}

    layers: Few = Field(alias="num_hidden_layers")
    hidden_act: Any = None  # old files have it beside, and it is not read
    hidden_activation: Literal["gelu_pytorch_tanh"] = "gelu_pytorch_tanh"
    attention_bias: Off = False
    head_dim: Size = 256
    tied_head: Flag = Field(default=True, alias="tie_word_embeddings")
    query_pre_attn_scalar: Real = 256
    attn_logit_softcapping: MaybeReal = 50.0
    final_logit_softcapping: MaybeReal = 30.0
    sliding_window: Size = 4096
    layer_types: Kinds = None
    use_bidirectional_attention: Off = False

    def values(self) -> dict[str, Any]:
        size = self.head_dim
        return {
            "activation": "gelu_tanh",
            "norm_plus_one": True,
            "post_norms": True,
            "embedding_scaled": True,
            "query_scalar": None if self.query_pre_attn_scalar == size else self.query_pre_attn_scalar,
            "attention_cap": self.attn_logit_softcapping,
            "logit_cap": self.final_logit_softcapping,
        }

    def kinds(self) -> tuple[str, ...] | str:
        return self.layer_types or self.every(2)

    def every(self, pattern: int) -> tuple[str, ...]:
        """Return the kinds where every layer of a number that `pattern` divides, counted from 1, sees all."""
        return tuple(LOCAL if layer % pattern else FULL for layer in range(1, self.layers + 1))


class Gemma3(Gemma2):
    """No caps as a rule, norms of queries and keys, and a rotary base of their own for the layers with a window."""

    attn_logit_softcapping: None = None  # no capped scores: transformers does not cap them either
    final_logit_softcapping: MaybeReal = None
    sliding_window_pattern: Size = 6
    rope_theta: Real = 1_000_000.0
    rope_local_base_freq: Real = 10_000.0
    heads: Size = Field(default=8, alias="num_attention_heads")
    kv_heads: Size = Field(default=4, alias="num_key_value_heads")
    vocabulary: Size = Field(default=262_208, alias="vocab_size")
    block_size: Size = Field(default=131_072, alias="max_position_embeddings")
    norm_eps: Real = Field(default=1e-6, alias="rms_norm_eps")

    def values(self) -> dict[str, Any]:
        return {**super().values(), "qk_norm": True}

    def kinds(self) -> tuple[str, ...] | str:
        return self.layer_types or self.every(self.sliding_window_pattern)


class Phi3(Config):
    """A part of the head is rotated; its files join projections, which the reader of the weights sees from them."""

    attention_bias: Off = False
    lm_head_bias: Off = False
    embd_pdrop: Zero = 0.0
    resid_pdrop: Zero = 0.0
    partial_rotary_factor: Share = 1.0
    original_max_position_embeddings: MaybeSize = 4096
    sliding_window: MaybeSize = None

    def kinds(self) -> tuple[str, ...] | str:
        return FULL if self.sliding_window is None else LOCAL


class Mixtral(Mistral):
    """Mistral with experts in every layer, whose weights are made to sum to 1."""

    sliding_window: MaybeSize = None
    num_local_experts: Size
    num_experts_per_tok: Size
    router_jitter_noise: Zero = 0.0
    output_router_logits: Off = False

    def values(self) -> dict[str, Any]:
        active = self.num_experts_per_tok
        experts = Experts(count=self.num_local_experts, active=active, width=self.mlp_width, normalised=True)
        return {"experts": experts}


class QwenExperts(Config):
    """Experts as Qwen has them: in some of the layers, and of a width of their own."""

    RENAMED = {"num_experts": "num_local_experts"}

    layers: Few = Field(alias="num_hidden_layers")
    decoder_sparse_step: Size = 1
    mlp_only_layers: Layers = ()
    moe_intermediate_size: Size
    num_experts: Size
    num_experts_per_tok: Size
    norm_topk_prob: Flag = False
    output_router_logits: Off = False

    def experts(self, shared_width: int | None = None) -> Experts:
        """Return them; a layer has them where its number, counted from 1, is a multiple of the step."""
        dense = [n for n in range(self.layers) if n in self.mlp_only_layers or (n + 1) % self.decoder_sparse_step]
        return Experts(
            count=self.num_experts,
            active=self.num_experts_per_tok,
            width=self.moe_intermediate_size,
            normalised=self.norm_topk_prob,
            dense_layers=tuple(dense),
            shared_width=shared_width,
        )


class Qwen3Moe(QwenExperts):
    """Qwen3 with experts; a window, where it is used, is on every layer."""

    attention_bias: Off = False
    use_sliding_window: Flag = False
    sliding_window: MaybeSize = None
    max_window_layers: Any = None

    def values(self) -> dict[str, Any]:
        return {"qk_norm": True, "experts": self.experts()}

    def kinds(self) -> tuple[str, ...] | str:
        return LOCAL if self.use_sliding_window else FULL


class Qwen2Moe(QwenExperts):
    """Qwen2 with experts, one of which every token goes through."""

    qkv_bias: Flag = True
    shared_expert_intermediate_size: Size
    use_sliding_window: Off = False
    sliding_window: Any = None
    max_window_layers: Any = None
    layer_types: Any = None

    def values(self) -> dict[str, Any]:
        return {"qkv_bias": self.qkv_bias, "experts": self.experts(self.shared_expert_intermediate_size)}


ARCHITECTURES: dict[str, type[Config]] = {
    "LlamaForCausalLM": Llama,
    "MistralForCausalLM": Mistral,
    "MixtralForCausalLM": Mixtral,
    "Qwen2ForCausalLM": Qwen2,
    "Qwen2MoeForCausalLM": Qwen2Moe,
    "Qwen3ForCausalLM": Qwen3,
    "Qwen3MoeForCausalLM": Qwen3Moe,
    "Gemma2ForCausalLM": Gemma2,
    "Gemma3ForCausalLM": Gemma3,
    "Phi3ForCausalLM": Phi3,
}
NESTED = {"Gemma3ForConditionalGeneration": "Gemma3ForCausalLM"}
"""Models of several kinds of input, by the architecture of the text model in their `text_config`."""


class Rope(BaseModel):
    """Rotary settings in an object of their own, as all kinds have them."""

    rope_type: Any = None
    type: Any = None
    rope_theta: MaybeReal = None
    partial_rotary_factor: Annotated[float | None, REAL, Field(le=1)] = None


class Default(Rope):
    """Nothing is scaled; some files keep what they do not use."""

    original_max_position_embeddings: Any = None


class Linear(Rope):
    """Linear scaling; and `dynamic`, which scales nothing within the block size."""

    factor: Real
    original_max_position_embeddings: Any = None


class Llama3(Linear):
    """Scaling as in Llama 3.1."""

    low_freq_factor: Real
    high_freq_factor: Real
    original_max_position_embeddings: Size


class Yarn(Linear):
    """Scaling of waves that turn seldom within the original context."""

    original_max_position_embeddings: Size
    attention_factor: MaybeReal = None
    mscale: MaybeReal = None
    mscale_all_dim: MaybeReal = None
    beta_fast: Real = 32.0
    beta_slow: Real = 1.0
    truncate: Flag = True


class LongRope(Rope):
    """Factors for each pair: the short ones within the original context."""

    short_factor: Factors
    long_factor: Factors
    factor: MaybeReal = None
    attention_factor: MaybeReal = None
    # Above 1: the attention factor is divided by its logarithm.
    original_max_position_embeddings: Annotated[int, Field(strict=True, gt=1, le=MOST, description="is not above 1")]


# What may stand in any file and changes nothing that is computed here: of transformers' own base class, of the
# generation that older files configure, and of the tools that wrote the file.
HARMLESS = frozenset(
    """
    architectures model_type torch_dtype dtype transformers_version name_or_path auto_map tokenizer_class prefix
    bos_token_id eos_token_id pad_token_id sep_token_id decoder_start_token_id use_cache initializer_range
    finetuning_task id2label label2id num_labels problem_type output_attentions output_hidden_states return_dict
    torchscript pruned_heads task_specific_params use_bfloat16 pretraining_tp cache_implementation
    max_length min_length do_sample early_stopping num_beams num_beam_groups diversity_penalty temperature top_k top_p
    typical_p repetition_penalty length_penalty no_repeat_ngram_size num_return_sequences return_dict_in_generate
    rope_scaling rope_parameters rope_theta router_aux_loss_coef attn_implementation unsloth_version unsloth_fixed
    vision_config mm_tokens_per_image boi_token_index eoi_token_index image_token_index
    """.split()  # noqa: SIM905  (sixty lines of a list say no more)
)
AT_ONE = ("full_attn_mod", "interpolate_factor")
"""Keys of Phi-4-mini's own code that change nothing where they are 1."""


def unknown(raw: dict[str, Any], kind: type[BaseModel]) -> str | None:
    """Return the first key that is set and that nothing here reads."""
    known = {field.alias or name for name, field in kind.model_fields.items()}
    left = (key for key in sorted(raw) if key not in known | HARMLESS and not key.startswith("_"))
    return next((key for key in left if raw[key] and not (key in AT_ONE and raw[key] == 1)), None)
