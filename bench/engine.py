"""What an engine is to bench: the contract of the adapters in `bench/methods/` that bring a whole inference engine."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple, Protocol

from bench.spec import Spec, Workload
from bench.status import Crashed

MEMORY_FRACTION = 0.85
"""Of the GPU's memory, for every engine that takes what its cache needs beforehand: the same for all."""
SETTINGS = (
    "weights_dtype",
    "activation_dtype",
    "cache_dtype",
    "cache_tokens",
    "chunked_prefill",
    "graph_batches",
    "attention_backend",
    "max_batch_tokens",
    "max_sequences",
    "memory_fraction",
    "prefix_cache",
    "speculation",
)
"""What an engine reports of itself, beside what else it likes to: null where it cannot say."""


class Scores(NamedTuple):
    """What tokens were, or would be, drawn from: [rows, steps, n], nothing cut, tempered or penalised.

    Logits, or log-probabilities, of the whole vocabulary (`ids` None). Of fewer ids (int [n], or [rows, steps, n] where
    they differ) log-probabilities over the whole vocabulary. `by`: how the steps were computed, as `decode` (one token
    after the other, with the cache) or `prefill` (all at once).
    """

    values: Any
    ids: Any = None
    by: str = "decode"


class Engine(Protocol):
    """A loaded engine. `prompts` are rows of equal length, all given at once: no more and no fewer than the batch.

    What it cannot do raises Unsupported with the reason: the checks that need it are then `unchecked`.
    """

    def generate(
        self, prompts: list[list[int]], new_tokens: int, *, temperature: float, seed: int, on_token: Callable[..., None]
    ) -> list[list[int]]:
        """The new tokens of each row, exactly as many: nothing ends a text early, nothing is reused or guessed.

        Drawn from the whole distribution over `temperature`; 0 takes the likeliest. `seed` is the call's, not a row's.
        `on_token(count, at_ns=None)` is to be called once every row has `count` tokens in the host's memory, of the
        first at least. `at_ns`: the engine's own time stamp on CLOCK_MONOTONIC, else it is read in the call.
        """

    def twin(
        self, prompts: list[list[int]], new_tokens: int, *, temperature: float, seed: int, ids: list[int]
    ) -> tuple[list[list[int]], Scores]:
        """The same by the same way, untimed, with what each token was drawn from.

        `ids` are those that are wanted where the engine does not give the whole vocabulary.
        """

    def score(self, rows: list[list[int]], prompt: int, ids: list[int]) -> Scores:
        """What the given tokens from place `prompt` on would be drawn from, those before them being as given."""

    def settings(self) -> dict[str, Any]:
        """All of SETTINGS, as the engine itself reports them."""

    def close(self) -> None:
        """Free the device: what the answers are compared with is computed there next."""


def longest(workload: Workload) -> int:
    """The tokens of a sequence at its end: what an engine has to have room for, times the batch."""
    return workload.prompt_length + (workload.new_tokens or 0)


@contextmanager
def closing(engine: Engine) -> Iterator[Engine]:
    """Close it at the end. What closing raises does not hide what was raised before."""
    if lacking := [name for name in ("generate", "twin", "score", "settings", "close") if not hasattr(engine, name)]:
        raise Crashed(f"load returned {type(engine).__name__}, which has no {lacking[0]}: it has to return an engine")
    used = False
    try:
        yield engine
        used = True
    finally:
        try:
            engine.close()
        except Exception as error:
            if used:
                raise Crashed(f"close() raised {type(error).__name__}: {error}") from error


def reported(settings: dict[str, Any]) -> dict[str, Any]:
    """The record's `engine`: all of SETTINGS, null where the engine cannot say, then its own."""
    if wrong := [name for name, value in settings.items() if not _is_json(value)]:
        raise Crashed(f"settings(): {wrong[0]} is {settings[wrong[0]]!r}, which is not JSON")
    return {name: settings.get(name) for name in SETTINGS} | settings


def _is_json(value: Any) -> bool:
    try:
        json.dumps(value, allow_nan=False)
    except (TypeError, ValueError):
        return False
    return True


def plausible(peaks: dict[str, int | None], folder: str) -> dict[str, int | None]:
    """A device's peaks of this process, null where they are below what the weights take: another process has those."""
    least = sum(path.stat().st_size for path in Path(folder).glob("*.safetensors"))
    known = {name: value for name, value in peaks.items() if name == "host_bytes" or (value or 0) >= least}
    return {name: known.get(name) for name in peaks}


def refuse(spec: Spec) -> str | None:
    """Why no engine can run the cell, whichever it is."""
    model, weights = spec.workload.model, spec.workload.weights
    if spec.workload.devices > 1:
        return f"engines run on one device here, and the cell is one of {spec.workload.devices}"
    routed = weights is None or weights["source"] == "checkpoint" or weights.get("routing") == "router"
    if model is not None and model.experts is not None and not routed:
        return f"the hash is to choose the experts of {model.name}, and in an engine the router does"
    return None if spec.checkpoint else "no folder of weights was made for it"
