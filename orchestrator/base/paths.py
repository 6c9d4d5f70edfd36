"""Where things are in the repository. No folder is created here."""

from __future__ import annotations

from pathlib import Path

ORCHESTRATOR = Path(__file__).resolve().parent.parent
REPOSITORY = ORCHESTRATOR.parent
BENCH = REPOSITORY / "bench"
IMAGES = REPOSITORY / "images"
RESULTS = REPOSITORY / "results"
PUBLISHED = ORCHESTRATOR / "analysis" / "figures"
SUITES = ORCHESTRATOR / "plan" / "suites"
STATE = REPOSITORY / ".stackbench"
"""Virtual environments, cells' work folders and shared compile caches: never committed, may be deleted."""
