"""Files that a container wrote: only plain ones of a sane size are taken, whole or not at all."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path

import pytest

from orchestrator.base import files
from orchestrator.base.errors import UsageError
from orchestrator.base.untrusted import sha256_of, take_over

CONTENT = b"something" * 1000


def test_a_file_is_copied_hashed_and_made_read_only(tmp_path: Path) -> None:
    source, target = tmp_path / "source", tmp_path / "new" / "target"
    source.write_bytes(CONTENT)
    assert take_over(source, target) == hashlib.sha256(CONTENT).hexdigest() == sha256_of(target)
    assert target.read_bytes() == CONTENT
    assert target.stat().st_mode & 0o777 == 0o444
    source.write_bytes(b"another")
    take_over(source, target)
    assert target.read_bytes() == b"another"
    assert [path.name for path in target.parent.iterdir()] == ["target"]


@pytest.mark.parametrize("kind", ["link", "pipe", "folder", "nothing", "large"])
def test_anything_else_is_refused_and_leaves_nothing(tmp_path: Path, kind: str) -> None:
    source, target = tmp_path / "source", tmp_path / "new" / "target"
    elsewhere = tmp_path / "elsewhere"
    elsewhere.write_bytes(CONTENT)
    if kind == "link":
        source.symlink_to(elsewhere)
    elif kind == "pipe":
        os.mkfifo(source)
    elif kind == "folder":
        source.mkdir()
    elif kind == "large":
        source.write_bytes(CONTENT)
    with pytest.raises(UsageError) as caught:
        take_over(source, target, limit=len(CONTENT) - 1)
    assert str(tmp_path) not in str(caught.value)
    assert list(target.parent.iterdir()) == []
    if kind != "large":
        assert sha256_of(source) is None


def test_what_a_power_cut_may_take_does_not_wait_for_the_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    waited: list[Path] = []
    monkeypatch.setattr(files, "to_disk", waited.append)
    (tmp_path / "source").write_bytes(b"some")
    hashes = [take_over(tmp_path / "source", tmp_path / name, lasting=name == "kept") for name in ("kept", "lost")]
    assert hashes[0] == hashes[1] == sha256_of(tmp_path / "lost")
    assert [path.name.startswith(".kept.") for path in waited] == [True]
