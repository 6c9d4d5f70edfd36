from __future__ import annotations

import errno
import os
import stat
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from orchestrator.base.errors import UsageError
from orchestrator.base.files import check_writable, make_folder, write_bytes, write_json, write_text
from orchestrator.base.untrusted import take_over


def test_a_file_is_replaced_whole_and_nothing_is_left_beside(tmp_path: Path) -> None:
    path = tmp_path / "x.json"
    write_text(path, "old")
    write_json(path, {"a": "é"})
    assert path.read_text(encoding="utf-8") == '{\n "a": "é"\n}\n'
    assert [place.name for place in tmp_path.iterdir()] == ["x.json"]


def test_content_is_on_the_disk_before_its_name_and_the_name_before_the_end(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[tuple[str, list[str], bool]] = []
    real = os.fsync

    def fsync(descriptor: int) -> None:
        real(descriptor)
        what = "folder" if stat.S_ISDIR(os.fstat(descriptor).st_mode) else "file"
        seen.append((what, sorted(place.name for place in tmp_path.iterdir()), (tmp_path / "x").exists()))

    monkeypatch.setattr(os, "fsync", fsync)
    write_text(tmp_path / "x", "new")
    assert [(what, named) for what, _, named in seen] == [("file", False), ("folder", True)]
    assert seen[1][1] == ["x"]
    (tmp_path / "theirs").write_text("theirs")
    seen.clear()
    take_over(tmp_path / "theirs", tmp_path / "kept")
    assert [what for what, _, _ in seen] == ["file"]


def test_a_disk_that_fails_at_the_last_moment_leaves_the_old_content(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_text(tmp_path / "x", "old")

    def fsync(_descriptor: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", fsync)
    with pytest.raises(UsageError, match="no space left on device; make room"):
        write_text(tmp_path / "x", "new")
    assert (tmp_path / "x").read_text() == "old"
    assert [place.name for place in tmp_path.iterdir()] == ["x"]


def test_a_folder_that_is_gone_is_made_again_where_that_is_wanted(tmp_path: Path) -> None:
    write_bytes(tmp_path / "a" / "x", b"1", parent=True)
    assert (tmp_path / "a" / "x").read_bytes() == b"1"
    with pytest.raises(UsageError, match="check the path"):
        write_bytes(tmp_path / "b" / "x", b"1")


def test_a_pipe_and_what_is_open_already_are_written_to_and_not_replaced(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    read = os.open(tmp_path / "pipe", os.O_RDONLY | os.O_NONBLOCK)
    write_text(tmp_path / "pipe", ["on", "e"])
    assert os.read(read, 99) == b"one"
    os.close(read)
    assert (tmp_path / "pipe").is_fifo()
    with (tmp_path / "opened").open("wb") as opened:
        (tmp_path / "stdout").symlink_to(f"/proc/self/fd/{opened.fileno()}")
        write_text(tmp_path / "stdout", "two")
    assert (tmp_path / "opened").read_text() == "two"
    assert sorted(place.name for place in tmp_path.iterdir() if place.is_symlink()) == ["stdout"]


@pytest.mark.parametrize("name", ["/proc/self/fd", "/dev/fd"])
def test_what_is_open_already_goes_on_where_it_is(tmp_path: Path, name: str) -> None:
    for mode, expected in (("wb", "one, two, three"), ("ab", "one, two, threeone, two, three")):
        with (tmp_path / "opened").open(mode, buffering=0) as opened:
            opened.write(b"one, ")
            write_text(Path(name) / str(opened.fileno()), ["two", ", "])
            opened.write(b"three")
        assert (tmp_path / "opened").read_text() == expected


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


def test_threads_that_write_one_file_at_once_do_not_take_each_others(tmp_path: Path) -> None:
    target, start = tmp_path / "file", threading.Barrier(8)

    def write(content: bytes) -> None:
        start.wait()
        for _ in range(20):
            write_bytes(target, content)

    contents = [bytes([number]) * 100_000 for number in range(8)]
    with ThreadPoolExecutor(len(contents)) as pool:
        list(pool.map(write, contents))
    assert target.read_bytes() in contents
    assert list(tmp_path.iterdir()) == [target]
