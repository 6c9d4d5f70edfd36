"""A stack: one pinned environment, as its `stack.toml` describes it."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

from pydantic import Field, model_validator

from orchestrator.base.errors import UsageError
from orchestrator.base.files import Count, Frozen, Positive, os_errors, read_toml, validate
from orchestrator.base.text import one_line

GpuAccess = Literal["auto", "request", "cdi", "raw", "none"]
OF_THE_CELL = frozenset(
    {
        *("HOME", "USER", "LOGNAME", "TMPDIR"),
        *("PYTHONDONTWRITEBYTECODE", "PYTHONUNBUFFERED", "PYTHONNOUSERSITE"),
        *("TORCHINDUCTOR_CACHE_DIR", "TRITON_CACHE_DIR", "CUDA_CACHE_PATH"),
        *("CUDA_VISIBLE_DEVICES", "NVIDIA_VISIBLE_DEVICES", "NVIDIA_DRIVER_CAPABILITIES"),
    }
)
"""Variables that each cell gets with values of its own, and that no stack can set."""


class BuiltImage(Frozen):
    """An image built from a Dockerfile: the stack's own, or the one that all stacks in the folder above share."""

    dockerfile: str = "Dockerfile"
    base: str | None = None
    """The shared Dockerfile's build argument BASE_IMAGE."""
    builder: str | None = None
    """The image of a stage that compiles (build argument BUILDER_IMAGE), where the Dockerfile has one."""
    pythons: tuple[str, ...] = ()
    """The versions of Python that the lock is made for, which the shared Dockerfile checks; any where empty."""
    system_packages: tuple[str, ...] = ()
    """Packages of the base's system that the shared Dockerfile adds, for a stack that compiles nothing."""
    arguments: tuple[str, ...] = ()
    """Further build arguments, which take the values of variables of these names where they are set."""
    python: str = "/opt/stack/bin/python"
    lock: str = "requirements.lock"
    lock_cuda: str | None = None
    download_bytes: Count | None = None
    disk_bytes: Count | None = None
    builder_disk_bytes: Count | None = None
    """On top of it, while there is a stage that compiles."""

    @model_validator(mode="after")
    def _one_last_stage(self) -> BuiltImage:
        if self.builder and self.system_packages:
            raise ValueError("system_packages are for a stack without a builder; name a base that has them")
        return self

    @property
    def most_disk_bytes(self) -> int | None:
        """What a build takes at most; None where the stack does not say."""
        return None if self.disk_bytes is None else self.disk_bytes + (self.builder_disk_bytes or 0)


class ReadyImage(Frozen):
    """An image that exists already; `mounts` are host folders, mounted read-only at the same place."""

    name: str
    python: str = "python3"
    mounts: tuple[str, ...] = ()


class Gpu(Frozen):
    """What the stack needs of the host's GPU, and how a container gets it."""

    required: bool = False
    access: GpuAccess = "auto"
    devices: tuple[str, ...] = ()
    driver: str | None = None
    compute_capability: str | None = None


class Deviation(Frozen):
    """A pin that differs from the published comparison's, with the reason; repeated under the stack's rows."""

    package: str
    wanted: str
    here: str
    reason: str


class Stack(Frozen):
    """One `stack.toml`. `folder` is where it was found and is not a key of the file."""

    schema_version: Literal[1]
    name: str = Field(pattern="^[a-z0-9][a-z0-9_-]*$")
    description: str
    methods: tuple[str, ...] = Field(min_length=1)
    build: BuiltImage | None = None
    ready: ReadyImage | None = None
    gpu: Gpu = Gpu()
    by_name: bool = False
    """It is built and run only where it is named: a run of all stacks goes without it."""
    environment: dict[str, str] = Field(default_factory=dict)
    """Variables of its processes. Its PYTHONPATH comes behind the folder of bench."""
    work_bytes: Positive = 20_000_000_000
    """What one cell may write, in its work folder, its compile cache and its output together; else it is killed."""
    work_files: Positive = 200_000
    """How many files and folders it may make there."""
    deviations: tuple[Deviation, ...] = ()
    folder: Path = Field(default=Path(), exclude=True)

    @model_validator(mode="after")
    def _one_image(self) -> Stack:
        if (self.build is None) == (self.ready is None):
            raise ValueError("give either [build] (a Dockerfile) or [ready] (an existing image)")
        return self

    @property
    def context(self) -> Path:
        """The folder that its image is built from: its own where a Dockerfile is there, else the one it lies in."""
        has_own = self.build is None or (self.folder / self.build.dockerfile).is_file()
        return self.folder if has_own else self.folder.parent

    @property
    def python(self) -> str:
        """The interpreter inside the container."""
        return self.build.python if self.build else self.ready.python if self.ready else "python3"


