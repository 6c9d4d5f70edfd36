"""A fresh container for each cell: no network, no rights, one writable folder, and removed afterwards in any case."""

from __future__ import annotations

import base64
import contextlib
import hashlib
import itertools
import json
import os
import uuid
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path, PurePosixPath
from typing import Any, ClassVar

import docker

from orchestrator.base import interrupt
from orchestrator.base.errors import InfrastructureError, UsageError
from orchestrator.base.files import make_folder, read_json, write_bytes, write_json
from orchestrator.base.paths import STATE
from orchestrator.base.text import Say
from orchestrator.host import docker_engine as engine
from orchestrator.host.folders import give_away
from orchestrator.host.gpu import HostGpu
from orchestrator.host.owner import boot
from orchestrator.launchers import (
    FINGERPRINT_S,
    Job,
    Places,
    Prepared,
    installed,
    lock_digest,
)
from orchestrator.launchers.arguments import (
    CACHE,
    CHECKPOINT,
    OPTIONAL,
    REFERENCES,
    WORK,
    Folders,
    Limits,
    container_arguments,
)
from orchestrator.launchers.container import DockerHandle
from orchestrator.launchers.gpu_access import FIND_DRIVER, LOADER_CACHE, MAKE_LOADER_CACHE, GpuGrant, gpu_grant
from orchestrator.plan.cell import Device
from orchestrator.plan.stack import GpuAccess, Stack
from orchestrator.plan.workload import digest

NOBODY = 65534
WAYS: tuple[GpuAccess, ...] = ("request", "cdi", "raw")
CACHE_FILE = "gpu-access.json"
READABLE_FILE = 0o644
READABLE = ("checkpoint", "references")
"""Folders of a job whose links are resolved before they are mounted."""

# Asks the driver itself, so that any image with a Python will do.
PROBE = """
import ctypes
cuda, count = ctypes.CDLL("libcuda.so.1"), ctypes.c_int(-1)
error = cuda.cuInit(0) or cuda.cuDeviceGetCount(ctypes.byref(count))
print("cuda error", error, "devices", count.value)
raise SystemExit(0 if error == 0 and count.value == 1 else 1)
"""


