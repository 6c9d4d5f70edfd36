"""Locks on files, on file systems that answer as NFS does, or have none."""

from __future__ import annotations

import errno
import fcntl
import os
from pathlib import Path
from typing import Any

import pytest

from orchestrator.base import lockfile
from orchestrator.base.errors import UsageError
from orchestrator.host import locks
from orchestrator.launchers import work_area as workfolders
from orchestrator.plan.cell import Plan
from orchestrator.records.store import Run

NO_LOCKS = [errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP, errno.EINVAL, errno.EIO, errno.EACCES, errno.EBADF]


def nfs(descriptor: int, operation: int) -> None:
    """An exclusive lock wants a descriptor that is open for writing."""
    if operation & fcntl.LOCK_EX and fcntl.fcntl(descriptor, fcntl.F_GETFL) & os.O_ACCMODE == os.O_RDONLY:
        raise OSError(errno.EBADF, os.strerror(errno.EBADF))
    FLOCK(descriptor, operation)


FLOCK = fcntl.flock


@pytest.fixture
def answer(monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.setattr(lockfile, "_without", set())

    def put(number: int) -> None:
        def flock(_descriptor: int, _operation: int) -> None:
            raise OSError(number, os.strerror(number))

        monkeypatch.setattr(fcntl, "flock", flock)

    return put


def test_one_process_at_a_time_also_on_nfs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fcntl, "flock", nfs)
    said: list[str] = []
    held = lockfile.try_lock(tmp_path / "x", said.append, remedy="")
    assert held is not None
    assert held.holds
    assert lockfile.try_lock(tmp_path / "x", said.append, remedy="") is None
    held.release()
    again = lockfile.try_lock(tmp_path / "x", said.append, remedy="")
    assert again is not None
    again.release()
    run = Run.create(tmp_path, Plan(suite="x", cells=()), "5" * 16)
    assert run.claim(said.append)
    assert not Run.open(run.folder).claim(said.append)
    run.release()
    assert said == []


@pytest.mark.parametrize("number", NO_LOCKS)
def test_a_file_system_without_locks_is_named_once_and_survived(tmp_path: Path, answer: Any, number: int) -> None:
    answer(number)
    said: list[str] = []
    run = Run.create(tmp_path, Plan(suite="x", cells=()), "5" * 16)
    assert run.claim(said.append)
    assert Run.open(run.folder).claim(said.append), "who cannot know goes on"
    with locks.hold(None, purpose="x", say=said.append, folder=tmp_path / "locks"):
        assert locks.is_free(None, tmp_path / "locks")
    assert len(said) == 1
    assert said[0].startswith(f"{run.folder}: files cannot be locked here ({os.strerror(number).lower()})")
    assert said[0].endswith("; start no other run there, or name other --results")


@pytest.mark.parametrize("number", NO_LOCKS)
def test_without_locks_nobodys_work_folder_is_swept(
    tmp_path: Path, answer: Any, number: int, capsys: pytest.CaptureFixture[str]
) -> None:
    with workfolders.work_area(tmp_path):
        answer(number)
        assert workfolders.sweep_folders(tmp_path) == 0
        with workfolders.work_area(tmp_path) as other:
            assert other.bench.is_dir()
    assert capsys.readouterr().out.count("STACKBENCH_STATE") == 1


def test_a_lock_that_cannot_be_opened_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "cpu.lock").mkdir()
    with (
        pytest.raises(UsageError, match="name another folder in STACKBENCH_LOCKS"),
        locks.hold(None, purpose="x", say=print, folder=tmp_path),
    ):
        pass
    run = Run.create(tmp_path, Plan(suite="x", cells=()), "5" * 16)
    (run.folder / ".claim").symlink_to("/etc/passwd")
    with pytest.raises(UsageError, match=r"\.claim: .*links are not followed"):
        run.claim()


def test_the_state_can_be_put_elsewhere(tmp_path: Path) -> None:
    import subprocess
    import sys

    command = [sys.executable, "-c", "from orchestrator.base.paths import STATE; print(STATE)"]
    for given, wanted in (({"STACKBENCH_STATE": str(tmp_path)}, str(tmp_path)), ({}, ".stackbench")):
        environment = {name: value for name, value in os.environ.items() if name != "STACKBENCH_STATE"} | given
        done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
        assert done.stdout.strip().endswith(wanted)
