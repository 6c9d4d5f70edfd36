"""Taking in a bundle that somebody sent: nothing is believed before it was checked, nothing is overwritten."""

from __future__ import annotations

import gzip
import hashlib
import shutil
import tarfile
import tempfile
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from pydantic import ValidationError

from orchestrator.base.errors import UsageError
from orchestrator.base.files import explain_validation, make_folder, os_error, os_errors, read_bytes
from orchestrator.base.text import printable
from orchestrator.records.bundle import MANIFEST, NAME, Manifest, Part, limit_of
from orchestrator.records.record import Record
from orchestrator.records.store import RUN_FILE, Run, read_record, record_files, stem_of

BLOCK = 512
PIECE_BYTES = 2**20
MANIFEST_LIMIT_BYTES = 64_000_000
TOTAL_LIMIT_BYTES = 20_000_000_000
MOST_FILES = 500_000
PLAIN = (tarfile.REGTYPE, tarfile.AREGTYPE)
REMEDY = "ask for it again: it is damaged, or no bundle of this tool"
SHOWN_NAME = 80


@dataclass
class Unpacked:
    """What was read so far: the run's name, and every file but the manifest."""

    name: str
    files: dict[str, Part]
    total: int = 0


def unpack(bundle: Path, results: Path, finish: Callable[[Path], object]) -> Run:
    """Check the bundle and put its run into `results`; anything wrong with it is a UsageError, and nothing is left.

    `finish` is handed the run's folder before it appears: to make its tables from the records, for those that came
    along are not believed.
    """
    make_folder(results)
    with os_errors(results):
        folder = results / Path(tempfile.mkdtemp(prefix=".import-", dir=results)).name
    try:
        content = folder / "run"
        content.mkdir()
        with _open(bundle) as file:
            found = _read(file, content, bundle)
        _check_manifest(content, found, bundle)
        run = _check_run(content, found, bundle)
        target = results / found.name
        if target.exists() or target.is_symlink():
            remedy = "move it away, or name other --results"
            raise UsageError("a run of this name already exists", where=str(target), remedy=remedy)
        finish(content)
        (content / MANIFEST).unlink()
        content.rename(target)
        return Run(target, run.header)
    except OSError as error:
        raise os_error(error, error.filename or results) from error
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _open(bundle: Path) -> gzip.GzipFile:
    if bundle.exists() and not bundle.is_file():
        raise UsageError("not a plain file", where=str(bundle), remedy="name a bundle")
    with os_errors(bundle):
        return gzip.open(bundle, "rb")


def _read(file: gzip.GzipFile, folder: Path, bundle: Path) -> Unpacked:
    """Write the bundle's files below `folder`. Headers are read one by one: only plain files of known names pass.

    A tar's longer headers (long names, links, sparse files) are refused by their type before anything of them is read.
    """
    found: Unpacked | None = None
    try:
        while block := file.read(BLOCK):
            if not block.strip(b"\0"):
                break
            entry = tarfile.TarInfo.frombuf(block, "utf-8", "strict")
            name, _, path = entry.name.partition("/")
            if entry.type == tarfile.DIRTYPE and ".." not in entry.name.split("/") and NAME.fullmatch(name):
                continue
            limit = MANIFEST_LIMIT_BYTES if path == MANIFEST else limit_of(path)
            if entry.type not in PLAIN or limit is None or not NAME.fullmatch(name):
                raise _bad(bundle, f"holds {_shown(entry.name)}, which no bundle has")
            found = found or Unpacked(name, {})
            if name != found.name or path in found.files or len(found.files) > MOST_FILES:
                raise _bad(bundle, f"holds {_shown(entry.name)} beside another run, or twice")
            found.total += entry.size
            if not 0 <= entry.size <= limit or found.total > TOTAL_LIMIT_BYTES:
                raise _bad(bundle, f"{_shown(entry.name)} has {entry.size} bytes, more than the limit")
            found.files[path] = _write(file, folder / path, entry.size, bundle)
    except (tarfile.TarError, zlib.error, EOFError, UnicodeError, gzip.BadGzipFile) as error:
        raise _bad(bundle, f"cannot be read: {error}") from error
    if found is None:
        raise _bad(bundle, "holds nothing")
    return found


def _write(file: gzip.GzipFile, target: Path, size: int, bundle: Path) -> Part:
    """Write the next `size` bytes to `target` and skip what fills the last block."""
    target.parent.mkdir(exist_ok=True)
    digest, left = hashlib.sha256(), size
    with target.open("xb") as out:
        while left:
            if not (piece := file.read(min(left, PIECE_BYTES))):
                raise _bad(bundle, "ends in the middle of a file")
            digest.update(piece)
            out.write(piece)
            left -= len(piece)
    file.read(-size % BLOCK)
    return Part(sha256=digest.hexdigest(), bytes=size)


def _check_manifest(folder: Path, found: Unpacked, bundle: Path) -> None:
    if MANIFEST not in found.files:
        raise _bad(bundle, f"has no {MANIFEST}")
    content = read_bytes(folder / MANIFEST, limit=MANIFEST_LIMIT_BYTES)
    try:
        manifest = Manifest.model_validate_json(content)
    except ValidationError as error:
        raise _bad(bundle, f"{MANIFEST}: {explain_validation(error, None, Manifest)}") from error
    present = {path: part for path, part in found.files.items() if path != MANIFEST}
    for path in sorted({*manifest.files, *present}):
        if manifest.files.get(path) != present.get(path):
            what = "is missing" if path not in present else "is not the file that the manifest names"
            raise _bad(bundle, f"{_shown(path)} {what}")
    if manifest.run != found.name:
        raise _bad(bundle, f"{MANIFEST} is that of another run")


def _check_run(folder: Path, found: Unpacked, bundle: Path) -> Run:
    """Return the run where run.json and every record are what they say and name the files beside them."""
    if RUN_FILE not in found.files:
        raise _bad(bundle, f"has no {RUN_FILE}")
    try:
        run = Run.open(folder)
        for path in record_files(folder):
            _check_record(read_record(path), path, found, bundle)
    except UsageError as error:
        if error.where == str(bundle):
            raise
        # Where it was unpacked to is nobody's business.
        where = error.where.replace(f"{folder}/", "")
        raise _bad(bundle, f"{where}: {error.what}") from error
    return run


def _check_record(record: Record, path: Path, found: Unpacked, bundle: Path) -> None:
    stem = stem_of(record)
    if path.stem != stem:
        raise _bad(bundle, f"records/{path.name} is the record of another cell")
    if record.workload.workload_id != record.workload_id:
        raise _bad(bundle, f"records/{path.name}: its workload is not the one that its workload_id names")
    named = {
        f"logs/{stem}.log": record.log_sha256,
        f"dispatch/{stem}.json": record.dispatch.listing_sha256 if record.dispatch else None,
        f"telemetry/{stem}.jsonl": record.telemetry.series_sha256 if record.telemetry else None,
    }
    for side, sha256 in named.items():
        if side in found.files and found.files[side].sha256 != sha256:
            raise _bad(bundle, f"{side} is not the file that its record names")


def _bad(bundle: Path, what: str) -> UsageError:
    return UsageError(what, where=str(bundle), remedy=REMEDY)


def _shown(name: str) -> str:
    return repr(printable(name)[:SHOWN_NAME])
