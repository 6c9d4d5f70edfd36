from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from orchestrator.base.errors import UsageError
from orchestrator.base.files import bench_source

if TYPE_CHECKING:
    from pathlib import Path


def test_the_identity_follows_paths_and_bytes_and_nothing_else(tmp_path: Path) -> None:
    (tmp_path / "methods").mkdir()
    (tmp_path / "a.py").write_text("one")
    (tmp_path / "methods" / "b.py").write_text("two")
    first = bench_source(tmp_path)
    (tmp_path / "notes.txt").write_text("ignored")
    (tmp_path / "__pycache__").mkdir()
    (tmp_path / "__pycache__" / "c.py").write_text("ignored")
    assert bench_source(tmp_path) == first
    (tmp_path / "models.json").write_text("{}")
    second = bench_source(tmp_path)
    (tmp_path / "a.py").write_text("oneX")
    third = bench_source(tmp_path)
    (tmp_path / "a.py").rename(tmp_path / "z.py")
    assert len({first, second, third, bench_source(tmp_path)}) == 4


def test_bytes_moved_from_file_to_file_are_noticed(tmp_path: Path) -> None:
    (tmp_path / "a.py").write_text("12")
    (tmp_path / "b.py").write_text("3")
    first = bench_source(tmp_path)
    (tmp_path / "a.py").write_text("1")
    (tmp_path / "b.py").write_text("23")
    assert bench_source(tmp_path) != first


def test_the_real_bench_has_one_and_an_empty_folder_none(tmp_path: Path) -> None:
    assert len(bench_source()) == 16
    with pytest.raises(UsageError, match="no bench here"):
        bench_source(tmp_path)
