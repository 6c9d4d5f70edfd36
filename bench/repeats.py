"""Asks which samples to take more of while the process still stands: what disturbed them is seen from outside alone.

The question goes out as events, the answer comes as a file: which samples something else disturbed, and, where the
device's power limit held them up, for how long to go on back to back, since a few samples say little then.
"""

from __future__ import annotations

import json
import math
import random
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median
from typing import Any, NamedTuple

from bench.observe.compiles import worked
from bench.record import Events

ROUNDS = 3
WAIT_S, POLL_S = 5.0, 0.005
TIME_SHARE = 0.2
"""Of the timed samples' time, for all repeats; one is made in any case."""
ROWS_A_LINE = 100
MOST_SUSTAINED = 2_000
"""Samples of the soak, and as many after it: a record has no room for more."""
SUSTAINED_KEPT = 8
"""Of the samples after the soak, on average, are judged with the timed ones."""


class Extra(NamedTuple):
    """A sample to take: whose inputs, in which phase, and whether its output is kept to be judged."""

    sample: int
    phase: str
    kept: bool = True


@dataclass
class Answer:
    """Indices to measure again; seconds of back-to-back samples to take, and of the soak before them."""

    repeat: list[int] = field(default_factory=list)
    soak_s: float = 0.0
    sustain_s: float = 0.0


def asked(folder: Path, record: dict[str, Any], events: Events) -> Iterator[Extra]:
    """Yield the samples to take besides the timed ones; whoever takes one adds it to the record's samples.

    Asks after the samples and after each round of repeats, and once more after the last that was taken: all are to be
    reported before the proof. Where nobody answers, nothing more is taken.
    """
    samples = record["samples"]
    timed = {sample["index"]: _wall(sample) for sample in samples if sample["phase"] == "timed"}
    if not timed:
        return
    allowed_ns, typical_ns = TIME_SHARE * sum(timed.values()), median(timed.values())
    wanted = Answer()
    for ask in range(1, ROUNDS + 1):
        ask_about(record, ask, events)
        told = len(samples)
        given = answer(folder, ask)
        if given.sustain_s:
            wanted = given
        indices = [index for index in given.repeat if index in timed]
        if indices and ask == 1:
            events.phase("repeats")
        for index in indices:
            done = [_wall(sample) for sample in samples if sample["phase"] == "repeat"]
            if done and (len(done) >= len(timed) or sum(done) + typical_ns > allowed_ns):
                indices = []  # no time for more
                break
            yield Extra(index, "repeat")
        if not indices:
            break
    if wanted.sustain_s:
        yield from sustained(list(timed), wanted, record, events)
    if len(samples) > told:
        ask_about(record, ask + 1, events)
        answer(folder, ask + 1)


def sustained(indices: list[int], wanted: Answer, record: dict[str, Any], events: Events) -> Iterator[Extra]:
    """Yield the timed samples in turn, back to back: for the soak, and then for as long as is wanted.

    What was timed before counts for the soak. Where the figure is a total over all samples, only whole turns are taken,
    and one at least for the soak: a compiler may record a graph of a shape that comes for the second time.
    """
    samples = record["samples"]
    timed = [sample for sample in samples if sample["phase"] == "timed"]
    soaked = sum(_wall(sample) for sample in samples if sample["phase"] in ("timed", "repeat"))
    typical = max(1.0, median(map(_wall, timed)))
    whole = record["workload"]["benchmark"] == "train_dynamic"
    turn = len(indices) if whole else 1
    most = max(turn, MOST_SUSTAINED // turn * turn)
    lasting_ns = 1e9 * wanted.sustain_s
    chance, draw = SUSTAINED_KEPT / min(MOST_SUSTAINED, lasting_ns / typical), random.SystemRandom().random
    fewest = turn if whole else 0
    for phase, least_ns in (("soak", 1e9 * wanted.soak_s - soaked), ("sustained", lasting_ns)):
        events.phase(phase)
        done, spent = 0, 0
        while done < most and (spent < least_ns or done < fewest or done % turn):
            yield Extra(indices[done % len(indices)], phase, phase == "sustained" and draw() < chance)
            done, spent = done + 1, spent + _wall(samples[-1])
            events.sample(done - 1, max(done, fewest, math.ceil(done * least_ns / max(spent, 1))))


def ask_about(record: dict[str, Any], ask: int, events: Events) -> None:
    """Write the question: a row [index, phase, begin, end, device, shape, compiled] for every sample so far."""
    rows = [
        [
            *(sample[key] for key in ("index", "phase", "begin_ns", "end_ns", "device_ns", "shape")),
            worked(record["detail"], place),
        ]
        for place, sample in enumerate(record["samples"])
    ]
    for first in range(0, len(rows), ROWS_A_LINE):
        last = first + ROWS_A_LINE
        events.samples(ask, rows[first:last], more=last < len(rows))


def answer(folder: Path, ask: int) -> Answer:
    """Wait for the answer; nothing where none comes in time."""
    path, until = folder / f"repeat-{ask}.json", time.monotonic() + WAIT_S
    while time.monotonic() < until:
        if path.is_file():
            content = json.loads(path.read_text(encoding="utf-8"))
            soak_s, sustain_s = (float(content.get(name, 0.0)) for name in ("soak_s", "sustain_s"))
            return Answer([int(index) for index in content["repeat"]], soak_s, sustain_s)
        time.sleep(POLL_S)
    return Answer()


def _wall(sample: dict[str, Any]) -> int:
    wall: int = sample["end_ns"] - sample["begin_ns"]
    return wall
