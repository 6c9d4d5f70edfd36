"""A real Slurm cluster for tests, whose nodes and controller can be killed and started again."""

from __future__ import annotations

import contextlib
import os
import secrets
import shutil
import signal
import subprocess
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from places import ROOT

SCRIPT = ROOT / ".ci" / "slurm-cluster.sh"
NEEDED = ("slurmctld", "slurmd", "srun", "munged", "slurmdbd", "mariadbd")
DAEMONS = (b"slurmctld", b"slurmscriptd", b"slurmd", b"slurmdbd", b"mariadbd", b"munged")
# Each node has locks of its own, as if it were a machine of its own.
LOCKS = 'export STACKBENCH_LOCKS="$STACKBENCH_LOCKS-$SLURMD_NODENAME"'


def lacking() -> str | None:
    """Why no cluster can be started here."""
    if os.geteuid() != 0:
        return "a Slurm cluster is started as root"
    missing = [name for name in NEEDED if shutil.which(name) is None]
    return f"{', '.join(missing)} not found: run `.ci/slurm-cluster.sh install`" if missing else None


@dataclass
class Cluster:
    """`folder` is where everything of it lies."""

    folder: Path
    port: int = 16917
    accounting: bool = True

    def call(self, *words: str) -> str:
        variables = {"SLURM_TEST_DIR": str(self.folder), "SLURM_TEST_PORT": str(self.port)}
        variables["SLURM_TEST_ACCOUNTING"] = "1" if self.accounting else ""
        # Its daemons live on: they must not hold the pipe.
        with (self.folder.parent / "cluster.txt").open("a+") as said:
            subprocess.run(["bash", str(SCRIPT), *words], env={**os.environ, **variables}, stdout=said, check=True)
            said.seek(0)
            return said.read()

    def start(self, nodes: int) -> None:
        self.call("start", str(nodes))

    def stop(self) -> None:
        self.call("stop")

    def kill_controller(self) -> None:
        kill(self._pid("slurmctld.pid"))

    def save(self, job: str) -> None:
        """Wait until the controller has written down all that it knows of a job now.

        It does so some seconds after a change. A killed one has forgotten what it had not written.
        """
        mark = secrets.token_hex(8)
        slurm("scontrol", "update", f"jobid={job}", f"comment={mark}")
        wait_until(lambda: mark.encode() in self.written())

    def written(self, jobs: bytes | None = None) -> bytes:
        """What a controller that is started now will know of jobs; replaced by `jobs` where they are given."""
        place = self.folder / "state" / "job_state"
        if jobs is not None:
            place.with_name("job_state.old").unlink(missing_ok=True)
            place.write_bytes(jobs)
        return read(str(place))

    def kill_accounting(self) -> None:
        kill(self._pid("slurmdbd.pid"))

    def kill_node(self, number: int) -> None:
        """End a node at once, with all that runs on it."""
        kill(self._pid(f"slurmd.gpu{number}.pid"))
        # Of this cluster alone: others may run here.
        marks = {f"SLURMD_NODENAME=gpu{number}".encode(), f"SLURM_CONF={self.folder}/slurm.conf".encode()}
        tasks = [pid for pid in processes() if marks <= set(read(f"/proc/{pid}/environ").split(b"\0"))]
        parents = {int(read(f"/proc/{pid}/stat").rpartition(b")")[2].split()[1]) for pid in tasks}
        for pid in [*(pid for pid in parents if b"slurmstepd" in read(f"/proc/{pid}/cmdline")), *tasks]:
            kill(pid)

    def _pid(self, name: str) -> int:
        return int((self.folder / name).read_text())


def processes() -> list[int]:
    return [int(path.name) for path in Path("/proc").iterdir() if path.name.isdigit()]


def read(path: str) -> bytes:
    with contextlib.suppress(OSError):
        return Path(path).read_bytes()
    return b""


def kill(pid: int) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, signal.SIGKILL)


def slurm(*command: str) -> str:
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout


def jobs() -> list[str]:
    """All jobs that wait or run."""
    return slurm("squeue", "--noheader", "--array", "--format=%i").split()


def of_test(folder: Path) -> list[bytes]:
    """The processes of a test that runs in `folder`, but for itself and the cluster's daemons."""
    mark = str(folder).encode()
    found = [pid for pid in processes() if pid != os.getpid() and mark in read(f"/proc/{pid}/environ")]
    return [read(f"/proc/{pid}/cmdline") for pid in found if read(f"/proc/{pid}/comm").strip() not in DAEMONS]


def wait_until(true: Callable[[], object], seconds: float = 120.0) -> None:
    """Wait for what must come; the limit only ends a test that would hang."""
    until = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < until, f"not in {seconds} s"
        time.sleep(0.1)
