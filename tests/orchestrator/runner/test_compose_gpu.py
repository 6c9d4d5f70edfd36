"""The file that gives compose's services the GPU as raw devices, as YAML that compose reads."""

from __future__ import annotations

from orchestrator.launchers.gpu_access import GpuGrant
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
