"""The file that gives compose's services the GPU as raw devices, as YAML that compose reads."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import docker

from orchestrator.base.errors import InfrastructureError
from orchestrator.host.gpu import HostGpu
from orchestrator.launchers.docker import DockerLauncher
from orchestrator.launchers.gpu_access import GpuGrant
from orchestrator.runner import compose_gpu
from orchestrator.runner.compose_gpu import services


def test_odd_paths_are_written_as_they_are_but_for_what_compose_would_put_in() -> None:
    grant = GpuGrant(mounts=(('/home/zoë/😀 a:b/$x"y\n', "/usr/lib"),))
    lines = services([("thunder", grant, frozenset())]).splitlines()
    (line,) = (line for line in lines if line.startswith("    volumes: "))
    # YAML has no escape of two halves for what is beyond 16 bits, as JSON has.
    assert '"source": "/home/zoë/😀 a:b/$$x\\"y\\n"' in line


def test_a_service_does_without_what_the_engine_refuses() -> None:
    text = services([("thunder", GpuGrant(), frozenset({"init", "nano_cpus", "seccomp", "userns_mode"}))])
    assert text.splitlines()[-4:] == [
        "    init: !reset null",
        "    cpu_period: !reset null",
        "    cpu_quota: !reset null",
        '    security_opt: !override ["no-new-privileges:true"]',
    ]


class Answered:
    """A container that has done what it was asked for: it printed an empty loader's cache."""

    def __enter__(self) -> None: ...

    def __exit__(self, *_: object) -> None: ...

    def wait(self, _seconds: float) -> Any:
        return SimpleNamespace(code=0)

    def output(self) -> bytes:
        return b""


def start(_launcher: DockerLauncher, arguments: dict[str, Any]) -> Answered:
    if arguments["host_config"].get("init"):
        raise InfrastructureError("docker-init: not found") from docker.errors.APIError("docker-init: not found")
    return Answered()


def test_what_is_refused_is_left_out_each_time_also_where_the_libraries_are_listed_already(
    tmp_path, monkeypatch
) -> None:
    said = {"MemTotal": 10**10, "NCPU": 4, "SecurityOptions": ["name=seccomp", "name=userns"]}
    client = SimpleNamespace(images=SimpleNamespace(get=lambda name: name), info=lambda: said)
    gpu = HostGpu(index=0, uuid="GPU-0", name="NVIDIA H200", driver="580.159.04", memory_bytes=10**11)
    grant = GpuGrant(mounts=(("/usr/lib/libcuda.so.1", "/usr/lib/libcuda.so.1"),))
    monkeypatch.setattr(compose_gpu, "gpus", lambda: SimpleNamespace(found=[gpu], why_none=None))
    monkeypatch.setattr(compose_gpu.engine, "connect", lambda: client)
    monkeypatch.setattr(compose_gpu, "has_image", lambda _client, stack: stack.name == "thunder")
    monkeypatch.setattr(compose_gpu, "image_tag", lambda _stack: "thunder:1")
    monkeypatch.setattr(DockerLauncher, "_start_asking", start)
    monkeypatch.setattr(DockerLauncher, "state", tmp_path)
    monkeypatch.setattr(DockerLauncher, "grant", lambda _launcher, _stack, _access: grant)  # of what was listed before
    monkeypatch.setattr(compose_gpu, "choose_gpu", lambda found, *_, **__: found[0])
    first, second = compose_gpu.override(None), compose_gpu.override(None)
    assert first == second
    assert "    init: !reset null" in first.splitlines()
