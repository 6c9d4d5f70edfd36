"""What the table `[hosts.slurm]` of a hosts file says: where jobs go, how GPUs are asked for, how cells run in them."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from orchestrator.base.files import Frozen, Positive

Name = Annotated[str, Field(pattern=r"^[A-Za-z0-9_.,:+&|*@()\[\]!-]+$", max_length=200)]
"""What Slurm's own names and expressions of features are made of."""
Line = Annotated[str, Field(pattern=r"^[^\n\r\x00]*$", max_length=4000)]


class SlurmSettings(Frozen):
    """Settings of one cluster. What is not said is left to the cluster's own defaults."""

    partition: Name | None = None
    account: Name | None = None
    qos: Name | None = None
    reservation: Name | None = None
    constraint: Name | None = None
    """Features that the nodes must have."""
    gres: Name = "gpu"
    """The GPUs' name, or name and type: `gpu:h100`."""
    gpu_option: Literal["gres", "gpus-per-node", "gpus", "none"] = "gres"
    """How GPUs are asked for: clusters differ in the options that they take. `none`: whole nodes come with them."""
    exclusive: bool = True
    """Whole nodes: others' work beside a cell would be measured with it."""
    cells: Literal["steps", "array"] = "steps"
    """Steps of one allocation, or each a job of its own in an array."""
    container: Literal["docker", "pyxis", "local"] = "docker"
    """A container of the node's Docker Engine, one of enroot by the plugin pyxis, or a plain process."""
    scratch: Annotated[str, Field(pattern=r"^(/[^\n\r\x00]*|\$[A-Z_][A-Z0-9_]*)$")] = "/tmp"  # noqa: S108
    """A folder of the node's own disk, or a variable that names one there, as `$TMPDIR`."""
    python: Line | None = None
    """The Python on the nodes that has this package; None: the one that runs now, on a file system that they share."""
    before: tuple[Line, ...] = ()
    """Shell lines that each job begins with, as `module load docker`."""
    options: tuple[Annotated[str, Field(pattern=r"^--[a-z][a-z-]*(=[^\n\r\x00]*)?$")], ...] = ()
    """More of sbatch's own options, as `--mem=0`."""
    most_minutes: Positive = 240
    """The longest time limit that is asked for; a longer plan gets one allocation after another."""
    unknown_s: Annotated[float, Field(gt=0, le=86_400)] = 120.0
    """So long Slurm may fail to say what a job does before its cells count as lost."""
    orphan_s: Annotated[float, Field(ge=10, le=86_400)] = 60.0
    """A job ends by itself when it has not heard of the orchestrator for so long."""
