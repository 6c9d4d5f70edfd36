"""Our process on another host, at the far end of an ssh connection: what has to be near a cell is done here.

It holds the GPU's lock, keeps the cells' folders, watches the running cell, and leaves nothing behind when the
connection ends, however that comes. It is sent there (see `launchers/connection.py`) and has Python's own library and
NVML's module, no other package. A frame, in both directions, is a line of JSON and as many bytes as its `bytes` says.
"""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import json
import os
import re
import secrets
import signal
import sys
import threading
import time
import urllib.parse
from collections.abc import Callable
from pathlib import Path
from typing import Any, BinaryIO

from orchestrator.base.errors import StackbenchError
from orchestrator.base.lockfile import Lock, abandoned, try_lock
from orchestrator.base.untrusted import open_plain, place_file
from orchestrator.host import locks
from orchestrator.host.folders import PRIVATE_FOLDER, free_bytes, give_away, remove_tree
from orchestrator.host.gpu import gpus, near_cpus
from orchestrator.host.owner import LABEL, Owner, signature
from orchestrator.measure.kept import EVENTS_FILE, Kept, engine_asked

SILENT_S = 45.0
"""Whoever sends nothing for so long, not even a beat, is gone: the network may never say so."""
PIECE_BYTES = 4 * 2**20
OWNER_FILE = "owner.lock"
SPEC_FILE, RECORD_FILE = "spec.json", "record.json"
CACHE_FOLDER = "cache"
PLAIN_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._-]{0,199}")
MOST_FILES = 1_000
READABLE_FILE, READABLE_FOLDER = 0o644, 0o755
LATE_S = 1.0
"""A container that was asked for in the connection's last moment is there after so long."""

Answer = tuple[dict[str, Any], bytes]


