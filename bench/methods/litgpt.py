"""LitGPT's own GPT by LitGPT's own loops of generation, made and filled as its command `generate` does it."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from bench.engine import Scores, longest
from bench.model.huggingface import family_of
from bench.spec import Workload
from bench.status import Unsupported

KIND = "engine"
PRECISIONS = {"bfloat16": "bf16-true", "float16": "16-true", "float32": "32-true", "float64": "64-true"}
"""What LitGPT and Lightning call a dtype."""
ROPE = {"factor": "factor", "low_freq_factor": "low_freq_factor", "high_freq_factor": "high_freq_factor"}
ROPE_LENGTH = {"original_max_position_embeddings": "original_max_seq_len"}
TAKES_ROPE = {"default": {}, "linear": {"factor": "factor"}, "llama3": {**ROPE, **ROPE_LENGTH}}
"""Kinds of rotary scaling: what a key of config.json is called here."""

Step = Callable[..., Tensor]
"""LitGPT's function for the next token: model, positions, tokens, …, sampling settings -> [1] or [batch, 1]."""


def refuse(workload: Workload, device: str) -> str | None:  # noqa: ARG001
    """Say that the package is missing, or that the model has another shape than Llama's."""
    if not find_spec("litgpt"):
        return "the package litgpt is not installed in this stack"
    family = family_of(workload.model) if workload.model else "llama"
    return None if family == "llama" else f"this adapter gives LitGPT models of Llama's shape, not of {family}'s"


def settings(workload: Workload) -> dict[str, Any]:
    """What its parts are asked for; all else is its own."""
    return {"precision": PRECISIONS[workload.dtype], "cache_tokens_of_a_row": longest(workload)}


def load(folder: str, workload: Workload, device: str) -> LitGPT:
    """Read the folder."""
    return LitGPT(folder, workload, device)


class LitGPT:
    """A GPT with a cache of the workload's size. `prepared`: what makes of a step the one that is called."""

    def __init__(
        self, folder: str, workload: Workload, device: str, prepared: Callable[[Step], Step] = lambda step: step
    ) -> None:
        from lightning import Fabric
        from lightning.fabric.plugins.environments import LightningEnvironment
        from litgpt.generate import base
        from litgpt.model import GPT

        self.base = base
        # Named, or it would take a Slurm job's tasks for its own.
        alone = [LightningEnvironment()]
        fabric = Fabric(accelerator=device, devices=1, precision=PRECISIONS[workload.dtype], plugins=alone)
        with fabric.init_module(empty_init=True):
            model = GPT(configuration(Path(folder)))
        with fabric.init_tensor():
            model.max_seq_length = longest(workload)
            model.set_kv_cache(batch_size=workload.batch or 1)
        model.load_state_dict(weights(Path(folder), model.config))
        self.model, self.device = fabric.setup_module(model.eval()), fabric.device
        # One row has a loop and a step of its own. A step that keeps its logits is the same with one more result.
        self.alone = (workload.batch or 1) == 1
        self.step = prepared(base.next_token if self.alone else base.batched_next_token)
        self.scored = prepared(self.with_logits)

    def with_logits(
        self, model: Any, positions: Tensor, tokens: Tensor, *settings: Any, **more: Any
    ) -> tuple[Tensor, Tensor]:
        """What LitGPT's step computes, by its parts: the next tokens, and the logits [batch, vocabulary] of them."""
        if self.alone:
            logits = model(tokens, positions, input_pos_maxp1=more.pop("input_pos_maxp1"))
            return self.base.sample(logits, **more).to(torch.int64), logits[:, -1]
        logits = model(tokens, positions)
        rows = [row.unsqueeze(0) for row in logits.unbind(0)]
        return self.base.batched_sample(rows, kwargs=settings[0]), logits[:, -1]

    def generate(
        self, prompts: list[list[int]], new_tokens: int, *, temperature: float, seed: int, on_token: Callable[..., None]
    ) -> list[list[int]]:
        """The new tokens of each row."""
        return self.run(prompts, new_tokens, self.step, temperature=temperature, seed=seed, on_token=on_token)

    def twin(
        self,
        prompts: list[list[int]],
        new_tokens: int,
        *,
        temperature: float,
        seed: int,
        ids: list[int],  # noqa: ARG002
    ) -> tuple[list[list[int]], Scores]:
        """The same, keeping every step's logits."""
        kept: list[Tensor] = []

        def step(*given: Any, **more: Any) -> Tensor:
            tokens, logits = self.scored(*given, **more)
            kept.append(logits.to("cpu", copy=True))
            return tokens

        made = self.run(prompts, new_tokens, step, temperature=temperature, seed=seed)
        return made, Scores(torch.stack(kept, dim=1))

    def score(self, rows: list[list[int]], prompt: int, ids: list[int]) -> Scores:  # noqa: ARG002
        """The given tokens in the place of those that would be drawn."""
        given = torch.tensor([row[prompt:] for row in rows], device=self.device)
        kept: list[Tensor] = []

        def step(*arguments: Any, **more: Any) -> Tensor:
            _, logits = self.scored(*arguments, **more)
            kept.append(logits.to("cpu", copy=True))
            tokens = given[:, len(kept) - 1]
            return tokens if self.alone else tokens[:, None]

        self.run([row[:prompt] for row in rows], given.shape[1], step)
        return Scores(torch.stack(kept, dim=1))

    def run(
        self,
        prompts: list[list[int]],
        new_tokens: int,
        step: Step,
        *,
        temperature: float = 0.0,
        seed: int = 0,
        on_token: Callable[..., None] = lambda _count: None,
    ) -> list[list[int]]:
        """The new tokens of each row; every call goes this way. LitGPT's loops read each token before the next step."""
        torch.manual_seed(seed)
        tokens = torch.tensor(prompts, device=self.device)
        drawn: dict[str, Any] = {"temperature": temperature, "top_k": None, "top_p": 1.0}
        whole = tokens.shape[1] + new_tokens
        given = {"include_prompt": False, "include_eos": True}
        with self.stepping(step):
            made: Any
            if self.alone:
                made = ([token] for token in self.base.generate_fn(self.model, tokens[0], whole, **drawn, **given))
            else:
                made = self.base.batched_generate_fn(self.model, tokens, whole, sample_args=drawn, **given)
            rows: list[list[int]] = [[] for _ in prompts]
            for count, column in enumerate(made, 1):
                on_token(count)
                for row, token in zip(rows, column, strict=True):
                    row.append(token)
        return [[int(token) for token in row] for row in rows]

    @contextmanager
    def stepping(self, step: Step) -> Iterator[None]:
        """Let LitGPT's loop call `step`, in the way in which its own commands put a compiled one there."""
        name = "next_token" if self.alone else "batched_next_token"
        own = getattr(self.base, name)
        setattr(self.base, name, step)
        try:
            yield
        finally:
            setattr(self.base, name, own)

    def settings(self) -> dict[str, Any]:
        """Of the model and its cache."""
        cache = self.model.transformer.h[0].attn.kv_cache.k
        return {
            "weights_dtype": words(next(self.model.parameters()).dtype),
            "activation_dtype": words(self.model.lm_head.weight.dtype),
            "cache_dtype": words(cache.dtype),
            "cache_tokens": cache.shape[0] * cache.shape[2],
            "chunked_prefill": False,
            "attention_backend": "scaled_dot_product_attention",
            "prefix_cache": False,
            "speculation": False,
        }

    def close(self) -> None:
        """Let go of the model, and of the steps that hold it."""
        del self.model, self.step, self.scored
        if torch.cuda.is_available():
            torch.cuda.empty_cache()


