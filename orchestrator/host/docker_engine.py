"""The Docker Engine: reaching it, labels, removing containers whose owner is dead. Imported only where it is used."""

from __future__ import annotations

import contextlib
import os
import re
import tempfile
import time
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, TypeVar

import docker
import docker.credentials
import requests

from orchestrator.base.errors import InfrastructureError, StackbenchError, UsageError
from orchestrator.base.interrupt import check
from orchestrator.base.text import Say
from orchestrator.host.owner import LABEL, Owner, signature

T = TypeVar("T")

LABEL_RUN = "stackbench.run"
LABEL_CELL = "stackbench.cell"
LABEL_OWNER = LABEL

STARTING = re.compile(r".*\b(starting container process caused|unable to start container process): ")
"""What engine and runtime put before the reason why a container could not be started."""
HTTP_TIMEOUT_S = 60
PING_TIMEOUT_S = 5
GRACE_S = (1, 2, 3, 4, 5)
"""The pauses between the attempts to reach an engine that has gone away: one that is restarted comes back in them."""
RESERVE_BYTES, RESERVE_SHARE, MOST_RESERVE_SHARE = 2 * 2**30, 0.05, 0.25
"""Memory that no cell gets, for the host and the orchestrator: so much, or that share of a large host; of a small host
no more than the last."""


_said: set[str] = set()
"""What was said of credential helpers: each command asks by several clients."""


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
    except Exception as error:  # as in `engine_errors`
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


def labels(run: str, cell: str, owner: str | None = None) -> dict[str, str]:
    """Return the labels of a container of `owner`, a process as text; None: of this one."""
    return {LABEL_RUN: run, LABEL_CELL: cell, LABEL_OWNER: owner or signature()}


def left_over(client: Any) -> list[str]:
    """Return the containers of ours whose owner is dead, by id.

    An owner in another process namespace cannot be judged from here: its containers are left to it.
    """
    found = client.api.containers(all=True, filters={"label": LABEL_OWNER})
    owners = {container["Id"]: Owner.parse(container["Labels"].get(LABEL_OWNER, "")) for container in found}
    return [container for container, owner in owners.items() if owner is not None and owner.dead()]


def sweep(client: Any) -> int:
    """Remove containers of ours whose owner is dead, and return how many; those of living ones are left alone."""
    removed = 0
    for container in left_over(client):
        with contextlib.suppress(docker.errors.APIError):
            remove(client, container)
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
    """Turn whatever the SDK raises into one InfrastructureError: the engine failed, the stack is not to blame.

    Whatever: beside its own errors come those of transport, credentials, and answers that it does not expect.
    """
    try:
        yield
    except StackbenchError:
        raise
    except Exception as error:
        raise InfrastructureError(reason(error), where="Docker Engine", remedy="see `orchestrator doctor`") from error


def is_absent(error: BaseException | None) -> bool:
    """Whether `error` says that the engine could not be reached, and not what it answered."""
    return isinstance(error, requests.ConnectionError)


def with_grace(call: Callable[[], T]) -> T:
    """Return what `call` returns; InfrastructureError where it fails.

    Where the engine cannot be reached it is called again after each pause of GRACE_S.
    """
    for pause in GRACE_S:
        try:
            with engine_errors():
                return call()
        except InfrastructureError as error:  # noqa: PERF203  (no hot loop)
            if not is_absent(error.__cause__):
                raise
            time.sleep(pause)
            check()
    with engine_errors():
        return call()


def with_credentials(client: Any, call: Callable[[], T], say: Say) -> T:
    """Return what `call` returns; where the user's credential helper fails, call it again without credentials.

    `say` gets a line then, once for each configuration and its fault.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # the SDK warns of the helper that it then fails over
            return call()
    except (docker.errors.DockerException, docker.credentials.StoreError) as error:
        told = next((link for link in _chain(error) if isinstance(link, docker.credentials.StoreError)), None)
        if told is None:
            raise
        config = Path(os.environ.get("DOCKER_CONFIG") or Path.home() / ".docker") / "config.json"
        line = f"{config}: its credential helper fails ({_one_line(str(told))}); going on without credentials"
        if line not in _said:
            _said.add(line)
            say(line)
        with tempfile.NamedTemporaryFile("w", suffix=".json") as nobodys:
            # In place of an empty configuration the SDK would read the user's again.
            nobodys.write('{"auths": {"nobody.invalid": {}}}')
            nobodys.flush()
            client.api.reload_config(nobodys.name)
        return call()


def memory_limit_bytes(engine_total: int) -> int:
    """Return how much memory a cell may have: what the host and the orchestrator leave of the engine's total.

    Or of our own control group's, if that is less.
    """
    totals = [engine_total] if engine_total > 0 else []
    for path in ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes"):
        with contextlib.suppress(OSError, ValueError):
            totals.append(int(Path(path).read_text(encoding="ascii")))
    return left_of(min(totals, default=10**9))


def left_of(total: int) -> int:
    """Return how much of a host's memory its cells may have."""
    return int(total - min(max(RESERVE_BYTES, total * RESERVE_SHARE), total * MOST_RESERVE_SHARE))


def is_rootless(info: dict[str, Any]) -> bool:
    """Whether the engine runs as an ordinary user, so that root inside is that user outside."""
    return any("rootless" in option for option in info.get("SecurityOptions") or ())


def not_offered(info: dict[str, Any]) -> frozenset[str]:
    """Return the options of a container that this engine, by what it says of itself, has no use for.

    `info` is the engine's; an engine that does not say is taken for one that has the option.
    """
    security = str(info.get("SecurityOptions") or ())
    loggers = (info.get("Plugins") or {}).get("Log") or ["json-file"]
    offered = {
        "mem_limit": info.get("MemoryLimit", True),
        "memswap_limit": info.get("MemoryLimit", True) and info.get("SwapLimit", True),
        "nano_cpus": info.get("CpuCfsQuota", True),
        "pids_limit": info.get("PidsLimit", True),
        "log_config": "json-file" in loggers,
        "seccomp": "seccomp" in security,
        # Cells are users of the host's own numbers, as the owner of their work folders is.
        "userns_mode": "name=userns" in security,
    }
    return frozenset(option for option, has in offered.items() if not has)


def _rootless_socket() -> str | None:
    runtime = os.environ.get("XDG_RUNTIME_DIR")
    if runtime and not Path("/var/run/docker.sock").exists() and (Path(runtime) / "docker.sock").is_socket():
        return f"unix://{runtime}/docker.sock"
    return None


def _chain(error: BaseException) -> Iterator[BaseException]:
    link: BaseException | None = error
    while link is not None:
        yield link
        link = link.__cause__ or link.__context__


def reason(error: BaseException) -> str:
    """Return what an error of the library says, as one line; of an engine that is not reached, the system's reason."""
    if isinstance(error, docker.errors.APIError) and error.explanation:
        return STARTING.sub("", _one_line(str(error.explanation)))
    chain = list(_chain(error))
    seen = chain[-1] if any(isinstance(link, requests.RequestException) for link in chain) else error
    text = (seen.strerror if isinstance(seen, OSError) else None) or str(seen)
    if not isinstance(seen, OSError | docker.errors.DockerException | docker.credentials.StoreError):
        text = f"{type(seen).__name__}: {text}" if text else ""
    return _one_line(text or type(seen).__name__)


def _one_line(text: str) -> str:
    return " ".join(text.split())[:400]
