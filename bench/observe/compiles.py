"""What the compiler did, sample by sample: graphs made, made again and why, cut and why, and what its caches held.

Dynamo keeps all of it in counters, and the reasons in a list of failed guards: they are read between samples. Triton
compiles a kernel when it is launched with arguments of a kind that it has not seen (a size that 16 divides, a 1): that
is a method's own cost too, and is counted by a hook of Triton's.
"""

from __future__ import annotations

import contextlib
import re
import sys
from collections import Counter
from collections.abc import Callable
from typing import Any

ENTRIES = 40
BREAKS = 10
REASONS = 2
REASON_CHARACTERS = 300
ALL_CHARACTERS = 10_000
OTHERS: list[Callable[[], int]] = []
"""Of a compiler that is not Dynamo, a function that says how many programs it has made; its method puts it here."""
TRITON = {"kernels": 0}
"""How many kernels Triton has compiled, or loaded from its cache, at their launch; not those inside a graph."""
PLACE = re.compile(r"\S*/(?=[^\s/]+\.py\b)|(?<![\w.~])~?/(?:[^\s/'\":,;()<>]+/)+")
"""Folders, also of a source file whose path Dynamo has cut at its beginning."""


class Ledger:
    """Its `after` is called after each sample; `summary` is the record's `compiles`."""

    def __init__(self) -> None:
        self.graphs: list[int] = []
        """How many graphs there were after each sample."""
        self.kernels: list[int] = []
        """How many kernels Triton had compiled at their launch after each sample."""
        self._entries: list[dict[str, Any]] = []
        self._recompiles = 0
        count_kernels()
        self._before, self._kernels, self._lookups = graph_count(), TRITON["kernels"], lookups()
        self._attempts, self._breaks = frame_attempts(), Counter(counters("graph_break"))
        self._failures = {code: len(failures) for code, failures in guard_failures().items()}
        self._characters = 0
        keep_reasons()

    def after(self, sample: int, shape: list[int]) -> None:
        """Note what was compiled in `sample`."""
        keep_reasons()  # a compiler may be loaded in the first call only
        count_kernels()
        count, before = graph_count() - self._before, self.graphs[-1] if self.graphs else 0
        self.graphs.append(count)
        self.kernels.append(TRITON["kernels"] - self._kernels)
        kernels = self.kernels[-1] - (self.kernels[-2] if len(self.kernels) > 1 else 0)
        attempts = frame_attempts()
        again = sum(made - max(self._attempts[frame], 1) for frame, made in attempts.items())
        self._attempts = attempts
        reasons = self._new_reasons()
        if count == before and not again and not kernels:
            return
        self._recompiles += again
        if len(self._entries) < ENTRIES:
            made = {"graphs": count - before, "recompiles": again, "kernels": kernels}
            self._entries.append({"sample": sample, "shape": shape, **made, "reasons": reasons if again else []})

    def summary(self) -> dict[str, Any] | None:
        """None where nothing was compiled."""
        if not self.graphs or not self.graphs[-1] + self.kernels[-1]:
            return None
        hits, misses = (after - before for after, before in zip(lookups(), self._lookups))  # noqa: B905
        cut = Counter(counters("graph_break")) - self._breaks
        looked = hits + misses > 0  # None where this torch looks into no cache
        return {
            "graphs": self.graphs[-1],
            "recompiles": self._recompiles,
            "kernels": self.kernels[-1],
            "ledger": self._entries,
            "breaks": [plain(reason) for reason in list(cut)[:BREAKS]],
            "cache_hits": hits if looked else None,
            "cache_misses": misses if looked else None,
        }

    def _new_reasons(self) -> list[str]:
        """The first guards that failed since the last look; none any more once the record would grow too large."""
        found: list[str] = []
        for code, failures in guard_failures().items():
            for failure in failures[self._failures.get(code, 0) :]:
                text = plain(f"{code.co_name}: {failure}")
                if text not in found and len(found) < REASONS and self._characters + len(text) <= ALL_CHARACTERS:
                    found.append(text)
                    self._characters += len(text)
            self._failures[code] = len(failures)
        return found


