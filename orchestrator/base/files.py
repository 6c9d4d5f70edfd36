"""Files: reading what a person wrote (TOML, JSON), checking it, writing whole or not at all, hashing.

Whatever is wrong becomes one line with file, key, reason and remedy.
"""

from __future__ import annotations

import errno
import hashlib
import json
import math
import os
import re
import stat
import sys
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Annotated, Any, TypeVar

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError

from orchestrator.base.errors import UsageError
from orchestrator.base.invalid import explain_validation, key_name
from orchestrator.base.limits import LARGEST
from orchestrator.base.paths import BENCH, IMAGES
from orchestrator.base.text import one_line

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

T = TypeVar("T", bound=BaseModel)
FILE_LIMIT_BYTES = 4_000_000
REMEDIES = {
    errno.ENOENT: "check the path",
    errno.EACCES: "check who may read and write there",
    errno.EPERM: "check who may read and write there",
    errno.EROFS: "name a folder that can be written to",
    errno.ENOSPC: "make room or name another folder",
    errno.EDQUOT: "make room or name another folder",
    errno.ENOTDIR: "name a folder, not a file",
    errno.EISDIR: "name a file, not a folder",
    errno.EEXIST: "name a folder, not a file",
    errno.ELOOP: "links are not followed here: copy the file itself there",
    errno.ENAMETOOLONG: "use a shorter path",
}


