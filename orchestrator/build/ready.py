"""Making stacks ready to run on this host: one that fails does not keep the others from running."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from orchestrator.base.errors import EXIT_BAD_ROWS, EXIT_OK, InfrastructureError, StackbenchError, UsageError
from orchestrator.base.files import make_folder, write_json
from orchestrator.base.invalid import check_known
from orchestrator.base.paths import STATE
from orchestrator.base.text import Say, on_stderr, show
from orchestrator.build import lock as stack_lock
from orchestrator.build.environment import find_python, has_python
from orchestrator.build.image import BASE_VARIABLE, ensure_image, has_image, image_tag, why_not_here
from orchestrator.host.devices import Host
from orchestrator.host.gpu import HostGpu
from orchestrator.launchers import Launcher, Prepared
from orchestrator.launchers.local import LocalLauncher
from orchestrator.launchers.work_area import methods_of_bench, work_area
from orchestrator.plan.cell import Device
from orchestrator.plan.choice import Choice, Choosing, RunOptions, choose
from orchestrator.plan.methods import check_new
from orchestrator.plan.planner import CEILINGS_METHOD
from orchestrator.plan.stack import STACK_FILE, Stack
from orchestrator.plan.workload import digest
from orchestrator.records.record import Refusal
from orchestrator.records.stack_lock import FOLDER, StackLock

NO_ENVIRONMENT = "unknown"
"""The environment of a stack that could not be asked; a record with it is never a result."""


@dataclass
class Ready:
    """Stacks that can run, and for the others why not."""

    prepared: dict[str, Prepared] = field(default_factory=dict)
    refused: dict[str, Refusal] = field(default_factory=dict)
    locks: dict[str, StackLock] = field(default_factory=dict)
    """What the prepared ones were made of when they were built."""

    @classmethod
    def on_any(cls, readies: Sequence[Ready]) -> Ready:
        """Return each stack as it is on the first host that can run it, where none can as on the first."""
        found = cls()
        for name in dict.fromkeys(name for ready in readies for name in (*ready.prepared, *ready.refused)):
            able = (ready for ready in readies if name in ready.prepared and name not in ready.refused)
            one = next(able, readies[0])
            for part in ("prepared", "refused", "locks"):
                if name in (there := getattr(one, part)):
                    getattr(found, part)[name] = there[name]
        return found

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
            return {"reason": refused.reason if refused else "no cell of the plan uses it"}
        return {
            **{name: getattr(prepared, name) for name in ("image", "image_id", "lock", "fingerprint")},
            "python": prepared.python_version,
            "deviations": [deviation.model_dump() for deviation in prepared.stack.deviations],
            "left_out": list(self.locks[stack].left_out),
            "drift": stack_lock.drift_of(self.locks[stack], prepared),
        }

    def copy_locks(self, folder: Path) -> None:
        """Put a copy of each stack.lock.json into the run's folder: it says what the rows' stacks were made of."""
        place = folder / FOLDER
        make_folder(place)
        for name, lock in self.locks.items():
            write_json(place / f"{name}.lock.json", lock.model_dump(mode="json"))


def reach_engine(choice: Choice) -> Any:
    """Return the engine's client where containers are used, else None."""
    if choice.launcher != "docker":
        return None
    from orchestrator.host import docker_engine as engine

    return engine.connect()


