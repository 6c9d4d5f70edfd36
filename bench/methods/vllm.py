"""vLLM in this process, driven step by step: its scheduler, its kernels and its sampler as they are shipped.

The steps are the engine's own; a request's first tokens and its last are given out, none between, so that a call costs
what `LLM.generate` costs. Tokens are forced, and scored through decode, by the engine's trace replay; on a CPU, where
it has none, they are scored as a prompt.
"""

from __future__ import annotations

import gc
import os
from collections.abc import Callable
from importlib.util import find_spec
from typing import Any, NamedTuple

import numpy as np
import torch

from bench.engine import MEMORY_FRACTION, Scores, longest
from bench.spec import Workload
from bench.status import Unsupported

KIND = "engine"
ENVIRONMENT = {
    "VLLM_ENABLE_V1_MULTIPROCESSING": "0",  # else memory, kernels and random numbers are another process's
    "VLLM_NO_USAGE_STATS": "1",
    "VLLM_CPU_KVCACHE_SPACE": "1",
    "HF_HUB_OFFLINE": "1",
}
"""Set before vLLM is imported, where they are not. The cache of a CPU is in GiB."""
WHOLE_VOCABULARY = 4096
"""Up to so many ids all are scored, else those that are asked for: more would take longer than the cell."""


def refuse(workload: Workload, device: str) -> str | None:  # noqa: ARG001
    """Say that the package is missing, or does not take the dtype."""
    if not find_spec("vllm"):
        return "the package vllm is not installed in this stack"
    return "vLLM takes no float64" if workload.dtype == "float64" else None


def settings(workload: Workload) -> dict[str, Any]:
    """The arguments of its `LLM`; all others are its own."""
    return {
        "skip_tokenizer_init": True,
        "generation_config": "vllm",  # none of the model's own sampling settings
        "dtype": workload.dtype,
        "max_model_len": longest(workload) + 1,  # where tokens are scored as a prompt, one is drawn after them
        "enable_prefix_caching": False,
        "max_logprobs": -1,
    }


ON_A_GPU = {"gpu_memory_utilization": MEMORY_FRACTION, "enable_trace_replay": True}
ON_A_CPU = {"enforce_eager": True}  # compiling would take each cell a minute, for figures that say nothing of vLLM


def load(folder: str, workload: Workload, device: str) -> VLLM:
    """Read the folder, compile, capture."""
    return VLLM(folder, workload, device)


