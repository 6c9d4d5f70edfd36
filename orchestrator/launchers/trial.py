"""One container with a cell's own arguments that writes a file: whether this engine can run cells of this host."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

import docker

from orchestrator.base.errors import InfrastructureError, UsageError
from orchestrator.host.folders import give_away
from orchestrator.launchers.arguments import Folders
from orchestrator.launchers.docker import DockerLauncher
from orchestrator.plan.stack import Stack

BAD_NAME = "invalid reference format"
FILE = "trial"
WRITE = f"open({FILE!r}, 'w').write({FILE!r})"


def works(launcher: DockerLauncher, stack: Stack) -> bool:
    """Whether a container of `stack` wrote into its work folder; UsageError where the engine keeps it from that.

    False says nothing about the engine: the image is not here, or its Python does not run.
    """
    with tempfile.TemporaryDirectory(dir=launcher.bench.parent, ignore_cleanup_errors=True) as place:
        folder = Path(place)
        give_away(folder, launcher.limits.user)
        try:
            code, output = launcher.run(stack, ("-I", "-c", WRITE), Folders(folder))
        except InfrastructureError as error:
            # An engine looks at the folders before it looks for the image.
            if isinstance(error.__cause__, docker.errors.ImageNotFound) or _of_the_stack(stack, error.what):
                return False
            raise _unfit(error.what) from error
        if (folder / FILE).is_file():
            return True
    if FILE in output:
        raise _unfit(output.strip().splitlines()[-1])
    if code == 0:
        raise _unfit("what a container writes into its work folder does not arrive here")
    return False


def _of_the_stack(stack: Stack, what: str) -> bool:
    """Whether an engine's answer is about what `stack` names: its Python, its mounts, its image."""
    return any(own in what for own in (stack.python, *(stack.ready.mounts if stack.ready else ()), BAD_NAME))


def _unfit(what: str) -> UsageError:
    address = os.environ.get("DOCKER_HOST", "")
    remedy = "see `orchestrator doctor`, or use --launcher local"
    if address and not address.startswith("unix:"):
        remedy = f"DOCKER_HOST={address} names an engine of another machine: run the command there, or {remedy}"
    return UsageError(f"containers cannot run cells here ({what})", where="Docker Engine", remedy=remedy)
