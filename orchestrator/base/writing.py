"""Writing files whole or not at all: beside first, then renamed."""

from __future__ import annotations

import json
import os
from typing import TYPE_CHECKING, Any

from orchestrator.base.errors import UsageError
from orchestrator.base.files import os_error

if TYPE_CHECKING:
    from pathlib import Path


def write_text(path: Path, text: str) -> None:
    """Replace `path` by `text`. A reader sees the old content or the new one, never half of either."""
    write_bytes(path, text.encode("utf-8"))


def write_json(path: Path, content: Any) -> None:
    """Replace `path` by `content` as JSON with a line for each key."""
    write_text(path, json.dumps(content, indent=1, ensure_ascii=False) + "\n")


def write_bytes(path: Path, content: bytes) -> None:
    """Replace `path` by `content`; no space, no right to write and the like are UsageErrors."""
    beside = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        try:
            beside.write_bytes(content)
            beside.replace(path)
        except BaseException:
            beside.unlink(missing_ok=True)
            raise
    except OSError as error:
        raise os_error(error, path) from error


def make_folder(path: Path) -> None:
    """Make `path` and its parents; it may exist. A file in its place is a UsageError."""
    try:
        path.mkdir(parents=True, exist_ok=True)
    except (OSError, ValueError) as error:
        if isinstance(error, ValueError):
            raise UsageError(str(error), where=repr(str(path)), remedy="check the path") from error
        raise os_error(error, path) from error


def check_writable(folder: Path) -> None:
    """Make `folder` where needed and try a write there, before hours of work depend on it."""
    make_folder(folder)
    write_bytes(folder / ".writable", b"")
    (folder / ".writable").unlink(missing_ok=True)
