"""Stands for `bench/__main__.py` in a scene: the fake bench's behaviours, and those that attack what runs them."""

# ruff: noqa: S311 - chance is wanted, and the folders are a container's own

from __future__ import annotations

import contextlib
import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from bench import fake

PIECE = bytes(2**20)
NUMBERS = [1e308, 1e999, -1e999, 10**400, 2**63, 2**64, -(2**63) - 1, 0.1, -1, "1", None, True, [], {}]
TEXTS = [
    "",
    "\x1b]0;title\x07",
    "\x1b[2J",
    "\u202e\u2066",
    "\0",
    "=1+1",
    "\n=2+2",
    "x" * 10_000,
    "<script>alert(1)</script>",
]


def brief(folder: Path, spec: dict[str, Any]) -> int:
    time.sleep(0.05)
    return fake.good(folder, spec)


def leaves_a_child(folder: Path, spec: dict[str, Any]) -> int:
    """A child in the cell's own session."""
    sleeper(folder)
    return brief(folder, spec)


def leaves_a_daemon(folder: Path, spec: dict[str, Any]) -> int:
    """A grandchild in a session of its own, with no variable that says whose it is."""
    if os.fork() == 0:
        os.setsid()
        if os.fork() == 0:
            sleeper(folder, clean=True)
        os._exit(0)
    os.wait()
    time.sleep(0.1)
    return brief(folder, spec)


def daemon_then_hangs(folder: Path, spec: dict[str, Any]) -> int:
    leaves_a_daemon(folder, spec)
    (folder / "record.json").unlink()
    time.sleep(600)
    return 0


def sleeper(folder: Path, *, clean: bool = False) -> None:
    command = [sys.executable, "-c", "import time; time.sleep(600)", str(folder)]
    quiet: dict[str, Any] = dict.fromkeys(("stdin", "stdout", "stderr"), subprocess.DEVNULL)
    subprocess.Popen(command, env={} if clean else None, cwd="/" if clean else None, **quiet)


def fills_its_disk(folder: Path, spec: dict[str, Any]) -> int:
    """Writes until somebody stops it; where the disk ends, it waits there."""
    with contextlib.suppress(OSError), (folder / "much").open("wb") as file:
        while True:
            file.write(PIECE)
    time.sleep(600)
    return 0


def fills_in_small_files(folder: Path, spec: dict[str, Any]) -> int:
    with contextlib.suppress(OSError):
        for number in range(10**9):
            (folder / str(number)).write_bytes(PIECE[:4096])
    time.sleep(600)
    return 0


def fills_its_log(folder: Path, spec: dict[str, Any]) -> int:
    line = b"x" * 1023 + b"\n"
    with contextlib.suppress(OSError):
        while True:
            os.write(1, line * 64)
    time.sleep(600)
    return 0


def fills_its_events(folder: Path, spec: dict[str, Any]) -> int:
    line = json.dumps({"t_ns": 1, "event": "sample", "index": 1, "of": 2}) + "\n"
    with contextlib.suppress(OSError), (folder / "events.jsonl").open("a") as file:
        while True:
            file.write(line * 1000)
    time.sleep(600)
    return 0


def nests_folders(folder: Path, spec: dict[str, Any]) -> int:
    """3,000 folders in one another: deeper than a path, and than Python's stack."""
    here = Path.cwd()
    os.chdir(folder)
    for _ in range(3000):
        Path("d").mkdir()
        os.chdir("d")
    os.chdir(here)
    return brief(folder, spec)


def takes_rights_away(folder: Path, spec: dict[str, Any]) -> int:
    (folder / "a" / "b").mkdir(parents=True)
    (folder / "a" / "b" / "c").write_text("x")
    (folder / "a" / "b").chmod(0)
    (folder / "a").chmod(0)
    brief(folder, spec)
    folder.chmod(0o500)
    return 0