def choose_place(options: RunOptions, host: Host, choosing: Choosing = choose, *, elsewhere: bool = False) -> Choice:
    """Return what the options mean on this host, by `choosing`, and in which place: one where it can run.

    Where images can neither be found nor pulled, plain processes take their place if no stack and no launcher was
    named; a launcher that was named is a UsageError then, and stacks that were named keep their rows. So is a stack
    that offers a method which neither bench nor the user has, and an own method with the name of one of bench's.
    `elsewhere`: cells run on other hosts, alone or too, which say themselves what images they have.
    """
    choice = choosing(options, gpu=host.gpu, engine=host.engine, no_gpu=host.no_gpu)
    known = methods_of_bench()
    check_new(choice.own, [*known, CEILINGS_METHOD])
    check_methods(choice.stacks.values(), [*known, *choice.own] if known else [])
    if elsewhere or choice.launcher != "docker" or (options.stacks and options.launcher == "auto"):
        return choice
    client, used = reach_engine(choice), {cell.stack for cell in choice.plan.cells}
    why = [reason for name in sorted(used) if (reason := why_not_here(client, choice.stacks[name]))]
    if not used or len(why) < len(used):
        return choice
    if options.launcher == "docker":
        where, instead = options.docker_named
        raise UsageError(why[0], where=where, remedy=f"name an image that is here in {BASE_VARIABLE}, or {instead}")
    return choosing(options, gpu=host.gpu, engine=None, no_gpu=host.no_gpu, no_engine=why[0])


def check_methods(stacks: Iterable[Stack], known: Sequence[str]) -> None:
    """Raise the UsageError for a method that a stack offers and that is not there, where bench's are known."""
    for stack in stacks if known else ():
        check_known("method", stack.methods, known, where=f"{stack.folder / STACK_FILE}: methods")


def make_ready(
    choice: Choice,
    gpu: HostGpu | None,
    client: Any,
    bench: Path,
    say: Say,
    *,
    state: Path = STATE,
    peers: Sequence[HostGpu] = (),
) -> tuple[Launcher, Ready]:
    """Build or find every stack that the plan uses, and ask it what is installed; return the launcher for them too.

    `peers`: further GPUs for cells of several. UsageError where the engine cannot run cells of this host, which one
    container shows.
    """
    launcher = launcher_of(client, bench, say, state, gpu=gpu)
    launcher.peers = tuple(peers)
    return launcher, ready_on(launcher, gpu, choice, say, state=state)


def ready_on(launcher: Any, gpu: HostGpu | None, choice: Choice, say: Say, *, state: Path = STATE) -> Ready:
    """Make every stack that the plan uses ready for a launcher, of this host or another, and `gpu`, of its host."""
    ready, tried = Ready(), launcher.name != "docker" or not launcher.here
    devices = {cell.stack: cell.device for cell in choice.plan.cells}
    for name, stack in choice.stacks.items():
        if name not in devices:
            continue
        if reason := why_not(stack, gpu, devices[name]):
            ready.refused[name] = Refusal("skipped", reason)
            say(f"{name}: skipped: {reason}")
            continue
        try:
            tried = tried or _works(launcher, stack)  # before anything is built
            found = prepare_stack(launcher, stack, say, state, access=devices[name] == "cuda")
            tried = tried or _works(launcher, stack)
            ready.prepared[name], ready.locks[name] = found
            if stack_lock.lacks_torch(launcher, *found):
                reason = f"there is no torch in {found[0].python}" + (f" of {found[0].image}" if found[0].image else "")
                ready.refused[name] = Refusal("unsupported", reason)
                say(f"{name}: cannot run: {reason}")
        except InfrastructureError as error:
            reason = str(error).removeprefix(f"{name}: ")  # the row and the line name the stack already
            ready.refused[name] = Refusal("infrastructure", reason)
            say(f"{name}: cannot run: {reason}")
    return ready


def build_stacks(
    stacks: Mapping[str, Stack], *, launcher: str = "auto", again: bool = False, state: Path = STATE
) -> int:
    """Make every stack ready for `launcher` (auto: images where an engine answers); return the exit code.

    A stack that fails does not keep the others from being built. `again`: also where it is ready already.
    """
    from orchestrator.host import docker_engine as engine

    client = engine.connect() if launcher == "docker" else engine.answers() if launcher == "auto" else None
    failed = False
    with work_area(state) as area:
        place = launcher_of(client, area.bench, on_stderr, state, again=again)
        for stack in stacks.values():
            try:
                prepared, _ = prepare_stack(
                    place, stack, on_stderr, state, again=again, forget=again or stack.ready is not None
                )
                show(f"{stack.name}: {prepared.image or prepared.python}")
            except InfrastructureError as error:  # noqa: PERF203
                failed = True
                on_stderr(f"{stack.name}: failed: {str(error).removeprefix(f'{stack.name}: ')}")
    return EXIT_BAD_ROWS if failed else EXIT_OK


