"""Asks which samples something else disturbed, so that they are measured again while the process still stands.

What disturbs a GPU is seen from outside alone: the question goes out as events, the answer comes as a file.
"""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from pathlib import Path
from statistics import median
from typing import Any

from bench.observe.compiles import worked
from bench.record import Events

ROUNDS = 3
WAIT_S, POLL_S = 5.0, 0.005
TIME_SHARE = 0.2
"""Of the timed samples' time, for all repeats; one is made in any case."""
ROWS_A_LINE = 100


def asked(folder: Path, record: dict[str, Any], events: Events) -> Iterator[int]:
    """Yield the indices of samples to measure again; whoever takes one adds the repeat to the record's samples.

    Asks after the samples and after each round of repeats. Where nobody answers, nothing is repeated.
    """
    samples = record["samples"]
    timed = {sample["index"]: _wall(sample) for sample in samples if sample["phase"] == "timed"}
    if not timed:
        return
    allowed_ns, typical_ns = TIME_SHARE * sum(timed.values()), median(timed.values())
    for ask in range(1, ROUNDS + 1):
        ask_about(record, ask, events)
        indices = [index for index in answer(folder, ask) if index in timed]
        if indices and ask == 1:
            events.phase("repeats")
        for index in indices:
            done = [_wall(sample) for sample in samples if sample["phase"] == "repeat"]
            if done and (len(done) >= len(timed) or sum(done) + typical_ns > allowed_ns):
                return
            yield index
        if not indices:
            return


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


def answer(folder: Path, ask: int) -> list[int]:
    """Wait for the answer; nothing where none comes in time."""
    path, until = folder / f"repeat-{ask}.json", time.monotonic() + WAIT_S
    while time.monotonic() < until:
        if path.is_file():
            content = json.loads(path.read_text(encoding="utf-8"))
            return [int(index) for index in content["repeat"]]
        time.sleep(POLL_S)
    return []


def _wall(sample: dict[str, Any]) -> int:
    wall: int = sample["end_ns"] - sample["begin_ns"]
    return wall
