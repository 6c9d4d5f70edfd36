"""Hugging Face transformers as it is shipped: `generate` with the cache that it takes by itself."""

from __future__ import annotations

from collections.abc import Callable
from importlib.util import find_spec
from typing import Any

import torch
from torch import Tensor

from bench.engine import Scores, longest
from bench.spec import Workload

KIND = "engine"


def refuse(workload: Workload, device: str) -> str | None:  # noqa: ARG001
    """Say that the package is missing."""
    return None if find_spec("transformers") else "the package transformers is not installed in this stack"


def settings(workload: Workload) -> dict[str, Any]:  # noqa: ARG001
    """Nothing but what every engine is asked for."""
    return {}


def load(folder: str, workload: Workload, device: str) -> Transformers:
    """Read the folder."""
    return Transformers(folder, workload, device)


class Transformers:
    """A causal language model by its own `generate`. `asked`: what its generation is configured with beside."""

    def __init__(self, folder: str, workload: Workload, device: str, **asked: Any) -> None:
        from transformers import AutoModelForCausalLM

        dtype = getattr(torch, workload.dtype)
        self.workload, self.asked = workload, asked
        self.model = AutoModelForCausalLM.from_pretrained(folder, dtype=dtype, local_files_only=True).to(device).eval()

    def generate(
        self, prompts: list[list[int]], new_tokens: int, *, temperature: float, seed: int, on_token: Callable[..., None]
    ) -> list[list[int]]:
        """The new tokens of each row."""
        made = self.run(prompts, new_tokens, temperature, seed, streamer=Streamer(on_token))
        return tokens_of(made, prompts)

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
        made = self.run(prompts, new_tokens, temperature, seed, scored=True, streamer=Streamer())
        return tokens_of(made, prompts), Scores(torch.stack(made.logits, dim=1))

    def score(self, rows: list[list[int]], prompt: int, ids: list[int]) -> Scores:  # noqa: ARG002
        """The given tokens in the place of those that would be drawn."""
        prompts, given = [row[:prompt] for row in rows], torch.tensor([row[prompt:] for row in rows])
        forced = [Forced(given.to(self.model.device), prompt)]
        made = self.run(prompts, given.shape[1], 0.0, 0, scored=True, logits_processor=forced)
        return Scores(torch.stack(made.logits, dim=1))

    def run(
        self,
        prompts: list[list[int]],
        new_tokens: int,
        temperature: float,
        seed: int,
        *,
        scored: bool = False,
        **more: Any,
    ) -> Any:
        """What `generate` returns; every call goes this way. `scored`: with each step's logits."""
        from transformers import GenerationConfig

        drawn = {"do_sample": True, "temperature": temperature, "top_k": 0, "top_p": 1.0}
        configuration = GenerationConfig(
            max_new_tokens=new_tokens,
            min_new_tokens=None,
            eos_token_id=None,
            pad_token_id=0,
            return_dict_in_generate=True,
            output_logits=scored,
            **(drawn if temperature > 0 else {"do_sample": False}),
            **self.asked,
        )
        tokens = torch.tensor(prompts, device=self.model.device)
        torch.manual_seed(seed)
        return self.model.generate(
            tokens, attention_mask=torch.ones_like(tokens), generation_config=configuration, **more
        )

    def settings(self) -> dict[str, Any]:
        """Of the model, and of the cache that a call leaves."""
        layer = self.run([[0]] * (self.workload.batch or 1), 2, 0.0, 0).past_key_values.layers[0]
        static = hasattr(layer, "max_cache_len")
        return {
            "weights_dtype": words(next(self.model.parameters()).dtype),
            "activation_dtype": words(self.model.dtype),
            "cache_dtype": words(layer.keys.dtype),
            "cache_tokens": (self.workload.batch or 1) * longest(self.workload) if static else None,
            "chunked_prefill": False,
            "graph_batches": None,
            "attention_backend": self.model.config._attn_implementation,  # noqa: SLF001  (it has no other name)
            "max_batch_tokens": None,
            "max_sequences": None,
            "memory_fraction": None,
            "prefix_cache": False,
            "speculation": False,
            "cache": type(layer).__name__,
        }

    def close(self) -> None:
        """Let go of the model."""
        del self.model
        if torch.cuda.is_available():
            torch.cuda.empty_cache()


class Streamer:
    """What `generate` gives each step's tokens to, once they are in the host's memory; first the prompt."""

    def __init__(self, on_token: Callable[..., None] = lambda _count: None) -> None:
        self.count, self.on_token = -1, on_token

    def put(self, value: Tensor) -> None:  # noqa: ARG002
        """Take one more step."""
        self.count += 1
        if self.count:
            self.on_token(self.count)

    def end(self) -> None:
        """Nothing is left."""


class Forced:
    """A logits processor that leaves the given token alone at each step; given [rows, steps]."""

    def __init__(self, given: Tensor, prompt: int) -> None:
        self.given, self.prompt = given, prompt

    def __call__(self, ids: Tensor, scores: Tensor) -> Tensor:
        """[rows, vocabulary] -> the same."""
        wanted = self.given[:, ids.shape[1] - self.prompt, None]
        return torch.full_like(scores, float("-inf")).scatter(1, wanted, 0.0)


def tokens_of(made: Any, prompts: list[list[int]]) -> list[list[int]]:
    """The new tokens of each row."""
    tokens: list[list[int]] = made.sequences[:, len(prompts[0]) :].tolist()
    return tokens


def words(dtype: torch.dtype) -> str:
    """`bfloat16`."""
    return str(dtype).removeprefix("torch.")