@dataclass
class DockerLauncher:
    """Starts cells in containers of one engine, on one GPU or none."""

    client: Any
    bench: Path
    gpu: HostGpu | None = None
    access: GpuAccess = "auto"
    """How the GPU gets into a container of a stack that says `auto`."""
    images: Mapping[str, str] = field(default_factory=dict)
    """Images by stack; a ready image stands in its own `stack.toml`."""
    name: str = "docker"
    say: Say = print
    """Where it is said what an engine refuses."""
    state: Path = STATE
    peers: tuple[HostGpu, ...] = ()
    """Further GPUs, for cells of several."""
    refused: dict[str, frozenset[str]] = field(default_factory=dict)
    """Of each image that was tried, the options that the engine refused."""
    here: ClassVar[bool] = True
    """Whether the engine is this host's."""

    def __post_init__(self) -> None:
        self._loader_caches: dict[str, Path | None] = {}
        with engine.engine_errors():
            info = self.client.info()
        self.limits = self._limits(info)

    def _limits(self, info: dict[str, Any]) -> Limits:
        return Limits(
            memory_bytes=engine.memory_limit_bytes(int(info.get("MemTotal") or 0)),
            cpus=int(info.get("NCPU") or os.cpu_count() or 1),
            user=container_user(os.getuid(), os.getgid(), rootless=engine.is_rootless(info)),
            without=engine.not_offered(info),
        )

    def bring(self, image: str) -> None:
        """Bring an image to this engine from another that has it: there is none."""

    def prepare(self, stack: Stack) -> Prepared:
        """Ask the stack's image what is installed in it; InfrastructureError where it is missing or cannot run."""
        name = self._image(stack)
        with engine.engine_errors():
            try:
                image = self.client.images.get(name)
            except docker.errors.ImageNotFound:
                remedy = f"`docker pull {name}`" if stack.ready else f"`orchestrator build --stack {stack.name}`"
                raise InfrastructureError("this image is not on this host", where=name, remedy=remedy) from None
        digests = image.attrs.get("RepoDigests") or ()
        return Prepared(
            stack,
            stack.python,
            *installed(*self.ask(stack, ("-m", "bench", "--fingerprint")), name),
            image=name,
            image_id=image.id,
            image_content=content_of(image.attrs),
            # As `registry/name@sha256:…`; the registry's name says nothing about the image.
            image_digest=next((name.rpartition("@")[2] for name in digests if "@" in name), None),
            lock=lock_digest(stack),
        )

    def facts(self, prepared: Prepared) -> str:
        """Return what `python -m bench --facts` prints in the stack's image."""
        return self.ask(prepared.stack, ("-m", "bench", "--facts"))[1]

    def places(self, job: Job) -> Places:
        """Return the folders' places in the container."""
        return Places(
            cache=CACHE if job.cache else None,
            checkpoint=str(PurePosixPath(CHECKPOINT) / job.checkpoint_inside) if job.checkpoint else None,
            references=REFERENCES if job.references else None,
        )

    def start(self, prepared: Prepared, job: Job) -> DockerHandle:
        """Create and start the cell's container."""
        command = ("-m", "bench", f"{WORK}/spec.json")
        for folder in (job.work, job.cache):
            if folder is not None:
                give_away(folder, self.limits.user)
        readable = {name: place and place.resolve() for name, place in vars(job).items() if name in READABLE}
        arguments = self._arguments(prepared.stack, command, job.cell.device, replace(job, **readable))
        return self._start(arguments, engine.labels(job.run, job.cell_id), job.log)

    def ask(
        self, stack: Stack, command: tuple[str, ...], device: Device = "cpu", access: GpuAccess | None = None
    ) -> tuple[int | None, str]:
        """Run the stack's Python with `command`, without a work folder; return exit code and output."""
        return self.run(stack, command, device=device, access=access)

    def run(
        self,
        stack: Stack,
        command: tuple[str, ...],
        folders: Folders | None = None,
        *,
        device: Device = "cpu",
        access: GpuAccess | None = None,
    ) -> tuple[int | None, str]:
        """Run the stack's Python in a cell's container; return exit code and output."""
        return self._asked(stack, lambda: self._arguments(stack, command, device, folders, access))

    def _asked(self, stack: Stack, arguments: Callable[[], dict[str, Any]]) -> tuple[int | None, str]:
        """Start a container and return its exit code and output once it has ended, or was killed for it took too long.

        Of an image that was not tried yet, the options that the engine refuses are found, and left out from here on.
        """
        try:
            handle = self._start_asking(arguments())
        except InfrastructureError as error:
            if self._image(stack) in self.refused or not isinstance(error.__cause__, docker.errors.APIError):
                raise
            self._leave_out(stack, error)
            handle = self._start_asking(arguments())
        with handle:
            ended = interrupt.patiently(lambda: handle.wait(FINGERPRINT_S))
            if ended is None:
                handle.cancel()
            return (ended.code if ended else None), handle.output().decode("utf-8", "replace")

    def _leave_out(self, stack: Stack, error: InfrastructureError) -> None:
        """Find the options without which the stack's container starts on the CPU, as few as will do.

        InfrastructureError where it starts without none of them: with the reason that is left; where it starts with
        all: `error`, which has another cause.
        """
        image = self._image(stack)

        def refusal(without: frozenset[str]) -> InfrastructureError | None:
            self.refused[image] = without
            try:
                with self._start_asking(self._arguments(stack, ("-c", ""), "cpu", None)):
                    return None
            except InfrastructureError as left:
                return left

        offered = [option for option in OPTIONAL if option not in self.limits.without]
        needless = frozenset[str]()
        left = refusal(needless)
        if left is None:
            raise error
        why = left
        while left and offered:
            needless |= {offered.pop(0)}
            left = refusal(needless)
        if left:
            del self.refused[image]
            raise left
        for option in sorted(needless):
            if refusal(needless - {option}) is None:
                needless -= {option}
        self.refused[image] = needless
        self.say(f"{image}: the engine refuses {', '.join(sorted(needless))} ({why.what}); cells run without")

    def _image(self, stack: Stack) -> str:
        if stack.ready is not None:
            return stack.ready.name
        name = self.images.get(stack.name)
        if name is None:
            raise InfrastructureError("its image was not built", where=stack.name, remedy="`orchestrator build`")
        return name

    def _arguments(
        self,
        stack: Stack,
        command: tuple[str, ...],
        device: Device,
        folders: Job | Folders | None,
        access: GpuAccess | None = None,
    ) -> dict[str, Any]:
        grant = GpuGrant(environment={"CUDA_VISIBLE_DEVICES": "", "NVIDIA_VISIBLE_DEVICES": "void"})
        if device == "cuda":
            devices = folders.cell.workload.devices if isinstance(folders, Job) else 1
            way = access or (self.access if stack.gpu.access == "auto" else stack.gpu.access)
            grant = self.grant(stack, way, devices)
        return self._granted(stack, command, folders, grant)

    def grant(self, stack: Stack, access: GpuAccess, devices: int = 1) -> GpuGrant:
        """Return what gives a container of the stack so many GPUs; the driver's libraries are listed in its image."""
        if self.gpu is None:
            raise InfrastructureError("this host has no GPU", where=stack.name)
        return self._listed(stack, gpu_grant(access, (self.gpu, *self.peers[: devices - 1]), stack, self.state))

    def left_out(self, stack: Stack) -> frozenset[str]:
        """Return the options that a container of the stack does without: not offered, or found to be refused."""
        return self.limits.without | self.refused.get(self._image(stack), frozenset())

    def _granted(
        self, stack: Stack, command: tuple[str, ...], folders: Job | Folders | None, grant: GpuGrant
    ) -> dict[str, Any]:
        image = self._image(stack)
        limits = self.limits_of(folders.cell.workload.devices if isinstance(folders, Job) else 1)
        limits = replace(limits, without=self.left_out(stack))
        return container_arguments(image, stack, command, bench=self.bench, job=folders, grant=grant, limits=limits)

    def limits_of(self, devices: int) -> Limits:  # noqa: ARG002
        """Return the limits of a container that takes so many devices."""
        return self.limits

    def _listed(self, stack: Stack, grant: GpuGrant) -> GpuGrant:
        """Return the grant with a loader's cache that lists the driver's libraries beside the image's own.

        The image's root cannot be written to, so that no `ldconfig` in the cell can make one. It is made once for each
        image and driver.
        """
        image = self._image(stack)
        if grant.mounts and image not in self._loader_caches:
            self._loader_caches[image] = self._make_loader_cache(stack, image, replace(grant, devices=()))
        cache = self._loader_caches.get(image) if grant.mounts else None
        return replace(grant, mounts=(*grant.mounts, (str(cache), LOADER_CACHE))) if cache else grant

    def _make_loader_cache(self, stack: Stack, image: str, grant: GpuGrant) -> Path | None:
        with engine.engine_errors():
            key = digest([self.client.images.get(image).id, grant.mounts])
        place = self.state / "driver" / f"{key}.ld.so.cache"
        if not place.is_file():
            code, output = self._asked(stack, lambda: self._granted(stack, ("-c", MAKE_LOADER_CACHE), None, grant))
            if code != 0:
                self.say(f"{image}: no loader's cache with the driver's libraries: {output.strip().splitlines()[-1:]}")
                return None
            write_bytes(place, base64.b64decode(output), parent=True)
            place.chmod(READABLE_FILE)
        return place

    def driver_lacks(self, stack: Stack, access: GpuAccess) -> list[str]:
        """Return what of the driver a compiler would not find in a container of the stack, each in words."""
        code, output = self.ask(stack, ("-c", FIND_DRIVER), "cuda", access)
        return output.splitlines() if code == 0 else [f"asking for the driver's libraries ended with exit code {code}"]

    def _start_asking(self, arguments: dict[str, Any]) -> DockerHandle:
        return self._start(arguments, engine.labels("prepare", "ask"), Path(os.devnull))

    def _handle(self, container: str, log: Path) -> DockerHandle:
        return DockerHandle(self.client, container, log)

    def _start(self, arguments: dict[str, Any], labels: dict[str, str], log: Path) -> DockerHandle:
        # Named beforehand: it can be removed even if the engine's answer never arrived.
        name, attempts = f"stackbench-{os.getpid()}-{uuid.uuid4().hex[:10]}", itertools.count()

        def start() -> str:
            if next(attempts):
                engine.remove(self.client, name)  # what the attempt before this one may have left
            host = self.client.api.create_host_config(**arguments["host_config"])
            own = {**arguments["container"], "host_config": host, "labels": labels, "name": name}
            created = str(self.client.api.create_container(**own)["Id"])
            self.client.api.start(created)
            return created

        try:
            return self._handle(engine.with_grace(start), log)
        except BaseException:
            with contextlib.suppress(Exception):
                engine.remove(self.client, name)
            raise


