"""The identity of the code that runs inside: a row says which `bench` measured it."""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING

from orchestrator.base.errors import UsageError
from orchestrator.base.files import os_error
from orchestrator.base.paths import BENCH

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path


def bench_source(folder: Path = BENCH) -> str:
    """Return sixteen hex digits over the paths and bytes of every .py and .json file below `folder`."""
    paths = sorted(
        (path for path in folder.rglob("*") if path.suffix in {".py", ".json"} and "__pycache__" not in path.parts),
        key=lambda path: path.relative_to(folder).as_posix(),
    )
    if not paths:
        raise UsageError("no bench here", where=str(folder), remedy="run from a checkout of the repository")
    return hash_files(folder, paths)[:16]


def hash_files(folder: Path, paths: Iterable[Path], more: bytes = b"") -> str:
    """Return the SHA-256 over the places below `folder` and the bytes of `paths`, in this order, and over `more`."""
    total = hashlib.sha256()
    for path in paths:
        try:
            content = path.read_bytes()
        except OSError as error:
            raise os_error(error, path) from error
        # Lengths in between: moving bytes from one file to the next must not go unnoticed.
        total.update(f"{path.relative_to(folder).as_posix()}\0{len(content)}\0".encode())
        total.update(content)
    total.update(more)
    return total.hexdigest()
