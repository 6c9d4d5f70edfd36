"""Stacks: folders with a `stack.toml`, in `images/` and wherever the user keeps more."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from orchestrator.base.errors import UsageError
from orchestrator.base.files import os_error, read_toml, validate
from orchestrator.plan.stack import OF_THE_CELL, Stack

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

STACK_FILE = "stack.toml"
# Methods become parts of file names and of module names.
METHOD_NAME = re.compile(r"[a-z0-9][a-z0-9_]*")


def load_stack(folder: Path) -> Stack:
    """Return the stack that `folder` describes, with the files that it names checked to be there."""
    path = folder / STACK_FILE
    raw = read_toml(path)
    if "folder" in raw:
        raise UsageError("folder: unknown key", where=str(path), remedy="remove it: a stack is where its file is")
    stack = validate(Stack, raw, path)
    for method in stack.methods:
        if not METHOD_NAME.fullmatch(method):
            raise UsageError(
                f'methods: "{method}" is no name of a method', where=str(path), remedy="use a-z, 0-9 and underscores"
            )
    if len(set(stack.methods)) != len(stack.methods):
        raise UsageError("methods: a method is named twice", where=str(path), remedy="name each once")
    for name in sorted(OF_THE_CELL.intersection(stack.environment)):
        raise UsageError(
            f"environment.{name}: every cell gets one of its own", where=str(path), remedy="leave this variable out"
        )
    if stack.build is not None:
        for key, name in (("dockerfile", stack.build.dockerfile), ("lock", stack.build.lock)):
            if not (folder / name).is_file():
                raise UsageError(
                    f'build.{key}: there is no file "{name}" beside it',
                    where=str(path),
                    remedy="add it or correct the name",
                )
    return stack.model_copy(update={"folder": folder})


def find_stacks(folders: Sequence[Path]) -> dict[str, Stack]:
    """Return the stacks in the sub-folders of `folders` (or in a folder itself, where it is one), by name."""
    stacks: dict[str, Stack] = {}
    for folder in folders:
        for place in _stack_folders(folder):
            stack = load_stack(place)
            if stack.name in stacks and stacks[stack.name].folder.resolve() != place.resolve():
                raise UsageError(
                    f'name: "{stack.name}" is also the name of the stack in {stacks[stack.name].folder}',
                    where=str(place / STACK_FILE),
                    remedy="rename one of them",
                )
            stacks[stack.name] = stack
    return stacks


def _stack_folders(folder: Path) -> list[Path]:
    try:
        if (folder / STACK_FILE).exists():
            return [folder]
        found = sorted(place for place in folder.iterdir() if (place / STACK_FILE).exists())
    except (OSError, ValueError) as error:
        if isinstance(error, ValueError):
            raise UsageError(str(error), where=repr(str(folder)), remedy="check the path") from error
        raise os_error(error, folder) from error
    if not found:
        raise UsageError(f"no sub-folder has a {STACK_FILE}", where=str(folder), remedy="name a folder of stacks")
    return found
