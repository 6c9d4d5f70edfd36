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

from engines import OwnEngine
from scene import Outcome, said, scene, wait_for

METHODS = ("brief", "leaves_a_child")
AWAY_S = (0.0, 0.5, 2.0)
"""How long it is away. A supervisor asks again for some seconds."""


class Engine(OwnEngine):
    """One that may be killed: what survives it is in the same namespaces as the next one."""

    def __init__(self, folder: Path) -> None:
        self._holder = subprocess.Popen(["unshare", "--mount", "--net", "sleep", "infinity"])
        time.sleep(0.2)
        super().__init__(folder)

    def start(self) -> None:
        inside = ["nsenter", f"--target={self._holder.pid}", "--mount", "--net"]
        self._command = [*inside, *self._command[self._command.index("sh") :]]
        # The killed one's numbers: a containerd that is dead and not yet reaped would be waited for.
        for name in ("p", "e/containerd/containerd.pid"):
            (self.folder / name).unlink(missing_ok=True)
        super().start()

    def tell(self, number: int) -> None:
        self._process.send_signal(number)

    def kill(self) -> None:
        """Kill it: its containerd dies with it, the containers live on."""
        self._process.kill()
        self._process.wait()

    def end(self) -> None:
        """End it with all that it has started."""
        self.stop()
        self._holder.kill()
        self._holder.wait()
        for place in Path("/proc").glob("[0-9]*"):
            with contextlib.suppress(OSError):
                if f"{self.folder}/".encode() in (place / "cmdline").read_bytes():
                    os.kill(int(place.name), signal.SIGKILL)


@contextlib.contextmanager
def killable_engine() -> Iterator[Engine]:
    """Start an engine that has the base image, and remove it in the end."""
    folder = Path(tempfile.mkdtemp(prefix="engine-"))
    engine = Engine(folder)
    try:
        yield engine
    finally:
        engine.end()
        shutil.rmtree(folder)


def engine_goes_away(chance: Random) -> Iterator[Outcome]:
    """At a random instant the engine is stopped, killed or frozen; it is back after a while, or only after the run."""
    with killable_engine() as engine:
        while True:
            how = chance.choice(["stopped", "killed", "frozen", "stopped until the run had ended"])
            with scene("docker", METHODS, rounds=3, engine=engine.host) as there:
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
    engine.kill() if how == "killed" else engine.stop()
    if not how.endswith("ended"):
        time.sleep(away_s)
        engine.start()
