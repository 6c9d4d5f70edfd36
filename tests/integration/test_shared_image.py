"""An image on several hosts with one file system: brought once to each, and the same on all."""

from __future__ import annotations

import io
import tarfile
import uuid
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from fake_run import make_stack

from orchestrator.base.errors import InfrastructureError
from orchestrator.build import shared_image
from orchestrator.build.shared_image import shared_image as bring
from orchestrator.plan.workload import digest

pytestmark = pytest.mark.docker


def make_image(client: Any, name: str, content: bytes) -> None:
    archive = io.BytesIO()
    with tarfile.open(fileobj=archive, mode="w") as tar:
        entry = tarfile.TarInfo("file")
        entry.size = len(content)
        tar.addfile(entry, io.BytesIO(content))
    repository, _, tag = name.rpartition(":")
    client.api.import_image_from_data(archive.getvalue(), repository=repository, tag=tag)


@pytest.fixture
def name(client: Any) -> Iterator[str]:
    chosen = f"stackbench-test/shared:{uuid.uuid4().hex[:12]}"
    make_image(client, chosen, b"first")
    yield chosen
    client.images.remove(chosen, force=True)


def test_a_node_without_the_image_is_brought_the_first_ones_once(client: Any, name: str, tmp_path: Path) -> None:
    said: list[str] = []
    stack, folder = make_stack(image=name), tmp_path / "images"
    folder.mkdir()

    def call(_number: int = 0) -> str:
        return bring(client, stack, folder, tmp_path / "locks", keep=True, say=said.append, state=tmp_path)

    assert call() == name  # the first has it
    first = client.images.get(name).attrs["RootFS"]
    shared_image._save(client, name, folder / f"{digest([name])}.tar")
    client.images.remove(name, force=True)
    with ThreadPoolExecutor(2) as pool:
        assert list(pool.map(call, range(2))) == [name, name]
    assert client.images.get(name).attrs["RootFS"] == first
    assert said == [f"{name}: brought from another node"]


def test_another_image_of_that_name_is_no_image_of_the_run(client: Any, name: str, tmp_path: Path) -> None:
    stack, folder = make_stack(image=name), tmp_path / "images"
    folder.mkdir()
    bring(client, stack, folder, tmp_path / "locks", keep=False, say=print, state=tmp_path)
    make_image(client, name, b"second")
    with pytest.raises(InfrastructureError, match="not the one that the first node has"):
        bring(client, stack, folder, tmp_path / "locks", keep=False, say=print, state=tmp_path)
