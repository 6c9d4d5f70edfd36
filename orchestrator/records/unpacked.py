"""A bundle read where it lies: unpacked and checked into the state's folder once, and nothing is written beside it."""

from __future__ import annotations

import contextlib
import hashlib
import os
import re
import shutil
import time
from collections.abc import Iterator
from pathlib import Path

from orchestrator.base.errors import UsageError
from orchestrator.base.files import make_folder, os_error, os_errors, read_bytes, write_bytes
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

    def unchanged(_folder: Path) -> None:
        if _sha256_of(bundle) != sha256:
            raise UsageError("was changed while it was read", where=str(bundle), remedy="try again")

    with _of_bundle(bundle, place):
        if not (folder / RUN_FILE).is_file():
            _sweep(place.parent)
            make_folder(place)
            place.chmod(PRIVATE)
            try:
                unpack(bundle, place, unchanged, name=folder.name, imported=False)
            except UsageError:
                if not (folder / RUN_FILE).is_file():  # and was not put there by another process meanwhile
                    raise
        run = Run.open(folder)
    origin = os.fsencode(bundle.absolute())
    # Where the folder is another's and cannot be written, the bundle is read all the same.
    with contextlib.suppress(UsageError, OSError):
        if origin_of(folder) != bundle.absolute():
            write_bytes(place / ORIGIN, origin)
        os.utime(place)
    run.bundle = bundle
    return run


@contextlib.contextmanager
def _of_bundle(bundle: Path, place: Path) -> Iterator[None]:
    """Say of the bundle what its place in the state's folder refuses: nobody knows the files there."""
    remedy = f"name another place in {STATE_VARIABLE}"
    try:
        yield
    except OSError as error:
        what = f"cannot be unpacked into {STATE}: {os_error(error, place).what}"
        raise UsageError(what, where=str(bundle), remedy=remedy) from error
    except UsageError as error:
        if error.where != str(STATE) and STATE not in Path(error.where).parents:
            raise
        raise UsageError(f"cannot be unpacked into {STATE}: {error.what}", where=str(bundle), remedy=remedy) from error


def origin_of(folder: Path) -> Path | None:
    """Return the bundle that the run in `folder` was unpacked from; None for any other folder."""
    if folder.parent.parent != STATE / FOLDER:
        return None
    with contextlib.suppress(UsageError):
        return Path(os.fsdecode(read_bytes(folder.parent / ORIGIN)))
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
                # First out of the way: of one that is half removed nothing must be read.
                gone = place.with_name(f".{place.name}")
                place.rename(gone)
                shutil.rmtree(gone, ignore_errors=True)