def plain(reason: object) -> str:
    """One line without folders, of a sane length."""
    line = next((line for line in str(reason).splitlines() if line.strip()), "")
    return PLACE.sub(".../", " ".join(line.split()))[:REASON_CHARACTERS]


def graph_count() -> int:
    """How many graphs Dynamo, and programs other compilers, have made so far in this process."""
    return int(counters("stats").get("unique_graphs", 0)) + sum(made() for made in OTHERS)


def lookups() -> tuple[int, int]:
    """Hits and misses in the caches of Inductor and of AOTAutograd together, so far in this process."""
    inductor, autograd = counters("inductor"), counters("aot_autograd")
    hits, misses = (
        int(inductor.get(f"fxgraph_cache_{end}", 0) + autograd.get(f"autograd_cache_{end}", 0))
        for end in ("hit", "miss")
    )
    return hits, misses


def counters(kind: str) -> Any:
    """One of Dynamo's counters; empty where Dynamo was never loaded: a cell that compiles nothing need not load it."""
    utils = sys.modules.get("torch._dynamo.utils")
    return utils.counters[kind] if utils else {}


def frame_attempts() -> Counter[Any]:
    """How often each function was compiled; what another compiler compiles counts as one function."""
    frames = sys.modules.get("torch._dynamo.convert_frame")
    others = {f"compiler {place}": made() for place, made in enumerate(OTHERS)}
    return Counter({**getattr(frames, "FRAME_COMPILE_COUNTER", {}), **others})


def guard_failures() -> dict[Any, list[Any]]:
    """Why each function was compiled again, by its code."""
    return getattr(sys.modules.get("torch._dynamo.utils"), "guard_failures", {})


def worked(detail: dict[str, Any], place: int) -> bool:
    """Whether a compiler worked in a sample other than the first, by the lists that stand in the record's `detail`."""
    kinds = [detail.get("graphs", []), detail.get("kernels", [])]
    return any(0 < place < len(counts) and counts[place] != counts[place - 1] for counts in kinds)


def count_kernels() -> None:
    """Have Triton, once it is loaded, report each kernel that it compiles at a launch.

    Called before the compilation; a true answer would keep Triton from it. Whoever had hooked in before is asked too.
    """
    knobs, jit = sys.modules.get("triton.knobs"), sys.modules.get("triton.runtime.jit")
    places: list[tuple[Any, str]] = [
        (getattr(knobs, "runtime", None), "jit_cache_hook"),  # Triton 3.4 and newer
        (getattr(jit, "JITFunction", None), "cache_hook"),
    ]
    holder, name = next((place for place in places if hasattr(*place)), (None, ""))
    before = getattr(holder, name, None)
    if holder is None or getattr(before, "counts", False):
        return

    def hook(*arguments: Any, **named: Any) -> Any:
        TRITON["kernels"] += 1
        return before(*arguments, **named) if before else None

    hook.counts = True  # type: ignore[attr-defined]
    setattr(holder, name, staticmethod(hook) if isinstance(holder, type) else hook)


def keep_reasons() -> None:
    """Have torch 2.1 keep the reasons, as later ones do by themselves.

    Its own setting looks for the reason at every failing guard, even where the next one fits: that would cost time in
    samples that compile nothing. Here it looks where none fits.
    """
    guards = sys.modules.get("torch._dynamo.guards")
    hook, install = getattr(guards, "guard_fail_hook", None), getattr(guards, "set_guard_fail_hook", None)
    if hook is None or install is None:
        return

    def at_the_last(guard: Any, code: Any, values: Any, index: int, last: bool) -> None:  # noqa: ARG001
        if last:
            with contextlib.suppress(Exception):  # it asserts that there is a reason; without one nothing is lost
                hook(guard, code, values, 0, True)

    install(at_the_last)