class VLLM:
    """vLLM's `LLM`, of which the engine below is driven."""

    def __init__(self, folder: str, workload: Workload, device: str) -> None:
        for name, value in ENVIRONMENT.items():
            os.environ.setdefault(name, value)
        from vllm import LLM
        from vllm.platforms import current_platform

        if current_platform.is_cpu() != (device == "cpu"):
            raise Unsupported(f"this build of vLLM is for {current_platform.device_type or 'no device'}, not {device}")
        self.replays = device != "cpu"
        if not self.replays:
            refuse_head_size(workload)
        self.engine = LLM(folder, **settings(workload), **(ON_A_GPU if self.replays else ON_A_CPU)).llm_engine
        self.vocabulary = self.engine.model_config.get_vocab_size()
        self.requests = 0

    def generate(
        self, prompts: list[list[int]], new_tokens: int, *, temperature: float, seed: int, on_token: Callable[..., None]
    ) -> list[list[int]]:
        """The new tokens of each row."""
        asked = {"max_tokens": new_tokens, "temperature": temperature}
        return [made.tokens for made in self.run(prompts, [asked] * len(prompts), seed, on_token)]

    def twin(
        self, prompts: list[list[int]], new_tokens: int, *, temperature: float, seed: int, ids: list[int]
    ) -> tuple[list[list[int]], Scores]:
        """The same, with the log-probabilities of each step."""
        asked = {"max_tokens": new_tokens, "temperature": temperature, **self.wanted(ids)}
        made = self.run(prompts, [asked] * len(prompts), seed)
        return [row.tokens for row in made], self.scores([row.steps for row in made], ids)

    def score(self, rows: list[list[int]], prompt: int, ids: list[int]) -> Scores:
        """The given tokens in the place of those that would be drawn; on a CPU as a prompt."""
        if self.replays:
            given = [row[prompt:] for row in rows]
            asked = [{"max_tokens": len(row), "trace_decode_token_ids": row, **self.wanted(ids)} for row in given]
            made = self.run([row[:prompt] for row in rows], asked)
            return self.scores([row.steps for row in made], ids)
        if self.vocabulary > WHOLE_VOCABULARY:
            raise Unsupported("on a CPU vLLM scores given tokens over the whole vocabulary only, which takes too long")
        made = self.run(rows, [{"max_tokens": 1, "prompt_logprobs": -1}] * len(rows))
        return self.scores([row.prompt[prompt:] for row in made], ids, by="prefill")

    def wanted(self, ids: list[int]) -> dict[str, Any]:
        """Which log-probabilities of a step are to come back."""
        return {"logprobs": -1} if self.vocabulary <= WHOLE_VOCABULARY else {"logprob_token_ids": ids}

    def scores(self, rows: list[Any], ids: list[int], by: str = "decode") -> Scores:
        """Of each row the steps, each a mapping from ids."""
        whole = self.vocabulary <= WHOLE_VOCABULARY
        order = range(self.vocabulary) if whole else ids
        values = torch.tensor([[[step[token].logprob for token in order] for step in row] for row in rows])
        return Scores(values, None if whole else torch.tensor(ids), by)

    def run(
        self,
        prompts: list[list[int]],
        asked: list[dict[str, Any]],
        seed: int = 0,
        on_token: Callable[..., None] | None = None,
    ) -> list[Made]:
        """What comes of each prompt; every call goes this way. All are given to the engine before its first step."""
        from vllm import SamplingParams
        from vllm.sampling_params import RequestOutputKind

        # Where it draws with torch it takes torch's generator, else a seed of numpy's for each request.
        torch.manual_seed(seed)
        np.random.seed(seed % 2**32)  # noqa: NPY002
        places: dict[str, int] = {}
        for place, (prompt, wanted) in enumerate(zip(prompts, asked, strict=True)):
            given = SamplingParams(
                ignore_eos=True,
                detokenize=False,
                output_kind=RequestOutputKind.DELTA if on_token else RequestOutputKind.FINAL_ONLY,
                stream_interval=wanted["max_tokens"],
                **{"temperature": 0.0, **wanted},
            )
            self.requests += 1
            name = str(self.requests)
            places[name] = place
            self.engine.add_request(name, {"type": "token", "prompt_token_ids": prompt}, given)
        made = [Made([], None, None) for _ in prompts]
        waiting = set(places)
        while self.engine.has_unfinished_requests():
            for output in self.engine.step():
                row = made[places[output.request_id]]
                row.tokens.extend(output.outputs[0].token_ids)
                made[places[output.request_id]] = Made(row.tokens, output.outputs[0].logprobs, output.prompt_logprobs)
                if on_token and output.request_id in waiting:
                    waiting.discard(output.request_id)
                    if not waiting:
                        on_token(1)
        return made

    def settings(self) -> dict[str, Any]:
        """Of its configuration, after loading."""
        whole = self.engine.vllm_config
        model, cache, scheduler = whole.model_config, whole.cache_config, whole.scheduler_config
        compilation = whole.compilation_config
        dtype = words(model.dtype)
        return {
            "weights_dtype": dtype if model.quantization is None else model.quantization,
            "activation_dtype": dtype,
            "cache_dtype": dtype if cache.cache_dtype == "auto" else cache.cache_dtype,
            "cache_tokens": cache.num_gpu_blocks * cache.block_size if cache.num_gpu_blocks else None,
            "chunked_prefill": scheduler.enable_chunked_prefill,
            "graph_batches": compilation.cudagraph_capture_sizes or None,
            "attention_backend": self.attention(),
            "max_batch_tokens": scheduler.max_num_batched_tokens,
            "max_sequences": scheduler.max_num_seqs,
            "memory_fraction": cache.gpu_memory_utilization if self.replays else None,
            "prefix_cache": cache.enable_prefix_caching,
            "speculation": whole.speculative_config is not None,
            "graphs": str(compilation.cudagraph_mode),
            "compilation": str(compilation.mode),
            "async_scheduling": scheduler.async_scheduling,
        }

    def attention(self) -> str | None:
        """The backends of its layers, by name."""
        layers = self.engine.vllm_config.compilation_config.static_forward_context.values()
        names = {layer.get_attn_backend().get_name() for layer in layers if hasattr(layer, "get_attn_backend")}
        return ", ".join(sorted(names)) or None

    def close(self) -> None:
        """Stop the engine; what it held of the device is free once nothing refers to it."""
        self.engine.engine_core.shutdown()
        del self.engine
        gc.collect()
        if torch.cuda.is_available():
            torch.cuda.empty_cache()


def refuse_head_size(workload: Workload) -> None:
    """Unsupported where vLLM's attention on a CPU would fail only in a call."""
    from vllm.v1.attention.backends.cpu_attn import CPUAttentionBackend

    sizes = CPUAttentionBackend.get_supported_head_sizes()
    if workload.model and workload.model.head_size not in sizes:
        raise Unsupported(f"on a CPU it takes heads of {sizes}, the model's are of {workload.model.head_size}")


class Made(NamedTuple):
    """What came of a prompt: its new tokens, log-probabilities of each, and of each token of the prompt."""

    tokens: list[int]
    steps: Any
    prompt: Any


def words(dtype: torch.dtype) -> str:
    """`bfloat16`."""
    return str(dtype).removeprefix("torch.")