class Frozen(BaseModel):
    """A value: never changed after it was made, never with keys that nobody reads, and its floats are finite."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


# Bounds of what stands in files that are not ours: beyond them arithmetic, libraries and our own printing fail.

MOST_NESTED = 100
DOTTED = re.compile(rf"""(?<![\w"'-])(?:(?:[\w-]+|"[^"\n]*"|'[^'\n]*')[ \t]*\.[ \t]*){{{MOST_NESTED}}}""")
"""A key of so many parts, which the TOML parser would take hours for."""


class BeyondBoundsError(ValueError):
    """A number, or how deep a value is nested."""


def bounded(value: Any) -> Any:
    """Return a parsed value as it is; BeyondBoundsError where a number in it or its nesting is beyond bounds."""
    waiting: list[tuple[Any, tuple[str | int, ...]]] = [([value], ())]
    while waiting:
        here, path = waiting.pop()
        if len(path) > MOST_NESTED + 1:
            raise BeyondBoundsError("nested too deeply")
        for key, inner in here.items() if isinstance(here, dict) else enumerate(here):
            kind = type(inner)
            if kind is dict or kind is list or kind is tuple:
                waiting.append((inner, (*path, key)))
            elif kind is int and not -LARGEST - 1 <= inner <= LARGEST:
                raise BeyondBoundsError(_at((*path, key)[1:], value, "must be an integer of at most 64 bits"))
            elif kind is float and not math.isfinite(inner):
                raise BeyondBoundsError(_at((*path, key)[1:], value, "must be a finite number"))
    return value


def _at(path: Sequence[str | int], value: Any, wrong: str) -> str:
    name = key_name(path, value)
    return f"{name}: {wrong}" if name else wrong


# Limits are within 64 bits themselves: pydantic compares others ten times as slowly.
Integer = Annotated[int, Field(ge=-LARGEST - 1, le=LARGEST)]
Count = Annotated[int, Field(ge=0, le=LARGEST)]
Positive = Annotated[int, Field(gt=0, le=LARGEST)]
Json = Annotated[Any, AfterValidator(bounded)]
"""A part of a file that no schema describes."""


# What the operating system refuses.


def os_error(error: OSError, where: Path | str) -> UsageError:
    """Return the line for a failed call of the operating system."""
    what = (error.strerror or str(error)).lower()
    remedy = REMEDIES.get(error.errno or 0, "check the path and the disk")
    return UsageError(what, where=str(where), remedy=remedy)


def disk_full(error: BaseException) -> bool:
    """Whether the error, or what it was raised from, is that of a disk, or a quota, without room."""
    cause = error if isinstance(error, OSError) else error.__cause__
    return isinstance(cause, OSError) and cause.errno in (errno.ENOSPC, errno.EDQUOT)


@contextmanager
def os_errors(where: Path | str) -> Iterator[None]:
    """Turn what fails inside, calls of the operating system alone, into a UsageError about `where`."""
    try:
        yield
    except OSError as error:
        raise os_error(error, where) from error
    except ValueError as error:  # a zero byte in the name
        raise UsageError(str(error), where=repr(str(where)), remedy="check the path") from error


# Reading.


def read_bytes(path: Path, *, limit: int = FILE_LIMIT_BYTES, follow_links: bool = True) -> bytes:
    """Return what a plain file of at most `limit` bytes holds; anything else is a UsageError."""
    with os_errors(path):
        # Not blocking: a named pipe that nobody writes to must not hang the command.
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | (0 if follow_links else os.O_NOFOLLOW))
    try:
        status = os.fstat(descriptor)
        if not stat.S_ISREG(status.st_mode):
            raise UsageError("not a plain file", where=str(path), remedy="name a file")
        if status.st_size > limit:
            what = f"{status.st_size} bytes, more than the limit of {limit}"
            raise UsageError(what, where=str(path), remedy="is it the right file?")
        return os.read(descriptor, status.st_size)  # of the limit's size, the buffer would cost more than the reading
    finally:
        os.close(descriptor)


def read_toml(path: Path) -> dict[str, Any]:
    """Return the TOML file as a dictionary."""
    raw: dict[str, Any] = _parsed(path, _parse_toml, "TOML")
    return raw


def read_json(path: Path) -> dict[str, Any]:
    """Return the JSON file, an object, as a dictionary."""
    raw = _parsed(path, parse_json, "JSON")
    if not isinstance(raw, dict):
        raise UsageError("not a JSON object", where=str(path), remedy="the outermost value must be in braces")
    return raw


def parse_json(text: str | bytes) -> Any:
    """Return what a JSON text holds; ValueError for bad syntax, and for numbers and nesting beyond bounds."""
    return _within_bounds(json.loads, text)


def _parse_toml(text: str) -> Any:
    if DOTTED.search(text):
        raise BeyondBoundsError("nested too deeply")
    return _within_bounds(tomllib.loads, text)


def _within_bounds(parse: Callable[[Any], Any], text: str | bytes) -> Any:
    try:
        return bounded(parse(text))
    except RecursionError as error:
        raise BeyondBoundsError("nested too deeply") from error
    except ValueError as error:
        if "set_int_max_str_digits" in str(error):
            raise BeyondBoundsError("an integer has thousands of digits") from error
        raise


def _parsed(path: Path, parse: Callable[[str], Any], kind: str) -> Any:
    try:
        # An editor's byte order mark says nothing.
        return parse(read_bytes(path).decode("utf-8-sig"))
    except UnicodeDecodeError as error:
        raise UsageError(f"not UTF-8 at byte {error.start}", where=str(path), remedy="save it as UTF-8") from error
    except BeyondBoundsError as error:
        raise UsageError(one_line(str(error)), where=str(path), remedy="correct it there") from error
    except ValueError as error:
        what = f"not valid {kind}: {one_line(str(error))}"
        raise UsageError(what, where=str(path), remedy="correct the syntax there") from error


# Checking what was read, by a pydantic model.


def validate(model: type[T], raw: dict[str, Any], path: Path) -> T:
    """Return `raw` as a value of `model`. Strict: no text for a number, no 2.0 for a count."""
    try:
        text = json.dumps(raw)
    except (TypeError, ValueError) as error:
        # TOML knows dates and times; none of the files here does.
        what = f"a value of a kind that is not used here ({one_line(str(error))})"
        raise UsageError(what, where=str(path), remedy="write numbers, text, true or false") from error
    try:
        return model.model_validate_json(text, strict=True)
    except ValidationError as error:
        raise UsageError(explain_validation(error, raw, model), where=str(path)) from error


# Writing: a reader sees the old content or the new one, never half of either.


def write_text(path: Path, text: str | Sequence[str]) -> None:
    """Replace `path` by `text`, or by its pieces one after the other."""
    write_bytes(path, text.encode("utf-8") if isinstance(text, str) else (piece.encode("utf-8") for piece in text))


def write_json(path: Path, content: Any) -> None:
    """Replace `path` by `content` as JSON with a line for each key."""
    write_text(path, json.dumps(content, indent=1, ensure_ascii=False) + "\n")


OPEN_FILES = Path("/dev/fd")
BESIDE = ".*.tmp"
"""Names of files that are not whole yet."""


@contextmanager
def beside(path: Path) -> Iterator[Path]:
    """Hand out a hidden place beside `path`, of this thread alone, to write to first; what is left there is removed."""
    place = path.with_name(BESIDE.replace("*", f"{path.name}.{os.getpid()}.{threading.get_native_id()}"))
    try:
        yield place
    finally:
        with suppress(OSError):
            place.unlink(missing_ok=True)


def write_bytes(path: Path, content: bytes | Iterable[bytes], *, parent: bool = False) -> None:
    """Replace `path` by `content`; no space, no right to write and the like are UsageErrors.

    It is on the disk when this returns, so that a power cut leaves the old content or the new one. `parent`: its folder
    is made again where it is gone. A device, a pipe, and what is open already (/dev/stdout) stay, and are written to.
    """
    if parent:
        make_folder(path.parent)
    if stays(path):
        opened = _descriptor(path)
        # Opened by its name a second time it would be cut, and what `>>` is to keep be lost.
        with os_errors(path), path.open("wb") if opened is None else os.fdopen(os.dup(opened), "wb") as file:
            file.writelines([content] if isinstance(content, bytes) else content)
        return
    with os_errors(path), beside(path) as place:
        if isinstance(content, bytes):
            place.write_bytes(content)
        else:
            with place.open("wb") as file:
                file.writelines(content)
        to_disk(place)
        place.replace(path)
        with suppress(OSError):  # not every file system can do this for a folder
            to_disk(path.parent)


def stays(path: Path) -> bool:
    """Whether `path` is a device, a pipe, or what is open already: it is written to, and never replaced."""
    try:
        mode = path.stat().st_mode
        return not (stat.S_ISREG(mode) or stat.S_ISDIR(mode)) or _descriptor(path) is not None
    except (OSError, ValueError):  # nothing is there, no path
        return False


def _descriptor(path: Path) -> int | None:
    """Return which of our own open files `path` names, as /dev/stdout and /dev/fd/3 do."""
    for place in (path, path.parent / path.readlink()) if path.is_symlink() else (path,):
        if place.name.isdigit() and place.parent.resolve() == OPEN_FILES.resolve():
            return int(place.name)
    return None


def to_disk(path: Path) -> None:
    """Wait until the file or folder is on the disk: a rename may otherwise be there before the content is."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def make_folder(path: Path) -> None:
    """Make `path` and its parents; it may exist. A file in its place is a UsageError."""
    with os_errors(path):
        path.mkdir(parents=True, exist_ok=True)


def check_writable(folder: Path) -> None:
    """Make `folder` where needed and try a write there, before hours of work depend on it."""
    make_folder(folder)
    write_bytes(folder / ".writable", b"")
    (folder / ".writable").unlink(missing_ok=True)


# Hashing.


def bench_source(folder: Path = BENCH) -> str:
    """Return sixteen hex digits over the paths and bytes of every .py and .json file below `folder`, but no stack's."""
    paths = sorted(
        (
            path
            for path in folder.rglob("*")
            if path.suffix in {".py", ".json"} and "__pycache__" not in path.parts and not path.is_relative_to(IMAGES)
        ),
        key=lambda path: path.relative_to(folder).as_posix(),
    )
    if not paths:
        raise UsageError("no bench here", where=str(folder), remedy="install the package again, or use a checkout")
    return hash_files(folder, paths)[:16]


def hash_files(
    folder: Path, paths: Iterable[Path], more: bytes = b"", without: Mapping[Path, re.Pattern[bytes]] | None = None
) -> str:
    """Return the SHA-256 over the places below `folder` and the bytes of `paths`, in this order, and over `more`.

    What a pattern of `without` finds in its file does not count.
    """
    total = hashlib.sha256()
    for path in paths:
        with os_errors(path):
            content = path.read_bytes()
        if without and path in without:
            content = without[path].sub(b"", content)
        # Lengths in between: moving bytes from one file to the next must not go unnoticed.
        total.update(f"{path.relative_to(folder).as_posix()}\0{len(content)}\0".encode())
        total.update(content)
    total.update(more)
    return total.hexdigest()
