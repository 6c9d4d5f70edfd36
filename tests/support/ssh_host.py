"""Another host for tests: a real sshd of the test's own on this machine, with its own port, keys and work area."""

from __future__ import annotations

import contextlib
import os
import pwd
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

SSHD = shutil.which("sshd") or "/usr/sbin/sshd"


@dataclass
class SshHost:
    """The host; `settings` is the table of a hosts file."""

    folder: Path
    port: int
    process: subprocess.Popen[bytes] | None = None

    @property
    def settings(self) -> dict[str, str]:
        return {"address": f"ssh://{self.user}@127.0.0.1:{self.port}", "folder": str(self.area),
                "config": str(self.folder / "config")}  # fmt: skip

    @property
    def user(self) -> str:
        return pwd.getpwuid(os.getuid()).pw_name

    @property
    def area(self) -> Path:
        """The host's work area."""
        return self.folder / "area"

    def start(self) -> None:
        self.process = subprocess.Popen([SSHD, "-D", "-e", "-f", self.folder / "sshd_config"],
                                        stderr=(self.folder / "sshd.log").open("ab"))  # fmt: skip
        for _ in range(100):
            with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", self.port), 1):
                return
            time.sleep(0.05)
        raise AssertionError((self.folder / "sshd.log").read_text())

    def sessions(self) -> list[int]:
        """The processes of sshd that serve connections."""
        assert self.process is not None
        listed = subprocess.run(["ps", "-o", "pid=", "--ppid", str(self.process.pid)],
                                check=False, capture_output=True, text=True)  # fmt: skip
        return [int(pid) for pid in listed.stdout.split()]

    def stop(self, *, sessions: bool = True) -> None:
        """Kill sshd, and what serves the connections that it has let in."""
        assert self.process is not None
        for pid in (*(self.sessions() if sessions else ()), self.process.pid):
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        self.process.wait()

    def cut(self) -> None:
        """Break the connections; sshd stays."""
        for pid in self.sessions():
            os.kill(pid, signal.SIGKILL)


@contextlib.contextmanager
def ssh_host(folder: Path, locks: Path, **variables: str) -> Iterator[SshHost]:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        host = SshHost(folder, free.getsockname()[1])
    for name in ("host_key", "user_key"):
        _key(folder / name)
    (folder / "authorized").write_text((folder / "user_key.pub").read_text())
    (folder / "authorized").chmod(0o600)
    Path("/run/sshd").mkdir(exist_ok=True)
    set_there = " ".join(f"{name}={value}" for name, value in {"STACKBENCH_LOCKS": locks, **variables}.items())
    (folder / "sshd_config").write_text(
        f"Port {host.port}\nListenAddress 127.0.0.1\nHostKey {folder}/host_key\nPidFile none\nUsePAM no\n"
        f"AuthorizedKeysFile {folder}/authorized\nStrictModes no\nPasswordAuthentication no\nPermitRootLogin yes\n"
        f"SetEnv {set_there}\n"
    )
    (folder / "config").write_text(
        f"IdentityFile {folder}/user_key\nIdentitiesOnly yes\nUserKnownHostsFile {folder}/known\n"
        "GlobalKnownHostsFile none\nStrictHostKeyChecking yes\n"
    )
    know(host)
    host.start()
    try:
        yield host
    finally:
        host.stop()


def know(host: SshHost) -> None:
    """Take the host's key for known."""
    kind, key, *_ = (host.folder / "host_key.pub").read_text().split()
    (host.folder / "known").write_text(f"[127.0.0.1]:{host.port} {kind} {key}\n")


def _key(path: Path) -> None:
    subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", path], check=True, stdout=subprocess.DEVNULL)
