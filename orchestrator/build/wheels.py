"""Wheels of a lock that lie in local folders (`PIP_FIND_LINKS`): found by hash, shown to pip, copied for a build.

Among files of one version pip prefers those whose hash it knows beforehand. It knows none for a file in a local folder,
so with --require-hashes it downloads what is already there. A page of links with their hashes makes it see them.
As a command this needs no package at all: `python -m orchestrator.build.wheels copy images/cpu`, or
`… links PAGE LOCK…`.
"""

from __future__ import annotations

import hashlib
import os
import re
import shutil
import sys
from collections.abc import Iterable, Iterator, Mapping
from html import escape
from pathlib import Path
from urllib.parse import unquote, urlparse

from orchestrator.base.text import show

PIP_SOURCES = ("PIP_INDEX_URL", "PIP_EXTRA_INDEX_URL", "PIP_FIND_LINKS")
FOLDER = "wheels"
"""Below a stack's folder: the wheels for its build."""
CHUNK_BYTES = 1 << 20
PIN = re.compile(r"^([A-Za-z0-9._-]+)==([^ ;\\]+)", re.MULTILINE)
HASH = re.compile(r"--hash=sha256:([0-9a-f]{64})")


def local_folder(source: str) -> Path | None:
    """Return the folder that a source of pip's names on this host, or None for one reached over the network."""
    if source.startswith("file:"):
        return Path(unquote(urlparse(source).path))
    return None if "://" in source else Path(source)


def local_sources() -> list[Path]:
    """Return the folders of this host among pip's sources in the environment."""
    parts = [part for name in PIP_SOURCES for part in os.environ.get(name, "").split()]
    return [folder for part in parts if (folder := local_folder(part)) is not None]


def releases(folders: Iterable[Path]) -> Iterator[tuple[Path, tuple[str, str]]]:
    """Yield the wheels in `folders`, each with its (name, version). A folder that cannot be read has no wheels."""
    for folder in folders:
        for wheel in sorted(folder.glob("*.whl")):
            name, version, *_ = wheel.name.split("-")
            yield wheel.resolve(), release(name, version.partition("+")[0])  # a pin has no local label


def release(name: str, version: str) -> tuple[str, str]:
    """Return a package's name in its one normal form, and the version."""
    return re.sub(r"[-_.]+", "-", name).lower(), version


def local_wheels(locks: Iterable[Path], folders: Iterable[Path] | None = None) -> dict[Path, str]:
    """Return the wheels in `folders` (by default those of pip's sources) that the locks accept, with their SHA-256."""
    text = "\n".join(lock.read_text(encoding="utf-8") for lock in locks)
    pins = {release(*pin) for pin in PIN.findall(text)}
    hashes = set(HASH.findall(text))
    found = releases(local_sources() if folders is None else folders)
    return {wheel: digest for wheel, pin in found if pin in pins and (digest := sha256(wheel)) in hashes}


def write_links(wheels: Mapping[Path, str], page: Path) -> Path:
    """Write a page for pip's option `--find-links`, each link with its hash; return `page`."""
    links = [
        f'<a href="{escape(f"{wheel.as_uri()}#sha256={digest}")}">{escape(wheel.name)}</a>'
        for wheel, digest in wheels.items()
    ]
    page.write_text("<!DOCTYPE html>\n" + "\n".join(links) + "\n", encoding="utf-8")
    return page


def copy_wheels(folder: Path) -> list[Path]:
    """Bring `folder`/wheels in line with the folder's locks and return the wheels that are in it afterwards.

    Wheels that the locks no longer accept are removed.
    """
    target, locks = folder / FOLDER, sorted(folder.glob("*.lock"))
    kept = local_wheels(locks, [target])
    for stale in {wheel.resolve() for wheel in target.glob("*.whl")} - set(kept):
        stale.unlink()
    for wheel, digest in local_wheels(locks).items():
        if digest not in kept.values():
            target.mkdir(exist_ok=True)
            beside = target / f".{wheel.name}.part"
            # With its old time stamp, which keeps the builders' caches: the same wheel is the same file.
            shutil.copy2(wheel, beside)
            beside.replace(target / wheel.name)
    return sorted(target.glob("*.whl"))


def sha256(path: Path) -> str:
    """Return the SHA-256 of a file as hex digits."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while chunk := file.read(CHUNK_BYTES):
            digest.update(chunk)
    return digest.hexdigest()


def main() -> None:
    """Fill the folders of wheels of stacks, or write a page of links to the local wheels of locks."""
    match sys.argv[1:]:
        case ["copy", *folders]:
            for folder in folders:
                for wheel in copy_wheels(Path(folder)):
                    show(f"{folder}: {wheel.name}")
        case ["links", page, *locks]:
            write_links(local_wheels([Path(lock) for lock in locks]), Path(page))
        case _:
            raise SystemExit("usage: python -m orchestrator.build.wheels copy FOLDER… | links PAGE LOCK…")


if __name__ == "__main__":
    main()