def launcher_of(
    client: Any, bench: Path, say: Say, state: Path, *, gpu: HostGpu | None = None, again: bool = False
) -> Any:
    """Return the launcher in containers of this engine, or of plain processes where there is none."""
    if client is None:
        return LocalLauncher(bench, lambda stack: find_python(stack, say=say, again=again, state=state), gpu)
    from orchestrator.launchers.docker import DockerLauncher

    return DockerLauncher(client, bench, gpu, images={}, say=say)


def _works(launcher: Any, stack: Stack) -> bool:
    from orchestrator.launchers.trial import works

    launcher.images[stack.name] = image_tag(stack)
    return works(launcher, stack)


def prepare_stack(
    launcher: Any,
    stack: Stack,
    say: Say,
    state: Path,
    *,
    again: bool = False,
    forget: bool = False,
    access: bool = False,
) -> tuple[Prepared, StackLock]:
    """Build or find one stack and ask it what is installed; say how it differs from its lock, and what it lacks.

    `again`: built although it is there. `forget`: what it is made of now is its lock from here on. `access`: find out
    how containers get the GPU, where the stack does not say it.
    """
    if launcher.name == "docker":
        launcher.bring(image_tag(stack))
        launcher.images[stack.name] = ensure_image(launcher.client, stack, say=say, again=again, state=state)
    prepared = launcher.prepare(stack)
    if launcher.name == "docker" and access and stack.gpu.access == "auto":
        from orchestrator.launchers.docker import find_access

        launcher.access = find_access(launcher, stack)
        say(f"{stack.name}: containers get the GPU by {launcher.access}")
    if forget:
        stack_lock.forget(stack, prepared.image or prepared.python, state)
    lock = stack_lock.lock_of(launcher, prepared, state)
    for line in stack_lock.remarks(lock, prepared):
        say(line)
    return prepared, lock


def here_already(choice: Choice, client: Any, *, state: Path = STATE) -> frozenset[str]:
    """Return the stacks for which nothing has to be downloaded or built: their image or environment is there.

    A stack that cannot be looked up is not among them; its rows get the reason when it is made ready.
    """
    found = set()
    for name, stack in choice.stacks.items():
        with contextlib.suppress(StackbenchError):
            if has_image(client, stack) if choice.launcher == "docker" else has_python(stack, state):
                found.add(name)
    return frozenset(found)


def missing_images(choice: Choice, here: Collection[str]) -> dict[str, str]:
    """Return, by stack, the ready images that containers would need and that are not among the stacks `here`."""
    ready = {name: stack.ready.name for name, stack in choice.stacks.items() if stack.ready and name not in here}
    return ready if choice.launcher == "docker" else {}


def why_not(stack: Stack, gpu: HostGpu | None, device: Device) -> str | None:
    """Return why `stack` cannot run on `gpu` (None: there is none) of this host, or None where it can."""
    if device == "cpu":
        return None
    if gpu is None:
        return "this stack needs a GPU, and there is none to run on"
    if stack.gpu.driver and gpu.driver and numbers(gpu.driver) < numbers(stack.gpu.driver):
        return f"this stack needs driver {stack.gpu.driver} or later, and this host has {gpu.driver}"
    needed, has = stack.gpu.compute_capability, gpu.compute_capability
    if needed and has and numbers(has) < numbers(needed):
        return f"this stack needs compute capability {needed} or higher, and {gpu.name} has {has}"
    return None


def numbers(version: str) -> tuple[int, ...]:
    """Return the numbers in a version, for comparing: (535, 104, 5) for `535.104.05`."""
    return tuple(int(part) for part in re.findall(r"\d+", version))
