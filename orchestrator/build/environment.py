"""The Python of a stack where there is no container: the image's own, the ready one, or a virtual environment."""

from __future__ import annotations

import contextlib
import hashlib
import os
import shutil
import subprocess
import sys
import time
import uuid
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import unquote, urlparse

from orchestrator.base.errors import InfrastructureError
from orchestrator.base.files import os_error
from orchestrator.base.paths import STATE
from orchestrator.build import wheels
from orchestrator.launchers.local import PYTHON_VARIABLE, clean_environment

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from orchestrator.plan.stack import Stack

PIP_SOURCES = ("PIP_INDEX_URL", "PIP_EXTRA_INDEX_URL", "PIP_FIND_LINKS")
MARKER = ".complete"
LOG_END_CHARACTERS = 600
HEARTBEAT_S = 15.0


def find_python(stack: Stack, *, say: Callable[[str], None], again: bool = False, state: Path = STATE) -> Path:
    """Return the stack's Python on this host, making a virtual environment from its lock file where needed.

    `say` gets a line of progress now and then; `again` makes it although it is there. InfrastructureError where there
    is none and none can be made.
    """
    given = os.environ.get(PYTHON_VARIABLE)
    if given:
        return _existing(given, f"{PYTHON_VARIABLE}")
    if stack.ready is not None:
        return _existing(stack.ready.python, f"{stack.name}: ready.python")
    if again:
        shutil.rmtree(environment_folder(stack, state), ignore_errors=True)
    return make_environment(stack, say=say, state=state)


def make_environment(stack: Stack, *, say: Callable[[str], None], state: Path = STATE) -> Path:
    """Return the Python of the virtual environment for the stack's lock; it is made whole or not at all."""
    folder = environment_folder(stack, state)
    python = folder / "bin" / "python"
    if (folder / MARKER).exists():
        return python
    beside = folder.with_name(f".{folder.name}.{uuid.uuid4().hex[:8]}")
    log = state / "logs" / f"environment-{stack.name}.log"
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        log.parent.mkdir(parents=True, exist_ok=True)
        log.write_bytes(b"")
    except OSError as error:
        raise os_error(error, folder.parent) from error
    say(f"{stack.name}: making a virtual environment from {stack.build.lock if stack.build else '?'} (log: {log})")
    began = time.monotonic()
    try:
        _fill(stack, beside, log, say)
        _move(beside, folder)
    finally:
        shutil.rmtree(beside, ignore_errors=True)
    say(f"{stack.name}: virtual environment ready after {time.monotonic() - began:.0f} s")
    return python


def has_python(stack: Stack, state: Path = STATE) -> bool:
    """Whether `find_python` has nothing to make: its environment is there, or another Python in its place."""
    given = os.environ.get(PYTHON_VARIABLE) or stack.ready is not None
    return bool(given) or (environment_folder(stack, state) / MARKER).exists()


def environment_folder(stack: Stack, state: Path = STATE) -> Path:
    """Return where the stack's virtual environment is or would be: a changed lock or Python means another one."""
    assert stack.build is not None
    content = hashlib.sha256(sys.version.encode())
    for name in (stack.build.lock, stack.build.lock_cuda):
        if name is not None:
            try:
                content.update((stack.folder / name).read_bytes())
            except OSError as error:
                raise os_error(error, stack.folder / name) from error
    return state / "envs" / f"{stack.name}-{content.hexdigest()[:16]}"


def _fill(stack: Stack, folder: Path, log: Path, say: Callable[[str], None]) -> None:
    assert stack.build is not None
    python = str(folder / "bin" / "python")
    _call([sys.executable, "-m", "venv", str(folder)], log, stack.name, say)
    locks = [stack.folder / name for name in (stack.build.lock, stack.build.lock_cuda) if name is not None]
    install = [python, "-m", "pip", "install", "--no-deps", "--require-hashes"]
    if local := wheels.local_wheels(locks, local_sources()):
        # pip takes a file of a local folder only where a page says its hash.
        install += ["--find-links", str(wheels.write_links(local, folder / "links.html"))]
    install.append("-r")
    _call([*install, str(stack.folder / stack.build.lock)], log, stack.name, say)
    if stack.build.lock_cuda is not None and not _imports_torch(python):
        # This platform's torch is built for CUDA and needs its libraries even where there is no GPU.
        say(f"{stack.name}: torch needs its CUDA libraries here, installing {stack.build.lock_cuda}")
        _call([*install, str(stack.folder / stack.build.lock_cuda)], log, stack.name, say)


def _move(beside: Path, folder: Path) -> None:
    """Put the finished environment in its place. Scripts in bin/ keep the old path; Python and pip -m do not care."""
    (beside / MARKER).write_text("", encoding="utf-8")
    try:
        beside.rename(folder)
    except OSError:
        if (folder / MARKER).exists():
            return  # another run was faster
        shutil.rmtree(folder, ignore_errors=True)
        beside.rename(folder)


def _call(command: Sequence[str], log: Path, name: str, say: Callable[[str], None]) -> None:
    began = time.monotonic()
    with log.open("ab") as out:
        process = subprocess.Popen(  # noqa: S603  (this Python, or the environment just made)
            command, stdout=out, stderr=subprocess.STDOUT, stdin=subprocess.DEVNULL, env=clean_environment(os.environ)
        )
        try:
            while True:
                with contextlib.suppress(subprocess.TimeoutExpired):
                    process.wait(HEARTBEAT_S)
                    break
                say(f"{name}: installing, {time.monotonic() - began:.0f} s: {_last_line(log)}")
        except BaseException:
            process.kill()
            process.wait()
            raise
    if process.returncode != 0:
        end = " ".join(log.read_text(encoding="utf-8", errors="replace").split())[-LOG_END_CHARACTERS:]
        raise InfrastructureError(
            f"the virtual environment could not be made: … {end}", where=name, remedy=f"the whole log: {log}"
        )


def _imports_torch(python: str) -> bool:
    done = subprocess.run(  # noqa: S603  (the environment just made)
        [python, "-c", "import torch"], capture_output=True, check=False, env=clean_environment(os.environ)
    )
    return done.returncode == 0


def _last_line(log: Path) -> str:
    lines = log.read_text(encoding="utf-8", errors="replace").splitlines()
    return lines[-1].strip()[:100] if lines else ""


def _existing(name: str, where: str) -> Path:
    found = shutil.which(name)
    if found is None:
        raise InfrastructureError(
            "there is no such Python on this host", where=f"{where} = {name}", remedy="run this stack with Docker"
        )
    return Path(found)


def local_sources() -> list[Path]:
    """Return the folders of this host among pip's sources in the environment."""
    parts = [part for name in PIP_SOURCES for part in os.environ.get(name, "").split()]
    return [folder for part in parts if (folder := local_folder(part)) is not None]


def local_folder(source: str) -> Path | None:
    """Return the folder that a source of pip's names on this host, or None for one reached over the network."""
    if source.startswith("file:"):
        return Path(unquote(urlparse(source).path))
    return None if "://" in source else Path(source)
