"""Compiled generation: the step that makes one token (model, softmax and sampling) is what is compiled."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor

from bench.benchmarks import Context, Task, read_element
from bench.model import hashing, sampling, work
from bench.spec import ModelConfig, Workload
from bench.status import Incorrect, Unsupported

Step = Callable[[Tensor, Tensor, Tensor], "tuple[Tensor, Tensor]"]
# Sample i draws with the workload's seed times this plus i.
SEED_STRIDE = 1_000_003
# Profiled instead of a whole generation: every further step runs the same kernels.
BRIEF_TOKENS = 5


class Made(NamedTuple):
    """What a sample drew, [batch, new tokens], and its last step's logits, [batch, vocabulary]."""

    sample: int
    tokens: Tensor
    logits: Tensor


class Generation(Task):
    """Times whole generations, the prefill included; no token ends one early. Each sample has a prompt of its own."""

    judged: slice | list[int] = slice(None)
    """The rows of the batch whose logits the proof compares with the reference."""

    def __init__(self, context: Context) -> None:
        super().__init__(context)
        workload, device = context.workload, context.device
        assert workload.batch
        assert workload.new_tokens
        assert workload.temperature
        self.new_tokens = workload.new_tokens
        self.first_prompt = self.make_first_prompt(workload.batch)
        # The one tensor that the step is given: every sample's prompt is written into it.
        self.prompt = self.first_prompt.clone()
        context.model.make_cache(workload.batch, self.prompt.shape[1] + self.new_tokens)
        self.positions = torch.arange(self.prompt.shape[1], device=device)
        self.temperature = torch.tensor(workload.temperature, device=device)
        self.step = self.make_step()
        self.made: dict[int, Made] = {}

    def make_first_prompt(self, batch: int) -> Tensor:
        """[batch, time]: sample 0's, the same in every row."""
        first = prompt_ids(self.workload, self.config, self.context.tokenizer)
        return torch.tensor([first] * batch, device=self.context.device)

    def make_step(self) -> Step:
        """(tokens [batch, time], positions [time], temperature) -> (token [batch, 1], logits [batch, vocabulary])."""
        model = self.context.model

        def step(tokens: Tensor, positions: Tensor, temperature: Tensor) -> tuple[Tensor, Tensor]:
            logits = model(tokens, positions)[:, -1]
            return sampling.exponential(logits, temperature), logits

        compiled: Step = self.context.method.compile_step(step, self.workload)
        return compiled

    def inputs(self, index: int) -> int:
        """Seed the draws of sample `index`, and put its prompt in its place."""
        self.prompt.copy_(self.prompt_of(index))
        seed = seed_of(self.workload, index)
        torch.manual_seed(seed)
        return seed

    def prompt_of(self, index: int) -> Tensor:
        """[batch, time]; see `prompts`."""
        first = self.first_prompt
        return (
            first if index == 0 else prompts(self.workload, self.config, first[0].tolist(), index, self.context.device)
        )

    def content(self, inputs: int) -> tuple[Tensor, ...]:
        """The prompt and the seed."""
        return self.prompt, torch.tensor([inputs])

    def shape(self, inputs: int) -> list[int]:  # noqa: ARG002
        """[batch, prompt + new tokens]."""
        return [self.prompt.shape[0], self.prompt.shape[1] + self.new_tokens]

    def call(self, inputs: int) -> tuple[Tensor, Tensor]:  # noqa: ARG002
        """(tokens [batch, new tokens], the last step's logits)."""
        return self.generate(self.new_tokens)

    def look(self, output: tuple[Tensor, Tensor]) -> object:
        """Read the last token."""
        return read_element(output[0])

    def keep(self, index: int, inputs: int, output: tuple[Tensor, Tensor]) -> None:
        """The text, and the last step's logits: a graph's next replay overwrites them."""
        tokens, logits = output
        shape = (self.prompt.shape[0], self.new_tokens)
        if tuple(tokens.shape) != shape or tuple(logits.shape) != (shape[0], self.config.vocabulary):
            what = f"tokens {list(tokens.shape)} and logits {list(logits.shape)}"
            raise Incorrect(f"{what}, not {list(shape)} and {[shape[0], self.config.vocabulary]}")
        self.made[inputs] = Made(index, tokens, logits.clone())

    def brief(self, inputs: int) -> str:  # noqa: ARG002
        """Make the first few tokens alone; say so."""
        tokens = min(self.new_tokens, BRIEF_TOKENS)
        self.generate(tokens)
        return f"{tokens} of {self.new_tokens} tokens, the prefill included"

    def generate(self, new_tokens: int) -> tuple[Tensor, Tensor]:
        """(tokens [batch, new tokens], the last step's logits)."""
        # A graph's next replay overwrites what the last one returned: the token is cloned outside of it.
        token, logits = self.step(self.prompt, self.positions, self.temperature)
        tokens = [token.clone()]
        self.context.clock.mark()
        position = self.positions[-1:] + 1
        for _ in range(1, new_tokens):
            token, logits = self.step(tokens[-1], position, self.temperature)
            tokens.append(token.clone())
            position = position + 1
        return torch.cat(tokens, dim=1), logits

    def work(self, shapes: list[list[int]]) -> dict[str, int | None]:
        """Of one generation: each new token reads the weights once."""
        batch, _ = shapes[0]
        return {
            "flops": work.generation_flops(self.config, batch, self.prompt.shape[1], self.new_tokens),
            "bytes": work.generation_bytes(self.config, self.workload, self.new_tokens),
            "tokens": batch * self.new_tokens,
        }

    def proof(self, output: tuple[Tensor, Tensor]) -> dict[str, Any]:
        """The last sample's tokens, and sample 0's text where there is a tokenizer; the last logits are finite."""
        tokens, logits = output
        if not bool(torch.isfinite(logits).all()):
            raise Incorrect("a logit of the last step is not finite")
        tokenizer, first = self.context.tokenizer, next(iter(self.made.values()))
        text = tokenizer.decode([*self.first_prompt[0].tolist(), *first.tokens[0].tolist()]) if tokenizer else None
        return {"finite": True, "generated": tokens[0].tolist(), "text": text}


