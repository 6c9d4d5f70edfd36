"""What is derived from what an engine says of itself, and what is left of a host's memory."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import docker
import pytest
import requests

from orchestrator.base import interrupt
from orchestrator.base.errors import InfrastructureError
from orchestrator.host import docker_engine as engine

GIB = 2**30
USUAL = {
    "MemoryLimit": True,
    "SwapLimit": True,
    "CpuCfsQuota": True,
    "PidsLimit": True,
    "SecurityOptions": ["name=seccomp,profile=default"],
    "Plugins": {"Log": ["json-file", "local"]},
}


@pytest.mark.parametrize("total", [4 * GIB, 24 * GIB, 64 * GIB, 2048 * GIB])
def test_the_host_and_the_orchestrator_keep_the_memory_that_they_need(
    total: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Path, "read_text", lambda *_args, **_more: "max")
    left = total - engine.memory_limit_bytes(total)
    assert left >= min(2 * GIB, total // 4)
    assert left <= total // 4


@pytest.mark.parametrize(
    ("said", "without"),
    [
        ({}, {"userns_mode"}),
        ({"SecurityOptions": ["name=seccomp,profile=builtin", "name=userns"]}, set()),
        ({"SecurityOptions": None}, {"userns_mode", "seccomp"}),
        ({"SwapLimit": False}, {"userns_mode", "memswap_limit"}),
        ({"MemoryLimit": False}, {"userns_mode", "memswap_limit", "mem_limit"}),
        ({"CpuCfsQuota": False, "PidsLimit": False}, {"userns_mode", "nano_cpus", "pids_limit"}),
        ({"Plugins": {"Log": ["k8s-file", "journald"]}}, {"userns_mode", "log_config"}),
        ({"Plugins": None}, {"userns_mode"}),
    ],
)
def test_options_follow_what_the_engine_says_of_itself(said: dict[str, object], without: set[str]) -> None:
    assert engine.not_offered({**USUAL, **said}) == without


def test_an_engine_that_says_nothing_gets_the_usual_options() -> None:
    assert engine.not_offered({}) == {"userns_mode", "seccomp"}


def test_only_an_engine_that_is_not_reached_is_asked_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(engine, "GRACE_S", (0, 0, 0))
    answers = iter([requests.ConnectionError("gone"), requests.ConnectionError("gone"), None])
    asked = []

    def call() -> str:
        asked.append(1)
        if (error := next(answers)) is not None:
            raise error
        return "back"

    assert engine.with_grace(call) == "back"
    assert len(asked) == 3
    answers = iter([docker.errors.APIError("no")])
    with pytest.raises(InfrastructureError):
        engine.with_grace(call)
    answers = iter([requests.ConnectionError("gone")] * 4)
    with pytest.raises(InfrastructureError, match="gone"):
        engine.with_grace(call)


def test_a_signal_ends_the_wait_for_an_engine(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(engine, "GRACE_S", (0, 0, 0))
    asked = []

    def call() -> None:
        asked.append(1)
        os.kill(os.getpid(), signal.SIGTERM)
        raise requests.ConnectionError("gone")

    with interrupt.interruptible(), pytest.raises(interrupt.Interrupted):
        engine.with_grace(call)
    assert len(asked) == 1