class Keeper:
    """Serves one orchestrator's worker until its connection ends."""

    def __init__(self, source: BinaryIO, sink: BinaryIO) -> None:
        self._source, self._sink = source, sink
        self._sending, self._leaving = threading.Lock(), threading.Lock()
        self._heard, self._left = time.monotonic(), False
        self._folder, self._socket = Path(), ""
        self._work: Path | None = None
        self._held: list[Lock] = []
        self._job: str | None = None
        self._kept: Kept | None = None
        self._storing: Storing | None = None

    def serve(self) -> None:
        """Answer frames until there are no more."""
        threading.Thread(target=self._mind_silence, daemon=True).start()
        while line := self._source.readline():
            said = json.loads(line)
            payload = self._source.read(said.pop("bytes", 0))
            self._heard = time.monotonic()
            number, what = said.pop("id"), said.pop("do")
            try:
                answer, content = getattr(self, f"do_{what}")(payload, **said)
            except Exception as error:  # noqa: BLE001  (whoever asked says what it means)
                own = str(error) if isinstance(error, StackbenchError) else f"{type(error).__name__}: {error}"
                words = getattr(error, "strerror", None) or own
                answer, content = {"error": words, "errno": getattr(error, "errno", None)}, b""
            if number is not None:
                self.send({"id": number, **answer}, content)

    def send(self, header: dict[str, Any], content: bytes = b"") -> None:
        """Send one frame; OSError where nobody reads any more."""
        with self._sending:
            self._sink.write(json.dumps({**header, "bytes": len(content)}).encode() + b"\n" + content)
            self._sink.flush()

    def leave(self) -> None:
        """Remove what is ours on this host; the locks go with the process."""
        with self._leaving:
            if self._left:
                return
            self._left = True
            if self._kept is not None:
                self._kept.stop()
            for pause in (0.0, LATE_S):
                time.sleep(pause)
                with contextlib.suppress(OSError, ValueError):
                    self._remove_containers(lambda owner: str(owner) == signature())
            if self._storing is not None:
                self._storing.give_up()
            if self._work is not None:
                remove_tree(self._work)

    def _mind_silence(self) -> None:
        while time.monotonic() - self._heard < SILENT_S:
            time.sleep(1)
        self.leave()
        os._exit(1)

    # What is asked. The first argument is the frame's payload.

    def do_hello(self, _: bytes, *, folder: str, socket: str) -> Answer:
        """Make a folder of our own, remove what dead ones of us have left; say what this host is."""
        self._folder, self._socket = Path(folder).expanduser().absolute(), socket
        place = self._folder / "work"
        for made in (self._folder, place):
            made.mkdir(parents=True, exist_ok=True)
        swept = sum(abandoned(left, OWNER_FILE) and remove_tree(left) for left in place.iterdir())
        self._work = place / f"{os.getpid()}-{secrets.token_hex(4)}"
        self._work.mkdir(mode=PRIVATE_FOLDER)
        lock = try_lock(self._work / OWNER_FILE, None)
        self._held += [lock] if lock else []
        with contextlib.suppress(OSError, ValueError):  # no engine: whoever asked finds out
            swept += self._remove_containers(lambda owner: owner.dead() is True)
        found = gpus()
        return {
            "owner": signature(),
            "uid": os.getuid(),
            "gid": os.getgid(),
            "folder": str(self._folder),
            "gpus": [dataclasses.asdict(gpu) for gpu in found.found],
            "trouble": found.trouble,
            "near": {gpu.uuid: near_cpus(gpu.uuid) for gpu in found.found},
            "memory_limit": _memory_limit(),
            "swept": swept,
        }, b""

    def do_beat(self, _: bytes) -> Answer:
        """Hear that somebody is there."""
        return {}, b""

    def do_room(self, _: bytes) -> Answer:
        """Say how many bytes are free on the disk that cells write to."""
        return {"free": free_bytes(self._folder)}, b""

    def do_lock(self, _: bytes, *, gpu: str | None, purpose: str) -> Answer:
        """Take the device's lock of this host, without waiting."""
        warned = list[str]()
        lock, holder = locks.take(gpu, purpose=purpose, say=warned.append)
        self._held += [lock] if lock else []
        return {"held": lock is not None, "holder": holder, "warned": warned}, b""

    def do_store(self, _: bytes, *, kind: str, name: str) -> Answer:
        """Begin to take in files that are kept by their content, unless they are here, or just being taken in."""
        place = self._folder / kind / name
        place.parent.mkdir(exist_ok=True)
        lock = None if place.exists() else try_lock(place.with_name(f"{name}.lock"), None)
        if lock is not None and not place.exists():
            self._storing = Storing(place, lock)
        elif lock is not None:
            lock.release()
        there = place.exists()
        return {"there": there, "busy": not there and lock is None, "path": str(place)}, b""

    def do_put(self, payload: bytes, *, path: str, sha256: str | None = None) -> Answer:
        """Append to one of the files; with its last piece comes the SHA-256 that it must have."""
        assert self._storing is not None
        return {"good": self._storing.put(path, payload, sha256)}, b""

    def do_stored(self, _: bytes) -> Answer:
        """End it: the files appear at once."""
        assert self._storing is not None
        self._storing.finish()
        self._storing = None
        return {}, b""

    def do_given_up(self, _: bytes) -> Answer:
        """End it without the files."""
        if self._storing is not None:
            self._storing.give_up()
        self._storing = None
        return {}, b""

    def do_begin(
        self,
        payload: bytes,
        *,
        job: str,
        user: str,
        references: dict[str, str],
        cache: str | None,
        most_bytes: int,
        most_files: int,
    ) -> Answer:
        """Make the folders of a round, with its spec (the payload); the folder of the round before it goes.

        A round that begins again in its own folder, the warm start, finds there what the first process has left.
        """
        assert self._work is not None
        self._end_watch()
        if self._job not in (None, job):
            remove_tree(self._work / str(self._job))
        self._job = job
        place = self._work / job
        work, shown = place / "work", place / "references"
        for folder in (place, work):
            folder.mkdir(mode=PRIVATE_FOLDER, exist_ok=True)
        for name in (RECORD_FILE, EVENTS_FILE):
            (work / name).unlink(missing_ok=True)
        place_file(work, SPEC_FILE, payload.decode("ascii"))
        if (work / SPEC_FILE).stat().st_size != len(payload):
            raise OSError(28, "the disk is full")
        give_away(work, user)
        if references:
            remove_tree(shown)
            shown.mkdir()
            shown.chmod(READABLE_FOLDER)
        for name, sha256 in references.items():
            os.link(self._folder / "references" / sha256 / "file", shown / name)
        kept = self._folder / "cache" / cache if cache else None
        if kept is not None:
            kept.mkdir(parents=True, exist_ok=True)
            give_away(kept, user)
        self._kept = Kept((work, *([kept] if kept else [])), most_bytes, most_files, self._socket, self.send)
        return {"work": str(work), "references": str(shown), "cache": kept and str(kept)}, b""

    def do_watch(self, _: bytes, *, container: str, gpu: str | None) -> Answer:
        """Say which container the round's process is in, and which GPU is to be read."""
        assert self._kept is not None
        self._kept.begin(container, gpu)
        return {}, b""

    def do_answer(self, payload: bytes, *, name: str) -> Answer:
        """Put a file into the cell's folder."""
        assert self._kept is not None
        place_file(self._kept.work, name, payload.decode("ascii"))
        return {}, b""

    def do_finish(self, _: bytes) -> Answer:
        """End the watch of a process that has ended; name the plain files that it has left, with their sizes."""
        kept = self._kept
        assert kept is not None
        trouble = self._end_watch()
        files = dict[str, int]()
        # Gone where it had written too much, which may be noticed only now.
        with contextlib.suppress(FileNotFoundError), os.scandir(kept.work) as entries:
            for entry in entries:
                plain = entry.is_file(follow_symlinks=False) and PLAIN_NAME.fullmatch(entry.name)
                if plain and entry.name != SPEC_FILE and len(files) < MOST_FILES:
                    files[entry.name] = entry.stat(follow_symlinks=False).st_size
        cached = any(names for _, _, names in os.walk(kept.work / CACHE_FOLDER))
        gpu, series = kept.telemetry()
        said = {"files": files, "cached": cached, "trouble": trouble, "free": kept.free(), "load": kept.load()}
        return {**said, **gpu}, series

    def do_get(self, _: bytes, *, name: str, offset: int) -> Answer:
        """Return a piece of a file that the cell has left."""
        assert self._kept is not None
        with open_plain(self._kept.work / name) as file:
            file.seek(offset)
            return {}, file.read(PIECE_BYTES)

    def _end_watch(self) -> tuple[str, str] | None:
        return self._kept.stop() if self._kept is not None else None

    def _remove_containers(self, whose: Callable[[Owner], bool]) -> int:
        """Remove containers of ours whose owner is meant, running or not; return how many."""
        wanted, removed = urllib.parse.quote(json.dumps({"label": [LABEL]})), 0
        for found in engine_asked(self._socket, "GET", f"/containers/json?all=1&filters={wanted}"):
            owner = Owner.parse(found["Labels"].get(LABEL, ""))
            if owner is not None and whose(owner):
                engine_asked(self._socket, "DELETE", f"/containers/{found['Id']}?force=1&v=1")
                removed += 1
        return removed


