"""Docker Engines of a test's own, with another socket, data folder, mounts and network."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from fake_run import IMAGE

ALONE = ("--bridge=none", "--iptables=false", "--ip-masq=false")


class OwnEngine:
    """An engine that a test may stop and start again."""

    def __init__(self, folder: Path, *options: str, before: str = "true", image: bool = True) -> None:
        self.folder, self.host = folder, f"unix://{folder}/s"
        places = [f"--data-root={folder}/d", f"--exec-root={folder}/e", f"--pidfile={folder}/p", f"--host={self.host}"]
        # With mounts of its own, so that what it mounts goes with it, and a network of its own: without a bridge it
        # would remove the bridge of the engine beside it.
        command = f"{before} && exec dockerd {' '.join([*places, *ALONE, *options])}"
        self._command = ["unshare", "--mount", "--net", "sh", "-c", command]
        self.start()
        if image:
            saved = subprocess.Popen(["docker", "save", IMAGE], stdout=subprocess.PIPE)
            self.docker("load", stdin=saved.stdout)
            assert saved.wait() == 0

    def docker(self, *arguments: str, **more: object) -> subprocess.CompletedProcess[str]:
        command = ["docker", "--host", self.host, *arguments]
        return subprocess.run(command, check=True, capture_output=True, text=True, **more)  # type: ignore[call-overload]

    def start(self) -> None:
        with (self.folder / "log").open("ab") as log:
            self._process = subprocess.Popen(
                self._command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True
            )
        while self._process.poll() is None:
            with contextlib.suppress(subprocess.CalledProcessError):
                self.docker("info")
                return
            time.sleep(0.2)
        pytest.skip(f"no engine of one's own starts here: {(self.folder / 'log').read_text()[-500:]}")

    def stop(self) -> None:
        self._process.send_signal(signal.SIGTERM)
        self._process.wait()


@contextlib.contextmanager
def own_engine(*options: str, before: str = "true", image: bool = True) -> Iterator[OwnEngine]:
    """Give an engine with `options`, after `before` was run among its own mounts, and with the fake bench's image."""
    if os.getuid() != 0 or shutil.which("dockerd") is None:
        pytest.skip("only root starts an engine, and only where there is a dockerd")
    # A socket's path must be short.
    folder = Path(tempfile.mkdtemp(prefix="engine-"))
    folder.chmod(0o755)
    engine = OwnEngine(folder, *options, before=before, image=image)
    try:
        yield engine
    finally:
        engine.stop()
        shutil.rmtree(folder)
