"""An engine of its own that is stopped, killed, frozen and started again. The host's is left alone."""

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
from random import Random

from fake_run import IMAGE
from scene import Outcome, engine_client, said, scene, wait_for

METHODS = ("brief", "leaves_a_child")
START_S = 60.0
AWAY_S = (0.0, 0.5, 2.0)
"""How long it is away. A supervisor asks again for some seconds."""


class Engine:
    """A Docker Engine with a folder and a socket of its own."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.address = folder, f"unix://{folder}/engine.sock"
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Start it and wait until it answers."""
        for name in ("engine.pid", "exec/containerd/containerd.pid"):
            (self.folder / name).unlink(missing_ok=True)
        command = ["dockerd", "--host", self.address, "--data-root", str(self.folder / "data")]
        command += ["--exec-root", str(self.folder / "exec"), "--pidfile", str(self.folder / "engine.pid")]
        command += ["--bridge", "none", "--iptables=false", "--ip6tables=false"]
        with (self.folder / "log").open("ab") as log:
            self._process = subprocess.Popen(
                command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True
            )
        end = time.monotonic() + START_S
        while time.monotonic() < end:
            with contextlib.suppress(Exception), contextlib.closing(engine_client(self.address)) as client:
                if client.ping():
                    return
            time.sleep(0.1)
        raise RuntimeError(f"the engine does not start: {(self.folder / 'log').read_text()[-800:]}")

    def tell(self, number: int) -> None:
        assert self._process is not None
        os.kill(self._process.pid, number)

    def stop(self, number: int = signal.SIGTERM) -> None:
        """End it; a killed one leaves its containerd, which the next one takes over."""
        assert self._process is not None
        self._process.send_signal(number)
        try:
            self._process.wait(START_S)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()

    def end(self) -> None:
        """End it with all that it has started."""
        assert self._process is not None
        if self._process.poll() is None:
            self.stop()
        with contextlib.suppress(OSError, ValueError):
            os.kill(int((self.folder / "exec/containerd/containerd.pid").read_text()), signal.SIGKILL)
        for line in reversed(Path("/proc/self/mounts").read_text().splitlines()):
            place = line.split()[1]
            if place.startswith(f"{self.folder}/"):
                subprocess.run(["umount", "--lazy", place], check=False)


@contextlib.contextmanager
def own_engine() -> Iterator[Engine]:
    """Start an engine that has the base image, and remove it in the end."""
    folder = Path(tempfile.mkdtemp(prefix="stackbench-engine-"))
    engine = Engine(folder)
    try:
        engine.start()
        with subprocess.Popen(["docker", "save", IMAGE], stdout=subprocess.PIPE) as saved:
            environment = {**os.environ, "DOCKER_HOST": engine.address}
            subprocess.run(
                ["docker", "load", "--quiet"],
                stdin=saved.stdout,
                env=environment,
                check=True,
                stdout=subprocess.DEVNULL,
            )
        yield engine
    finally:
        engine.end()
        shutil.rmtree(folder, ignore_errors=True)


def engine_goes_away(chance: Random) -> Iterator[Outcome]:
    """At a random instant the engine is stopped, killed or frozen; it is back after a while, or only after the run."""
    with own_engine() as engine:
        while True:
            how = chance.choice(["stopped", "killed", "frozen", "stopped until the run had ended"])
            with scene("docker", METHODS, rounds=3, engine=engine.address) as there:
                began = time.monotonic()
                process, log = there.start()
                time.sleep(chance.uniform(0, 5))
                disturb(engine, how, chance.choice(AWAY_S))
                ended = wait_for(process, log, began)
                if how.endswith("ended"):
                    engine.start()
                # Nothing at all may have run, or the engine was not there to begin with.
                problems = [*said(ended, [0, 1, 3, 4]), *there.kept_records()]
                if not there.is_finished:
                    problems += said(there.run(), [0])
                problems += [*there.finished_run({}), *there.left_over()]
            yield Outcome([how], problems)


def disturb(engine: Engine, how: str, away_s: float) -> None:
    if how == "frozen":
        engine.tell(signal.SIGSTOP)
        time.sleep(away_s)
        engine.tell(signal.SIGCONT)
        return
    engine.stop(signal.SIGKILL if how == "killed" else signal.SIGTERM)
    if not how.endswith("ended"):
        time.sleep(away_s)
        engine.start()
