"""The committed runs, each unpacked where every command unpacks it."""

from __future__ import annotations

from places import COMMITTED

from orchestrator.records.unpacked import open_bundle

FOLDERS = [open_bundle(path).folder for path in COMMITTED]
