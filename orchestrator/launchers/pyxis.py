"""Cells in containers of enroot that Slurm's plugin pyxis starts, on the node where this runs inside a job.

No cluster with pyxis was at hand: the script is compared with a recorded one, and was not run in a container.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from orchestrator.base.errors import InfrastructureError
from orchestrator.base.files import make_folder, os_errors, write_text
from orchestrator.host.gpu import HostGpu
from orchestrator.launchers import Exit, Prepared, cell_environment
from orchestrator.launchers import slurm_queue as slurm
from orchestrator.launchers.local import CELL_VARIABLE, OWNER_VARIABLE, LocalHandle, LocalLauncher
from orchestrator.launchers.slurm_scripts import pyxis_script
from orchestrator.plan.stack import Deviation, Stack
from orchestrator.plan.workload import digest

JOB_VARIABLE, NODE_VARIABLE = "SLURM_JOB_ID", "SLURMD_NODENAME"
RUNNABLE = 0o700
CAGE = (
    ("network", "none", "the node's own", "pyxis gives a container the network of its node"),
    (
        "system calls",
        "the engine's profile without io_uring and most sockets",
        "enroot's own",
        "pyxis takes no profile",
    ),
    ("user", "an unprivileged user without capabilities", "the job's user in a user namespace", "enroot has no other"),
    ("limits of memory and processes", "those of a container", "those of the job", "Slurm sets them for the whole job"),
)
"""What of a container's cage pyxis cannot give: (what, wanted, here, why)."""


class PyxisHandle(LocalHandle):
    """A started `srun` whose step is ended with it: Slurm lets a step go on whose `srun` was killed."""

    def _wait_for_end(self) -> Exit:
        """Wait as for any process; that the script could not import the image is not the cell's doing."""
        ended, words = super()._wait_for_end(), [str(word) for word in self._process.args]  # type: ignore[union-attr]
        if Path(f"{words[words.index('-m') - 1]}.failed").exists():
            return Exit(ended.code, error="enroot could not import its image; its log says why")
        return ended

    def cancel(self) -> None:
        """End the step in the container, then all that is left on this side."""
        slurm.cancel(*slurm.steps_of(os.environ[JOB_VARIABLE], step_name()), signal="KILL")
        super().cancel()


def step_name() -> str:
    """Return the name of this process's steps in containers."""
    return f"stackbench-pyxis-{os.getpid()}"


@dataclass
class PyxisLauncher(LocalLauncher):
    """Starts cells as plain processes do, by a Python that stands for the image's: a script that runs it by `srun`."""

    scripts: Path = Path()
    """A folder of this process's own, that is visible in the containers."""
    images: Path = Path()
    """Where imported images lie on this node."""
    readable: Sequence[Path] = ()
    """More folders that cells read."""
    writable: Sequence[Path] = ()

    handle = PyxisHandle

    def prepare(self, stack: Stack) -> Prepared:
        """Import the image where it is not here and ask it what is installed; say what its cage lacks."""
        found = super().prepare(stack)
        lacks = tuple(
            Deviation(package=f"cage: {what}", wanted=wanted, here=here, reason=why) for what, wanted, here, why in CAGE
        )
        named = stack.model_copy(update={"deviations": (*stack.deviations, *lacks)})
        return replace(found, stack=named, image=source_of(stack), image_digest=digest_of(stack))

    def script_for(self, stack: Stack) -> Path:
        """Return the script that stands for the stack's Python."""
        source, place = source_of(stack), self.scripts / f"{stack.name}.sh"
        make_folder(self.images)
        ours = cell_environment(stack, "", python_path="", home="")
        script = pyxis_script(
            image=self.images / f"{(digest_of(stack) or digest([source])).rpartition(':')[2]}.sqsh",
            source=uri(source),
            job=os.environ[JOB_VARIABLE],
            node=os.environ[NODE_VARIABLE],
            name=step_name(),
            gpu=",".join(one.uuid for one in (self.gpu, *self.peers) if one) or "void",
            mounts=[*_mounts((self.scripts, *self.readable), ":ro"), *_mounts(self.writable, "")],
            variables=sorted({*ours, CELL_VARIABLE, OWNER_VARIABLE, "CUDA_VISIBLE_DEVICES"}),
            python=stack.python,
        )
        write_text(place, script)
        with os_errors(place):
            place.chmod(RUNNABLE)
        return place


def on_node(
    bench: Path,
    gpu: HostGpu | None,
    *,
    scripts: Path,
    images: Path,
    readable: Sequence[Path],
    writable: Sequence[Path],
) -> PyxisLauncher:
    """Return the launcher of a process that Slurm runs on a node."""

    def python(stack: Stack) -> Path:
        return made.script_for(stack)

    made = PyxisLauncher(
        bench, python, gpu, name="slurm", scripts=scripts, images=images, readable=readable, writable=writable
    )
    return made


def source_of(stack: Stack) -> str:
    """Return the image that enroot imports; InfrastructureError for a stack whose image is built on the spot."""
    if stack.ready is None:
        remedy = "push its image to a registry and name it in a stack of your own under [ready]"
        raise InfrastructureError("pyxis runs ready images, and builds none", where=stack.name, remedy=remedy)
    return stack.ready.name


def digest_of(stack: Stack) -> str | None:
    """Return the digest in the image's name; None where it is named by a tag alone."""
    found = stack.ready.name.rpartition("@")[2] if stack.ready is not None and "@" in stack.ready.name else None
    return found or None


def uri(image: str) -> str:
    """Return the image as enroot names it: the registry, where the name has one, before a #."""
    first, slash, rest = image.partition("/")
    registry = slash and ("." in first or ":" in first or first == "localhost")
    return f"docker://{first}#{rest}" if registry else f"docker://{image}"


def _mounts(folders: Sequence[Path], flags: str) -> list[str]:
    """Return folders as mounts at their own places; InfrastructureError for a name that pyxis would take apart."""
    for folder in folders:
        if any(letter in str(folder) for letter in ",:"):
            raise InfrastructureError("pyxis mounts no folder with a comma or a colon in its path", where=folder.name)
    return [f"{folder}:{folder}{flags}" for folder in folders]