STACK_FILE = "stack.toml"

# Methods become parts of file names and of module names.
METHOD_NAME = re.compile(r"[a-z0-9][a-z0-9_]{0,79}")
IMAGE_NAME = re.compile(
    r"((\[[0-9a-fA-F:]+\]|[A-Za-z0-9][A-Za-z0-9.-]*)(:[0-9]+)?/)?[a-z0-9]+([._-]+[a-z0-9]+)*(/[a-z0-9]+([._-]+[a-z0-9]+)*)*"
    r"(:[A-Za-z0-9_][A-Za-z0-9_.-]*)?(@sha256:[0-9a-f]+)?"
)
"""A container image's, as engines take it."""


def check_image_name(name: str, where: str) -> None:
    """Raise the error for a name that no engine takes; `where`: the file and its key, or the variable."""
    if not IMAGE_NAME.fullmatch(name):
        what = f'"{one_line(name)}" is not an image\'s name'
        raise UsageError(what, where=where, remedy="write one, as registry.example/team/torch:2026-11")


def load_stack(folder: Path) -> Stack:
    """Return the stack that `folder` describes, with the files that it names checked to be there."""
    path = folder / STACK_FILE
    raw = read_toml(path)
    if "folder" in raw:
        raise UsageError("folder: unknown key", where=str(path), remedy="remove it: a stack is where its file is")
    stack = validate(Stack, raw, path)

    def bad(what: str, remedy: str) -> UsageError:
        return UsageError(what, where=str(path), remedy=remedy)

    for method in stack.methods:
        if not METHOD_NAME.fullmatch(method):
            raise bad(f'methods: "{method}" is not a valid method name', "use a-z, 0-9 and underscores, at most 80")
    if len(set(stack.methods)) != len(stack.methods):
        raise bad("methods: a method is named twice", "name each once")
    for name in sorted(OF_THE_CELL.intersection(stack.environment)):
        raise bad(f"environment.{name}: every cell gets one of its own", "leave this variable out")
    _check_images(stack, path)
    stack = stack.model_copy(update={"folder": folder.resolve()})
    if stack.build is not None:
        for key, place, name in (
            ("dockerfile", stack.context, stack.build.dockerfile),
            ("lock", folder, stack.build.lock),
        ):
            if not (place / name).is_file():
                raise bad(f'build.{key}: no file "{name}" in {place}', "add it or correct the name")
    return stack


def _check_images(stack: Stack, path: Path) -> None:
    named = {"ready.name": stack.ready.name} if stack.ready else dict[str, str | None]()
    if stack.build:
        named = {"build.base": stack.build.base, "build.builder": stack.build.builder}
    for key, name in named.items():
        if name is not None:
            check_image_name(name, f"{path}: {key}")


def find_stacks(folders: Sequence[Path]) -> dict[str, Stack]:
    """Return the stacks in the sub-folders of `folders` (or in a folder itself, where it is one), by name."""
    stacks: dict[str, Stack] = {}
    for folder in folders:
        for place in _stack_folders(folder):
            stack = load_stack(place)
            first = stacks.setdefault(stack.name, stack)
            if first.folder != place.resolve():
                what = f'name: "{stack.name}" is also the name of the stack in {first.folder}'
                raise UsageError(what, where=str(place / STACK_FILE), remedy="rename one of them")
    return stacks


def _stack_folders(folder: Path) -> list[Path]:
    with os_errors(folder):
        if (folder / STACK_FILE).exists():
            return [folder]
        found = sorted(place for place in folder.iterdir() if (place / STACK_FILE).exists())
    if not found:
        raise UsageError(f"no sub-folder has a {STACK_FILE}", where=str(folder), remedy="name a folder of stacks")
    return found
