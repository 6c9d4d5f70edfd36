"""The Docker Engine: reaching it, labels, removing containers whose owner is dead. Imported only where it is used."""

from __future__ import annotations

import contextlib
import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import docker
import requests

from orchestrator.base.errors import InfrastructureError, UsageError
from orchestrator.host.owner import Owner, signature

LABEL_RUN = "stackbench.run"
LABEL_CELL = "stackbench.cell"
LABEL_OWNER = "stackbench.owner"

STARTING = re.compile(r".*\b(starting container process caused|unable to start container process): ")
"""What engine and runtime put before the reason why a container could not be started."""
HTTP_TIMEOUT_S = 60
PING_TIMEOUT_S = 5
MEMORY_SHARE = 0.95
"""Of the host's memory, for a cell: the rest keeps the host alive when a cell runs out of memory."""


def connect() -> Any:
    """Return a `docker.DockerClient` whose engine has answered; UsageError with one clear line where none does."""
    address = os.environ.get("DOCKER_HOST") or _rootless_socket()
    try:
        client = (
            docker.DockerClient(base_url=address, timeout=PING_TIMEOUT_S)
            if address and not os.environ.get("DOCKER_HOST")
            else docker.from_env(timeout=PING_TIMEOUT_S)
        )
        client.ping()
    except (docker.errors.DockerException, requests.RequestException, OSError, ValueError) as error:
        what, where = f"the engine does not answer ({reason(error)})", f"Docker at {address or 'its default socket'}"
        remedy = "start it, or allow this user to use it, or run with --launcher local"
        raise UsageError(what, where=where, remedy=remedy) from error
    # From here on a slow engine (a busy disk) is waited for; this is never the deadline of a cell.
    client.api.timeout = HTTP_TIMEOUT_S
    return client


def answers() -> Any | None:
    """Return a client as `connect` does, or None where no engine answers."""
    try:
        return connect()
    except UsageError:
        return None


def labels(run: str, cell: str) -> dict[str, str]:
    """Return the labels of a container of this process."""
    return {LABEL_RUN: run, LABEL_CELL: cell, LABEL_OWNER: signature()}


def sweep(client: Any) -> int:
    """Remove containers of ours whose owner is dead, and return how many; those of living ones are left alone."""
    removed = 0
    for container in client.api.containers(all=True, filters={"label": LABEL_OWNER}):
        owner = Owner.parse(container["Labels"].get(LABEL_OWNER, ""))
        # An owner in another process namespace cannot be judged from here: its containers are left to it.
        if owner is not None and owner.dead():
            with contextlib.suppress(docker.errors.APIError):
                remove(client, container["Id"])
                removed += 1
    return removed


def remove_own(client: Any) -> int:
    """Remove every container of this process and return how many there were."""
    found = client.api.containers(all=True, filters={"label": f"{LABEL_OWNER}={signature()}"})
    for container in found:
        remove(client, container["Id"])
    return len(found)


def remove(client: Any, container: str) -> None:
    """Kill and remove a container, by id or name; do nothing where there is none."""
    try:
        client.api.remove_container(container, force=True, v=True)
    except docker.errors.NotFound:
        return
    except docker.errors.APIError as error:
        if error.status_code != 409:  # noqa: PLR2004  (409: its removal is under way already)
            raise


@contextlib.contextmanager
def engine_errors() -> Iterator[None]:
    """Turn whatever the SDK raises into one InfrastructureError: the engine failed, the stack is not to blame."""
    try:
        yield
    except (docker.errors.DockerException, requests.RequestException) as error:
        raise InfrastructureError(reason(error), where="Docker Engine", remedy="see `orchestrator doctor`") from error


def memory_limit_bytes(engine_total: int) -> int:
    """Return how much memory a cell may have: most of the engine's, or of our own control group's if that is less."""
    totals = [engine_total] if engine_total > 0 else []
    for path in ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes"):
        with contextlib.suppress(OSError, ValueError):
            totals.append(int(Path(path).read_text(encoding="ascii")))
    return int(min(totals, default=10**9) * MEMORY_SHARE)


def is_rootless(info: dict[str, Any]) -> bool:
    """Whether the engine runs as an ordinary user, so that root inside is that user outside."""
    return any("rootless" in option for option in info.get("SecurityOptions") or ())


def _rootless_socket() -> str | None:
    runtime = os.environ.get("XDG_RUNTIME_DIR")
    if runtime and not Path("/var/run/docker.sock").exists() and (Path(runtime) / "docker.sock").is_socket():
        return f"unix://{runtime}/docker.sock"
    return None


def reason(error: BaseException) -> str:
    """Return the innermost message of a chain of library errors, as one line."""
    if isinstance(error, docker.errors.APIError) and error.explanation:
        return STARTING.sub("", " ".join(str(error.explanation).split()))[:400]
    seen: BaseException = error
    while (inner := seen.__cause__ or seen.__context__) is not None:
        seen = inner
    text = (seen.strerror if isinstance(seen, OSError) else None) or str(seen) or type(seen).__name__
    return " ".join(text.split())[:400]
