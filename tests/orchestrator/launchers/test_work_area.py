from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from orchestrator.base.errors import UsageError
from orchestrator.host.owner import Owner, boot, myself
from orchestrator.launchers.work_area import copy_bench, remove_tree, sweep_folders, work_area

DIES = """
import os, signal, sys
from pathlib import Path
from orchestrator.launchers.work_area import work_area
with work_area(Path(sys.argv[1])) as area:
    area.cell("forward").__enter__()
    os.kill(os.getpid(), signal.SIGKILL)
"""


def test_a_work_area_is_gone_afterwards(tmp_path: Path) -> None:
    with work_area(tmp_path) as area:
        with area.cell("forward-eager-cpu") as folder:
            assert (folder / "work").stat().st_mode & 0o777 == 0o700
            assert folder.is_relative_to(area.folder)
        assert not folder.exists()
        assert (area.bench / "models.json").stat().st_mode & 0o777 == 0o644
        assert area.bench.name == "bench"
        assert sweep_folders(tmp_path) == 0  # its owner lives
    assert list((tmp_path / "work").iterdir()) == []


def test_what_a_killed_process_left_is_swept(tmp_path: Path) -> None:
    subprocess.run([sys.executable, "-c", DIES, str(tmp_path)], check=False)
    assert len(list((tmp_path / "work").iterdir())) == 1
    assert sweep_folders(tmp_path) == 1
    assert list((tmp_path / "work").iterdir()) == []
    assert sweep_folders(tmp_path / "nowhere") == 0


def test_removing_follows_no_link(tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "dear").write_text("x")
    inside = tmp_path / "work"
    (inside / "closed").mkdir(parents=True)
    (inside / "closed" / "file").write_text("x")
    (inside / "link").symlink_to(outside)
    (inside / "closed").chmod(0)
    remove_tree(inside)
    assert not inside.exists()
    assert (outside / "dear").exists()


def test_no_bench_is_one_clear_line(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="no bench here"):
        copy_bench(tmp_path, tmp_path / "copy")


def test_owners_are_distinguished() -> None:
    me = myself()
    assert Owner.parse(str(me)) == me
    assert me.dead() is False
    assert Owner(me.pid, me.start_ticks + 1, me.boot).dead() is True
    assert Owner(me.pid, me.start_ticks, "another.1").dead() is True
    assert Owner(1, 1, boot().partition(".")[0] + ".1").dead() is None
    child = subprocess.Popen(["true"])
    os.waitid(os.P_PID, child.pid, os.WEXITED | os.WNOWAIT)
    assert Owner(child.pid, 1, boot()).dead() is True  # a zombie is dead
    child.wait()
    for text in ("", "1:2", "a:b:c", "1:2:"):
        assert Owner.parse(text) is None
