"""A line for each thing that a run needs; what is broken keeps no other line away."""

from __future__ import annotations

import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from fake_run import IMAGE

from orchestrator.host import docker_engine as engine
from orchestrator.host.gpu import Gpus, HostGpu
from orchestrator.runner import doctor as doctor_module
from orchestrator.runner.doctor import doctor

READY = """
schema_version = 1
name = "{name}"
description = "for a test"
methods = ["eager"]

[ready]
name = "{image}"
python = "/usr/bin/python3"

[gpu]
access = "none"
"""


def write_ready(folder: Path, name: str, image: str) -> None:
    (folder / name).mkdir()
    (folder / name / "stack.toml").write_text(READY.format(name=name, image=image))


def by_subject(out: str) -> dict[str, str]:
    """Return what is said of each thing, its state first."""
    return {line[6:24].strip(): f"{line[:4].strip()} {line[26:]}" for line in out.splitlines()}


def test_without_an_engine_stacks_are_plain_processes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("DOCKER_HOST", f"unix://{tmp_path}/none.sock")
    assert doctor() == 0
    told = by_subject(capsys.readouterr().out)
    assert told["Docker Engine"].startswith("warn ")
    assert told["stack cpu"] == "ok on the cpu, as a plain process"


@pytest.mark.docker
def test_images_that_are_here_are_not_here_or_cannot_be_asked_for(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    client = engine.answers()
    if client is None or not client.images.list(IMAGE):
        pytest.skip("no Docker Engine answers, or no image to ask for")
    write_ready(tmp_path, "here", IMAGE)
    write_ready(tmp_path, "nowhere", "stackbench/nowhere:1")
    write_ready(tmp_path, "wrong", "stackbench/wrong@sha256:abc")  # no digest: the engine refuses it
    assert doctor([tmp_path]) == 1
    told = by_subject(capsys.readouterr().out)
    assert told["stack here"] == f"ok on the cpu, image {IMAGE}"
    assert told["stack nowhere"].startswith("warn the image stackbench/nowhere:1 is not here and cannot be pulled: ")
    assert told["stack nowhere"].endswith("; `docker pull stackbench/nowhere:1` or `docker load` brings it")
    assert told["stack wrong"].startswith("fail ")
    assert "stackbench/wrong@sha256:abc" in told["stack wrong"]
    assert told["trial container"].startswith("ok of ")
    # The checks after the stacks came too.
    assert list(told)[-1] == "containers"


class Registry(BaseHTTPRequestHandler):
    """One that does not say which images it has."""

    def do_GET(self) -> None:
        self.send_error(500)

    do_HEAD = do_GET  # noqa: N815

    def log_message(self, *_: object) -> None:
        """Print nothing."""


@pytest.mark.docker
@pytest.mark.usefixtures("client")
def test_a_ready_image_that_may_be_had_is_missing_and_named_with_what_brings_it(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with ThreadingHTTPServer(("127.0.0.1", 0), Registry) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        image = f"127.0.0.1:{server.server_port}/team/torch:1"
        write_ready(tmp_path, "theirs", image)
        assert doctor([tmp_path]) == 0
        server.shutdown()
    said = by_subject(capsys.readouterr().out)["stack theirs"]
    assert said == f"warn on the cpu, image {image} is missing; `docker pull {image}` brings it"


def test_suites_that_do_not_fit_the_gpu_are_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("DOCKER_HOST", f"unix://{tmp_path}/none.sock")

    def told(memory_bytes: int | None) -> dict[str, str]:
        gpu = HostGpu("GPU-0", 0, "a card", "580.1", memory_bytes)
        monkeypatch.setattr(doctor_module, "gpus", lambda: Gpus((gpu,)))
        doctor()
        return by_subject(capsys.readouterr().out)

    small = told(24 * 10**9)
    assert small["suite models"].startswith("warn 5 of 17 workloads may not fit into the GPU's 24.0 GB, most of all ")
    assert small["suite models"].endswith("`orchestrator plan --suite models` names each")
    assert small["suites"].startswith("ok expected to fit into the GPU's 24.0 GB: compact, ")
    assert not [what for what in told(10**13) if what.startswith("suite ")]
    assert not [what for what in told(None) if what.startswith("suite")]
