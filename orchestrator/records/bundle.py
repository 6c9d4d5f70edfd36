"""A run in one file, to be sent: a compressed tar of known files alone, with a manifest of their SHA-256s."""

from __future__ import annotations

import gzip
import hashlib
import io
import json
import os
import re
import tarfile
from pathlib import Path
from typing import Literal

from pydantic import Field

from orchestrator.base.errors import UsageError
from orchestrator.base.files import Frozen, beside, os_errors, read_bytes
from orchestrator.base.untrusted import SIDE_FILE_LIMIT_BYTES
from orchestrator.plan.workload import RECORD_LIMIT_BYTES
from orchestrator.records.references import LIMIT_BYTES as REFERENCE_LIMIT_BYTES
from orchestrator.records.store import LOG_LIMIT_BYTES, RUN_FILE, RUN_LIMIT_BYTES, STEM, Run, read_record, stem_of

MANIFEST = "manifest.json"
ENDING = ".tar.gz"
NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}")
"""Of a run's folder."""
REFERENCES = "references"
LOG_SLACK_BYTES = 4096
"""A long log has a line in it that says what was left out."""
KNOWN: tuple[tuple[re.Pattern[str], int], ...] = (
    (re.compile(re.escape(RUN_FILE)), RUN_LIMIT_BYTES),
    (re.compile(r"tables\.(md|json|csv)"), RUN_LIMIT_BYTES),
    (re.compile(r"NOTES\.md|suite\.toml"), 1_000_000),
    (re.compile(rf"records/{STEM.pattern}\.json"), RECORD_LIMIT_BYTES),
    (re.compile(rf"logs/{STEM.pattern}\.log"), LOG_LIMIT_BYTES + LOG_SLACK_BYTES),
    (re.compile(rf"dispatch/{STEM.pattern}\.json"), SIDE_FILE_LIMIT_BYTES),
    (re.compile(rf"telemetry/{STEM.pattern}\.jsonl"), SIDE_FILE_LIMIT_BYTES),
    (re.compile(rf"{REFERENCES}/[0-9a-f]{{16}}\.safetensors"), REFERENCE_LIMIT_BYTES),
)
"""What may be in a bundle: paths below the run's folder, and how many bytes each may have."""


class Part(Frozen):
    """One file of a bundle."""

    sha256: str = Field(pattern="^[0-9a-f]{64}$")
    bytes: int = Field(ge=0)


class Manifest(Frozen):
    """`manifest.json` of a bundle: every other file, by its path below the run's folder."""

    schema_version: Literal[1]
    run: str
    files: dict[str, Part]


def limit_of(path: str) -> int | None:
    """Return how large a file of that path in a run's folder may be; None where a bundle has no such file."""
    return next((limit for pattern, limit in KNOWN if pattern.fullmatch(path)), None)


def pack(run: Run, target: Path, *, references: bool = False) -> tuple[Manifest, list[str]]:
    """Write the run into `target`, whole or not at all; return the manifest and what was left out.

    Anything bad in the run, a file in the target's place, or no space is a UsageError.
    """
    name = run.folder.resolve().name
    if not NAME.fullmatch(name):
        raise UsageError("this name cannot be a bundled run's", where=name, remedy="rename the folder: a-z, 0-9, . _ -")
    if target.exists() or target.is_symlink():
        raise UsageError("already exists", where=str(target), remedy="remove it, or name another file with -o")
    paths, left_out = _chosen(run.folder, references=references)
    for path in paths:
        if path.startswith("records/") and path != f"records/{stem_of(read_record(run.folder / path))}.json":
            raise UsageError("the record of another cell has this name", where=path, remedy="move it away")
    with os_errors(target), beside(target) as place:
        try:
            with place.open("xb") as raw, gzip.GzipFile("", "wb", mtime=0, fileobj=raw) as out:
                manifest = _write(run.folder, name, paths, out)
            # A link, unlike a rename, replaces nothing that has come there meanwhile.
            os.link(place, target)
        except FileExistsError as error:
            raise UsageError("already exists", where=str(target), remedy="name another file with -o") from error
    return manifest, left_out


def _chosen(folder: Path, *, references: bool) -> tuple[list[str], list[str]]:
    """Return the paths to take, in order, and those that are left out. Hidden files are nobody's business."""
    taken, left_out = list[str](), list[str]()

    def shown(place: Path) -> list[Path]:
        return sorted(inner for inner in place.iterdir() if not inner.name.startswith("."))

    with os_errors(folder):
        for place in shown(folder):
            inside = shown(place) if place.is_dir() and not place.is_symlink() else [place]
            for path in (found.relative_to(folder).as_posix() for found in inside):
                wanted = limit_of(path) is not None and (references or not path.startswith(f"{REFERENCES}/"))
                (taken if wanted else left_out).append(path)
    return taken, left_out


def _write(folder: Path, name: str, paths: list[str], out: gzip.GzipFile) -> Manifest:
    """Write the files, then the manifest: each file is read once, and the manifest says what was written."""
    parts: dict[str, Part] = {}
    with tarfile.open(fileobj=out, mode="w", format=tarfile.USTAR_FORMAT) as tar:
        for path in paths:
            content = read_bytes(folder / path, limit=limit_of(path) or 0, follow_links=False)
            parts[path] = Part(sha256=hashlib.sha256(content).hexdigest(), bytes=len(content))
            _add(tar, f"{name}/{path}", content)
        manifest = Manifest(schema_version=1, run=name, files=parts)
        _add(tar, f"{name}/{MANIFEST}", json.dumps(manifest.model_dump(), indent=1).encode())
    return manifest


def _add(tar: tarfile.TarFile, name: str, content: bytes) -> None:
    entry = tarfile.TarInfo(name)
    entry.size, entry.mode = len(content), 0o644
    try:
        tar.addfile(entry, io.BytesIO(content))
    except ValueError as error:
        raise UsageError(str(error), where=name, remedy="use a shorter name") from error
