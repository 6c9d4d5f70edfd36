"""A second file for docker compose, where no NVIDIA toolkit is: services get the GPU as raw devices."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable
from typing import Any

from orchestrator.base.errors import UsageError
from orchestrator.base.paths import BENCH, IMAGES, INSTALLED
from orchestrator.base.text import show
from orchestrator.build.image import has_image, image_tag
from orchestrator.host import docker_engine as engine
from orchestrator.host.gpu import choose_gpu, gpus
from orchestrator.launchers.arguments import OPTIONAL
from orchestrator.launchers.docker import DockerLauncher
from orchestrator.launchers.gpu_access import GpuGrant
from orchestrator.plan.stack import find_stacks

# What compose calls the SDK's options; it asks for no user namespace.
KEYS = {
    **{option: (option,) for option in OPTIONAL},
    "seccomp": ("security_opt",),
    "log_config": ("logging",),
    "nano_cpus": ("cpu_period", "cpu_quota"),
    "userns_mode": (),
}
WITHOUT = {"security_opt": '!override ["no-new-privileges:true"]'}


def override(wanted: str | None) -> str:
    """Return the file (YAML), with a service for each stack that uses the GPU and whose image is here.

    `wanted` names the GPU as `--gpu` does. UsageError where there is no GPU, no image, or no checkout.
    """
    if INSTALLED:
        what = "only a checkout has docker-compose.yml and its services, and this is an installation"
        raise UsageError(what, where="compose-gpu", remedy="use `orchestrator run-all`, or a checkout")
    here = gpus()
    if not here.found:
        raise UsageError(here.why_none, where="compose-gpu", remedy="`docker compose up cpu` needs no GPU")
    gpu = choose_gpu(here.found, wanted, allow_busy=True, why_none=here.why_none)
    client = engine.connect()
    stacks = [one for one in find_stacks([IMAGES]).values() if one.gpu.access != "none" and has_image(client, one)]
    if not stacks:
        what = "no image of a stack for the GPU is here to list the driver's libraries in"
        raise UsageError(what, where="compose-gpu", remedy="`orchestrator build`")
    images = {stack.name: image_tag(stack) for stack in stacks}
    launcher = DockerLauncher(client, BENCH, gpu, images=images, say=lambda line: show(line, sys.stderr))
    for stack in stacks:
        launcher.ask(stack, ("-c", ""))  # what an engine refuses is known only once it has started a container
    return services((stack.name, launcher.grant(stack, "raw"), launcher.left_out(stack)) for stack in stacks)


def services(granted: Iterable[tuple[str, GpuGrant, frozenset[str]]]) -> str:
    """Return the file that gives each service (by name) what is granted, in the place of its reservation.

    With each comes what the engine refuses, by the names of the SDK's options: the service does without.
    """
    lines = ["services:"]
    for name, grant, refused in granted:
        binds = [{"type": "bind", "source": out, "target": inside, "read_only": True} for out, inside in grant.mounts]
        lines += [f"  {name}:", "    deploy: !reset null"]
        lines += [f"    devices: {_value(grant.devices)}", f"    environment: {_value(grant.environment)}"]
        lines += [f"    volumes: {_value(binds)}"]
        lines += [f"    {key}: {WITHOUT.get(key, '!reset null')}" for option in sorted(refused) for key in KEYS[option]]
    return "\n".join(lines)


def _value(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False).replace("$", "$$")  # of which compose would make a variable
