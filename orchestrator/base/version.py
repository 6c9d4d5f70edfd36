"""Which version this is: the package's, the checkout's commit where it is one, and the hash of what is measured by."""

from __future__ import annotations

import contextlib
import shutil
import subprocess
from importlib import metadata

from orchestrator.base.errors import UsageError
from orchestrator.base.files import bench_source, read_toml
from orchestrator.base.paths import INSTALLED, REPOSITORY

PACKAGE = "stackbench"
GIT_TIMEOUT_S = 5.0


def version() -> str:
    """Return `0.1.0 (commit 4d5364f, bench f457fbbd022d8989)`; what is not known is left out.

    `changed` beside the commit: files are not as they are in it. bench's hash is the one that records name.
    """
    commit = _commit()
    facts = [f"commit {commit}"] if commit else []
    with contextlib.suppress(UsageError):
        facts.append(f"bench {bench_source()}")
    beside = f" ({', '.join(facts)})" if facts else ""
    return f"{_number()}{beside}"


def _number() -> str:
    # A checkout's package may have been installed when the checkout was older.
    if not INSTALLED:
        with contextlib.suppress(UsageError, LookupError, TypeError):
            return str(read_toml(REPOSITORY / "pyproject.toml")["project"]["version"])
    with contextlib.suppress(metadata.PackageNotFoundError):
        return metadata.version(PACKAGE)
    return "unknown version"


def _commit() -> str | None:
    """Return the short hash of the checkout's commit; None without a checkout or without git."""
    git = shutil.which("git")
    if git is None or not (REPOSITORY / ".git").exists():
        return None
    command = [git, "-C", str(REPOSITORY), "describe", "--always", "--exclude=*", "--dirty= changed"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=GIT_TIMEOUT_S)  # noqa: S603 - fixed words
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout.strip() or None
