"""Making stacks ready: images through the engine's classic builder, environments where there is no engine."""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import tarfile
import tempfile
import time
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

from orchestrator import wheels
from orchestrator.errors import EXIT_BAD_ROWS, EXIT_OK, InfrastructureError
from orchestrator.folders import STATE
from orchestrator.launchers.environments import PIP_SOURCES, find_python, local_folder, local_sources
from orchestrator.reading import os_error
from orchestrator.source import hash_files
from orchestrator.stacks import STACK_FILE
from orchestrator.writing import make_folder

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

    from orchestrator.stack import Stack

BASE_VARIABLE = "STACKBENCH_BASE_IMAGE"
LEAST_FREE_BYTES = 2 * 10**9
STEP = re.compile(r"^Step (\d+)/(\d+) : (.*)")
# What the engine says when it cannot fetch the image of the Dockerfile's FROM.
NOT_PULLED = re.compile(r"no such host|pull access denied|manifest unknown|dial tcp|not found: manifest|i/o timeout")
BUILD_LABEL = "stackbench.build"


def build_stacks(stacks: Mapping[str, Stack], *, launcher: str = "auto") -> int:
    """Make every stack ready for `launcher` (auto: images where an engine answers); return the exit code.

    A stack that fails does not keep the others from being built.
    """
    from orchestrator import engine

    client = engine.connect() if launcher == "docker" else engine.answers() if launcher == "auto" else None
    failures = {}
    for stack in stacks.values():
        try:
            if client is not None:
                print(f"{stack.name}: {ensure_image(client, stack, say=print)}")
            else:
                print(f"{stack.name}: {find_python(stack, say=print)}")
        except InfrastructureError as error:  # noqa: PERF203
            failures[stack.name] = error
            print(f"{stack.name}: failed: {error}")
    return EXIT_BAD_ROWS if failures else EXIT_OK


def ensure_image(client: Any, stack: Stack, *, say: Callable[[str], None], state: Path = STATE) -> str:
    """Return the stack's image, built or pulled where the engine does not have it; InfrastructureError if it fails."""
    import docker

    from orchestrator.engine import engine_errors

    name = stack.ready.name if stack.ready else image_tag(stack)
    with engine_errors():
        try:
            client.images.get(name)
        except docker.errors.ImageNotFound:
            if stack.ready:
                say(f"{stack.name}: pulling {name}")
                client.images.pull(name)
            else:
                _build(client, stack, name, say, state)
    return name


def image_tag(stack: Stack) -> str:
    """Return the name of the stack's image, decided by what goes into the build: a changed stack is another image."""
    content = hash_files(stack.folder, context_files(stack), (base_image(stack) or "").encode())
    return f"stackbench/{stack.name}:{content[:16]}"


def base_image(stack: Stack) -> str | None:
    """Return the base that the environment names for this stack or for all, or None: the Dockerfile's own."""
    own = f"STACKBENCH_BASE_{stack.name.upper().replace('-', '_')}"
    return os.environ.get(own) or os.environ.get(BASE_VARIABLE) or None


def context_files(stack: Stack) -> list[Path]:
    """Return the files of the stack's folder that its image is built from: not its wheels, which the locks name."""
    from docker.utils import exclude_paths

    assert stack.build is not None
    patterns: list[str] = []
    with contextlib.suppress(FileNotFoundError):
        lines = (stack.folder / ".dockerignore").read_text(encoding="utf-8").splitlines()
        patterns = [line.strip() for line in lines if line.strip() and not line.startswith("#")]
    names = exclude_paths(str(stack.folder), [*patterns, f"{wheels.FOLDER}/*.whl"], dockerfile=stack.build.dockerfile)
    # The ignoring is done here; the engine would do it again with what stands in the context.
    left_out = {STACK_FILE, ".dockerignore"}
    paths = [stack.folder / name for name in sorted(names) if "__pycache__" not in name and name not in left_out]
    return [path for path in paths if path.is_file()]


