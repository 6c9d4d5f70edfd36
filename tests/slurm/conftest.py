"""One cluster of eight nodes for all tests of this folder that one process runs; where there is no Slurm they fail."""

from __future__ import annotations

import contextlib
import os
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest
from slurm_cluster import Cluster, jobs, lacking, of_test, wait_until

from orchestrator.host import docker_engine as engine

HERE = Path(__file__).parent
NODES, BESIDE = 8, 3
"""Nodes, and ports that a cluster needs beside one for each of them."""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    # The suite takes longest: beside it the others wait most of the time.
    items.sort(key=lambda item: item.path.parent == HERE and "smoke" not in item.name)


def free_ports(count: int) -> int:
    """The first of so many ports that nobody uses, below those that the kernel gives away."""
    while True:
        first = 10_000 + int.from_bytes(os.urandom(2), "big") % 20_000
        with contextlib.ExitStack() as bound, contextlib.suppress(OSError):
            for port in range(first, first + count):
                bound.enter_context(socket.create_server(("127.0.0.1", port)))
            return first


def started(folder: Path, nodes: int, *, accounting: bool) -> Cluster:
    if (why := lacking()) is not None:
        pytest.fail(why)
    folder.mkdir()
    found = Cluster(folder, free_ports(nodes + BESIDE), accounting)
    os.environ["SLURM_CONF"] = str(folder / "slurm.conf")
    found.start(nodes)
    return found


@pytest.fixture(scope="session")
def _of_all(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    found = started(tmp_path_factory.mktemp("cluster") / "slurm", NODES, accounting=True)
    yield found
    found.stop()


@pytest.fixture
def cluster(_of_all: Cluster, monkeypatch: pytest.MonkeyPatch) -> Cluster:
    monkeypatch.setenv("SLURM_CONF", str(_of_all.folder / "slurm.conf"))
    return _of_all


@pytest.fixture
def without_accounting(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Cluster]:
    with monkeypatch.context() as patched:
        patched.setenv("SLURM_CONF", "")
        found = started(tmp_path / "bare", 1, accounting=False)
        yield found
        assert jobs() == []
        found.stop()


@pytest.fixture
def scratch(tmp_path: Path) -> Path:
    place = tmp_path / "scratch"
    place.mkdir()
    return place


@pytest.fixture(autouse=True)
def _nothing_is_left(cluster: Cluster, scratch: Path, tmp_path: Path) -> Iterator[None]:
    yield
    assert jobs() == []
    wait_until(lambda: list(scratch.iterdir()) == [])
    wait_until(lambda: of_test(tmp_path) == [])
    client = engine.answers()
    containers = client.api.containers(all=True) if client is not None else []
    mounted = [mount["Source"] for one in containers for mount in one["Mounts"]]
    assert [source for source in mounted if str(tmp_path) in source] == []
