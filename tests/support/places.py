"""Where things are in the repository."""

from __future__ import annotations

from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
RESULTS = ROOT / "results"
COMMITTED = sorted(RESULTS.glob("h[12]00-*.tar.gz"))
"""The bundles of the committed runs; `committed.FOLDERS` has them unpacked."""
GOLDEN = ROOT / "tests" / "golden"
