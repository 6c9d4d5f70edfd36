from __future__ import annotations

import os
from typing import TYPE_CHECKING

import pytest

from orchestrator.base.errors import UsageError
from orchestrator.base.files import check_writable, make_folder, write_json, write_text

if TYPE_CHECKING:
    from pathlib import Path


def test_a_file_is_replaced_whole_and_nothing_is_left_beside(tmp_path: Path) -> None:
    path = tmp_path / "x.json"
    write_text(path, "old")
    write_json(path, {"a": "é"})
    assert path.read_text(encoding="utf-8") == '{\n "a": "é"\n}\n'
    assert [place.name for place in tmp_path.iterdir()] == ["x.json"]


def test_a_folder_in_the_files_place_is_a_line(tmp_path: Path) -> None:
    (tmp_path / "x").mkdir()
    with pytest.raises(UsageError, match="x: is a directory; name a file"):
        write_text(tmp_path / "x", "")
    assert [place.name for place in tmp_path.iterdir()] == ["x"]


def test_a_writable_folder_is_made_and_left_empty(tmp_path: Path) -> None:
    check_writable(tmp_path / "a" / "b")
    assert list((tmp_path / "a" / "b").iterdir()) == []


def test_folders_that_cannot_be_are_lines(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(UsageError, match="file exists; name a folder, not a file"):
        make_folder(tmp_path / "file")
    with pytest.raises(UsageError, match="not a directory"):
        make_folder(tmp_path / "file" / "below")
    with pytest.raises(UsageError):
        make_folder(tmp_path / "\0")
    with pytest.raises(UsageError, match="file name too long; use a shorter path"):
        make_folder(tmp_path / ("x" * 300))


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_a_read_only_folder_is_a_line(tmp_path: Path) -> None:
    tmp_path.chmod(0o500)
    with pytest.raises(UsageError, match="permission denied; check who may read and write there"):
        check_writable(tmp_path)
