"""What a run's command line named on this host. With its paths, so in a hidden file: records and bundles hold none."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from pydantic import Field, ValidationError

from orchestrator.base.errors import UsageError
from orchestrator.base.files import Frozen, read_bytes, write_text
from orchestrator.plan.checkpoint import Checkpoint
from orchestrator.plan.choice import RunOptions

FILE = ".asked.json"


class Asked(Frozen):
    """Absolute paths of files and folders."""

    suite: str | None = None
    """Null for one that comes with Stackbench, which its name finds."""
    stacks: tuple[str, ...] = ()
    methods: tuple[str, ...] = ()
    checkpoint: str | None = None
    weights: dict[str, str] = Field(default_factory=dict)
    """Every checkpoint's folder by its fingerprint, those that the suite names too."""


def keep_asked(folder: Path, options: RunOptions, checkpoints: Mapping[str, Checkpoint]) -> None:
    """Write down in the run's folder what its options named."""
    suite = Path(options.suite).absolute() if options.suite and Path(options.suite).is_file() else None
    asked = Asked(
        suite=None if suite is None else str(suite),
        stacks=tuple(str(place.absolute()) for place in options.stack_folders),
        methods=tuple(str(place.absolute()) for place in options.method_folders),
        checkpoint=None if options.checkpoint is None else str(options.checkpoint.absolute()),
        weights={fingerprint: str(found.folder.absolute()) for fingerprint, found in checkpoints.items()},
    )
    write_text(folder / FILE, asked.model_dump_json(indent=1) + "\n")


def read_asked(folder: Path) -> Asked:
    """Return what was written down, nothing for a run that came from elsewhere."""
    try:
        return Asked.model_validate_json(read_bytes(folder / FILE, follow_links=False))
    except (UsageError, ValidationError):
        return Asked()
