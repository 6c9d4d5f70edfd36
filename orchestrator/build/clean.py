"""`build --clean`: remove images that were built here for stacks as they once were, and that no stack has any more."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from orchestrator.base.errors import EXIT_OK
from orchestrator.base.paths import STATE
from orchestrator.base.text import counted
from orchestrator.build import lock as stack_lock
from orchestrator.build.image import BUILD_LABEL, CONTENT_LABEL, content, image_tag
from orchestrator.runner.estimate import size_in_words

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from orchestrator.plan.stack import Stack

OURS = "stackbench/"
IN_USE = 409


def clean_images(stacks: Mapping[str, Stack], *, state: Path = STATE) -> int:
    """Remove old images of `stacks`, print a line for each, and return the exit code.

    Kept are images of a stack's files as they are now (on whatever base), an image that a container uses, and those of
    stacks that are not among `stacks`: whether theirs are old is not known here. What somebody named otherwise keeps
    that name.
    """
    from orchestrator.host import docker_engine as engine

    client = engine.connect()
    present = {stack.name: content(stack) for stack in stacks.values() if stack.build}
    tagged = {image_tag(stack) for stack in stacks.values() if stack.build}
    removed = 0
    with engine.engine_errors():
        for image in client.api.images(filters={"label": BUILD_LABEL}):
            tags = [tag for tag in image.get("RepoTags") or () if tag != "<none>:<none>"]
            labels = image.get("Labels") or {}
            stack = stacks.get(labels[BUILD_LABEL])
            size = size_in_words(int(image["Size"]))
            title = ", ".join(tags) or image["Id"].removeprefix("sha256:")[:12]
            if tagged & set(tags) or (tags and present.get(labels[BUILD_LABEL]) == labels.get(CONTENT_LABEL, "")):
                continue
            if stack is None:
                print(f"kept {title} ({size}): its stack is not chosen here (--stack, --stacks)")
                continue
            reason = _remove(client, [tag for tag in tags if tag.startswith(OURS)] if tags else [image["Id"]])
            print(f"kept {title} ({size}): {reason}" if reason else f"removed {title} ({size})")
            removed += reason is None
            for tag in tags:
                stack_lock.forget(stack, tag, state)
    print(f"{counted(removed, 'image')} removed" if removed else "no old image here")
    return EXIT_OK


def _remove(client: Any, names: list[str]) -> str | None:
    """Remove these names, or this id; return why not, or None."""
    import docker

    if not names:
        return "it has another name"
    try:
        for name in names:
            client.api.remove_image(name)
    except docker.errors.ImageNotFound:
        return None  # Removing another one has taken it along.
    except docker.errors.APIError as error:
        if error.status_code != IN_USE:
            raise
        return "something uses it"
    return None
