"""Cells that attack what runs them: disk, folders, processes, events, records."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from dataclasses import dataclass
from random import Random
from typing import get_args

from scene import Outcome, scene

from orchestrator.records.record import Status

OK = ("ok",)
STOPPED = ("crashed", "timeout", "out_of_memory")
DISK_BYTES = 64 * 2**20
HANG_S = 4.0


@dataclass(frozen=True)
class Attack:
    """A method of `hostile.py` and the statuses that its rows may have."""

    method: str
    statuses: tuple[str, ...] = OK
    timeout_s: float = 60.0
    small_disk: bool = False
    """On a disk of its own, that it can fill: results lie on it too."""


DISK = (
    Attack("fills_its_disk", STOPPED, HANG_S, small_disk=True),
    Attack("fills_in_small_files", STOPPED, HANG_S, small_disk=True),
    Attack("fills_its_log", STOPPED, HANG_S, small_disk=True),
    Attack("fills_its_events", STOPPED, HANG_S, small_disk=True),
)
FOLDERS = (Attack("nests_folders"), Attack("takes_rights_away"), Attack("names_oddly"))
PROCESSES = (
    Attack("leaves_a_daemon"),
    Attack("daemon_then_hangs", ("timeout",), HANG_S),
    Attack("forks_without_end", STOPPED, 2 * HANG_S),
    Attack("flees"),
    Attack("closes_everything"),
)
WORDS = (Attack("odd_events"), Attack("odd_record", get_args(Status)))


def attacks(kinds: tuple[Attack, ...], launcher: str, chance: Random) -> Iterator[Outcome]:
    """Run each attack between harmless cells, which must come out as if it had not been there."""
    for attack in itertools.cycle(chance.sample(kinds, len(kinds))):
        # Two shapes and two rounds: what is odd differs from cell to cell, and harmless ones come before and after.
        with scene(
            launcher, ("brief", attack.method), shapes=3 if kinds is WORDS else 1, timeout_s=attack.timeout_s,
            disk_bytes=DISK_BYTES if attack.small_disk else None,
        ) as there:  # fmt: skip
            ended = there.run()
            problems = there.finished(ended, {attack.method: attack.statuses}, codes=[0, 1])
            yield Outcome([attack.method.replace("_", " ")], problems)
