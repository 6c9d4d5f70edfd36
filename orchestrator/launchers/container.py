"""A started container: the wait for its end, how it ended, its output, and its removal in any case."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Mapping
from pathlib import Path
from signal import SIGKILL
from typing import Any

import docker

from orchestrator.base.errors import InfrastructureError
from orchestrator.host import docker_engine as engine
from orchestrator.launchers import KILL_WAIT_S, Exit, Handle

SIGNAL_BASE = 128
OOM_EVENT_S = 2
"""How long the engine may take to report that a container ran out of memory."""


class DockerHandle(Handle):
    """A started container. A thread sleeps in the engine's own wait, without a deadline: that is the supervisor's."""

    def __init__(self, client: Any, container: str, log: Path) -> None:
        self._client, self._container, self._log = client, container, log
        self._cancelled = False
        super().__init__("container")

    def pids(self) -> frozenset[int] | None:
        """Return the numbers of the container's processes as the engine's host has them."""
        with contextlib.suppress(InfrastructureError), engine.engine_errors():
            listed = self._client.api.top(self._container)
            column = listed["Titles"].index("PID")
            # Null where it has ended in the meantime.
            return frozenset(int(row[column]) for row in listed["Processes"] or ()) or None
        return None

    def cancel(self) -> None:
        """Kill the container and wait until the engine says that it has ended."""
        self._cancelled = True
        with engine.engine_errors():
            try:
                self._client.api.kill(self._container)
            except docker.errors.APIError as error:
                if error.status_code not in (404, 409):  # gone, or not running: what we wanted
                    raise
            if self.wait(KILL_WAIT_S) is None:
                engine.remove(self._client, self._container)
                if self.wait(KILL_WAIT_S) is None:
                    raise InfrastructureError("the container cannot be killed", where=self._container[:12])

    def output(self) -> bytes:
        """Return what the container has written to standard output and error."""
        with engine.engine_errors():
            return bytes(self._client.api.logs(self._container, stdout=True, stderr=True))

    def collect(self) -> None:
        """Write the container's output to the job's log file."""
        self._log.write_bytes(self.output())

    def __exit__(self, *_: object) -> None:
        """Remove the container, killing it first where it runs. An engine that fails here is swept up after later."""
        with contextlib.suppress(InfrastructureError), engine.engine_errors():
            engine.remove(self._client, self._container)

    def _wait_for_end(self) -> Exit:
        broken: str | None = None
        for pause in engine.GRACE_S:
            try:
                with engine.engine_errors():
                    # No timeout at all: the SDK's is one of HTTP and would end here while the cell goes on.
                    code = int(self._client.api.wait(self._container, timeout=None)["StatusCode"])
                    state = self._client.api.inspect_container(self._container)["State"]
            except InfrastructureError as error:  # noqa: PERF203  (no hot loop)
                if isinstance(error.__cause__, docker.errors.NotFound):
                    return Exit(None, error="its container was removed from outside")
                # The engine went away. Most likely the container did as well, but it may come back with it.
                broken = f"the connection to the engine broke ({type(error.__cause__).__name__})"
                if self._gone():
                    break
                time.sleep(pause)
            else:
                signal = code - SIGNAL_BASE if code > SIGNAL_BASE else None
                lost = (broken if code != 0 else None) or state.get("Error") or None
                return Exit(code, signal, oom=self._lacked_memory(signal, state), error=lost)
        return Exit(None, error=broken)

    def _gone(self) -> bool:
        """Whether the engine cannot come back."""
        return False

    def _lacked_memory(self, signal: int | None, state: Mapping[str, Any]) -> bool:
        """Whether the kernel killed it because it ran out of memory.

        A busy engine may notice the end first and then not mark it so; its event comes all the same.
        """
        if state.get("OOMKilled") or signal != SIGKILL or self._cancelled:
            return bool(state.get("OOMKilled"))
        wanted = {"container": self._container, "event": "oom"}
        with contextlib.suppress(InfrastructureError), engine.engine_errors():
            # From the beginning of what the engine remembers: 0.
            stream = self._client.api.events(since=0, until=int(time.time()) + OOM_EVENT_S, filters=wanted, decode=True)
            with contextlib.closing(stream):
                return next(iter(stream), None) is not None
        return False