def names_oddly(folder: Path, spec: dict[str, Any]) -> int:
    for name in (b"\xff\xfe", b"a\nb", b"\x1b[31m", b"-rf", b"x" * 255, b" ", b"\xe2\x80\xae"):
        (folder / os.fsdecode(name)).write_text("x")
    (folder / "loop").symlink_to("loop")
    (folder / "up").symlink_to("/")
    os.mkfifo(folder / "pipe")
    with (folder / "sparse").open("wb") as file:
        file.truncate(2**30)
    return brief(folder, spec)


def forks_without_end(folder: Path, spec: dict[str, Any]) -> int:
    """As many processes as there may be, each in its own session; the cell waits for its deadline with them."""
    most = 10**9 if os.getpid() < 1000 else 300  # a container has a limit of its own, a host has none
    with contextlib.suppress(OSError):
        for _ in range(most):
            if os.fork() == 0:
                os.setsid()
                signal.pause()
    time.sleep(600)
    return 0


def flees(folder: Path, spec: dict[str, Any]) -> int:
    """A process that is another one every 20 ms, in a session of its own each time."""
    if os.fork() == 0:
        while os.fork() == 0 or os._exit(0):
            os.setsid()
            time.sleep(0.02)
    return brief(folder, spec)


def odd_events(folder: Path, spec: dict[str, Any]) -> int:
    chance = random.Random(spec["workload"]["batch"] * 1000 + spec["round"])
    kinds = ["phase", "sample", "samples", *TEXTS, None, 7]
    with (folder / "events.jsonl").open("ab") as file:
        for _ in range(300):
            said = {"t_ns": chance.choice([time.monotonic_ns(), *NUMBERS]), "event": chance.choice(kinds)}
            for key in ("name", "index", "of", "ask", "rows", "more"):
                said[key] = chance.choice([*NUMBERS, *TEXTS, [[0, "timed", *NUMBERS[:5]]], False])
            line = json.dumps(said).replace('"10e', "10e").encode()
            cut = chance.choice([len(line)] * 5 + [chance.randrange(len(line))])
            file.write(line[:cut] + chance.choice([b"\n", b"\n", b"\n", b"\r\n", b"\xff\n", b"[" * 5000 + b"\n"]))
            if chance.random() < 0.02:
                file.flush()
                time.sleep(0.02)
    return brief(folder, spec)


def odd_record(folder: Path, spec: dict[str, Any]) -> int:
    """A good record in which one value, anywhere, is something else."""
    chance = random.Random(spec["workload"]["batch"] * 1000 + spec["round"])
    made = fake.record(spec, detail={"a": {"b": [1, 2]}}, proof={"checks": []}, memory=None)
    for _ in range(chance.choice([1, 1, 1, 3])):
        here: Any = made
        while True:
            key = chance.choice(list(here) if isinstance(here, dict) else range(len(here)))
            if not isinstance(here[key], (dict, list)) or not here[key] or chance.random() < 0.2:
                break
            here = here[key]
        here[key] = chance.choice([*NUMBERS, *TEXTS])
        if isinstance(here, dict):
            here[chance.choice(TEXTS[1:])] = chance.choice(TEXTS)
    text = json.dumps(made)
    (folder / "record.json").write_text(chance.choice([text] * 6 + [text[: len(text) // 2], "[" * 20_000, ""]))
    return chance.choice([0, 0, 0, 1, 77])


def closes_everything(folder: Path, spec: dict[str, Any]) -> int:
    os.closerange(0, 256)
    return brief(folder, spec)


MINE = (
    *(brief, leaves_a_child, leaves_a_daemon, daemon_then_hangs, fills_its_disk, fills_in_small_files, fills_its_log),
    *(
        fills_its_events,
        nests_folders,
        takes_rights_away,
        names_oddly,
        forks_without_end,
        flees,
        odd_events,
        odd_record,
    ),
    *(closes_everything,),
)
fake.BEHAVIOURS.update({function.__name__: function for function in MINE})

if __name__ == "__main__":
    sys.exit(fake.main())
