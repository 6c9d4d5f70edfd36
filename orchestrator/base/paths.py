"""Where things are in the repository. No folder is created here."""

from __future__ import annotations

import os
from pathlib import Path

ORCHESTRATOR = Path(__file__).resolve().parent.parent
REPOSITORY = ORCHESTRATOR.parent
BENCH = REPOSITORY / "bench"
IMAGES = REPOSITORY / "images"
RESULTS = REPOSITORY / "results"
BUNDLE_ENDING = ".tar.gz"
"""Of a run in one file, there or anywhere."""
PUBLISHED = ORCHESTRATOR / "analysis" / "figures"
SUITES = ORCHESTRATOR / "plan" / "suites"
STATE_VARIABLE = "STACKBENCH_STATE"
STATE = Path(os.environ.get(STATE_VARIABLE) or REPOSITORY / ".stackbench").absolute()
"""Virtual environments, cells' work folders and shared compile caches: never committed, may be deleted."""
