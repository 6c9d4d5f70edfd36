"""A bundle read where it lies: unpacked and checked into the state's folder once, and nothing is written beside it."""

from __future__ import annotations

import contextlib
import hashlib
import os
import re
import shutil
import time
from pathlib import Path

from orchestrator.base.errors import UsageError
from orchestrator.base.files import make_folder, os_errors, read_bytes, write_text
from orchestrator.base.interrupt import check
from orchestrator.base.paths import BUNDLE_ENDING, STATE, STATE_VARIABLE
from orchestrator.records.bundle import PIECE_BYTES
from orchestrator.records.store import RUN_FILE, Run
from orchestrator.records.unpack import unpack

FOLDER = "bundles"
"""Below the state's folder: a folder for each bundle, named by its SHA-256."""
ORIGIN = "bundle.txt"
"""In it: where the bundle lay when it was last read."""
OTHER_SIGNS = re.compile("[^A-Za-z0-9._-]")
"""Characters that a run's name cannot have: a browser's `run (1).tar.gz`."""
PRIVATE = 0o700
KEPT_S = 30 * 86400.0
"""A copy that was not read for so long is removed."""


def open_bundle(bundle: Path) -> Run:
    """Return the run in the bundle, under the file's name; what `import` would refuse is a UsageError.

    The run is read-only: its folder is a copy that may be removed once nothing reads it.
    """
    sha256 = _sha256_of(bundle)
    place = STATE / FOLDER / sha256
    folder = place / (OTHER_SIGNS.sub("-", bundle.name.removesuffix(BUNDLE_ENDING)).lstrip("._-")[:100] or "run")
    if not (folder / RUN_FILE).is_file():
        _sweep(place.parent)
        try:
            make_folder(place)
            place.chmod(PRIVATE)
        except (UsageError, OSError) as error:
            what = f"it cannot be unpacked into {STATE}"
            raise UsageError(what, where=str(bundle), remedy=f"name another place in {STATE_VARIABLE}") from error
        try:
            unpack(bundle, place, name=folder.name, imported=False)
        except UsageError:
            if not (folder / RUN_FILE).is_file():  # and was not put there by another process meanwhile
                raise
        if _sha256_of(bundle) != sha256:
            shutil.rmtree(place, ignore_errors=True)
            raise UsageError("was changed while it was read", where=str(bundle), remedy="try again")
    origin = str(bundle.absolute())
    if origin_of(folder) != Path(origin):
        write_text(place / ORIGIN, origin)
    with contextlib.suppress(OSError):
        os.utime(place)
    run = Run.open(folder)
    run.bundle = bundle
    return run


def origin_of(folder: Path) -> Path | None:
    """Return the bundle that the run in `folder` was unpacked from; None for any other folder."""
    if folder.parent.parent != STATE / FOLDER:
        return None
    with contextlib.suppress(UsageError, UnicodeError):
        return Path(read_bytes(folder.parent / ORIGIN).decode())
    return None


def _sha256_of(bundle: Path) -> str:
    sha256 = hashlib.sha256()
    with os_errors(bundle), bundle.open("rb") as file:
        while piece := file.read(PIECE_BYTES):
            check()
            sha256.update(piece)
    return sha256.hexdigest()


def _sweep(bundles: Path) -> None:
    with contextlib.suppress(OSError):
        for place in list(bundles.iterdir()):
            if time.time() - place.stat().st_mtime > KEPT_S:
                shutil.rmtree(place, ignore_errors=True)