def seed_of(workload: Workload, index: int) -> int:
    """What sample `index` draws with."""
    return (workload.seed * SEED_STRIDE + index) % 2**63  # as many bits as torch takes


def prompts(workload: Workload, config: ModelConfig, first: list[int], index: int, device: str) -> Tensor:
    """[batch, time]: sample 0's are `first`, the workload's own; ids from the hash for the others, as many."""
    batch, time = workload.batch or 1, len(first)
    if index == 0:
        return torch.tensor([first] * batch, device=device)
    return hashing.integers(f"prompt/{index}", workload.seed, (1, time), config.vocabulary, device).expand(batch, -1)


def prompt_ids(workload: Workload, config: ModelConfig, tokenizer: Any) -> list[int]:
    """The prompt's ids: by the checkpoint's own tokenizer where there is one, else as the workload gives them.

    Unsupported where the model has no row for one of them, or no room for all and the new tokens.
    """
    key = "prompt"
    ids = list(workload.prompt or ())
    if tokenizer is not None and workload.prompt_text:
        ids, key = tokenizer.encode(workload.prompt_text), "prompt_text, by the checkpoint's tokenizer"
    if not ids:
        raise Unsupported(f"{key}: no token comes of it")
    if max(ids) >= config.vocabulary:
        raise Unsupported(f"{key}: id {max(ids)} is not in the vocabulary of {config.name} ({config.vocabulary} ids)")
    if len(ids) + (workload.new_tokens or 0) > config.block_size:
        beyond = f"beyond the block size {config.block_size} of {config.name}"
        raise Unsupported(f"{key}: {workload.new_tokens} new tokens after {len(ids)} are {beyond}")
    return ids


build = Generation
