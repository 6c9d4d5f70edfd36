"""The Python of a stack where there is no container: the image's own, the ready one, or a virtual environment."""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
import sys
import time
import uuid
from collections.abc import Sequence
from pathlib import Path

from orchestrator.base import interrupt
from orchestrator.base.errors import InfrastructureError
from orchestrator.base.files import hash_files, make_folder, write_text
from orchestrator.base.paths import IMAGES, STATE
from orchestrator.base.telling import telling
from orchestrator.base.text import Say
from orchestrator.build import wheels
from orchestrator.launchers.local import PYTHON_VARIABLE, clean_environment
from orchestrator.plan.stack import Stack

MARKER = ".complete"
UV_LOCK = IMAGES / "uv.lock"
HEARTBEAT_S = 15.0


def find_python(stack: Stack, *, say: Say, again: bool = False, state: Path = STATE) -> Path:
    """Return the stack's Python on this host, making a virtual environment from its lock file where needed.

    `say` gets a line of progress now and then; `again` makes it although it is there. InfrastructureError where there
    is none and none can be made.
    """
    given = os.environ.get(PYTHON_VARIABLE)
    if given:
        return _existing(given, PYTHON_VARIABLE)
    if stack.ready is not None:
        return _existing(stack.ready.python, f"{stack.name}: ready.python")
    folder = environment_folder(stack, state)
    if again:
        shutil.rmtree(folder, ignore_errors=True)
    if not (folder / MARKER).exists():
        _make(stack, folder, state, say)
    return folder / "bin" / "python"


def has_python(stack: Stack, state: Path = STATE) -> bool:
    """Whether `find_python` has nothing to make: its environment is there, or another Python in its place."""
    given = os.environ.get(PYTHON_VARIABLE) or stack.ready is not None
    return bool(given) or (environment_folder(stack, state) / MARKER).exists()


def environment_folder(stack: Stack, state: Path = STATE) -> Path:
    """Return where the stack's virtual environment is or would be: a changed lock or Python means another one."""
    content = hash_files(stack.folder, _locks(stack), (_other_pythons(stack) or sys.version).encode())
    return state / "envs" / f"{stack.name}-{content[:16]}"


def _other_pythons(stack: Stack) -> str:
    """Return the versions of Python that the stack's lock is made for, where this one is none of them."""
    assert stack.build is not None
    own = f"{sys.version_info.major}.{sys.version_info.minor}"
    return "" if own in stack.build.pythons else " ".join(stack.build.pythons)


def _locks(stack: Stack) -> list[Path]:
    assert stack.build is not None
    return [stack.folder / name for name in (stack.build.lock, stack.build.lock_cuda) if name is not None]


def _make(stack: Stack, folder: Path, state: Path, say: Say) -> None:
    """Make the virtual environment beside its place and put it there: whole or not at all."""
    lock, *libraries = _locks(stack)
    log = state / "logs" / f"environment-{stack.name}.log"
    make_folder(folder.parent)
    make_folder(log.parent)
    write_text(log, "")
    say(f"{stack.name}: making a virtual environment from {lock.name} (log: {log})")
    began = time.monotonic()
    beside = folder.with_name(f".{folder.name}.{uuid.uuid4().hex[:8]}")
    python = str(beside / "bin" / "python")
    try:
        base = _base_python(stack, log, state, say)
        _call([base, "-m", "venv", str(beside)], log, stack.name, say)
        install = [python, "-m", "pip", "install", "--no-deps", "--require-hashes"]
        if local := wheels.local_wheels([lock, *libraries]):
            # pip takes a file of a local folder only where a page says its hash.
            install += ["--find-links", str(wheels.write_links(local, beside / "links.html"))]
        _call([*install, "-r", str(lock)], log, stack.name, say)
        if libraries and not _runs(python, "import torch"):
            # This platform's torch is built for CUDA and needs its libraries even where there is no GPU.
            say(f"{stack.name}: torch needs its CUDA libraries here, installing {libraries[0].name}")
            _call([*install, "-r", str(libraries[0])], log, stack.name, say)
        _move(beside, folder)
    finally:
        shutil.rmtree(beside, ignore_errors=True)
    say(f"{stack.name}: virtual environment ready after {time.monotonic() - began:.0f} s")


def _base_python(stack: Stack, log: Path, state: Path, say: Say) -> str:
    """Return a Python that the stack's lock is made for: this one, one of this host's, or one that uv brings."""
    versions = _other_pythons(stack).split()
    if not versions:
        return sys.executable
    for version in versions:
        found = shutil.which(f"python{version}")
        if found and _runs(found, f"import sys, ensurepip; sys.exit('%d.%d' % sys.version_info[:2] != '{version}')"):
            return found
    version, folder = versions[0], state / "pythons"
    failed = f"uv could not bring Python {version} (install it, or name a mirror in UV_PYTHON_INSTALL_MIRROR)"
    say(f"{stack.name}: its packages are for Python {' or '.join(versions)}, none is here: uv brings {version}")
    tool = state / "envs" / f"uv-{hash_files(UV_LOCK.parent, [UV_LOCK])[:16]}"
    uv = [str(tool / "bin" / "python"), "-m", "uv", "python"]
    if not _runs(uv[0], "import uv"):
        _call([sys.executable, "-m", "venv", "--clear", str(tool)], log, stack.name, say)
        install = ["-m", "pip", "install", "--no-deps", "--require-hashes", "-r", str(UV_LOCK)]
        _call([uv[0], *install], log, stack.name, say, failed=failed)
    command = [*uv, "install", "--no-bin", "--install-dir", str(folder), version]
    _call(command, log, stack.name, say, failed=failed)
    return str(next(folder.glob(f"cpython-{version}.*/bin/python{version}")))


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


def _call(
    command: Sequence[str],
    log: Path,
    name: str,
    say: Say,
    *,
    failed: str = "the virtual environment could not be made",
) -> None:
    began = time.monotonic()
    with log.open("ab") as out:
        process = subprocess.Popen(  # noqa: S603  (this Python, or the environment just made)
            command, stdout=out, stderr=subprocess.STDOUT, stdin=subprocess.DEVNULL, env=clean_environment(os.environ)
        )
        try:
            while True:
                with contextlib.suppress(subprocess.TimeoutExpired):
                    interrupt.patiently(lambda: process.wait(HEARTBEAT_S))
                    break
                last = (_text(log).splitlines() or [""])[-1].strip()
                say(f"{name}: installing, {time.monotonic() - began:.0f} s: {last[:100]}")
        except BaseException:
            process.kill()
            process.wait()
            raise
    if process.returncode != 0:
        raise InfrastructureError(f"{telling(_text(log))}; {failed}", where=name, remedy=f"the whole log: {log}")


def _runs(python: str, code: str) -> bool:
    """Whether this Python is there and runs the code to its end."""
    with contextlib.suppress(OSError):
        return interrupt.run_process([python, "-c", code], env=clean_environment(os.environ)).returncode == 0
    return False


def _text(log: Path) -> str:
    return log.read_text(encoding="utf-8", errors="replace")


def _existing(name: str, where: str) -> Path:
    found = shutil.which(name)
    if found is None:
        what, remedy = "there is no such Python on this host", "run this stack with Docker"
        raise InfrastructureError(what, where=f"{where} = {name}", remedy=remedy)
    return Path(found)
