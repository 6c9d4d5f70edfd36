"""Words that stand in more than one place: the glossary, what a row's samples warn of."""

from __future__ import annotations

import re
import textwrap
from collections.abc import Sequence

from orchestrator.analysis.ceilings import Ceiling
from orchestrator.analysis.protocol import higher_is_better
from orchestrator.analysis.rows import Row
from orchestrator.base.grouping import grouped
from orchestrator.base.text import counted, significant
from orchestrator.plan.workload import Benchmark
from orchestrator.records.record import HostLoad

SCALING = "scaling efficiency"
GLOSSARY = {
    "steady": "Without the first call and the warm-up: the median of the rounds' medians with its 99 % interval (at "
    "the level that is named, where the samples are too few for 99 %). Where the device's power limit held the timed "
    "samples up, a round's figure is the mean of 20 s of samples back to back, after a soak of 10 s, and in "
    "`train_dynamic` of each length once more.",
    "against eager": "How many times as fast as eager on the same stack, with the 99 % interval (Welch's, of the "
    "logarithms of the rounds' medians) and the verdict: faster, slower, same (the whole interval within ±1 %), or "
    "inconclusive (fewer than five rounds a side, or an interval that is wider than that and holds 1).",
    "checks": "How many of all passed, on the very callable that was timed, after timing. Tolerances are relative to "
    "what eager in the same precision shows against the same reference.",
    "reference": "The output that the same weights and inputs give in float32 (tiny models: float64), computed once "
    "in each run.",
    "probe": "A tiny model in float32 with weights on which faults stand out. Each method runs it through the same "
    "code; a method that is wrong there is incorrect in its rows.",
    "error ÷ eager's": "The output's distance from the reference over the distance of eager on the stack that made "
    "it. Right methods are near 1; for eager on another stack it is how far the stacks differ.",
    "as the note": "Figures computed from the same samples as the Lit-GPT note of November 2023 computed its own: by "
    "the samples' numbers (the best of the first ten, the mean of samples 6 to 50), whatever is in them.",
    "peak GB": "1e9 bytes: of the whole process, never reset; steady: from the end of the warm-up on; reserved: what "
    "the allocator held of the device. A CUDA graph's own memory is in the last and not in the steady peak.",
    "first call": "Compilation included. Cold: with an empty compile cache; warm: a second process over the same "
    "cache. Of several rounds the median of the cold ones, and of the warm ones where there was no such second "
    "process. Partly warm: over a cache that lacked something.",
    "start-up": "Until the first call has ended: the model made or loaded, compiled, graphs captured, and that call.",
    "pays off after": "The number of passes, tokens or steps until the extra time of the first call, and of compiles "
    "in the warm-up, is made up for against eager; from the cold rounds where there are any.",
    "of the ceiling": "The least time that the work can take at the rates measured on this device in this run, over "
    "the time that it took; compute or memory, whichever bounds more tightly. A matrix product has a burst rate, "
    "of its first calls, and on a GPU a sustained rate, back to back for 20 s, which counts for samples at the power "
    "cap. A share that is above 1 by more than single calls of the ceiling were, or by more than 15 %, is not shown.",
    SCALING: "Of rows of several devices: tokens per second over so many times those of the same method on one device "
    "in the same run, with the 99 % interval where both have two rounds. Weak: each device has as much to do as that "
    "one; strong: they share what it does.",
    "incorrect": "A check failed, or the output was not finite: the row shows no speed.",
    "unchecked": "A check of the row, or of its method on the probe, could not be made; the reason stands below the "
    "table.",
    "not_fused": "Kernels that the method promises were not seen.",
    "memoised": "Faster by more than 10 % on an input that it had just seen: what it keeps of inputs has no part in "
    "the figure, whose samples all have new ones, but a loop over one input would show it.",
    "coarser": "The logits' error is more than 1.4 times eager's over 256 positions or more, though their check "
    "passed: advice. Fewer bits do that, an int8 cache for one; right methods of small models may come near.",
    "drift": "The stack is no longer what was built, or the later half of the samples differs from the earlier by "
    "more than 1 % and more than their noise.",
    "tainted": "What the figure is made of was disturbed, as a line says: by samples that had to be used because "
    "measuring them again was disturbed too, or, on a CPU, by others that took a quarter of the host's CPUs while it "
    "was timed. Tainted samples that others stand in for are left out of the figure, and all stay in the record.",
}
"""What stands in tables.md and on the page, in words for readers from the field."""
LOSS_DIGITS = 2
NUMBER = re.compile(r"(?<![\w.])\d+(?:\.\d+)?(?![\w.])")
"""One that stands alone: none within a process's name."""


def glossary_in_markdown(*, several: bool = False) -> str:
    """Return the section that explains a table's words; `several`: of rows of several devices too."""
    lines = [f"- **{term}**: {text}" for term, text in GLOSSARY.items() if several or term != SCALING]
    lines.append(
        "- A row's whole proof: `orchestrator explain 'BENCHMARK METHOD@STACK'`. All digits: tables.json, tables.csv."
    )
    wrapped = (
        textwrap.fill(line, 118, subsequent_indent="  ", break_long_words=False, break_on_hyphens=False)
        for line in lines
    )
    return "## How to read this\n\n" + "\n".join(wrapped)


