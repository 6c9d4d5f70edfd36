from __future__ import annotations

import subprocess
import sys
import threading
import time
from pathlib import Path
from types import SimpleNamespace

import pytest

from orchestrator.base.errors import InfrastructureError, UsageError
from orchestrator.host import locks
from orchestrator.launchers.ssh_launcher import SshLauncher

HOLDER = """
import sys
from pathlib import Path
from orchestrator.host import locks
with locks.hold("GPU-1", purpose="suite note", say=lambda line: print(line, flush=True), folder=Path(sys.argv[1])):
    print("held", flush=True)
    sys.stdin.read()
"""


def test_the_folder_is_everybodys(tmp_path: Path) -> None:
    folder = tmp_path / "locks"
    with locks.hold(None, purpose="x", say=print, folder=folder):
        assert folder.stat().st_mode & 0o7777 == 0o1777
        assert (folder / "cpu.lock").stat().st_mode & 0o777 == 0o666
        assert not locks.is_free(None, folder)
        assert locks.is_free("GPU-1", folder)
    assert locks.is_free(None, folder)


def test_a_second_run_waits_and_says_for_whom(tmp_path: Path) -> None:
    holder = subprocess.Popen(
        [sys.executable, "-c", HOLDER, str(tmp_path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert holder.stdout is not None
    assert holder.stdout.readline() == "held\n"
    said: list[str] = []
    got = threading.Event()

    def wait() -> None:
        with locks.hold("GPU-1", purpose="suite smoke", say=said.append, folder=tmp_path):
            got.set()

    thread = threading.Thread(target=wait)
    thread.start()
    time.sleep(0.7)
    assert not got.is_set()
    assert len(said) == 1
    assert said[0].startswith(f"waiting for GPU-1: in use by process {holder.pid}, suite note, since ")
    holder.kill()  # however it ends, its lock goes with it
    holder.wait()
    assert got.wait(10)
    thread.join()


def test_a_run_does_not_wait_for_itself(tmp_path: Path) -> None:
    purpose = locks.purpose_of("note-1")
    with (
        locks.hold("GPU-1", purpose=purpose, say=print, folder=tmp_path, run="note-1"),
        pytest.raises(UsageError, match="GPU-1 was asked for twice by one run"),
        locks.hold("GPU-1", purpose=purpose, say=print, folder=tmp_path, run="note-1"),
    ):
        pass


def test_nor_does_it_over_ssh(tmp_path: Path) -> None:
    launcher = object.__new__(SshLauncher)
    with locks.hold("GPU-1", purpose=locks.purpose_of("note-1"), say=print, folder=tmp_path):
        answer = {"held": False, "holder": locks.holder(tmp_path / "GPU-1.lock"), "warned": []}
        launcher.devices = ["GPU-1"]
        launcher.connection = SimpleNamespace(ask=lambda *_, **__: (answer, b""))
        opening = SimpleNamespace(run="note-1", purpose=locks.purpose_of("note-1"))
        launcher.host = SimpleNamespace(opening=opening, say=print)
        with pytest.raises(UsageError, match="GPU-1 was asked for twice by one run"):
            launcher.claim(wait_s=600.0)
        with pytest.raises(InfrastructureError, match="in use by process"):  # its lost connection's: that one goes
            launcher.claim(wait_s=0.0)


def test_the_folder_by_the_environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("STACKBENCH_LOCKS", str(tmp_path / "mine"))
    assert locks.lock_folder() == tmp_path / "mine"
    monkeypatch.delenv("STACKBENCH_LOCKS")
    assert locks.lock_folder().name == "stackbench-locks"


def test_a_signal_ends_the_wait(tmp_path: Path) -> None:
    with locks.hold("GPU-1", purpose="x", say=print, folder=tmp_path):
        script = "from orchestrator.base import interrupt\ninterrupt.heed()\n" + HOLDER
        process = subprocess.Popen(
            [sys.executable, "-c", script, str(tmp_path)], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        )
        assert process.stdout is not None
        assert process.stdout.readline().startswith("waiting for GPU-1")
        process.terminate()
        _, error = process.communicate()
    assert "Interrupted" in error


def test_a_file_in_its_place_is_one_clear_line(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    for folder in (tmp_path / "file", tmp_path / "file" / "below"):
        with pytest.raises(UsageError), locks.hold(None, purpose="x", say=print, folder=folder):
            pass
