"""A run in one file, to be sent: a compressed tar of known files alone, after a manifest of their SHA-256s."""

from __future__ import annotations

import gzip
import hashlib
import io
import os
import re
import tarfile
import tempfile
from pathlib import Path
from typing import Any, BinaryIO, Literal

from pydantic import Field, ValidationError

from orchestrator.base.errors import UsageError
from orchestrator.base.files import Count, Frozen, beside, os_errors, read_bytes, to_disk, write_bytes
from orchestrator.base.interrupt import check
from orchestrator.base.invalid import explain_validation
from orchestrator.base.untrusted import SIDE_FILE_LIMIT_BYTES, open_plain
from orchestrator.plan.methods import FOLDER as METHODS
from orchestrator.plan.methods import LIMIT_BYTES as METHOD_LIMIT_BYTES
from orchestrator.plan.stack import METHOD_NAME
from orchestrator.plan.workload import RECORD_LIMIT_BYTES
from orchestrator.records.record import Record
from orchestrator.records.references import ENDING as REFERENCE_ENDING
from orchestrator.records.references import FOLDER as REFERENCES
from orchestrator.records.references import LIMIT_BYTES as REFERENCE_LIMIT_BYTES
from orchestrator.records.references import recorded
from orchestrator.records.stack_lock import FOLDER as LOCKS
from orchestrator.records.stack_lock import LIMIT_BYTES as LOCK_LIMIT_BYTES
from orchestrator.records.stack_lock import StackLock
from orchestrator.records.store import LOG_LIMIT_BYTES, RUN_FILE, RUN_LIMIT_BYTES, STEM, Run, read_stored, stem_of

MANIFEST = "manifest.json"
NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}")
"""Of a run's folder."""
BESIDE = ("logs/", "dispatch/", "telemetry/", f"{REFERENCES}/", f"{METHODS}/")
"""Folders of files that are taken where a record names them, by their hash, and not otherwise."""
MANIFEST_LIMIT_BYTES = 8_000_000
MOST_FILES = 50_000
MOST_BYTES = 20 * 10**9
MOST_RATIO = 100
"""Bytes in a bundle for each byte of its file: runs have 5 to 12."""
COMPRESSION = (9, 0)
PIECE_BYTES = 2**20
TABLES_LIMIT_BYTES = 64_000_000
LOG_SLACK_BYTES = 4096
"""A long log has a line in it that says what was left out."""
KNOWN: tuple[tuple[re.Pattern[str], int], ...] = (
    (re.compile(re.escape(RUN_FILE)), RUN_LIMIT_BYTES),
    (re.compile(r"tables\.(md|json|csv)"), TABLES_LIMIT_BYTES),
    (re.compile(r"NOTES\.md|suite\.toml|side-by-side\.json"), 1_000_000),
    (re.compile(rf"records/{STEM.pattern}\.json"), RECORD_LIMIT_BYTES),
    (re.compile(rf"logs/{STEM.pattern}\.log"), LOG_LIMIT_BYTES + LOG_SLACK_BYTES),
    (re.compile(rf"dispatch/{STEM.pattern}\.json"), SIDE_FILE_LIMIT_BYTES),
    (re.compile(rf"telemetry/{STEM.pattern}\.jsonl"), SIDE_FILE_LIMIT_BYTES),
    (re.compile(rf"{LOCKS}/[a-z0-9_-]{{1,80}}\.lock\.json"), LOCK_LIMIT_BYTES),
    (re.compile(rf"{METHODS}/{METHOD_NAME.pattern}\.py"), METHOD_LIMIT_BYTES),
    (re.compile(rf"{REFERENCES}/[0-9a-f]{{16}}\.safetensors"), REFERENCE_LIMIT_BYTES),
)
"""What may be in a bundle: paths below the run's folder, and how many bytes each may have."""


class Part(Frozen):
    """One file of a bundle."""

    sha256: str = Field(pattern="^[0-9a-f]{64}$")
    bytes: Count


class Manifest(Frozen):
    """`manifest.json` of a bundle: every other file, by its path below the run's folder."""

    schema_version: Literal[1]
    run: str
    files: dict[str, Part]

    @property
    def total(self) -> int:
        """The bytes of all files."""
        return sum(part.bytes for part in self.files.values())


