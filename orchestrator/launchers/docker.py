"""A fresh container for each cell: no network, no rights, one writable folder, and removed afterwards in any case."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import uuid
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any

import docker
from docker.types import LogConfig, Mount

from orchestrator.base import interrupt
from orchestrator.base.errors import InfrastructureError, UsageError
from orchestrator.base.files import make_folder, read_json, write_json
from orchestrator.base.paths import STATE
from orchestrator.host import docker_engine as engine
from orchestrator.host.gpu import HostGpu
from orchestrator.host.owner import boot
from orchestrator.launchers import (
    CACHE_FOLDER,
    FINGERPRINT_S,
    Job,
    Places,
    Prepared,
    cell_environment,
    installed,
    lock_digest,
)
from orchestrator.launchers.container import DockerHandle
from orchestrator.launchers.gpu_access import GpuGrant, gpu_grant
from orchestrator.plan.cell import Device
from orchestrator.plan.stack import GpuAccess, Stack
from orchestrator.plan.workload import digest

WORK, BENCH, CHECKPOINT, CACHE, REFERENCES = "/work", "/stackbench/bench", "/checkpoint", "/cache", "/references"
NOBODY = 65534
TMP_OPTIONS = "rw,exec,nosuid,nodev,size=2g,mode=1777"
PIDS_LIMIT = 8192
LOG_BYTES, LOG_FILES = "8m", "2"
INIT_PROGRAM = "docker-init"
WAYS: tuple[GpuAccess, ...] = ("request", "cdi", "raw")
CACHE_FILE = "gpu-access.json"

# Asks the driver itself, so that any image with a Python will do.
PROBE = """
import ctypes
cuda, count = ctypes.CDLL("libcuda.so.1"), ctypes.c_int(-1)
error = cuda.cuInit(0) or cuda.cuDeviceGetCount(ctypes.byref(count))
print("cuda error", error, "devices", count.value)
raise SystemExit(0 if error == 0 and count.value == 1 else 1)
"""


@dataclass(frozen=True)
class Limits:
    """What one container may use of the host."""

    memory_bytes: int
    cpus: int
    user: str
    pids: int = PIDS_LIMIT


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

    def __post_init__(self) -> None:
        self._without_init: set[str] = set()
        with engine.engine_errors():
            info = self.client.info()
        rootless = engine.is_rootless(info)
        self.limits = Limits(
            memory_bytes=engine.memory_limit_bytes(int(info.get("MemTotal") or 0)),
            cpus=int(info.get("NCPU") or os.cpu_count() or 1),
            user=container_user(os.getuid(), os.getgid(), rootless=rootless),
        )

    def prepare(self, stack: Stack) -> Prepared:
        """Ask the stack's image what is installed in it; InfrastructureError where it is missing or cannot run."""
        name = self._image(stack)
        with engine.engine_errors():
            try:
                image = self.client.images.get(name)
            except docker.errors.ImageNotFound:
                remedy = f"`orchestrator build --stack {stack.name}`"
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
        arguments = self._arguments(prepared.stack, command, job.cell.device, job)
        return self._start(arguments, engine.labels(job.run, job.cell_id), job.log)

    def ask(
        self, stack: Stack, command: tuple[str, ...], device: Device = "cpu", access: GpuAccess | None = None
    ) -> tuple[int | None, str]:
        """Run the stack's Python with `command`, without a work folder; return exit code and output."""
        arguments = self._arguments(stack, command, device, None, access)
        handle = self._start(arguments, engine.labels("prepare", "ask"), Path(os.devnull))
        with handle:
            ended = interrupt.patiently(lambda: handle.wait(FINGERPRINT_S))
            if ended is None:
                handle.cancel()
            return (ended.code if ended else None), handle.output().decode("utf-8", "replace")

    def _image(self, stack: Stack) -> str:
        if stack.ready is not None:
            return stack.ready.name
        name = self.images.get(stack.name)
        if name is None:
            raise InfrastructureError("its image was not built", where=stack.name, remedy="`orchestrator build`")
        return name

    def _arguments(
        self, stack: Stack, command: tuple[str, ...], device: Device, job: Job | None, access: GpuAccess | None = None
    ) -> dict[str, Any]:
        grant = GpuGrant(environment={"CUDA_VISIBLE_DEVICES": "", "NVIDIA_VISIBLE_DEVICES": "void"})
        if device == "cuda":
            if self.gpu is None:
                raise InfrastructureError("this host has no GPU", where=stack.name)
            wanted = access or (self.access if stack.gpu.access == "auto" else stack.gpu.access)
            grant = gpu_grant(wanted, self.gpu, stack)
        return container_arguments(
            self._image(stack), stack, command, bench=self.bench, job=job, grant=grant, limits=self.limits
        )

    def _start(self, arguments: dict[str, Any], labels: dict[str, str], log: Path) -> DockerHandle:
        if arguments["container"]["image"] not in self._without_init:
            try:
                return self._create(arguments, labels, log)
            except InfrastructureError as error:
                if INIT_PROGRAM not in str(error):
                    raise
                # Not every engine has an init program, nor every image a place for it. Signals and orphans are
                # then handled a little worse; what is measured is the same.
                self._without_init.add(arguments["container"]["image"])
        host = {**arguments["host_config"], "init": False}
        return self._create({**arguments, "host_config": host}, labels, log)

    def _create(self, arguments: dict[str, Any], labels: dict[str, str], log: Path) -> DockerHandle:
        # Named beforehand: it can be removed even if the engine's answer never arrived.
        name = f"stackbench-{os.getpid()}-{uuid.uuid4().hex[:10]}"
        try:
            with engine.engine_errors():
                host = self.client.api.create_host_config(**arguments["host_config"])
                own = {**arguments["container"], "host_config": host, "labels": labels, "name": name}
                created = self.client.api.create_container(**own)
                self.client.api.start(created["Id"])
            return DockerHandle(self.client, created["Id"], log)
        except BaseException:
            with contextlib.suppress(Exception):
                engine.remove(self.client, name)
            raise


