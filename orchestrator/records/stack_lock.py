"""The format of stack.lock.json: what a stack was made of. Each run has a copy of those of its stacks."""

from __future__ import annotations

from typing import Literal

from orchestrator.base.files import Frozen

FOLDER = "stacks"
"""Below the state's folder, and in a run."""
LIMIT_BYTES = 1_000_000


class TorchBuild(Frozen):
    """How torch was built. `cuda` is null and `arch_list` empty for a build without CUDA."""

    version: str
    git: str | None = None
    cuda: str | None = None
    arch_list: tuple[str, ...] = ()


class StackLock(Frozen):
    """What a stack was made of. No host name, no path."""

    schema_version: Literal[1]
    stack: str
    written_utc: str
    image: str | None
    image_id: str | None
    image_content: str | None = None
    """A hash of its layers and settings: the same where an image was made again of the same, under another id."""
    image_digest: str | None
    """The registry's; an image built here has none."""
    requirements: str | None
    """SHA-256 of the lock of requirements."""
    fingerprint: str
    """Over Python and packages, as in every record."""
    python: str | None
    packages: dict[str, str]
    torch: TorchBuild | None
    """None: torch cannot be imported there."""
    left_out: tuple[str, ...] = ()
    """What the stack was built without, and why."""
