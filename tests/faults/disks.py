"""A disk that is full, or refuses, at each write in turn; and a real small disk with less and less room."""

from __future__ import annotations

import errno
import itertools
import os
from collections.abc import Iterator
from pathlib import Path
from random import Random

from scene import Outcome, Scene, library, said, scene

METHODS = ("brief",)
ERRORS = {"no space left": errno.ENOSPC, "input/output error": errno.EIO, "read-only": errno.EROFS}
CODES = [0, 1, 3, 4]
"""0: what was refused can be done without."""
DISK_BYTES = 48 * 2**20
STEP_BYTES = 12 * 1024


def shim(there: Scene, **variables: str) -> dict[str, str]:
    """Return the variables of a command whose writes to state, results and locks are counted."""
    prefixes = ":".join(f"{place}/" for place in (there.results, there.state, there.folder / "locks"))
    log = str(there.folder.parent / "writes.txt")
    return {
        "LD_PRELOAD": str(library("faultlib.c", "faultlib.so")),
        "FAULT_PREFIX": prefixes,
        "FAULT_LOG": log,
        **variables,
    }


def every_write(mode: str, chance: Random) -> Iterator[Outcome]:
    """Fail each write of a run in turn: that one alone (`once`) or all from there on (`on`); chance picks the order."""
    with scene("local", METHODS) as there:
        there.run(**shim(there))
        writes = (there.folder.parent / "writes.txt").read_text().splitlines()
    places = list(range(1, len(writes) + 1))
    chance.shuffle(places)
    for place in places:
        word = "no space left" if chance.random() < 0.7 else chance.choice(list(ERRORS))
        with scene("local", METHODS) as there:
            variables = {"FAULT_AT": str(place), "FAULT_MODE": mode, "FAULT_ERRNO": str(ERRORS[word])}
            failed = there.run(**shim(there, **variables))
            problems = [*said(failed, CODES), *there.kept_records()]
            if not there.is_finished:
                problems += said(there.run(), [0])
            what = writes[place - 1].split()[0]
            yield Outcome([f"{what} ({word})"], [*problems, *there.finished_run({}), *there.left_over()])


def less_room(launcher: str, chance: Random) -> Iterator[Outcome]:
    """A disk of its own with so few bytes left for state and results; then room is made, and the same command given."""
    for step in itertools.count():
        with scene(launcher, METHODS, disk_bytes=DISK_BYTES) as there:
            left = STEP_BYTES * (step % 40) + chance.randrange(4096)
            filler = there.folder / "filler"
            fill(filler, left)
            failed = there.run()
            problems = [*said(failed, CODES), *there.kept_records()]
            filler.unlink()
            if not there.is_finished:
                problems += said(there.run(), [0])
            yield Outcome([f"code {failed.code}"], [*problems, *there.finished_run({}), *there.left_over()])


def fill(filler: Path, left: int) -> None:
    """Write a file that leaves so many bytes of its disk."""
    disk = os.statvfs(filler.parent)
    with filler.open("wb") as file:
        os.posix_fallocate(file.fileno(), 0, max(disk.f_bavail * disk.f_frsize - left, 1))
