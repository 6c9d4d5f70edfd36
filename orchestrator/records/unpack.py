"""Taking in a bundle that somebody sent: nothing is believed before it was checked, nothing is overwritten."""

from __future__ import annotations

import contextlib
import gzip
import hashlib
import os
import shutil
import tarfile
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path

from pydantic import ValidationError

from orchestrator.base.errors import UsageError
from orchestrator.base.files import make_folder, os_error, os_errors
from orchestrator.base.interrupt import check
from orchestrator.base.invalid import explain_validation
from orchestrator.base.text import printable, utc
from orchestrator.records.bundle import (
    MANIFEST,
    MANIFEST_LIMIT_BYTES,
    MOST_RATIO,
    NAME,
    PIECE_BYTES,
    Claims,
    Manifest,
    check_lock,
    limit_of,
    too_much,
)
from orchestrator.records.stack_lock import FOLDER as LOCKS
from orchestrator.records.store import MOST_VALUES, RUN_FILE, Run, appear, being_made, record_files

BLOCK = 512
PLAIN = (tarfile.REGTYPE, tarfile.AREGTYPE)
REMEDY = "ask for it again: it is damaged, or not a bundle of this tool"
SHOWN_NAME = 80


def unpack(
    bundle: Path,
    results: Path,
    finish: Callable[[Path], object] = lambda _folder: None,
    *,
    name: str | None = None,
    imported: bool = True,
) -> Run:
    """Check the bundle and put its run into `results`; anything wrong with it is a UsageError, and nothing is left.

    `finish` is handed the run's folder before it appears: to make its tables from the records, for those that came
    along are not believed. The folder is called `name`, or else as the bundle says. Unless it is `imported`, the run is
    left as it was sent, and not marked.
    """
    make_folder(results)
    with _open(bundle) as file:
        with _damage(bundle):
            manifest = _manifest(file, bundle)
        _check_size(manifest, bundle, results)
        target = results / (name or manifest.run)
        remedy = "move it away, or name other --results"
        there = UsageError("a run of this name already exists", where=str(target), remedy=remedy)
        if target.exists() or target.is_symlink():
            raise there
        with being_made(results) as folder:
            try:
                with _damage(bundle):
                    _read(file, folder, manifest, bundle)
                run = _check_run(folder, manifest, bundle)
                if imported:
                    run.update(imported_utc=utc())
                _finish(finish, folder, bundle)
                os.sync()  # before it has its name; a wait for each of thousands of files takes minutes
            except OSError as error:
                raise os_error(error, error.filename or results) from error
            if not appear(folder, target):
                raise there
            return Run(target, run.header)


def _finish(finish: Callable[[Path], object], folder: Path, bundle: Path) -> None:
    try:
        finish(folder)
    except (ValueError, ArithmeticError, LookupError, TypeError, RecursionError) as error:
        raise _bad(bundle, f"no tables can be made of it: {_shown(str(error))}") from error


def _open(bundle: Path) -> gzip.GzipFile:
    if bundle.exists() and not bundle.is_file():
        raise UsageError("not a plain file", where=str(bundle), remedy="name a bundle")
    with os_errors(bundle):
        return gzip.open(bundle, "rb")


@contextlib.contextmanager
def _damage(bundle: Path) -> Iterator[None]:
    try:
        yield
    except (tarfile.TarError, zlib.error, EOFError, UnicodeError, gzip.BadGzipFile) as error:
        raise _bad(bundle, f"cannot be read: {error}") from error


def _entry(file: gzip.GzipFile) -> tarfile.TarInfo | None:
    """Return the next file's header, None at the end.

    Headers are read one by one: a tar's longer ones (long names, links, sparse files) are no plain file's, and are
    refused before anything of them is read.
    """
    block = file.read(BLOCK)
    return tarfile.TarInfo.frombuf(block, "utf-8", "strict") if block.strip(b"\0") else None


