"""Where things are in the repository."""

from __future__ import annotations

from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
RESULTS = ROOT / "results"
COMMITTED = sorted(path.parent for path in RESULTS.glob("[!2]*/run.json"))
"""Committed runs: others are named by their date."""
GOLDEN = ROOT / "tests" / "golden"
