from __future__ import annotations

import contextlib
import os
import shutil
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from orchestrator.base.errors import UsageError
from orchestrator.host import folders
from orchestrator.host.folders import Written, remove_tree
from orchestrator.host.owner import Owner, boot, myself
from orchestrator.launchers.work_area import copy_bench, sweep_folders, work_area

MOST_MADE = 10_000
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


def nest(top: Path, depth: int, name: str = "d") -> None:
    """Make folders in each other, `depth` of them below `top`, with a file in the innermost."""
    top.mkdir()
    inner = os.open(top, os.O_RDONLY)
    for _ in range(depth):
        os.mkdir(name, dir_fd=inner)
        outer, inner = inner, os.open(name, os.O_RDONLY, dir_fd=inner)
        os.close(outer)
    os.close(os.open("file", os.O_CREAT | os.O_WRONLY, dir_fd=inner))
    os.close(inner)


@pytest.mark.parametrize(("depth", "name"), [(3000, "d"), (200, "d" * 255), (60, "\udcff\n*")])
def test_no_nesting_is_too_deep_to_be_removed(tmp_path: Path, depth: int, name: str) -> None:
    nest(tmp_path / "work", depth, name)
    assert remove_tree(tmp_path / "work")
    assert list(tmp_path.iterdir()) == []


def test_what_a_folder_may_hold_besides_is_removed(tmp_path: Path) -> None:
    work = tmp_path / "work"
    (work / "wide").mkdir(parents=True)
    for number in range(200):
        (work / "wide" / f"{number}").mkdir()
        (work / "wide" / f"{number}" / "file").touch()
    os.mkfifo(work / "wide" / "pipe")
    (work / "wide" / "self").symlink_to(work)
    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind(str(work / "s"))
    assert remove_tree(work)
    assert remove_tree(work)  # which is gone already


@pytest.mark.skipif(os.getuid() != 0, reason="becomes another user")
@pytest.mark.parametrize("mode", [0o000, 0o111, 0o500])
def test_rights_taken_away_are_given_back(passable: Path, mode: int) -> None:
    # Without root's rights, as most orchestrators are.
    program = (
        "import os, sys; from pathlib import Path\n"
        "from orchestrator.host.folders import remove_tree\n"
        "place = Path(sys.argv[1]); os.chown(place, 65534, 65534); os.setgid(65534); os.setuid(65534)\n"
        "inner = place / 'work' / 'a' / 'b' / 'c'; inner.mkdir(parents=True); (inner / 'file').touch()\n"
        "for folder in (inner, *list(inner.parents)[:3]): folder.chmod(int(sys.argv[2]))\n"
        "sys.exit(0 if remove_tree(place / 'work') else 1)\n"
    )
    done = subprocess.run([sys.executable, "-c", program, str(passable), str(mode)], check=False)
    assert done.returncode == 0
    assert list(passable.iterdir()) == []


def test_a_folder_that_somebody_still_fills_does_not_hold_the_run_up(tmp_path: Path) -> None:
    work, stop = tmp_path / "work", threading.Event()
    nest(work, 50)

    def fill() -> None:
        place, number = os.open(work, os.O_RDONLY), 0
        while not stop.is_set() and number < MOST_MADE:
            number += 1
            time.sleep(0.001)
            with contextlib.suppress(OSError):
                os.mkdir(f"new-{number}", dir_fd=place)
                os.close(os.open(f"new-{number}/file", os.O_CREAT | os.O_WRONLY, dir_fd=place))
        os.close(place)

    writer = threading.Thread(target=fill)
    writer.start()
    try:
        remove_tree(work)  # which comes back, whoever is faster
    finally:
        stop.set()
        writer.join()
    assert remove_tree(work)


@pytest.mark.skipif(os.getuid() != 0 or not shutil.which("chattr"), reason="makes a file that root cannot remove")
def test_what_cannot_be_removed_is_a_warning(tmp_path: Path) -> None:
    subprocess.run([sys.executable, "-c", DIES, str(tmp_path)], check=False)
    (area,) = (tmp_path / "work").iterdir()
    (area / "fixed").touch()
    if subprocess.run(["chattr", "+i", area / "fixed"], check=False, capture_output=True).returncode != 0:
        pytest.skip("this file system has no such files")
    warned: list[str] = []
    try:
        assert sweep_folders(tmp_path, warned.append) == 0
        assert [path.name for path in area.iterdir()] == ["fixed"]
        os.utime(area, (0, 0))  # its owner's file is gone: only an old one counts as left behind
        assert sweep_folders(tmp_path, warned.append) == 0
    finally:
        subprocess.run(["chattr", "-i", area / "fixed"], check=True)
    assert len(warned) == 2
    assert all(f"{area}: what a killed run left there cannot be removed" in line for line in warned)
    os.utime(area, (0, 0))
    assert sweep_folders(tmp_path, warned.append) == 1


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


@pytest.mark.parametrize(
    ("depth", "name"), [(3000, "d"), (200, "d" * 255), (60, "\udcff\n*"), (100, "\U0001f600" * 63)]
)
def test_what_lies_deeper_than_a_path_can_be_is_counted(tmp_path: Path, depth: int, name: str) -> None:
    nest(tmp_path / "work", depth, name)
    assert Written((tmp_path / "work",), 10**12, depth + 2).trouble() is None  # and the top, and the file
    found = Written((tmp_path / "work",), 10**12, depth + 1).trouble()
    assert found is not None
    assert (found.status, found.reason) == ("crashed", f"it has made more than {depth + 1} files")
    assert len(list(Path("/proc/self/fd").iterdir())) < 200  # none of the folders is left open
    assert remove_tree(tmp_path / "work")


def test_who_has_filled_a_disk_before_the_first_look_is_known(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(folders, "free_bytes", lambda _place: 0)
    (tmp_path / "big").write_bytes(bytes(30_000_000))
    found = Written((tmp_path,), 10**12, 1000).trouble()
    assert found is not None
    assert (found.status, found.reason) == ("crashed", "it has written 30 MB, and may write 27 MB")
    (tmp_path / "big").unlink()
    found = Written((tmp_path,), 10**12, 1000).trouble()
    assert found is not None
    assert found.status == "infrastructure"  # it was full before


def test_what_was_counted_is_not_counted_again_before_its_rest(tmp_path: Path) -> None:
    counted, watched = Written((tmp_path,), 10**12, 2, rest_s=60.0), Written((tmp_path,), 10**12, 2)
    assert counted.trouble() is None
    assert watched.trouble() is None
    for name in "abc":
        (tmp_path / name).touch()
    time.sleep(0.2)
    assert watched.trouble() == ("crashed", "it has made more than 2 files")
    assert counted.trouble() is None
    assert counted.trouble(last=True) == ("crashed", "it has made more than 2 files")
