"""SGLang by its own `Engine`: its scheduler in a process of its own, its kernels and its sampler as they are shipped.

A request streams its first tokens and its last, none between, so that a call costs what one without a stream costs.
Given tokens are scored as a prompt, which its engine does in one pass.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from importlib.util import find_spec
from typing import Any

import torch

from bench.engine import MEMORY_FRACTION, Scores, longest
from bench.spec import Workload

KIND = "engine"
ENVIRONMENT = {
    "SGLANG_RETURN_ORIGINAL_LOGPROB": "1",  # before the temperature
    "HF_HUB_OFFLINE": "1",
}
"""Set before SGLang is imported, where they are not."""
ON_CPU = "SGLANG_USE_CPU_ENGINE"
"""Its own switch. Its pinned build is for GPUs and loads `libcuda.so.1`: without a driver, an empty one will do."""
OWN_TOKENS = 8
"""Of a sequence's length that it keeps for itself, and more."""
WHOLE_VOCABULARY = 4096
"""Up to so many ids all are scored, else those that are asked for."""


def refuse(workload: Workload, device: str) -> str | None:
    """Say that the package is missing, or that it computes nothing here."""
    if not find_spec("sglang"):
        return "the package sglang is not installed in this stack"
    if device == "cpu" and os.environ.get(ON_CPU) != "1":
        return f"SGLang computes on a CPU only where it is told {ON_CPU}=1"
    return "SGLang takes no float64" if workload.dtype == "float64" else None


def settings(workload: Workload) -> dict[str, Any]:
    """The arguments of its `Engine`; all others are its own."""
    context = longest(workload) + OWN_TOKENS
    cpu = {
        "device": "cpu",
        "attention_backend": "torch_native",
        "max_total_tokens": 2 * context * (workload.batch or 1),
    }
    return {
        **(cpu if os.environ.get(ON_CPU) == "1" else {}),
        "skip_tokenizer_init": True,
        "dtype": workload.dtype,
        "context_length": context,
        "mem_fraction_static": MEMORY_FRACTION,
        "disable_radix_cache": True,
        "random_seed": workload.seed % 2**31,
    }


def load(folder: str, workload: Workload, device: str) -> SGLang:  # noqa: ARG001
    """Start its processes, which read the folder and capture."""
    return SGLang(folder, workload)


class SGLang:
    """SGLang's `Engine`. It draws with a generator of its own: a call's seed does not reach it."""

    def __init__(self, folder: str, workload: Workload) -> None:
        for name, value in ENVIRONMENT.items():
            os.environ.setdefault(name, value)
        from sglang import Engine

        assert workload.model
        self.vocabulary = workload.model.vocabulary
        self.engine = Engine(model_path=folder, **settings(workload))

    def generate(
        self,
        prompts: list[list[int]],
        new_tokens: int,
        *,
        temperature: float,
        seed: int,  # noqa: ARG002
        on_token: Callable[..., None],
    ) -> list[list[int]]:
        """The new tokens of each row."""
        made: list[list[int]] = [[] for _ in prompts]
        waiting = set(range(len(prompts)))
        asked = {**sampling(new_tokens, temperature), "stream_interval": new_tokens}
        for part in self.engine.generate(input_ids=prompts, sampling_params=asked, stream=True):
            row = part["index"]
            made[row] = part["output_ids"]  # all so far
            if row in waiting and made[row]:
                waiting.discard(row)
                if not waiting:
                    on_token(1)
        return [list(row) for row in made]

    def twin(
        self,
        prompts: list[list[int]],
        new_tokens: int,
        *,
        temperature: float,
        seed: int,  # noqa: ARG002
        ids: list[int],
    ) -> tuple[list[list[int]], Scores]:
        """The same, with the log-probabilities of each step."""
        made = self.scored(prompts, sampling(new_tokens, temperature), ids)
        steps = [row["meta_info"]["output_token_ids_logprobs"] for row in made]
        return [row["output_ids"] for row in made], self.scores(steps, ids, "decode")

    def score(self, rows: list[list[int]], prompt: int, ids: list[int]) -> Scores:
        """The given tokens as a prompt, with one token after it that does not count."""
        made = self.scored(rows, sampling(1, 0.0), ids, logprob_start_len=prompt - 1)
        # Of the place where it starts it says nothing, as there is nothing before it.
        steps = [row["meta_info"]["input_token_ids_logprobs"][prompt - len(rows[0]) :] for row in made]
        return self.scores(steps, ids, "prefill")

    def scored(self, prompts: list[list[int]], asked: dict[str, Any], ids: list[int], **more: Any) -> Any:
        """What comes of each prompt, with log-probabilities of the ids that are wanted."""
        wanted = list(range(self.vocabulary)) if self.vocabulary <= WHOLE_VOCABULARY else ids
        return self.engine.generate(
            input_ids=prompts,
            sampling_params=asked,
            return_logprob=True,
            token_ids_logprob=[wanted] * len(prompts),
            **more,
        )

    def scores(self, rows: list[Any], ids: list[int], by: str) -> Scores:
        """Of each row the steps, each a list of (log-probability, id, text), in the order of the ids asked for."""
        values = torch.tensor([[[value for value, *_ in step] for step in row] for row in rows])
        return Scores(values, None if self.vocabulary <= WHOLE_VOCABULARY else torch.tensor(ids), by)

    def settings(self) -> dict[str, Any]:
        """Of its server, as that says what it runs with."""
        found = self.engine.get_server_info()
        state = (found.get("internal_states") or [{}])[0]
        dtype = found.get("dtype")
        cache = found.get("kv_cache_dtype")
        graphs = found.get("cuda_graph_config") or {}
        chunk = found.get("chunked_prefill_size")
        return {
            "weights_dtype": found.get("quantization") or dtype,
            "activation_dtype": dtype,
            "cache_dtype": dtype if cache == "auto" else cache,
            "cache_tokens": found.get("max_total_num_tokens"),
            "chunked_prefill": None if chunk is None else chunk > 0,
            "graph_batches": (graphs.get("decode") or {}).get("bs") or found.get("cuda_graph_bs_decode"),
            "attention_backend": found.get("attention_backend"),
            "max_batch_tokens": found.get("max_prefill_tokens"),
            "max_sequences": state.get("effective_max_running_requests_per_dp") or found.get("max_running_requests"),
            "memory_fraction": found.get("mem_fraction_static"),
            "prefix_cache": not found["disable_radix_cache"],
            "speculation": found.get("speculative_algorithm") is not None,
            "chunk_tokens": chunk,
            "sampling_backend": found.get("sampling_backend"),
            "overlap_schedule": not found.get("disable_overlap_schedule", False),
        }

    def close(self) -> None:
        """Stop its processes, and wait until they have let go of the GPU."""
        self.engine.shutdown()


def sampling(new_tokens: int, temperature: float) -> dict[str, Any]:
    """From the whole distribution, and nothing ends a text early."""
    return {
        "max_new_tokens": new_tokens,
        "temperature": temperature,
        "top_p": 1.0,
        "top_k": -1,
        "min_p": 0.0,
        "ignore_eos": True,
    }