def configuration(folder: Path) -> Any:
    """LitGPT's configuration of the folder's model; Unsupported where it cannot say what config.json says."""
    from litgpt.config import Config

    found = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    scaling = found.get("rope_scaling") or {}
    kind = scaling.get("rope_type") or scaling.get("type") or "default"
    if kind not in TAKES_ROPE:
        raise Unsupported(f"this adapter does not give LitGPT the rotary scaling {kind}")
    return Config(
        name=folder.name,
        block_size=found["max_position_embeddings"],
        n_layer=found["num_hidden_layers"],
        n_embd=found["hidden_size"],
        vocab_size=found["vocab_size"],
        padded_vocab_size=found["vocab_size"],
        n_head=found["num_attention_heads"],
        n_query_groups=found["num_key_value_heads"],
        head_size=found["head_dim"],
        intermediate_size=found["intermediate_size"],
        rope_base=found["rope_theta"],
        rope_adjustments={own: scaling[key] for key, own in TAKES_ROPE[kind].items()} or None,
        rotary_percentage=1.0,
        parallel_residual=False,
        bias=False,
        norm_class_name="RMSNorm",
        norm_eps=found["rms_norm_eps"],
        mlp_class_name="LLaMAMLP",
    )


def weights(folder: Path, config: Any) -> dict[str, Tensor]:
    """The folder's tensors under LitGPT's names, by its own conversion."""
    from litgpt.scripts.convert_hf_checkpoint import copy_weights_hf_llama
    from safetensors.torch import load_file

    parts: dict[int, list[Any]] = {}
    state: dict[str, Tensor] = {}
    for file in sorted(folder.glob("*.safetensors")):
        copy_weights_hf_llama(config, parts, state, load_file(file))
    return state


def words(dtype: torch.dtype) -> str:
    """`bfloat16`."""
    return str(dtype).removeprefix("torch.")
