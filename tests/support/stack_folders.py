"""Folders of stacks that can be built."""

from __future__ import annotations

import hashlib
from pathlib import Path

from orchestrator.plan.stack import BuiltImage, Stack

WHEEL = b"not really a wheel"
LOCK = f"mine-package==1.0 \\\n    --hash=sha256:{hashlib.sha256(WHEEL).hexdigest()}\n"


def make(folder: Path, dockerfile: str = "FROM scratch\n", name: str = "testonly") -> Stack:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "Dockerfile").write_text(dockerfile)
    (folder / "requirements.lock").write_text(LOCK)
    (folder / "notes.txt").write_text("x")
    (folder / ".dockerignore").write_text("*\n!*.lock\n")
    stack = Stack(schema_version=1, name=name, description="x", methods=("good",), build=BuiltImage())
    return stack.model_copy(update={"folder": folder})
