"""Locks of this host: one file for each GPU, and one for the CPU. Two cells never share a device."""

from __future__ import annotations

import contextlib
import os
import tempfile
import time
from collections.abc import Iterable, Iterator
from pathlib import Path

from orchestrator.base import interrupt
from orchestrator.base.errors import UsageError
from orchestrator.base.lockfile import Lock, try_lock
from orchestrator.base.text import Say

ENVIRONMENT = "STACKBENCH_LOCKS"
EVERYBODY = 0o1777
FILE_MODE = 0o666
POLL_S = 0.5
HOLDER_LIMIT_BYTES = 200


def lock_folder() -> Path:
    """Return the host's lock folder: `$STACKBENCH_LOCKS`, or one that all users of this host share. Makes none."""
    chosen = os.environ.get(ENVIRONMENT)
    return Path(chosen) if chosen else Path(tempfile.gettempdir()) / "stackbench-locks"


@contextlib.contextmanager
def hold(
    gpu_uuid: str | None, *, purpose: str, say: Say, folder: Path | None = None, run: str | None = None
) -> Iterator[None]:
    """Hold the device's lock, waiting for it as long as it takes; `say` gets one line before the wait.

    `purpose` is what others read while they wait: no more than a word about what runs. The lock goes with the
    process, however it ends. UsageError where the folder cannot be used, or where `run` has the lock already.
    """
    path, device = _lock_file(gpu_uuid, folder), gpu_uuid or "the CPU"
    lock = _try(path, say)
    if lock is None:
        say(f"waiting for {device}: in use by {holder(path)}")
        while (lock := _try(path, say)) is None:
            refuse_own(device, holder(path), run)
            time.sleep(POLL_S)
            interrupt.check()
    try:
        _sign(path, f"process {os.getpid()}, {purpose}, since {time.strftime('%H:%M:%S')}")
        yield
    finally:
        _sign(path, "")
        lock.release()


def take(gpu_uuid: str | None, *, purpose: str, say: Say, folder: Path | None = None) -> tuple[Lock | None, str]:
    """Take the device's lock for as long as this process lives, without waiting; else return who holds it.

    UsageError where the folder cannot be used.
    """
    path = _lock_file(gpu_uuid, folder)
    lock = _try(path, say)
    if lock is None:
        return None, holder(path)
    _sign(path, f"process {os.getpid()}, {purpose}, since {time.strftime('%H:%M:%S')}")
    return lock, ""


def is_free(gpu_uuid: str | None, folder: Path | None = None) -> bool:
    """Whether nobody holds the device's lock at this moment."""
    try:
        lock = _try(_lock_file(gpu_uuid, folder), lambda _line: None)
    except UsageError:
        return True  # `hold` says what is wrong with it
    if lock is not None:
        lock.release()
    return lock is not None


def _try(path: Path, say: Say) -> Lock | None:
    remedy = f"name another folder in {ENVIRONMENT}, the same for all users of this host"
    try:
        return try_lock(path, say, mode=FILE_MODE, remedy=remedy)
    except OSError as error:
        raise UsageError(f"the lock cannot be taken: {error.strerror}", where=str(path), remedy=remedy) from error


def holder(path: Path) -> str:
    """Return what the holder of the lock says about itself."""
    text = ""
    with contextlib.suppress(OSError), _beside(path).open("rb") as file:
        text = " ".join(file.read(HOLDER_LIMIT_BYTES).decode("utf-8", "replace").split())
    return text or "another run"


@contextlib.contextmanager
def hold_all(uuids: Iterable[str | None], *, purpose: str, say: Say, run: str | None = None) -> Iterator[None]:
    """Hold the locks of several devices, taken in the order in which all runs take them: the CPU's, then by UUID."""
    with contextlib.ExitStack() as held:
        for uuid in sorted(set(uuids), key=lambda uuid: uuid or ""):
            held.enter_context(hold(uuid, purpose=purpose, say=say, run=run))
        yield


def refuse_own(device: str, held_by: str, run: str | None) -> None:
    """Refuse to wait for what `run` itself holds, as `purpose_of` says: it would wait for its own end."""
    if run is not None and purpose_of(run) in held_by:
        what, remedy = f"{device} was asked for twice by one run", "two of its hosts are one: keep one entry of them"
        raise UsageError(what, where="--hosts", remedy=remedy)


def purpose_of(run: str) -> str:
    """Return the purpose that a run of many hosts gives, by which it knows its own locks."""
    return f"run {run}"


def _beside(path: Path) -> Path:
    return path.with_suffix(".holder")


def _sign(path: Path, text: str) -> None:
    # Only for people: where another user made the file and it cannot be written, the lock holds all the same.
    with contextlib.suppress(OSError):
        flags = os.O_WRONLY | os.O_TRUNC | os.O_NOFOLLOW
        try:
            descriptor = os.open(_beside(path), flags)
        except FileNotFoundError:
            descriptor = os.open(_beside(path), flags | os.O_CREAT, FILE_MODE)
        with os.fdopen(descriptor, "w", encoding="utf-8") as file:
            file.write(text)
            with contextlib.suppress(PermissionError):
                os.fchmod(file.fileno(), FILE_MODE)


def _lock_file(gpu_uuid: str | None, folder: Path | None) -> Path:
    """Return the file for a GPU, or for the CPU where it is None; its folder is made."""
    folder = folder or lock_folder()
    try:
        with contextlib.suppress(FileExistsError):
            folder.mkdir(parents=True)
            folder.chmod(EVERYBODY)
    except OSError as error:
        what, remedy = (error.strerror or str(error)).lower(), f"set {ENVIRONMENT} to a folder that can be written to"
        raise UsageError(what, where=str(folder), remedy=remedy) from error
    if not folder.is_dir():
        what, remedy = "not a folder, so locks cannot be kept there", f"set {ENVIRONMENT} to a folder"
        raise UsageError(what, where=str(folder), remedy=remedy)
    return folder / f"{gpu_uuid or 'cpu'}.lock"
