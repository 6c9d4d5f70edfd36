"""An image on several hosts with one file system: built or pulled by one of them, brought to the others, each once."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from orchestrator.base import interrupt
from orchestrator.base.errors import InfrastructureError
from orchestrator.base.files import beside, make_folder, os_errors, read_json, write_json
from orchestrator.base.lockfile import try_lock
from orchestrator.base.text import Say
from orchestrator.build.image import ensure_image, image_tag
from orchestrator.plan.stack import Stack
from orchestrator.plan.workload import digest

POLL_S = 0.5


def shared_image(client: Any, stack: Stack, folder: Path, locks: Path, *, keep: bool, say: Say, state: Path) -> str:
    """Return the name of the stack's image, which this host's engine has from here on, with the content that all have.

    `folder` is seen by all hosts: whoever makes the image first says there what is in it, and with `keep` leaves it
    there for the others. `locks` is this host's own: of several processes one alone brings the image.
    InfrastructureError where this host's image is another than the others', and theirs was not kept.
    """
    name = image_tag(stack)
    place = folder / digest([name])
    make_folder(locks)
    with _held(locks / f"image-{place.name}.lock", say):
        if _content(client, name) is None and not place.with_suffix(".tar").exists():
            with _held(place.with_suffix(".lock"), say):
                if not place.with_suffix(".tar").exists():
                    ensure_image(client, stack, say=say, state=state)
                    if keep:
                        _save(client, name, place.with_suffix(".tar"))
        said = _first(place.with_suffix(".json"), _content(client, name), say)
        if said is not None and _content(client, name) != said:
            _load(client, name, place.with_suffix(".tar"), say)
            if _content(client, name) != said:
                what = "the image here is not the one that the first node has"
                raise InfrastructureError(what, where=name, remedy="remove it from this node's engine")
    return name


@contextlib.contextmanager
def _held(path: Path, say: Say) -> Iterator[None]:
    with os_errors(path):
        while (lock := try_lock(path, say)) is None:
            interrupt.check()
            time.sleep(POLL_S)
    try:
        yield
    finally:
        lock.release()


def _first(path: Path, content: str | None, say: Say) -> str | None:
    """Return what the first host has said is in the image; the first is this one where nobody has said it yet."""
    with _held(path.with_suffix(".said"), say):
        if not path.exists() and content is not None:
            write_json(path, {"content": content})
        return str(read_json(path)["content"]) if path.exists() else None


def _content(client: Any, name: str) -> str | None:
    """Return the hash of what the engine's image has in it; None where it has none of that name."""
    import docker

    from orchestrator.host.docker_engine import engine_errors
    from orchestrator.launchers.docker import content_of

    with engine_errors():
        try:
            return content_of(client.images.get(name).attrs)
        except docker.errors.ImageNotFound:
            return None


def _save(client: Any, name: str, path: Path) -> None:
    """Write the image to a file: whole, or none of that name."""
    from orchestrator.host.docker_engine import engine_errors

    with os_errors(path), beside(path) as half:
        with engine_errors(), half.open("wb") as file:
            for piece in client.images.get(name).save(named=name):
                file.write(piece)
        half.replace(path)


def _load(client: Any, name: str, path: Path, say: Say) -> None:
    from orchestrator.host.docker_engine import engine_errors

    if path.exists():
        say(f"{name}: brought from another node")
        with engine_errors(), path.open("rb") as file:
            client.images.load(file)