class Storing:
    """Files that are being taken in: in a folder beside their place, which they get all at once."""

    def __init__(self, place: Path, lock: Lock) -> None:
        self._place, self._lock = place, lock
        self._folder = place.with_name(f".{place.name}.making")
        remove_tree(self._folder)  # of one who was killed: the lock is ours now
        self._folder.mkdir()
        self._folder.chmod(READABLE_FOLDER)
        self._hash = hashlib.sha256()

    def put(self, path: str, piece: bytes, sha256: str | None) -> bool:
        """Append a piece to a file; return False where the whole file is not what it should be."""
        target = self._folder / path
        target.parent.mkdir(parents=True, exist_ok=True)
        with target.open("ab") as file:
            file.write(piece)
        self._hash.update(piece)
        if sha256 is None:
            return True
        good, self._hash = self._hash.hexdigest() == sha256, hashlib.sha256()
        target.chmod(READABLE_FILE)
        return good

    def finish(self) -> None:
        """Give the folder its name."""
        for folder in (path for path in self._folder.rglob("*") if path.is_dir()):
            folder.chmod(READABLE_FOLDER)
        self._folder.rename(self._place)
        self._lock.release()

    def give_up(self) -> None:
        """Remove what came."""
        remove_tree(self._folder)
        self._lock.release()


def _memory_limit() -> int | None:
    """Return the limit of our own control group in bytes; None where there is none."""
    for path in ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes"):
        with contextlib.suppress(OSError, ValueError):
            return int(Path(path).read_text(encoding="ascii"))
    return None


def main() -> None:
    """Serve standard input and output; a signal ends it as the connection's end does."""
    keeper = Keeper(sys.stdin.buffer, sys.stdout.buffer)
    sys.stdout = sys.stderr  # what a library prints must not stand between frames
    for number in (signal.SIGTERM, signal.SIGHUP, signal.SIGINT):
        signal.signal(number, lambda *_: sys.exit(1))
    try:
        keeper.serve()
    except OSError:
        pass  # nobody reads any more
    finally:
        keeper.leave()
        os._exit(0)  # standard output may be full, and would be flushed