def _manifest(file: gzip.GzipFile, bundle: Path) -> Manifest:
    """Return the manifest, which is the first file; every path in it is one that a bundle may have, and no larger."""
    entry = _entry(file)
    if entry is None:
        raise _bad(bundle, "holds nothing")
    if entry.type not in PLAIN or entry.name.partition("/")[2] != MANIFEST:
        raise _bad(bundle, f"does not begin with its {MANIFEST}")
    if not 0 <= entry.size <= MANIFEST_LIMIT_BYTES:
        raise _bad(bundle, f"its {MANIFEST} has {entry.size} bytes, more than the limit")
    content = b"".join(_pieces(file, entry.size, bundle))
    if content.count(b",") > MOST_VALUES:
        raise _bad(bundle, f"its {MANIFEST} has more than {MOST_VALUES} values")
    try:
        manifest = Manifest.model_validate_json(content)
    except ValidationError as error:
        raise _bad(bundle, f"{MANIFEST}: {explain_validation(error, None, Manifest)}") from error
    if not NAME.fullmatch(manifest.run) or entry.name != f"{manifest.run}/{MANIFEST}":
        raise _bad(bundle, f"{MANIFEST} is that of another run")
    _check_paths(manifest, bundle)
    return manifest


def _check_paths(manifest: Manifest, bundle: Path) -> None:
    for path, part in manifest.files.items():
        limit = limit_of(path)
        if limit is None:
            raise _bad(bundle, f"names {_shown(path)}, which no bundle has")
        if part.bytes > limit:
            raise _bad(bundle, f"{_shown(path)} has {part.bytes} bytes, more than the limit")
    if RUN_FILE not in manifest.files:
        raise _bad(bundle, f"has no {RUN_FILE}")


def _check_size(manifest: Manifest, bundle: Path, results: Path) -> None:
    """Refuse what is too much, or has no room here, before anything of it is written."""
    with os_errors(results):
        sent, free = bundle.stat().st_size, shutil.disk_usage(results).free
    if why := too_much(manifest):
        raise _bad(bundle, f"holds {why}")
    if manifest.total > MOST_RATIO * sent:
        raise _bad(bundle, f"{manifest.total} bytes were made {sent}: no run shrinks so much")
    if manifest.total > free:
        what = f"{manifest.total} bytes to be unpacked, {free} free"
        raise UsageError(what, where=str(results), remedy="make room, or name other --results")


def _read(file: gzip.GzipFile, folder: Path, manifest: Manifest, bundle: Path) -> None:
    """Write the manifest's files below `folder`: these, in this order, each with its size and hash, and no others."""
    for path, part in manifest.files.items():
        check()
        entry = _entry(file)
        if entry is None:
            raise _bad(bundle, f"{_shown(path)} is missing")
        if entry.type not in PLAIN or entry.name != f"{manifest.run}/{path}" or entry.size != part.bytes:
            raise _bad(bundle, f"holds {_shown(entry.name)} where its manifest names {_shown(path)}")
        target, sha256 = folder / path, hashlib.sha256()
        target.parent.mkdir(exist_ok=True)
        with target.open("xb") as out:
            for piece in _pieces(file, part.bytes, bundle):
                sha256.update(piece)
                out.write(piece)
        if sha256.hexdigest() != part.sha256:
            raise _bad(bundle, f"{_shown(path)} is not the file that the manifest names")
    if (entry := _entry(file)) is not None:
        raise _bad(bundle, f"holds {_shown(entry.name)}, which its manifest does not name")


def _pieces(file: gzip.GzipFile, size: int, bundle: Path) -> Iterator[bytes]:
    """Yield the next `size` bytes, and skip what fills the last block."""
    left = size
    while left:
        check()
        if not (piece := file.read(min(left, PIECE_BYTES))):
            raise _bad(bundle, "ends in the middle of a file")
        yield piece
        left -= len(piece)
    file.read(-size % BLOCK)


def _check_run(folder: Path, manifest: Manifest, bundle: Path) -> Run:
    """Return the run where run.json and every record are what they say and name the files beside them."""
    named = Claims()
    try:
        run = Run.open(folder)
        for path in record_files(folder):
            check()
            named.read(path)
        for path in sorted((folder / LOCKS).glob("*")):
            check_lock(path)
    except UsageError as error:
        # Where it was unpacked to is nobody's business.
        where = error.where.replace(f"{folder}/", "")
        raise _bad(bundle, f"{where}: {error.what}") from error
    for side, part in manifest.files.items():
        if wrong := named.wrong(side, part.sha256):
            raise _bad(bundle, f"{side} {wrong}")
    return run


def _bad(bundle: Path, what: str) -> UsageError:
    return UsageError(what, where=str(bundle), remedy=REMEDY)


def _shown(name: str) -> str:
    return repr(printable(name)[:SHOWN_NAME])
