"""Files behind links, as a container sees them: the folder that it must be shown, and what its user may not read."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

from orchestrator.base.errors import UsageError

MOST_LINKS = 40
DEEPEST = 2
"""How far below the folder that is shown a checkpoint may lie: as deep as a download cache's snapshot."""


def mount_of(folder: Path, names: Sequence[str]) -> tuple[Path, str]:
    """Return the folder to show to a container, and the place of `folder` in it, so that relative links hold.

    UsageError for a file of `names` whose links a container could not follow.
    """
    top = real = folder.resolve()
    for name in names:
        for place in way(real / name):
            absolute = place.is_symlink() and place.readlink().is_absolute()
            if not real.is_relative_to(place):
                top = Path(os.path.commonpath([top, place.parent]))
            if absolute or len(real.relative_to(top).parts) > DEEPEST:
                remedy = "copy the folder with `cp -rL` and name the copy"
                raise UsageError("is a link that a container cannot follow", where=str(folder / name), remedy=remedy)
    return top, real.relative_to(top).as_posix()


def closed_to(uid: int, gid: int, mount: Path, files: Iterable[Path]) -> list[Path]:
    """Return what lies on the way from `mount` to the files and is closed to a user who is in that group alone."""
    places = dict.fromkeys(place for file in files for place in way(file) if place.is_relative_to(mount))
    return [place for place in places if not place.is_symlink() and not _may(place.stat(), uid, gid)]


def _may(status: os.stat_result, uid: int, gid: int) -> bool:
    needed = stat.S_IXOTH if stat.S_ISDIR(status.st_mode) else stat.S_IROTH
    shift = 6 if status.st_uid == uid else 3 if status.st_gid == gid else 0
    return bool(status.st_mode >> shift & needed)


def way(path: Path) -> Iterator[Path]:
    """Yield each folder, link and file that the kernel passes from the root to `path` and on to where it leads."""
    here, waiting, links = Path("/"), list(reversed(path.parts[1:])), 0
    while waiting and links < MOST_LINKS:
        part = waiting.pop()
        if part == "..":
            here = here.parent
            continue
        yield here / part
        if not (here / part).is_symlink():
            here = here / part
            continue
        links += 1
        target = (here / part).readlink()
        here = Path("/") if target.is_absolute() else here
        waiting += reversed(target.parts[1:] if target.is_absolute() else target.parts)
