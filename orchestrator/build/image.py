"""Images of stacks: what they are built from, and building them with the engine's classic builder."""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import tarfile
import tempfile
import time
from collections.abc import Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import IO, Any

from orchestrator.base.errors import EXIT_OK, InfrastructureError
from orchestrator.base.files import hash_files, make_folder, os_error
from orchestrator.base.interrupt import patiently
from orchestrator.base.paths import STATE
from orchestrator.base.telling import telling
from orchestrator.base.text import Say, counted, on_stderr, show, size_in_words
from orchestrator.build import lock as stack_lock
from orchestrator.build import wheels
from orchestrator.plan.stack import STACK_FILE, Stack, check_image_name

BASE_VARIABLE = "STACKBENCH_BASE_IMAGE"
LEAST_FREE_BYTES = 2 * 10**9
STEP = re.compile(r"^Step (\d+)/(\d+) : (.*)")
OF_THE_ENGINE = re.compile(r"\s*(Step \d+/\d+ : |---> |Removing intermediate container )")
"""Lines about the build's steps, as opposed to what a step printed."""
DOING = {
    "FROM ": "taking its base image",
    "COPY ": "copying files",
    "ADD ": "copying files",
    "apt-get": "installing packages of the system",
    "pip": "installing packages of Python",
    "compile.sh": "compiling",
}
"""What a step does, by what stands in it: its own text is a shell's, and stands in the log."""
AT_ONCE = re.compile(r"ARG|ENV|LABEL|WORKDIR|USER|CMD|ENTRYPOINT")
"""Steps that take no time and are not worth a line of progress."""

# What the engine says when it cannot fetch the image of the Dockerfile's FROM.
NOT_PULLED = re.compile(
    r"no such host|denied|unauthorized|toomanyrequests|manifest unknown|dial tcp|not found: manifest|timeout|deadline"
    r"|connection refused|unreachable|no route to host|proxyconnect|certificate|TLS handshake|EOF",
)
ONLY_SPEED = ("MAX_JOBS",)
"""Build arguments that change how fast an image is built, and not what is in it."""
FAILED_COMMAND = re.compile(r"The command '.*' returned a non-zero code: (\d+)", re.DOTALL)
EXTENDED = re.compile(rb"\nFROM packages AS extended\n(?:.+\n)+")
"""The stage of the shared Dockerfile that names the images of the stacks that ask for it, and no others."""
BUILD_LABEL = "stackbench.build"
CONTENT_LABEL = "stackbench.content"


def ensure_image(client: Any, stack: Stack, *, say: Say, again: bool = False, state: Path = STATE) -> str:
    """Return the stack's image, built or pulled where the engine does not have it; InfrastructureError if it fails.

    `again`: built although it is there.
    """
    from orchestrator.host.docker_engine import engine_errors, with_credentials

    name = image_tag(stack)
    if has_image(client, stack) and (stack.ready or not again):
        return name
    if stack.ready:
        say(f"{stack.name}: pulling {name}")
        try:
            with engine_errors():
                patiently(lambda: with_credentials(client, lambda: client.images.pull(name), say))
        except InfrastructureError as error:
            what = f"this image is not on this host, and could not be pulled ({error.what})"
            raise InfrastructureError(what, where=name, remedy=bring(name)) from error
    else:
        with engine_errors():
            _build(client, stack, name, say, state)
    stack_lock.forget(stack, name, state)
    return name


def bring(image: str) -> str:
    """Return the command that brings a ready image."""
    return f"`docker pull {image}`"


def has_image(client: Any, stack: Stack) -> bool:
    """Whether the engine has the stack's image, as its folder and the environment's build arguments are now."""
    import docker

    from orchestrator.host.docker_engine import engine_errors

    with engine_errors(), contextlib.suppress(docker.errors.ImageNotFound):
        client.images.get(image_tag(stack))
        return True
    return False


