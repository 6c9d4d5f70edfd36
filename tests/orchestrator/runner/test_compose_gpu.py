"""The file that gives compose's services the GPU as raw devices, as YAML that compose reads."""

from __future__ import annotations

from orchestrator.launchers.gpu_access import GpuGrant
from orchestrator.runner.compose_gpu import services


def test_odd_paths_are_written_as_they_are_but_for_what_compose_would_put_in() -> None:
    grant = GpuGrant(mounts=(('/home/zoë/😀 a:b/$x"y\n', "/usr/lib"),))
    (line,) = (line for line in services([("thunder", grant)]).splitlines() if line.startswith("    volumes: "))
    # YAML has no escape of two halves for what is beyond 16 bits, as JSON has.
    assert '"source": "/home/zoë/😀 a:b/$$x\\"y\\n"' in line