def make_context(stack: Stack, out: IO[bytes]) -> int:
    """Write the build context as a tar and return how many wheels are in it.

    Wheels of the lock that lie in a local folder of pip's sources (the build could not see it) go along.
    """
    local = local_wheels(stack)
    with tarfile.open(fileobj=out, mode="w") as tar:
        folder = tarfile.TarInfo(wheels.FOLDER)
        folder.type, folder.mode = tarfile.DIRTYPE, 0o755
        tar.addfile(folder)
        for path in (*context_files(stack), *local):
            inside = f"{wheels.FOLDER}/{path.name}" if path in local else path.relative_to(stack.folder).as_posix()
            entry = tarfile.TarInfo(inside)
            entry.size, entry.mode = path.stat().st_size, 0o644
            with path.open("rb") as file:
                tar.addfile(entry, file)
    out.seek(0)
    return len(local)


def local_wheels(stack: Stack) -> list[Path]:
    """Return wheels in the stack's own `wheels/` and in local pip sources that one of its locks names by hash."""
    locks = [path for path in context_files(stack) if path.suffix == ".lock"]
    try:
        found = wheels.local_wheels(locks, [stack.folder / wheels.FOLDER, *local_sources()])
    except OSError as error:
        raise os_error(error, error.filename or stack.folder) from error
    return list({path.name: path for path in reversed(found)}.values())


def build_arguments(stack: Stack) -> dict[str, str]:
    """Return the build's arguments: the base image, and pip's sources that a container can reach."""
    arguments = {}
    for name in PIP_SOURCES:
        parts = [part for part in os.environ.get(name, "").split() if local_folder(part) is None]
        if parts:
            arguments[name] = " ".join(parts)
    base = base_image(stack)
    return {**arguments, "BASE_IMAGE": base} if base else arguments


def _build(client: Any, stack: Stack, tag: str, say: Callable[[str], None], state: Path) -> None:
    assert stack.build is not None
    _check_disk(client, stack)
    log = state / "logs" / f"build-{stack.name}.log"
    make_folder(log.parent)
    say(f"{stack.name}: building {tag} (log: {log})")
    began = time.monotonic()
    with tempfile.TemporaryFile() as context, log.open("w", encoding="utf-8") as out:
        count = make_context(stack, context)
        if count:
            say(f"{stack.name}: {count} wheels of its lock come from local folders")
        stream = client.api.build(
            fileobj=context,
            custom_context=True,
            dockerfile=stack.build.dockerfile,
            tag=tag,
            buildargs=build_arguments(stack),
            labels={BUILD_LABEL: stack.name},
            rm=True,
            forcerm=True,
            decode=True,
            timeout=None,  # a step may say nothing for many minutes
        )
        try:
            last = _follow(stream, stack.name, out, say)
        finally:
            # Hanging up is how the engine learns that nobody waits for the build any more.
            stream.close()
    if last is not None:
        remedy = f"log: {log}"
        if NOT_PULLED.search(last):
            remedy = f"no base image from there; name another in {BASE_VARIABLE} ({remedy})"
        raise InfrastructureError(f"the image could not be built: {last}", where=stack.name, remedy=remedy)
    say(f"{stack.name}: built in {time.monotonic() - began:.0f} s")


def _follow(stream: Iterator[dict[str, Any]], name: str, log: Any, say: Callable[[str], None]) -> str | None:
    """Write the build's output to the log, say each step, and return the error that ended it, or None."""
    lines: list[str] = []
    for part in stream:
        text = part.get("stream") or (f"{part['status']}\n" if part.get("status") and not part.get("id") else "")
        log.write(text)
        log.flush()
        lines = [*lines, *text.splitlines()][-8:]
        step = STEP.match(text)
        if step:
            say(f"{name}: build step {step[1]} of {step[2]}: {' '.join(step[3].split())[:90]}")
        if part.get("error"):
            log.write(f"{part['error']}\n")
            return " ".join(" ".join([*lines[-4:], str(part["error"])]).split())[-600:]
    return None


def _check_disk(client: Any, stack: Stack) -> None:
    assert stack.build is not None
    root = Path(str(client.info().get("DockerRootDir") or ""))
    need = stack.build.disk_bytes or LEAST_FREE_BYTES
    with contextlib.suppress(OSError):
        free = shutil.disk_usage(root).free
        if free < need:
            raise InfrastructureError(
                f"{free / 1e9:.1f} GB free where the engine keeps images, {need / 1e9:.1f} GB needed",
                where=stack.name,
                remedy="make room (`docker system df` says what is there)",
            )
