"""The scripts that Slurm runs, made from templates. Whatever stands in a name or a path reaches a shell as one word."""

from __future__ import annotations

import math
import shlex
import sys
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined

from orchestrator.base.paths import REPOSITORY
from orchestrator.launchers.slurm_settings import SlurmSettings

HERE = Path(__file__).resolve().parent
LOOK_S = 2
"""How often a job looks for a word of the orchestrator."""
GENTLE_S = 5
"""How long a step that is told to end may take, before Slurm kills it."""
LEAST_MINUTES = 2


def job_script(
    settings: SlurmSettings, *, name: str, spool: Path, nodes: int, gpus: int, minutes: int, array: bool = False
) -> str:
    """Return the script of a job: an allocation that waits for steps, or an element of an array that runs one cell.

    `gpus` is how many each node has, `minutes` the time limit that is asked for.
    """
    return _render(
        "slurm_job.sh.jinja",
        options=job_options(settings, name=name, spool=spool, nodes=1 if array else nodes, gpus=gpus, minutes=minutes),
        spool=spool,
        array=array,
        look_s=LOOK_S,
        orphan_s=math.ceil(settings.orphan_s),
        gentle_s=GENTLE_S,
    )


def job_options(settings: SlurmSettings, *, name: str, spool: Path, nodes: int, gpus: int, minutes: int) -> list[str]:
    """Return sbatch's options as they stand in the script, each quoted where it must be."""
    given = {
        "job-name": name,
        "chdir": str(spool),
        # sbatch replaces what begins with % in the whole path.
        "output": str(spool).replace("%", "%%") + "/job-%j.txt",
        "open-mode": "append",
        "nodes": str(nodes),
        "time": str(minutes),
        "partition": settings.partition,
        "account": settings.account,
        "qos": settings.qos,
        "reservation": settings.reservation,
        "constraint": settings.constraint,
    }
    flags = ["no-requeue", "no-kill", *(["exclusive"] if settings.exclusive else [])]
    options = [f"--{option}={_directive(value)}" for option, value in given.items() if value is not None]
    options += [f"--{flag}" for flag in flags]
    options += gpu_options(settings, nodes, gpus)
    return [*options, *map(_own_option, settings.options)]


def gpu_options(settings: SlurmSettings, nodes: int, gpus: int) -> list[str]:
    """Return how `gpus` GPUs on each of `nodes` nodes are asked for, in the cluster's own dialect."""
    if settings.gpu_option == "gres":
        return [f"--gres={settings.gres}:{gpus}"]
    kind = settings.gres.partition(":")[2]
    of_kind = f"{kind}:" if kind else ""
    if settings.gpu_option == "gpus-per-node":
        return [f"--gpus-per-node={of_kind}{gpus}"]
    if settings.gpu_option == "gpus":
        return [f"--gpus={of_kind}{gpus * nodes}"]
    return []


def step_script(settings: SlurmSettings, *, log: Path, begun: Path, words: Sequence[str]) -> str:
    """Return the script of a step that runs `orchestrator.runner.slurm_node` with `words`.

    Its output goes to `log`; `begun` is made when it begins.
    """
    # A variable is the node's own: it is expanded there.
    scratch = f'"{settings.scratch}"' if settings.scratch.startswith("$") else shlex.quote(settings.scratch)
    return _render(
        "slurm_step.sh.jinja",
        log=log,
        begun=begun,
        before=settings.before,
        package=REPOSITORY,
        python=settings.python or sys.executable,
        scratch=scratch,
        words=words,
    )


def pyxis_script(
    *,
    image: Path,
    source: str,
    job: str,
    node: str,
    name: str,
    gpu: str,
    mounts: Sequence[str],
    variables: Sequence[str],
    python: str,
) -> str:
    """Return the script that runs the Python of an image in a container of pyxis.

    `image` is the file that enroot imports `source` to; `mounts` are `outside:inside[:ro]`; `variables` those of the
    cell that the image's own must not hide.
    """
    return _render(
        "slurm_pyxis.sh.jinja",
        image=image,
        source=source,
        job=job,
        node=node,
        name=name,
        gpu=gpu,
        mounts=mounts,
        variables=variables,
        python=python,
    )


def time_limit(settings: SlurmSettings, *, seconds: float) -> int:
    """Return the minutes to ask for, so that work whose deadlines make up `seconds` comes to its end in them."""
    return min(settings.most_minutes, max(LEAST_MINUTES, math.ceil(seconds / 60)))


def _directive(value: str) -> str:
    """Return a value as a line `#SBATCH` takes it: sbatch reads quotes and backslashes there, and nothing else."""
    if all(letter.isalnum() or letter in "-_./%,:+@" for letter in value):
        return value
    return '"' + value.replace("\\", "\\\\").replace('"', '\\"') + '"'


def _own_option(option: str) -> str:
    name, equals, value = option.partition("=")
    return f"{name}={_directive(value)}" if equals else option


def _render(template: str, **values: Any) -> str:
    return _environment().get_template(template).render(values)


@cache
def _environment() -> Environment:
    made = Environment(
        loader=FileSystemLoader(HERE),
        autoescape=False,  # noqa: S701  (shell, not HTML: `quoted` does that for a shell)
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    made.filters["quoted"] = lambda value: shlex.quote(str(value))
    return made