def warnings(row: Row) -> list[str]:
    """Return a line for each thing about the row's samples that a reader should know before trusting the figure."""
    lines = []
    if row.evidence.first_off is not None:
        lines.append(f"{first_is_off(row.evidence.first_off)}: raise `warmup` in the suite")
    if row.evidence.drift is not None:
        remedy = "close what else runs here"
        if row.hardware.device == "cuda":
            remedy = "lock the clocks (`nvidia-smi -lgc MHZ`)"
        lines.append(
            f"{drifted(row.evidence.drift)}: let the device settle, that is, raise `iterations` or `--rounds`, "
            f"or {remedy}"
        )
    if row.evidence.second_time is not None:
        lines.append(
            f"{came_again(row.evidence.second_time)}, as where a graph is recorded of each: the figure leaves that "
            "out, so where lengths keep changing, compare a method that records none"
        )
    if row.one_compile:
        lines.append(
            "its rounds share a compile cache, so the interval does not include how compiles differ (a compiler that "
            "tunes by measuring finds another kernel each time): leave out `--cache shared` to include it"
        )
    if len(row.gpus) > 1:
        lines.append(
            f"its rounds ran on {len(row.gpus)} GPUs, and the interval includes how they differ: "
            "run it with `--fresh` on one"
        )
    return lines + disturbances(row)


def disturbances(row: Row) -> list[str]:
    """Return a line for each thing that disturbed what the figure is made of, with what to do."""
    lines, seen = [], row.evidence
    if seen.host_load is not None and seen.host_load.is_notable:
        took = seen.host_load.in_words
        lines.append(f"while it was timed, {took}: close what else runs here, and run the cell again")
    if seen.tainted and "tainted" in row.flags:
        alone = "with the GPU to itself, cooled, its clocks locked"
        remedy = alone if row.hardware.device == "cuda" else "with nothing else at work on this host"
        what = f"{counted(seen.tainted, 'timed sample')} tainted ({_taints(row)})"
        lines.append(f"{what}: run the cell again {remedy}")
    return lines


def _taints(row: Row) -> str:
    """Return what disturbed samples, each cause once: where cause and cause differ in a number, with the range."""
    causes = [cause for taint in row.evidence.taints for cause in taint.split("; ")]
    alike = grouped((NUMBER.sub("#", cause), cause) for cause in causes)
    return "; ".join(map(_ranged, alike.values()))


def _ranged(causes: Sequence[str]) -> str:
    """Return texts that differ in numbers alone as one: `stalled: 7.19 to 26.45 times what the others took`."""
    found = iter(list(zip(*map(NUMBER.findall, causes), strict=True)))

    def ends(_: re.Match[str]) -> str:
        column = next(found)
        low, high = min(column, key=float), max(column, key=float)
        return low if low == high else f"{low} to {high}"

    return NUMBER.sub(ends, causes[0])


def better(benchmark: Benchmark) -> str:
    """Return which figures are better: `higher` or `lower` ones."""
    return "higher" if higher_is_better(benchmark) else "lower"


def sentence(words: str) -> str:
    """Return words as a sentence."""
    return f"{words[:1].upper()}{words[1:]}."


def first_is_off(share: float) -> str:
    """Return by what share the first timed sample is off."""
    return f"the first timed sample is {share * 100:+.1f} % off the others"


def drifted(share: float) -> str:
    """Return by what share the samples drift."""
    return f"the later half of the samples is {share * 100:+.1f} % off the earlier"


def came_again(times: float) -> str:
    """Return how long samples of many shapes took when each came for the second time."""
    return f"the second time that each length came, the samples took {significant(times, 2)} times as long as the first"


def disturbed(ceilings: Sequence[Ceiling]) -> str | None:
    """Return how many ceilings were measured beside other work, with what to do; None where none was."""
    loads = [found.host_load for found in ceilings if found.host_load is not None and found.host_load.is_notable]
    if not loads:
        return None
    worst, of_all = max(loads, key=lambda load: load.taken), f"{len(loads)} of {counted(len(ceilings), 'ceiling')}"
    were, they, them = ("was", "it", "it") if len(loads) == 1 else ("were", "they", "them")
    return (
        f"{of_all} {were} measured beside other work ({worst.in_words}), so {they} may be too low, and shares of "
        f"{them} too high: close what else runs here, and run the suite again"
    )


def cpu_use(load: HostLoad) -> str:
    """Return who used the host's CPUs, all of it."""
    used = f"{significant(load.own, 3)} by the cell, {significant(load.others, 3)} by others"
    stolen = f"{significant(load.stolen, 3)} by other machines"
    return f"of {load.cpus}, {used}, {stolen}, over {significant(load.seconds, 3)} s"


def taint_note(row: Row) -> str | None:
    """Return how many samples something else disturbed, where there were enough others to make the figure of."""
    seen = row.evidence
    if not seen.tainted or "tainted" in row.flags:
        return None
    return f"{counted(seen.tainted, 'sample')} tainted and left out of the figure ({_taints(row)})"


def loss_advice(row: Row) -> str | None:
    """Return how far the row's losses were from eager's; advice, for right methods differ by rounding too."""
    if row.loss_distance is None:
        return None
    return f"largest distance of the loss from eager's {significant(row.loss_distance, LOSS_DIGITS)} (advice, no check)"
