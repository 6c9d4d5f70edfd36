"""A wall clock that jumps, and a GPU that falls off."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from pathlib import Path
from random import Random

from scene import Outcome, library, said, scene

METHODS = ("brief", "leaves_a_child")
JUMPS_S = (0, 1, -1, 3600, -3600, 86_400, -86_400, 10 * 365 * 86_400, -20 * 365 * 86_400)
GPU_ERRORS = {"lost": 15, "unknown error": 999, "driver not loaded": 9, "timeout": 10, "not found": 6}


def clock_jumps(launcher: str, chance: Random) -> Iterator[Outcome]:
    """CLOCK_REALTIME of the orchestrator jumps back and forth, by up to 20 years, several times a second."""
    while True:
        with scene(launcher, METHODS, rounds=3) as there:
            place, over = there.folder / "clock", threading.Event()
            jumps = [chance.choice(JUMPS_S) for _ in range(1000)]
            thread = threading.Thread(target=jump, args=(place, jumps, over))
            thread.start()
            try:
                ended = there.run(LD_PRELOAD=str(library("faultlib.c", "faultlib.so")), FAULT_CLOCK=str(place))
            finally:
                over.set()
                thread.join()
            yield Outcome(["whole runs"], there.finished(ended, {}))


def jump(place: Path, jumps: list[int], over: threading.Event) -> None:
    for seconds in jumps:
        if over.wait(0.1):
            return
        beside = place.with_suffix(".new")
        beside.write_text(str(seconds))
        beside.replace(place)


def gpu_falls_off(chance: Random) -> Iterator[Outcome]:
    """NVML's Nth call fails, and all after it, or for a while; the cell itself goes on."""
    nvml = str(library("fakenvml.c", "libnvidia-ml.so.1").parent)
    with scene("local", METHODS, device="cuda") as there:
        log = there.folder.parent / "calls.txt"
        problems = there.finished(there.run(LD_LIBRARY_PATH=nvml, FAKENVML_LOG=str(log)), {})
        calls = log.read_text().splitlines()
    while True:
        with scene("local", METHODS, device="cuda") as there:
            at = chance.choice([chance.randint(1, min(60, len(calls))), chance.randint(1, len(calls))])
            word, back = chance.choice(list(GPU_ERRORS)), chance.choice([0, 0, 1, 20])
            failed = there.run(
                LD_LIBRARY_PATH=nvml, FAKENVML_AT=str(at), FAKENVML_BACK=str(back), FAKENVML_ERROR=str(GPU_ERRORS[word])
            )
            problems += [*said(failed, [0, 1, 3, 4]), *there.kept_records(), *there.left_over()]
            yield Outcome([f"{word}{'' if back == 0 else ', and back'}"], problems)
            problems = []