def content_of(attributes: Mapping[str, Any]) -> str | None:
    """Return a hash of what is in an image: layers and settings for a container; None where they are not known.

    The id also covers the time at which the image was made: one that is made again from the same has another id.
    """
    layers = (attributes.get("RootFS") or {}).get("Layers")
    if not layers:
        return None
    config = attributes.get("Config") or {}
    settings = {key: config.get(key) or None for key in ("Env", "Entrypoint", "Cmd", "WorkingDir", "User")}
    return hashlib.sha256(json.dumps([layers, settings], sort_keys=True).encode()).hexdigest()


def container_user(uid: int, gid: int, *, rootless: bool = False) -> str:
    """Return the user of the container's process: never root on the host, and able to write to the work folder.

    Under a rootless engine root inside is the ordinary user outside, and the only one who owns the folder.
    """
    if rootless:
        return "0:0"
    return f"{NOBODY}:{NOBODY}" if uid == 0 else f"{uid}:{gid}"


def find_access(launcher: DockerLauncher, stack: Stack, state: Path = STATE) -> GpuAccess:
    """Return the first way in which a container of `stack` sees the GPU; tried once per boot and driver.

    InfrastructureError, with what each way answered, where none works.
    """
    assert launcher.gpu is not None
    with engine.engine_errors():
        version = launcher.client.version().get("Version")
    key = digest([boot(), version, launcher.gpu.driver, launcher.gpu.uuid])
    with contextlib.suppress(UsageError):
        known = read_json(state / CACHE_FILE).get(key)
        if known in WAYS:
            return WAYS[WAYS.index(known)]
    answers = try_ways(launcher, stack)
    for way, answer in answers.items():
        if answer is None:
            make_folder(state)
            write_json(state / CACHE_FILE, {key: way})
            return way
    said = "; ".join(f"{way}: {answer}" for way, answer in answers.items())
    raise InfrastructureError(f"no container sees the GPU ({said})", where=stack.name, remedy="`orchestrator doctor`")


def try_ways(launcher: DockerLauncher, stack: Stack, *, every: bool = False) -> dict[GpuAccess, str | None]:
    """Start containers of `stack`: None for each way that works, else why not. Stops at the first that works."""
    answers: dict[GpuAccess, str | None] = {}
    for way in WAYS:
        try:
            code, output = launcher.ask(stack, ("-c", PROBE), "cuda", way)
        except InfrastructureError as error:
            answers[way] = error.what
            continue
        line = output.strip().splitlines()[-1] if output.strip() else f"exit code {code}"
        answers[way] = None if code == 0 else line
        if code == 0 and not every:
            break
    return answers
