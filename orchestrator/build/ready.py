"""Making stacks ready to run on this host: one that fails keeps no other from running."""

from __future__ import annotations

import contextlib
import re
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from orchestrator.base.errors import InfrastructureError, StackbenchError
from orchestrator.base.files import make_folder, write_text
from orchestrator.base.paths import STATE
from orchestrator.build import lock as stack_lock
from orchestrator.build.environment import find_python, has_python
from orchestrator.build.image import ensure_image, has_image
from orchestrator.launchers.local import LocalLauncher
from orchestrator.plan.workload import digest
from orchestrator.records.record import Refusal

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from orchestrator.build.lock import StackLock
    from orchestrator.host.gpu import HostGpu
    from orchestrator.launchers import Launcher, Prepared
    from orchestrator.plan.cell import Device
    from orchestrator.plan.choice import Choice
    from orchestrator.plan.stack import Stack


NO_ENVIRONMENT = "unknown"
"""Stands for the environment of a stack that could not be asked; such a record is never a result."""


@dataclass
class Ready:
    """Stacks that can run, and for the others why not."""

    prepared: dict[str, Prepared] = field(default_factory=dict)
    refused: dict[str, Refusal] = field(default_factory=dict)
    locks: dict[str, StackLock] = field(default_factory=dict)
    """What the prepared ones were made of when they were built."""

    def environment(self, stack: str) -> str:
        """Return the identity of what is installed in a stack, and of the variables that it sets."""
        prepared = self.prepared.get(stack)
        if prepared is None:
            return NO_ENVIRONMENT
        variables = prepared.stack.environment
        return digest([prepared.fingerprint, variables]) if variables else prepared.fingerprint

    def facts(self, stack: str) -> dict[str, Any]:
        """Return what run.json says of a stack."""
        prepared = self.prepared.get(stack)
        if prepared is None:
            refused = self.refused.get(stack)
            return {"reason": refused.reason if refused else "no cell of the plan is its"}
        return {
            "image": prepared.image,
            "image_id": prepared.image_id,
            "lock": prepared.lock,
            "fingerprint": prepared.fingerprint,
            "python": prepared.python_version,
            "deviations": [deviation.model_dump() for deviation in prepared.stack.deviations],
            **self._built(prepared),
        }

    def copy_locks(self, folder: Path) -> None:
        """Put a copy of each stack.lock.json into the run's folder: it says what the rows' stacks were made of."""
        place = folder / stack_lock.FOLDER
        make_folder(place)
        for name, lock in self.locks.items():
            write_text(place / f"{name}.lock.json", stack_lock.as_text(lock))

    def _built(self, prepared: Prepared) -> dict[str, Any]:
        lock = self.locks.get(prepared.stack.name)
        if lock is None:
            return {}
        return {"left_out": list(lock.left_out), "drift": stack_lock.drift_of(lock, prepared)}


def reach_engine(choice: Choice) -> Any:
    """Return the engine's client where containers are used, else None."""
    if choice.launcher != "docker":
        return None
    from orchestrator.host import docker_engine as engine

    return engine.connect()


def make_ready(
    choice: Choice, gpu: HostGpu | None, client: Any, bench: Path, say: Callable[[str], None], *, state: Path = STATE
) -> tuple[Launcher, Ready]:
    """Build or find every stack that the plan uses, and ask it what is installed; return the launcher for them too."""
    ready = Ready()
    devices = {cell.stack: cell.device for cell in choice.plan.cells}
    wanted = {name: stack for name, stack in choice.stacks.items() if name in devices}
    for name, stack in wanted.items():
        reason = why_not(stack, gpu, devices[name])
        if reason:
            ready.refused[name] = Refusal("skipped", reason)
            say(f"{name}: skipped: {reason}")
    images = {}
    if choice.launcher == "docker":
        for name, stack in wanted.items():
            if name not in ready.refused:
                with _refusing(ready, name, say):
                    images[name] = ensure_image(client, stack, say=say, state=state)
    launcher = _make_launcher(choice, gpu, client, bench, images, say=say, state=state)
    for name, stack in wanted.items():
        if name not in ready.refused:
            with _refusing(ready, name, say):
                if choice.launcher == "docker" and devices[name] == "cuda" and stack.gpu.access == "auto":
                    _find_access(launcher, stack, say)
                prepared = launcher.prepare(stack)
                ready.locks[name] = stack_lock.lock_of(launcher, prepared, state)
                ready.prepared[name] = prepared
                for line in stack_lock.remarks(ready.locks[name], prepared):
                    say(line)
    return launcher, ready


def here_already(choice: Choice, client: Any, *, state: Path = STATE) -> frozenset[str]:
    """Return the stacks for which nothing has to be downloaded or built: their image or environment is there.

    One that cannot be looked up is not; why becomes its rows' reason when it is made ready.
    """
    found = set()
    for name, stack in choice.stacks.items():
        with contextlib.suppress(StackbenchError):
            if has_image(client, stack) if choice.launcher == "docker" else has_python(stack, state):
                found.add(name)
    return frozenset(found)


def _make_launcher(
    choice: Choice,
    gpu: HostGpu | None,
    client: Any,
    bench: Path,
    images: dict[str, str],
    *,
    say: Callable[[str], None],
    state: Path,
) -> Any:
    if choice.launcher == "docker":
        from orchestrator.launchers.docker import DockerLauncher

        return DockerLauncher(client, bench, gpu, images=images)
    return LocalLauncher(bench, lambda stack: find_python(stack, say=say, state=state), gpu)


def _find_access(launcher: Any, stack: Any, say: Callable[[str], None]) -> None:
    from orchestrator.launchers.docker import find_access

    launcher.access = find_access(launcher, stack)
    say(f"{stack.name}: containers get the GPU by {launcher.access}")


@contextlib.contextmanager
def _refusing(ready: Ready, name: str, say: Callable[[str], None]) -> Iterator[None]:
    try:
        yield
    except InfrastructureError as error:
        reason = str(error).removeprefix(f"{name}: ")  # the row and the line name the stack already
        ready.refused[name] = Refusal("infrastructure", reason)
        say(f"{name}: cannot run: {reason}")


def why_not(stack: Stack, gpu: HostGpu | None, device: Device) -> str | None:
    """Return why `stack` cannot run on `gpu` (None: there is none) of this host, or None where it can."""
    if device == "cpu":
        return None
    if gpu is None:
        return "this stack needs a GPU, and this host has none"
    if stack.gpu.driver and numbers(gpu.driver) < numbers(stack.gpu.driver):
        return f"this stack needs driver {stack.gpu.driver} or later, and this host has {gpu.driver}"
    capability = gpu.compute_capability
    if stack.gpu.compute_capability and capability and numbers(capability) < numbers(stack.gpu.compute_capability):
        return (
            f"this stack needs compute capability {stack.gpu.compute_capability} or higher, "
            f"and {gpu.name} has {capability}"
        )
    return None


def numbers(version: str) -> tuple[int, ...]:
    """Return the numbers in a version, for comparing: (535, 104, 5) for `535.104.05`."""
    return tuple(int(part) for part in re.findall(r"\d+", version))