def why_not_here(client: Any, stack: Stack) -> str | None:
    """Return why the stack's image can neither be found, nor pulled or built; None where it can, or nobody knows."""
    import docker
    import requests

    from orchestrator.host.docker_engine import engine_errors, reason, with_credentials

    if has_image(client, stack):
        return None
    arguments = {**own_arguments(stack), **chosen_arguments(stack)} if stack.build else {}
    needed = [arguments[name] for name in ("BASE_IMAGE", "BUILDER_IMAGE") if name in arguments]
    for name in [stack.ready.name] if stack.ready else needed:
        with engine_errors(), contextlib.suppress(docker.errors.ImageNotFound):
            client.images.get(name)
            continue
        with engine_errors():
            try:
                with_credentials(client, partial(client.api.inspect_distribution, name), on_stderr)
            except (docker.errors.APIError, requests.Timeout) as error:
                # Not every engine can ask a registry: then the pull itself will say.
                if isinstance(error, requests.Timeout) or NOT_PULLED.search(str(error)):
                    # What stands before the last colon names addresses.
                    return f"the image {name} is not here and cannot be pulled: {reason(error).rpartition(': ')[2]}"
    return None


def image_tag(stack: Stack) -> str:
    """Return the name of the stack's image: a ready one's, or one that is decided by what goes into the build."""
    if stack.ready:
        return stack.ready.name
    chosen = {name: value for name, value in chosen_arguments(stack).items() if name not in ONLY_SPEED}
    return f"stackbench/{stack.name}:{content(stack, chosen)}"


def content(stack: Stack, chosen: Mapping[str, str] | None = None) -> str:
    """Return sixteen hex digits over what the stack's image is built from; without `chosen`, whatever its base."""
    arguments = sorted({**own_arguments(stack), **(chosen or {})}.items())
    without = None if target(stack) in (None, "extended") else {stack.context / "Dockerfile": EXTENDED}
    return hash_files(stack.context, context_files(stack), str(arguments).encode(), without)[:16]


def chosen_arguments(stack: Stack) -> dict[str, str]:
    """Return the build's images and further arguments, as far as the environment names them, for the stack or for all.

    What is compiled has to fit the base, so another base is the builder too unless another builder is named.
    """
    assert stack.build is not None
    base, builder = (_named(image, stack) for image in ("BASE", "BUILDER"))
    chosen = {"BASE_IMAGE": base, "BUILDER_IMAGE": (builder or base) if stack.build.builder else None}
    chosen |= {name: os.environ.get(name) for name in stack.build.arguments}
    return {name: value for name, value in chosen.items() if value}


def _named(image: str, stack: Stack) -> str | None:
    """Return the image that the environment names as the stack's BASE or BUILDER."""
    for whose in (stack.name.upper().replace("-", "_"), "IMAGE"):
        name = os.environ.get(variable := f"STACKBENCH_{image}_{whose}")
        if name:
            check_image_name(name, variable)
            return name
    return None


def own_arguments(stack: Stack) -> dict[str, str]:
    """Return what `stack.toml` says to the Dockerfile that stacks share; a stack's own Dockerfile says it itself."""
    build = stack.build
    if build is None or stack.context == stack.folder:
        return {}
    own = {"BASE_IMAGE": build.base, "BUILDER_IMAGE": build.builder}
    own |= {"PYTHONS": " ".join(build.pythons), "SYSTEM_PACKAGES": " ".join(build.system_packages)}
    return {"STACK": stack.folder.name, **{name: value for name, value in own.items() if value}}


def target(stack: Stack) -> str | None:
    """Return the stage of the shared Dockerfile that is the stack's image; None: it has its own Dockerfile."""
    own = own_arguments(stack)
    if not own:
        return None
    return "compiled" if "BUILDER_IMAGE" in own else "extended" if "SYSTEM_PACKAGES" in own else "packages"


