"""Wheels of a lock that lie in local folders (`PIP_FIND_LINKS`): found by hash, shown to pip, copied for a build.

pip prefers, among files of one version, those whose hash it knows beforehand, and of a file in a local folder it knows
none: told to require hashes, it downloads what it already has. A page of links with their hashes makes it see them.
Run as a command it needs no package at all: `python -m orchestrator.build.wheels copy images/cpu`, or
`… links PAGE LOCK…`.
"""

from __future__ import annotations

import hashlib
import os
import re
import shutil
import sys
from html import escape
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

FOLDER = "wheels"
"""The folder beside a Dockerfile that takes the wheels for its build."""
CHUNK_BYTES = 1 << 20
PIN = re.compile(r"^([A-Za-z0-9._-]+)==([^ ;\\]+)", re.MULTILINE)
HASH = re.compile(r"--hash=sha256:([0-9a-f]{64})")


def local_wheels(locks: Iterable[Path], folders: Iterable[Path] | None = None) -> dict[Path, str]:
    """Return the wheels in `folders` that the locks accept, with their SHA-256.

    `folders`: those of the variable PIP_FIND_LINKS by default. A folder that cannot be read has no wheels.
    """
    text = "\n".join(lock.read_text(encoding="utf-8") for lock in locks)
    pins = {(_normal(name), version) for name, version in PIN.findall(text)}
    hashes = set(HASH.findall(text))
    if folders is None:
        folders = [Path(entry) for entry in os.environ.get("PIP_FIND_LINKS", "").split()]
    found: dict[Path, str] = {}
    for folder in folders:
        for wheel in sorted(folder.glob("*.whl")):
            name, version, *_ = wheel.name.split("-")
            # A local label (+cpu) is no part of the pin.
            if (_normal(name), version.partition("+")[0]) in pins and (digest := sha256(wheel)) in hashes:
                found[wheel.resolve()] = digest
    return found


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

    Does nothing where the stack has no such folder. Wheels that the locks no longer accept are removed.
    """
    target = folder / FOLDER
    if not target.is_dir():
        return []
    locks = sorted(folder.glob("*.lock"))
    kept = local_wheels(locks, [target])
    for stale in {wheel.resolve() for wheel in target.glob("*.whl")} - set(kept):
        stale.unlink()
    for wheel, digest in local_wheels(locks).items():
        if digest not in kept.values():
            beside = target / f".{wheel.name}.part"
            shutil.copyfile(wheel, beside)
            # An old time stamp keeps the builders' caches: the same wheel is the same file.
            shutil.copystat(wheel, beside)
            beside.replace(target / wheel.name)
    return sorted(target.glob("*.whl"))


def sha256(path: Path) -> str:
    """Return the SHA-256 of a file as hex digits."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while chunk := file.read(CHUNK_BYTES):
            digest.update(chunk)
    return digest.hexdigest()


def _normal(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def main() -> None:
    """Fill the folders of wheels of stacks, or write a page of links to the local wheels of locks."""
    match sys.argv[1:]:
        case ["copy", *folders]:
            for folder in folders:
                for wheel in copy_wheels(Path(folder)):
                    print(f"{folder}: {wheel.name}")
        case ["links", page, *locks]:
            write_links(local_wheels([Path(lock) for lock in locks]), Path(page))
        case _:
            raise SystemExit("usage: python -m orchestrator.build.wheels copy FOLDER… | links PAGE LOCK…")


if __name__ == "__main__":
    main()
