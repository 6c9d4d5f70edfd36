"""Where things are: in a checkout beside the packages, in an installation from a wheel inside them.

No folder is created here.
"""

from __future__ import annotations

import contextlib
import os
from pathlib import Path

ORCHESTRATOR = Path(__file__).resolve().parent.parent
REPOSITORY = ORCHESTRATOR.parent
"""In an installation: the folder of its packages."""
BENCH = REPOSITORY / "bench"
BUNDLE_ENDING = ".tar.gz"
"""How the name of a bundle ends: a run in one file."""
PUBLISHED = ORCHESTRATOR / "analysis" / "figures"
SUITES = ORCHESTRATOR / "plan" / "suites"

WITHIN = ORCHESTRATOR / "images"
"""Where a wheel has what lies at the top of a checkout (setup.py puts it there)."""
INSTALLED = WITHIN.is_dir()
IMAGES = WITHIN if INSTALLED else REPOSITORY / "images"
"""The stacks that come along; nothing is ever written there."""
OWN = Path() if INSTALLED else REPOSITORY
"""Where the user's files go: the top of a checkout, else the current folder: an installation is never written to."""
RESULTS = OWN / "results"
STATE_VARIABLE = "STACKBENCH_STATE"
STATE = Path(os.environ.get(STATE_VARIABLE) or OWN / ".stackbench")
"""Virtual environments, cells' work folders and shared compile caches: never committed, may be deleted."""
with contextlib.suppress(OSError):  # the current folder is gone: the first write says so
    STATE = STATE.absolute()


def from_here(path: Path) -> Path:
    """Return a path as one types it here: what lies below the current folder from there.

    In a compose service this is as the host has it, whose checkout lies elsewhere.
    """
    with contextlib.suppress(OSError):
        if path.is_relative_to(Path.cwd()):
            return path.relative_to(Path.cwd())
    return path