def build_arguments(stack: Stack) -> dict[str, str]:
    """Return the build's arguments: the stack's own, pip's sources that a container can reach, and what was chosen."""
    arguments = own_arguments(stack)
    for name in wheels.PIP_SOURCES:
        parts = [part for part in os.environ.get(name, "").split() if wheels.local_folder(part) is None]
        if parts:
            arguments[name] = " ".join(parts)
    return {**arguments, **chosen_arguments(stack)}


def context_files(stack: Stack) -> list[Path]:
    """Return the files that the stack's image is built from: its own, and those that lie beside a shared Dockerfile.

    Not its wheels, which the locks name.
    """
    from docker.utils import exclude_paths

    assert stack.build is not None
    root = stack.context
    patterns = [f"**/{wheels.FOLDER}/*.whl", "**/__pycache__"]
    with contextlib.suppress(FileNotFoundError):
        lines = (root / ".dockerignore").read_text(encoding="utf-8").splitlines()
        patterns = [*(line.strip() for line in lines if line.strip() and not line.startswith("#")), *patterns]
    paths = [root / name for name in sorted(exclude_paths(str(root), patterns, dockerfile=stack.build.dockerfile))]
    # The ignoring is done here; the engine would do it again with what stands in the context.
    left_out = {stack.folder / STACK_FILE, root / ".dockerignore"}
    own = [path for path in paths if path.parent == root or path.is_relative_to(stack.folder)]
    return [path for path in own if path.is_file() and path not in left_out]


def make_context(stack: Stack, out: IO[bytes]) -> int:
    """Write the build context as a tar and return how many wheels are in it.

    Wheels that one of the stack's locks names by hash, and that lie in its own `wheels/` or in a local folder of pip's
    sources (the build could not see it), go along.
    """
    place = stack.folder / wheels.FOLDER
    paths = {path: path for path in context_files(stack)}
    locks = [path for path in paths if path.suffix == ".lock" and path.is_relative_to(stack.folder)]
    try:
        local = wheels.local_wheels(locks, [place, *wheels.local_sources()])
    except OSError as error:
        raise os_error(error, error.filename or stack.folder) from error
    found = {place / path.name: path for path in reversed(local)}
    with tarfile.open(fileobj=out, mode="w") as tar:
        folder = tarfile.TarInfo(place.relative_to(stack.context).as_posix())
        folder.type, folder.mode = tarfile.DIRTYPE, 0o755
        tar.addfile(folder)
        for inside, path in {**paths, **found}.items():
            entry = tarfile.TarInfo(inside.relative_to(stack.context).as_posix())
            entry.size, entry.mode = path.stat().st_size, 0o644
            with path.open("rb") as file:
                tar.addfile(entry, file)
    out.seek(0)
    return len(found)


def _build(client: Any, stack: Stack, tag: str, say: Say, state: Path) -> None:
    from orchestrator.host.docker_engine import with_credentials

    assert stack.build is not None
    _check_disk(client, stack)
    log = state / "logs" / f"build-{stack.name}.log"
    make_folder(log.parent)
    say(f"{stack.name}: building {tag} (log: {log})")
    began = time.monotonic()
    with tempfile.TemporaryFile() as context, log.open("w", encoding="utf-8") as out:
        count = make_context(stack, context)
        if count:
            say(f"{stack.name}: {counted(count, 'wheel')} of its lock from local folders")
        # No timeout: a step may say nothing for many minutes.
        start = partial(
            client.api.build,
            fileobj=context,
            custom_context=True,
            dockerfile=stack.build.dockerfile,
            target=target(stack),
            tag=tag,
            buildargs=build_arguments(stack),
            labels={BUILD_LABEL: stack.name, CONTENT_LABEL: content(stack)},
            rm=True,
            forcerm=True,
            decode=True,
            timeout=None,
        )

        def built() -> str | None:
            # Hanging up is how the engine learns that nobody waits for the build any more.
            with contextlib.closing(with_credentials(client, start, say)) as stream:
                return _follow(stream, stack.name, out, say)

        last = patiently(built)
    if last is not None:
        remedy = f"log: {log}"
        if NOT_PULLED.search(last):
            remedy = f"the base image could not be fetched; name another in {BASE_VARIABLE} ({remedy})"
        raise InfrastructureError(f"{last}; the image could not be built", where=stack.name, remedy=remedy)
    say(f"{stack.name}: built in {time.monotonic() - began:.0f} s")