def container_arguments(
    image: str, stack: Stack, command: tuple[str, ...], *, bench: Path, job: Job | None, grant: GpuGrant, limits: Limits
) -> dict[str, Any]:
    """Return the SDK's arguments for a container: `container` and `host_config`."""
    shared = job is not None and job.cache is not None
    cache = CACHE if shared else f"{WORK if job else '/tmp'}/{CACHE_FOLDER}"  # noqa: S108  (the container's own)
    environment = {
        **grant.environment,
        **cell_environment(stack, cache, python_path=str(Path(BENCH).parent), home="/tmp"),  # noqa: S108
        "TMPDIR": "/tmp",  # noqa: S108
    }
    libraries = [own["LD_LIBRARY_PATH"] for own in (stack.environment, grant.environment) if "LD_LIBRARY_PATH" in own]
    if libraries:
        environment["LD_LIBRARY_PATH"] = ":".join(libraries)
    writable = {} if job is None else {WORK: job.work, CACHE: job.cache}
    readable = {} if job is None else {CHECKPOINT: job.checkpoint, REFERENCES: job.references}
    places = [(BENCH, str(bench)), *((place, place) for place in (stack.ready.mounts if stack.ready else ()))]
    places += [(inside, str(outside.resolve())) for inside, outside in readable.items() if outside is not None]
    places += [(inside, outside) for outside, inside in grant.libraries]
    mounts = [Mount(inside, str(outside), type="bind") for inside, outside in writable.items() if outside is not None]
    mounts += [Mount(inside, outside, type="bind", read_only=True) for inside, outside in places]
    return {
        "container": {
            "image": image,
            "entrypoint": [stack.python],
            "command": list(command),
            "environment": environment,
            "user": limits.user,
            "working_dir": WORK if job else "/tmp",  # noqa: S108
            "hostname": "stackbench",
            # An image's own health check would run beside the measurement.
            "healthcheck": {"test": ["NONE"]},
        },
        "host_config": {
            "network_mode": "none",
            "cap_drop": ["ALL"],
            "security_opt": ["no-new-privileges"],
            "read_only": True,
            "tmpfs": {"/tmp": TMP_OPTIONS},  # noqa: S108
            "init": True,
            "shm_size": "1g",
            "pids_limit": limits.pids,
            "mem_limit": limits.memory_bytes,
            "memswap_limit": limits.memory_bytes,
            "nano_cpus": limits.cpus * 10**9,
            "mounts": mounts,
            "devices": list(grant.devices),
            "device_requests": list(grant.requests),
            "log_config": LogConfig(type="json-file", config={"max-size": LOG_BYTES, "max-file": LOG_FILES}),
        },
    }


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


def give_away(folder: Path, user: str) -> None:
    """Make the container's user the owner of `folder` and what is in it, if permitted; no link in it is followed."""
    if os.getuid() != 0 or user.startswith("0:"):
        return
    uid, gid = (int(part) for part in user.split(":"))
    os.chown(folder, uid, gid, follow_symlinks=False)
    for place, folders, files in os.walk(folder):
        for name in (*folders, *files):
            os.chown(os.path.join(place, name), uid, gid, follow_symlinks=False)  # noqa: PTH118  (a hot loop)


def find_access(launcher: DockerLauncher, stack: Stack, state: Path = STATE) -> GpuAccess:
    """Return the first way in which a container of `stack` sees the GPU; tried once per boot and driver.

    InfrastructureError, with what each way answered, where none works.
    """
    assert launcher.gpu is not None
    key = digest([boot(), launcher.client.version().get("Version"), launcher.gpu.driver, launcher.gpu.uuid])
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
