"""stack.lock.json: what a stack was made of when it was built; and drift, what it is made of now if that differs.

A lock of requirements says what is to be installed. This says what was: every package with its build string, the image,
torch's own build. It is written when a stack first runs after its build (a ready image: when it is first seen, and
again by `orchestrator build`), and every start is compared with it.
"""

from __future__ import annotations

import contextlib
import hashlib
from dataclasses import replace
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from orchestrator.base.errors import UsageError
from orchestrator.base.files import make_folder, parse_json, read_bytes, write_json
from orchestrator.base.text import utc
from orchestrator.launchers import Launcher, Prepared
from orchestrator.plan.stack import Stack
from orchestrator.records.record import Record
from orchestrator.records.stack_lock import FOLDER, LIMIT_BYTES, StackLock, TorchBuild

SHOWN_CHANGES = 6
SHORT_ID = 12


def lock_of(launcher: Launcher, prepared: Prepared, state: Path) -> StackLock:
    """Return the lock of a stack on this host, written now where it has none that can be read."""
    path = lock_path(prepared.stack, prepared.image or prepared.python, state)
    with contextlib.suppress(UsageError, ValidationError):
        return StackLock.model_validate_json(read_bytes(path, limit=LIMIT_BYTES))
    torch, left_out = facts_of(launcher.facts(prepared))
    same = ("image", "image_id", "image_content", "image_digest", "fingerprint")
    lock = StackLock(
        **{name: getattr(prepared, name) for name in same},
        schema_version=1,
        stack=prepared.stack.name,
        written_utc=utc(),
        requirements=prepared.lock,
        python=prepared.python_version,
        packages=dict(prepared.packages),
        torch=torch,
        left_out=left_out,
    )
    make_folder(path.parent)
    write_json(path, lock.model_dump(mode="json"))
    return lock


def forget(stack: Stack, place: str, state: Path) -> None:
    """Remove a stack's lock: what is at `place` (an image's name, a Python's path) was made again."""
    lock_path(stack, place, state).unlink(missing_ok=True)


def lock_path(stack: Stack, place: str, state: Path) -> Path:
    """Return where the lock of a stack at `place` is kept."""
    mounts = stack.ready.mounts if stack.ready else ()
    identity = hashlib.sha256("\0".join((place, stack.python, *mounts)).encode()).hexdigest()[:16]
    return state / FOLDER / f"{stack.name}-{identity}" / "stack.lock.json"


def lacks_torch(launcher: Launcher, prepared: Prepared, lock: StackLock) -> bool:
    """Whether the stack itself says that torch is neither installed in it nor can be imported: no cell can run."""
    if lock.torch is not None or "torch" in prepared.packages:
        return False
    with contextlib.suppress(ValueError, TypeError, IndexError):
        return _facts(launcher.facts(prepared)).get("torch", "not said") is None
    return False


def _facts(output: str) -> dict[str, Any]:
    return dict(parse_json([line for line in output.splitlines() if line.startswith("{")][-1]))


def facts_of(output: str) -> tuple[TorchBuild | None, tuple[str, ...]]:
    """Return torch's build and what was left out, from what `python -m bench --facts` printed; (None, ()) without."""
    with contextlib.suppress(ValueError, TypeError, AttributeError, IndexError):
        facts = _facts(output)
        torch = TorchBuild.model_validate(facts["torch"]) if facts.get("torch") else None
        return torch, tuple(str(part)[:400] for part in facts.get("left_out") or ())
    return None, ()


def drift_of(lock: StackLock, now: Prepared) -> str | None:
    """Return in words how a stack differs from its lock, or None where it does not."""
    changes = []
    if now.fingerprint != lock.fingerprint:
        if now.python_version != lock.python:
            changes.append(f"Python {lock.python} is now {now.python_version}")
        for name in sorted({*lock.packages, *now.packages}):
            old, new = lock.packages.get(name), now.packages.get(name)
            if old is None:
                changes.append(f"{name} {new} is new")
            elif old != new:
                changes.append(f"{name} {old} is {'gone' if new is None else f'now {new}'}")
        changes = changes or ["its fingerprint differs"]
    same_content = now.image_content is not None and now.image_content == lock.image_content
    if now.image_id != lock.image_id and not same_content:
        changes.append(f"image {_short(lock.image_id)} is now {_short(now.image_id)}")
    if not changes:
        return None
    more = f" and {len(changes) - SHOWN_CHANGES} more" if len(changes) > SHOWN_CHANGES else ""
    return f"since it was built ({lock.written_utc[:10]}): {', '.join(changes[:SHOWN_CHANGES])}{more}"


def remarks(lock: StackLock, prepared: Prepared) -> list[str]:
    """Return lines on what a stack was built without, and on how it differs from what was built."""
    name = prepared.stack.name
    lines = [f"{name}: built without {part}" for part in lock.left_out]
    if found := drift_of(lock, prepared):
        remedy = f"`orchestrator build --stack {name} --again` builds it again"
        lines.append(f"{name}: drift {found}; its rows say so; {remedy}")
    return lines


def mark_drift(record: Record, lock: StackLock, prepared: Prepared) -> Record:
    """Return the record; where what it ran in differs from the lock, with the flag `drift` and the difference."""
    ran = record.environment
    if ran is not None:  # without one, what was found when the run began counts
        prepared = replace(prepared, fingerprint=ran.fingerprint, python_version=ran.python, packages=ran.packages)
    found = drift_of(lock, prepared)
    if found is None:
        return record
    flags = tuple(dict.fromkeys((*record.flags, "drift")))
    return record.model_copy(update={"flags": flags, "detail": {**record.detail, "drift": found}})


def _short(image_id: str | None) -> str:
    return (image_id or "none").removeprefix("sha256:")[:SHORT_ID]