def _follow(stream: Iterator[dict[str, Any]], name: str, log: Any, say: Say) -> str | None:
    """Write the build's output to the log, say each step, and return the error that ended it, or None."""
    lines: list[str] = []
    for part in stream:
        text = part.get("stream") or (f"{part['status']}\n" if part.get("status") and not part.get("id") else "")
        log.write(text)
        log.flush()
        step = STEP.match(text)
        lines = [*lines, *(line for line in text.splitlines() if not OF_THE_ENGINE.match(line))][-8:]
        if step and not AT_ONCE.match(step[3]):
            doing = next((words for sign, words in DOING.items() if sign in step[3]), "running commands")
            say(f"{name}: build step {step[1]} of {step[2]}: {doing}")
        if part.get("error"):
            log.write(f"{part['error']}\n")
            # The engine repeats the whole command, which would hide what the command printed.
            return telling("\n".join([*lines, FAILED_COMMAND.sub(r"exit code \1", str(part["error"]))]))
    return None


def _check_disk(client: Any, stack: Stack) -> None:
    assert stack.build is not None
    root = Path(str(client.info().get("DockerRootDir") or ""))
    chosen = chosen_arguments(stack)
    # A base that stands in for the builder has no compiler for GPUs: then that stage is nearly empty.
    nothing_compiled = chosen.get("BASE_IMAGE", "") == chosen.get("BUILDER_IMAGE")
    need = (stack.build.disk_bytes if nothing_compiled else stack.build.most_disk_bytes) or LEAST_FREE_BYTES
    with contextlib.suppress(OSError):
        free = shutil.disk_usage(root).free
        if free < need:
            what = f"{free / 1e9:.1f} GB free where the engine keeps images, {need / 1e9:.1f} GB needed"
            remedy = "make room (`docker system df` says what is there)"
            raise InfrastructureError(what, where=stack.name, remedy=remedy)


OURS = "stackbench/"
IN_USE = 409


def clean_images(stacks: Mapping[str, Stack], *, state: Path = STATE) -> int:
    """Remove old images of `stacks`, print a line for each, and return the exit code.

    Kept are images of a stack's files as they are now (on whatever base), an image that a container uses, and those of
    stacks that are not among `stacks`: whether theirs are old is not known here. An image that somebody gave
    another name keeps that name.
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
            title = ", ".join(tags) or image["Id"].removeprefix("sha256:")[:12]
            title += f" ({size_in_words(int(image['Size']))})"
            if tagged & set(tags) or (tags and present.get(labels[BUILD_LABEL]) == labels.get(CONTENT_LABEL, "")):
                continue
            if stack is None:
                show(f"kept {title}: its stack is not chosen here (--stack, --stacks)")
                continue
            reason = _remove(client, [tag for tag in tags if tag.startswith(OURS)] if tags else [image["Id"]])
            show(f"kept {title}: {reason}" if reason else f"removed {title}")
            removed += reason is None
            for tag in tags:
                stack_lock.forget(stack, tag, state)
    show(f"{counted(removed, 'image')} removed" if removed else "no old image here")
    return EXIT_OK


def _remove(client: Any, names: list[str]) -> str | None:
    """Remove these names, or this id; return why not, or None."""
    import docker

    if not names:
        return "it has another name"
    try:
        for name in names:
            client.api.remove_image(name)
    except docker.errors.APIError as error:
        if error.status_code == IN_USE:
            return "something uses it"
        if not isinstance(error, docker.errors.ImageNotFound):  # removing another one has taken it along
            raise
    return None
