"""Where things are in the repository. No folder is made here."""

from __future__ import annotations

from pathlib import Path

REPOSITORY = Path(__file__).resolve().parent.parent
BENCH = REPOSITORY / "bench"
IMAGES = REPOSITORY / "images"
RESULTS = REPOSITORY / "results"
PUBLISHED = RESULTS / "published"
SUITES = Path(__file__).resolve().parent / "suites"
SCHEMAS = Path(__file__).resolve().parent / "schemas"
STATE = REPOSITORY / ".stackbench"
"""Virtual environments, cells' work folders and shared compile caches: never committed, may be deleted."""
