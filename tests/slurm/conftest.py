"""One cluster for all tests of this folder; where there is no Slurm they are skipped."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from slurm_cluster import HERE, Cluster, jobs, wait_until


@pytest.fixture(scope="session")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    if not HERE:
        pytest.skip("no Slurm is installed here, or this user is not root")
    folder = tmp_path_factory.mktemp("cluster") / "slurm"
    folder.mkdir()
    found = Cluster(folder)
    with pytest.MonkeyPatch.context() as patched:
        patched.setenv("SLURM_CONF", str(folder / "slurm.conf"))
        found.start(3)
        try:
            yield found
        finally:
            found.stop()


@pytest.fixture
def scratch(tmp_path: Path) -> Path:
    place = tmp_path / "scratch"
    place.mkdir()
    return place


@pytest.fixture(autouse=True)
def _nothing_is_left(request: pytest.FixtureRequest, cluster: Cluster, scratch: Path) -> Iterator[None]:
    yield
    assert jobs() == []
    wait_until(lambda: list(scratch.iterdir()) == [])