def limit_of(path: str) -> int | None:
    """Return how large a file of that path in a run's folder may be; None where a bundle has no such file."""
    return next((limit for pattern, limit in KNOWN if pattern.fullmatch(path)), None)


def claims(record: Record) -> dict[str, str]:
    """Return the SHA-256 of every file beside the record that it names, by its path below the run's folder."""
    stem = stem_of(record)
    named = {
        f"logs/{stem}.log": record.log_sha256,
        f"dispatch/{stem}.json": record.dispatch and record.dispatch.listing_sha256,
        f"telemetry/{stem}.jsonl": record.telemetry and record.telemetry.series_sha256,
        f"{METHODS}/{record.method}.py": record.method_source,
        **{f"{REFERENCES}/{workload}{REFERENCE_ENDING}": sha256 for workload, sha256 in recorded(record).items()},
    }
    return {path: sha256 for path, sha256 in named.items() if sha256}


class Claims:
    """What the records of a run, once read, say of the files beside them."""

    def __init__(self) -> None:
        self._named: dict[str, set[str]] = {}

    def read(self, path: Path) -> None:
        """Take in what a run's record names (two that made a reference again name the same file); UsageError if bad."""
        record = read_stored(path)
        if record.workload.workload_id != record.workload_id:
            what = "its workload is not the one that its workload_id names"
            raise UsageError(what, where=str(path), remedy="it was changed")
        for named, sha256 in claims(record).items():
            self._named.setdefault(named, set()).add(sha256)

    def wrong(self, path: str, sha256: str) -> str:
        """Return what is wrong with a file beside the records; empty where they name it, or where none needs to."""
        if not path.startswith(BESIDE):
            return ""
        if path not in self._named:
            return "is named by no record"
        return "" if sha256 in self._named[path] else "is not the file that its record names"


def check_lock(path: Path) -> None:
    """Raise a UsageError where a stack's lock is none, or is that of another stack."""
    content = read_bytes(path, limit=LOCK_LIMIT_BYTES, follow_links=False)
    try:
        lock = StackLock.model_validate_json(content)
    except ValidationError as error:
        raise UsageError(explain_validation(error, None, StackLock), where=str(path)) from error
    if path.name != f"{lock.stack}.lock.json":
        raise UsageError("the lock of another stack has this name", where=str(path))


def too_much(manifest: Manifest) -> str:
    """Return why a bundle with this manifest is too large for anybody to take in; empty where it is not."""
    count, total = len(manifest.files), manifest.total
    if count > MOST_FILES:
        return f"{count} files, and a bundle holds at most {MOST_FILES}"
    return f"{total} bytes, and a bundle holds at most {MOST_BYTES}" if total > MOST_BYTES else ""


def pack(run: Run, target: Path, *, references: bool = False) -> tuple[Manifest, list[str]]:
    """Write the run into `target`, whole or not at all; return the manifest and what was left out.

    Left out is what `import` would refuse: each such path is followed by why. A bad run.json, a file in the target's
    place, or no space is a UsageError.
    """
    name = run.folder.resolve().name
    if not NAME.fullmatch(name):
        raise UsageError("this name cannot be a bundled run's", where=name, remedy="rename the folder: a-z, 0-9, . _ -")
    if target.exists() or target.is_symlink():
        raise UsageError("already exists", where=str(target), remedy="remove it, or name another file with -o")
    parts, left_out = _chosen(run.folder, references=references)
    manifest = Manifest(schema_version=1, run=name, files=parts)
    if why := too_much(manifest):
        raise UsageError(f"is too large to be sent: {why}", where=name, remedy="copy its folder instead")
    with os_errors(target), beside(target) as place:
        try:
            for level in COMPRESSION:
                with place.open("wb") as raw, gzip.GzipFile("", "wb", level, raw, mtime=0) as out:
                    _write(run.folder, manifest, out)
                # What shrinks more than a bundle may (a log of one line a million times) is sent as it is.
                if manifest.total <= MOST_RATIO * place.stat().st_size:
                    break
            to_disk(place)
            # A link, unlike a rename, replaces nothing that has come there meanwhile.
            os.link(place, target)
        except FileExistsError as error:
            raise UsageError("already exists", where=str(target), remedy="name another file with -o") from error
    return manifest, left_out


