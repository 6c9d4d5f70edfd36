"""Faults planted in an engine's adapter, each in a cell of its own: `python engine_faults.py litgpt FOLDER [NAME…]`.

Of a compiled adapter too (`litgpt_compiled`), which takes minutes a cell: it is compiled anew.

Prints a JSON object: the reason of each fault's record, None where it passed; `right` is the adapter as it is.
"""

from __future__ import annotations

import json
import os
import sys
from contextlib import contextmanager, redirect_stdout
from functools import partial
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT), str(ROOT / "tests" / "support")]

import bench_specs  # noqa: E402
import engine_cells  # noqa: E402
import torch  # noqa: E402

from bench import methods  # noqa: E402
from bench.engine import Scores, longest  # noqa: E402

CLASSES = {"transformers": "Transformers", "litgpt": "LitGPT", "vllm": "VLLM", "sglang": "SGLang"}
CHANGED = "STACKBENCH_TEST_CACHE"
"""What the processes that SGLang starts are to do to keys and values: they import this file, as children of a spawn."""
# vLLM's attention on a CPU takes heads of 32 and more.
MODEL = {**bench_specs.MODELS["tiny"], "name": "wide_heads", "width": 128, "heads": 4, "kv_heads": 2, "head_size": 32}
CELL = {
    "dtype": "float32", "weights": {"source": "probe", "seed": 0, "fingerprint": None}, "model": MODEL,
    "prompt": [1, 15, 29, 59, 300, 7, 8, 9], "new_tokens": 20, "iterations": 2, "warmup": 1,
}  # fmt: skip


def dropped(right):
    """The fourth token of a text gets lost on its way."""

    class Faulty(right):
        def generate(self, *args, **more):
            return [row[:3] + row[4:] for row in super().generate(*args, **more)]

    return Faulty


def early(right):
    """A text ends where it draws an id that the engine takes for an end."""

    class Faulty(right):
        def generate(self, *args, **more):
            return [row[:7] for row in super().generate(*args, **more)]

    return Faulty


def kept(right):
    """The last prompt's keys and values are still there, and a text is seen after it."""

    class Faulty(right):
        before = None

        def score(self, rows, prompt, ids):
            whole = [a + b for a, b in zip(self.before or [[]] * len(rows), rows, strict=True)]
            self.before = rows
            return super().score(whole, len(whole[0]) - len(rows[0]) + prompt, ids)

    return Faulty


def shifted(right):
    """Only the 40 largest log-probabilities come back, and stand one place beside their ids."""

    class Faulty(right):
        def top(self, scores):
            values, ids = torch.log_softmax(scores.values, dim=-1).topk(40, dim=-1)
            return Scores(values.roll(1, dims=-1), ids, scores.by)

        def twin(self, *args, **more):
            tokens, scores = super().twin(*args, **more)
            return tokens, self.top(scores)

        def score(self, *args):
            return self.top(super().score(*args))

    return Faulty


def with_keys(change, right):
    """`change` is done to keys and values, [tokens or batch x heads x tokens, …], on their way into the cache."""

    class Faulty(right):
        def run(self, *args, **more):
            with changed_cache(self, change):
                return super().run(*args, **more)

    class FaultyChildren(right):
        def __init__(self, *args):
            os.environ[CHANGED] = change.__name__
            super().__init__(*args)
            del os.environ[CHANGED]

    return Faulty if hasattr(right, "run") else FaultyChildren


@contextmanager
def changed_cache(engine, change):
    """Let `change(keys, axis of the tokens)` have what goes into the engine's cache."""
    kind = type(engine).__mro__[1].__name__ if engine else "SGLang"
    if kind == "LitGPT":
        from litgpt.model import KVCache

        place, name, axis, first = KVCache, "forward", 2, 1
    elif kind == "SGLang":
        from sglang.srt.mem_cache.memory_pool import MHATokenToKVPool

        place, name, axis, first = MHATokenToKVPool, "set_kv_buffer", 0, 2
    elif kind == "VLLM":
        from vllm.model_executor.layers.attention import Attention

        place, name, axis, first = Attention, "forward", 0, 1
    else:
        from transformers.cache_utils import DynamicLayer, StaticLayer

        place, name, axis, first = StaticLayer if engine.asked else DynamicLayer, "update", 2, 0
    own = getattr(place, name)

    def faulty(self, *given, **more):
        given = list(given)
        given[first : first + 2] = [change(part, axis) for part in given[first : first + 2]]
        return own(self, *given, **more)

    setattr(place, name, faulty)
    try:
        yield
    finally:
        setattr(place, name, own)


def rounded(keys, axis):
    """As a cache in bfloat16 has them: by their bits, for a compiler leaves out what is cast there and back."""
    bits = keys.contiguous().view(torch.int32)
    return ((bits + 0x7FFF + ((bits >> 16) & 1)) & -0x10000).view(keys.dtype)


def without_a_chunk(keys, axis):
    """The first chunk of a prompt, of four tokens, was never computed: its places hold zeros."""
    if keys.shape[axis] < 8:
        return keys
    return torch.cat([torch.zeros_like(keys.narrow(axis, 0, 4)), keys.narrow(axis, 4, keys.shape[axis] - 4)], axis)


FAULTS = {
    "right": lambda right: right,
    "token dropped": dropped,
    "early end": early,
    "last prompt's cache kept": kept,
    "log-probabilities shifted": shifted,
    "cache in another dtype": partial(with_keys, rounded),
    "chunk dropped": partial(with_keys, without_a_chunk),
}


def main(method: str, folder: Path, *names: str) -> None:
    # A compiled one is the same adapter, asked for more.
    module, found = methods.load(method.removesuffix("_compiled")), {}
    name_of = CLASSES[method.removesuffix("_compiled")]
    right = getattr(module, name_of)
    # Room for two texts, one after the other.
    module.longest = lambda workload: 2 * longest(workload)
    with redirect_stdout(sys.stderr):
        for number, (name, fault) in enumerate((name, FAULTS[name]) for name in names or FAULTS):
            setattr(module, name_of, fault(right))
            torch._dynamo.reset()
            record = engine_cells.run(folder / str(number), method, **CELL)
            found[name] = record["reason"] if record["status"] != "ok" else record["flags"]
    print(json.dumps(found))


if __name__ == "__mp_main__" and CHANGED in os.environ:
    planted = changed_cache(None, globals()[os.environ[CHANGED]])  # kept, or it ends at once
    planted.__enter__()
if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]), *sys.argv[3:])
