"""One round that runs on this host for an orchestrator on another: what it writes, and what is seen of it from outside.

Part of the keeper (`keeper.py`), and like it without any package.
"""

from __future__ import annotations

import contextlib
import http.client
import json
import socket as sockets
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from orchestrator.base.errors import UsageError
from orchestrator.base.untrusted import open_plain
from orchestrator.host.folders import Trouble, Written, free_bytes
from orchestrator.measure.host_load import LoadSampler
from orchestrator.measure.telemetry import Sampler, watch_gpu

EVENTS_FILE = "events.jsonl"
EVENTS_READ_BYTES = 65_536
TICK_S = 0.1
ENGINE_S = 30.0
JOIN_S = 20.0

Send = Callable[[dict[str, Any], bytes], None]


class EngineError(OSError):
    """What the engine answered to something that it did not do."""


def engine_asked(socket: str, method: str, path: str) -> Any:
    """Return what the engine at `socket` answers; OSError where it does not, or refuses (404 and 409 are no error)."""
    connection = http.client.HTTPConnection("engine", timeout=ENGINE_S)
    with contextlib.closing(connection):
        connection.sock = sockets.socket(sockets.AF_UNIX, sockets.SOCK_STREAM)
        connection.sock.settimeout(ENGINE_S)
        connection.sock.connect(socket)
        try:
            connection.request(method, path)
            answer = connection.getresponse()
            content = answer.read()
        except http.client.HTTPException as error:
            raise EngineError(0, str(error)) from error
    if answer.status >= http.client.BAD_REQUEST and answer.status not in (404, 409):
        raise EngineError(answer.status, content.decode("utf-8", "replace")[:400])
    return json.loads(content) if content else None


class Kept(threading.Thread):
    """Follows the events of a round from before its process starts, and ends a process that writes too much."""

    def __init__(self, places: tuple[Path, ...], most_bytes: int, most_files: int, socket: str, send: Send) -> None:
        super().__init__(name="kept", daemon=True)
        self.work, self._socket, self._send = places[0], socket, send
        self._written = Written(places, most_bytes, most_files)
        self._offset, self._drained_ns = 0, time.monotonic_ns()
        self._earliest_ns = self._drained_ns
        self._container: str | None = None
        self._trouble: Trouble | None = None
        self._ending = threading.Event()
        self._watching = contextlib.ExitStack()
        self._sampler: Sampler | None = None
        self._load = LoadSampler(self._pids)
        self.start()

    def begin(self, container: str, gpu: str | None) -> None:
        """Begin to read the GPU and the host's CPUs: the process is in this container."""
        self._container = container
        self._load.start()
        self._sampler = self._watching.enter_context(watch_gpu(gpu, self._pids)) if gpu else None

    def run(self) -> None:
        """Look, in the thread."""
        with contextlib.suppress(OSError):  # nobody reads any more: `stop` comes
            while not self._ending.wait(TICK_S):
                self._look()
                self._trouble = self._written.trouble()
                if self._trouble and self._container:
                    self._send({"seen": "trouble", "status": self._trouble[0], "reason": self._trouble[1]}, b"")
                    with contextlib.suppress(OSError):
                        engine_asked(self._socket, "POST", f"/containers/{self._container}/kill")
                    return

    def stop(self) -> tuple[str, str] | None:
        """End the watch and send the last events; return what was wrong with what it has written, else None."""
        if not self._ending.is_set():
            self._ending.set()
            self.join(JOIN_S)
            self._watching.close()
            if self._container is not None:
                self._load.stop()
            with contextlib.suppress(OSError):
                while self._look():
                    pass
            self._trouble = self._trouble or self._written.trouble(last=True)
            if self._trouble:
                self._written.discard()  # what it has written must not stand in the way
        return self._trouble

    def telemetry(self) -> tuple[dict[str, Any], bytes]:
        """Return what NVML said of the GPU, and the series of readings as a side file has it; empty: none was read."""
        if self._sampler is None:
            return {}, b""
        series = self._sampler.series()
        return {"settings": dict(series.settings), "lost": series.lost}, series.content()

    def load(self) -> dict[str, Any]:
        """Return the readings of the host's CPUs, for a LoadSampler elsewhere."""
        return self._load.readings()

    def free(self) -> int:
        """Return the free bytes of the disk that the cell writes to, whatever has become of its folder."""
        return free_bytes(self.work.parent)

    def _look(self) -> bool:
        """Send what is new in the events, and the times between which it appeared; return whether there may be more."""
        before = time.monotonic_ns()
        with contextlib.suppress(FileNotFoundError, UsageError), open_plain(self.work / EVENTS_FILE) as file:
            file.seek(self._offset)
            new = file.read(EVENTS_READ_BYTES)
            self._offset += len(new)
            self._earliest_ns, read_ns = self._drained_ns, time.monotonic_ns()
            if len(new) < EVENTS_READ_BYTES:
                self._drained_ns = before
            if new:
                self._send({"seen": "events", "earliest_ns": self._earliest_ns, "read_ns": read_ns}, new)
            return len(new) == EVENTS_READ_BYTES
        return False

    def _pids(self) -> frozenset[int] | None:
        """Return the numbers of the container's processes on this host; None where it has none, or is not known yet."""
        if self._container is None:
            return None
        with contextlib.suppress(OSError, ValueError, KeyError, TypeError):
            listed = engine_asked(self._socket, "GET", f"/containers/{self._container}/top")
            column = listed["Titles"].index("PID")
            return frozenset(int(row[column]) for row in listed["Processes"] or ()) or None
        return None