def pack_into(target: Path, run: Run, *, references: bool = False) -> tuple[Manifest, list[str], int]:
    """The same into a device or a pipe, once it is whole; return its size in bytes too."""
    with tempfile.TemporaryDirectory(prefix="stackbench-bundle-") as folder:
        place = Path(folder) / "bundle"
        manifest, left_out = pack(run, place, references=references)
        with place.open("rb") as whole:
            write_bytes(target, iter(lambda: whole.read(io.DEFAULT_BUFFER_SIZE), b""))
        return manifest, left_out, place.stat().st_size


def _chosen(folder: Path, *, references: bool) -> tuple[dict[str, Part], list[str]]:
    """Return what to take, in order, and what is left out and why. Hidden files are nobody's business."""
    taken, left_out, named = dict[str, Part](), list[str](), Claims()
    for path in sorted(_visible(folder), key=lambda path: (not path.startswith("records/"), path)):
        check()
        limit = limit_of(path)
        if limit is None or (path.startswith(f"{REFERENCES}/") and not references):
            left_out.append(path)
            continue
        try:
            part = _part(folder / path, limit)
            if path.startswith("records/"):
                named.read(folder / path)
            elif path.startswith(f"{LOCKS}/"):
                check_lock(folder / path)
            elif path == RUN_FILE:
                Run.open(folder)
            why = named.wrong(path, part.sha256)
        except UsageError as error:
            if path == RUN_FILE:
                raise
            why = error.what
        if why:
            left_out.append(f"{path} ({why})")
        else:
            taken[path] = part
    return taken, left_out


def _visible(folder: Path) -> list[str]:
    def shown(place: Path) -> list[Path]:
        return [inner for inner in place.iterdir() if not inner.name.startswith(".")]

    with os_errors(folder):
        inside = [shown(place) if place.is_dir() and not place.is_symlink() else [place] for place in shown(folder)]
    return [path.relative_to(folder).as_posix() for paths in inside for path in paths]


def _part(path: Path, limit: int) -> Part:
    with os_errors(path), open_plain(path) as file:
        size = os.fstat(file.fileno()).st_size
        if size > limit:
            raise UsageError(f"{size} bytes, more than the limit of {limit}", where=str(path))
        sha256 = hashlib.sha256()
        while piece := file.read(PIECE_BYTES):
            check()
            sha256.update(piece)
    return Part(sha256=sha256.hexdigest(), bytes=size)


def _write(folder: Path, manifest: Manifest, out: gzip.GzipFile) -> None:
    """Write the manifest, then its files, in its order; one that has changed since is a UsageError."""
    content = manifest.model_dump_json().encode()
    with tarfile.open(fileobj=out, mode="w", format=tarfile.USTAR_FORMAT) as tar:
        _add(tar, f"{manifest.run}/{MANIFEST}", io.BytesIO(content), len(content))
        for path, part in manifest.files.items():
            check()
            with open_plain(folder / path) as file:
                read = Hashing(file)
                _add(tar, f"{manifest.run}/{path}", io.BufferedReader(read), part.bytes)
                if read.sha256.hexdigest() != part.sha256:
                    raise UsageError("was changed while it was packed", where=path, remedy="try again")


class Hashing(io.RawIOBase):
    """A file that hashes what is read of it."""

    def __init__(self, file: BinaryIO) -> None:
        self._file, self.sha256 = file, hashlib.sha256()

    def readable(self) -> bool:
        """Return that it is."""
        return True

    def readinto(self, buffer: Any) -> int:
        """Read the next bytes into `buffer` and return how many."""
        piece = self._file.read(len(buffer))
        buffer[: len(piece)] = piece
        self.sha256.update(piece)
        return len(piece)


def _add(tar: tarfile.TarFile, name: str, content: BinaryIO, size: int) -> None:
    entry = tarfile.TarInfo(name)
    entry.size, entry.mode = size, 0o644
    try:
        tar.addfile(entry, content)
    except (ValueError, tarfile.TarError) as error:
        raise UsageError(str(error), where=name, remedy="use a shorter name") from error
