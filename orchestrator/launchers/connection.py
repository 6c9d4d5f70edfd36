"""A connection to another host by the system's own `ssh`: the engine's socket forwarded here, and a keeper there.

One process of `ssh` for each worker, so that its configuration, keys, agent, jump hosts and known hosts are the user's.
The keeper's few modules are sent along: the host needs an ssh server, a Docker Engine and Python 3.10, nothing of ours.
"""

from __future__ import annotations

import contextlib
import io
import json
import re
import shlex
import shutil
import subprocess
import tempfile
import threading
import time
import zipfile
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import cache
from itertools import count
from pathlib import Path
from typing import Any, Literal
from urllib.parse import urlsplit

import pynvml
from pydantic import Field, field_validator

from orchestrator.base import interrupt
from orchestrator.base.errors import InfrastructureError
from orchestrator.base.files import Frozen
from orchestrator.base.paths import ORCHESTRATOR

KEEPER = (
    *("__init__", "base/__init__", "base/errors", "base/interrupt", "base/limits", "base/lockfile", "base/text"),
    *("base/untrusted", "host/__init__", "host/folders", "host/gpu", "host/locks", "host/owner"),
    *("measure/__init__", "measure/host_load", "measure/keeper", "measure/kept", "measure/telemetry"),
)
"""The modules that the keeper is made of; a test holds that they need no package."""
BOOT = (
    "import sys,os,tempfile;i=sys.stdin.buffer;v=sys.version_info[:2];"
    "v<(3,10) and sys.exit('its Python is %d.%d, and 3.10 is needed'%v);"
    "d=tempfile.mkdtemp();p=os.path.join(d,'k.zip');f=open(p,'wb');f.write(i.read(int(i.readline())));f.close();"
    "sys.path.insert(0,p);from orchestrator.measure import keeper;os.remove(p);os.rmdir(d);keeper.main()"
)
OPTIONS = (
    *("BatchMode=yes", "ConnectTimeout=10", "ServerAliveInterval=5", "ServerAliveCountMax=3", "ControlPath=none"),
    *("ExitOnForwardFailure=yes", "PermitLocalCommand=no", "RequestTTY=no", "StreamLocalBindUnlink=yes"),
)
"""Nothing is asked of a person, and a network that is gone is noticed after 15 s."""
ANSWER_S, BEAT_S, START_S = 60.0, 10.0, 30.0
STDERR_LINES = 20
HEADER_BYTES, PIECE_BYTES = 4_000_000, 4 * 2**20

REMEDIES = (
    ("IDENTIFICATION HAS CHANGED", "its host key changed", "ask its administrator; then `ssh-keygen -R` its name"),
    ("Host key verification failed", "its host key is not known", "connect once by hand, with `ssh`, and compare it"),
    ("Permission denied", "it lets this user in by no key", "add a key, or start an ssh-agent that has it"),
    ("Could not resolve", "its name is not known", "check the address"),
    ("administratively prohibited", "its sshd forwards no sockets", "allow it: AllowStreamLocalForwarding yes"),
    ("Connection refused", "no sshd answers there", "start it, or check the port"),
    ("unreachable", "it cannot be reached", "check the address and the network"),
    ("No route to host", "it cannot be reached", "check the address and the network"),
    ("timed out", "it does not answer", "check the address and the network"),
    ("not responding", "it does not answer any more", "check the network"),
    ("No space left", "its disk is full", "make room there"),
    ("is needed", "its Python is older than 3.10", "name another: python = …"),
    ("not found", "it has no such Python", "name another: python = …"),
)
"""What `ssh` or the host says, what that means, and what to do. No host's name is in it: it may stand in a record."""
LOST = "the ssh connection to its host was lost"
GO_ON = "check the host; the same command runs it again"


class SshSettings(Frozen):
    """The table `[hosts.ssh]` of a hosts file."""

    address: str = Field(pattern=r"^(ssh://[A-Za-z0-9_\[]\S*|[A-Za-z0-9_][\w.@+-]*)$")
    """As `ssh` takes it: `ssh://user@host:port`, or a name of the ssh configuration."""
    folder: str = "~/.stackbench"
    """Where bench, references, weights and work folders go on the host; made where there is none."""
    socket: str = "/var/run/docker.sock"
    """The engine's, on the host."""
    python: str = "python3"
    config: Path | None = None
    """Another configuration of `ssh` than the user's."""
    cpuset: Literal["near", "all"] = "near"
    """Which CPUs a cell gets: those of its GPU's NUMA node, where the kernel knows it, or all."""

    @field_validator("address")
    @classmethod
    def _has_a_host(cls, address: str) -> str:
        if "://" in address:
            parts = urlsplit(address)
            if not parts.hostname or parts.port == 0 or parts.password is not None or parts.path + parts.query:
                raise ValueError("must be ssh://user@host:port, without a password or a path")
        return address

    @property
    def host(self) -> str:
        """The host's name alone."""
        return (urlsplit(self.address).hostname if "://" in self.address else None) or self.address.rpartition("@")[2]


class ConnectionLostError(InfrastructureError):
    """The connection is gone, or the keeper does not answer."""


@dataclass
class Connection:
    """One `ssh` process and the keeper at its other end. Any thread may ask; answers come in their order."""

    settings: SshSettings
    place: Path
    """A folder of this process alone, for the engine's socket."""
    on_seen: Callable[[Mapping[str, Any], bytes], None] = lambda _said, _content: None
    """Gets what the keeper sees of the running cell; called in another thread."""
    hello: dict[str, Any] = field(default_factory=dict)
    """What the host is."""

    def __post_init__(self) -> None:
        self._process: subprocess.Popen[bytes] | None = None
        self._reader: threading.Thread | None = None
        self._sending, self._numbers = threading.Lock(), count(1)
        self._waiting: dict[int, deque[tuple[dict[str, Any], bytes]]] = {}
        self._changed, self._dead = threading.Condition(), True
        self._said: deque[str] = deque(maxlen=STDERR_LINES)

    @property
    def socket(self) -> Path:
        """Return where the host's engine is reached on this one."""
        return self.place / "engine.sock"

    @property
    def dead(self) -> bool:
        """Whether the connection is gone."""
        return self._dead

    def open(self) -> None:
        """Connect, and start the keeper; InfrastructureError, with the remedy, where that fails."""
        self.close()
        self._said.clear()
        settings, options = self.settings, [f"-o{option}" for option in OPTIONS]
        if settings.config is not None:
            options += ["-F", str(settings.config.expanduser())]
        forward = ["-L", f"{self.socket}:{settings.socket}"]
        far = f"exec {shlex.quote(settings.python)} -I -S -c {shlex.quote(BOOT)}"
        # In a session of its own: Ctrl-C is for us, and we end the connection.
        self._process = subprocess.Popen(  # noqa: S603
            [_ssh(), "-T", "-x", "-a", *options, *forward, "--", settings.address, far],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            start_new_session=True,
        )
        self._dead = False
        process = self._process
        threading.Thread(target=self._hear, args=(process,), name="ssh", daemon=True).start()
        modules = keeper_modules()
        self._send(f"{len(modules)}\n".encode() + modules)
        self._reader = threading.Thread(target=self._read, args=(process,), name="ssh", daemon=True)
        self._reader.start()
        threading.Thread(target=self._beat, args=(process,), name="ssh", daemon=True).start()
        try:
            self.hello, _ = self.ask("hello", timeout_s=START_S, folder=settings.folder, socket=settings.socket)
        except ConnectionLostError:
            raise
        except InfrastructureError as error:
            what = f"{error.what}; its folder there is {settings.folder}"
            raise InfrastructureError(what, remedy="make room there, or name another: folder = …") from error

    def close(self) -> None:
        """End the connection: the keeper cleans up. It is given a while to do so."""
        process, self._dead = self._process, True
        if process is None:
            return
        with contextlib.suppress(OSError, ValueError):
            assert process.stdin is not None
            process.stdin.close()
        # The keeper closes its output when it is done. `ssh` would wait for whoever still uses the engine's socket.
        if self._reader is not None:
            self._reader.join(START_S)
        process.kill()
        process.wait()
        self._process = None

    def ask(
        self, what: str, content: bytes = b"", *, timeout_s: float = ANSWER_S, **said: Any
    ) -> tuple[dict[str, Any], bytes]:
        """Return the keeper's answer; ConnectionLostError where none comes, InfrastructureError where it failed."""
        number, box = next(self._numbers), deque[tuple[dict[str, Any], bytes]]()
        with self._changed:
            self._waiting[number] = box
        try:
            self._send_frame({"id": number, "do": what, **said}, content)
            until = time.monotonic() + timeout_s
            with self._changed:
                while not box:
                    if self._dead:
                        raise self.lost()
                    left = until - time.monotonic()
                    if left <= 0:
                        self.kill()
                        what = f"{LOST} (no answer for {timeout_s:g} s)"
                        raise ConnectionLostError(what, remedy=GO_ON)
                    self._changed.wait(min(left, 1.0))
        finally:
            with self._changed:
                del self._waiting[number]
        answer, back = box[0]
        if "error" in answer:
            remedy = "make room there" if answer.get("errno") in (28, 122) else "see `orchestrator doctor` there"
            raise InfrastructureError(f"{str(answer['error'])[:400]} (on its host, in {what})", remedy=remedy)
        return answer, back

    def kill(self) -> None:
        """End the connection at once."""
        self._dead = True
        if self._process is not None:
            self._process.kill()

    def lost(self) -> ConnectionLostError:
        """Return why the connection is gone, as far as that is known."""
        time.sleep(0.1)  # what it says comes by another thread
        said = "\n".join(self._said)
        for sign, what, remedy in REMEDIES:
            if sign in said:
                return ConnectionLostError(f"{LOST} ({what})", remedy=remedy)
        # No record may hold the host's name.
        host = re.compile(rf"(?<!\w){re.escape(self.settings.host)}(?!\w)", re.IGNORECASE)
        last = host.sub("the host", self._said[-1].strip()) if self._said else ""
        return ConnectionLostError(f"{LOST} ({last})" if last else LOST, remedy=GO_ON)

    def store(self, kind: str, name: str, files: Mapping[str, tuple[Path, str]], say: Callable[[str], None]) -> str:
        """Put files where the host keeps them by their content, unless they are there; return their folder's path.

        `files` gives for each path in the folder the file here and its SHA-256.
        """
        while True:
            said, _ = self.ask("store", kind=kind, name=name)
            if said["there"]:
                return str(said["path"])
            if not said["busy"]:
                break
            time.sleep(0.5)  # another worker of the host is sending them
            interrupt.check()
        say(f"sending {kind} ({sum(source.stat().st_size for source, _ in files.values()) / 1e6:.3g} MB)")
        good = broken = False
        try:
            for path, (source, sha256) in files.items():
                for piece, last in _pieces(source):
                    interrupt.check()
                    got, _ = self.ask("put", piece, path=path, sha256=sha256 if last else None)
                    broken = broken or not got["good"]
            good = not broken
        finally:
            with contextlib.suppress(*(() if good else (InfrastructureError,))):
                self.ask("stored" if good else "given_up")
        if broken:
            raise InfrastructureError("a file came to its host changed", where=kind, remedy=GO_ON)
        return str(said["path"])

    def _send_frame(self, header: Mapping[str, Any], content: bytes = b"") -> None:
        self._send(json.dumps({**header, "bytes": len(content)}).encode() + b"\n" + content)

    def _send(self, frame: bytes) -> None:
        process = self._process
        try:
            with self._sending:
                assert process is not None
                assert process.stdin is not None
                process.stdin.write(frame)
                process.stdin.flush()
        except (OSError, ValueError) as error:
            raise self.lost() from error

    def _read(self, process: subprocess.Popen[bytes]) -> None:
        assert process.stdout is not None
        try:
            while line := process.stdout.readline(HEADER_BYTES):
                said = json.loads(line)
                length = int(said.pop("bytes"))
                content = process.stdout.read(length) if 0 < length <= 2 * PIECE_BYTES else b""
                if "seen" in said:
                    self.on_seen(said, content)
                    continue
                with self._changed:
                    if (box := self._waiting.get(said.get("id"))) is not None:
                        box.append((said, content))
                        self._changed.notify_all()
        except (OSError, ValueError, KeyError, TypeError, AttributeError):
            process.kill()  # nothing that a keeper of ours would send
        with self._changed:
            if process is self._process:
                self._dead = True
            self._changed.notify_all()

    def _hear(self, process: subprocess.Popen[bytes]) -> None:
        assert process.stderr is not None
        for line in process.stderr:
            self._said.append(re.sub(r"[^\x20-\x7e]", "", line.decode("utf-8", "replace"))[:400])

    def _beat(self, process: subprocess.Popen[bytes]) -> None:
        while process is self._process and not self._dead:
            with contextlib.suppress(InfrastructureError):
                self._send_frame({"id": None, "do": "beat"})
            time.sleep(BEAT_S)


def _pieces(source: Path) -> Iterator[tuple[bytes, bool]]:
    with source.open("rb") as file:
        piece = file.read(PIECE_BYTES)
        while True:
            following = file.read(PIECE_BYTES)
            yield piece, not following
            if not following:
                return
            piece = following


@cache
def keeper_modules() -> bytes:
    """Return the archive of the modules that the keeper is made of."""
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", zipfile.ZIP_DEFLATED) as archive:
        for name in KEEPER:
            archive.write(ORCHESTRATOR / f"{name}.py", f"orchestrator/{name}.py")
        archive.write(Path(pynvml.__file__), "pynvml.py")
    return out.getvalue()


def _ssh() -> str:
    found = shutil.which("ssh")
    if found is None:
        raise InfrastructureError("there is no `ssh` here", remedy="install an OpenSSH client")
    return found


@contextlib.contextmanager
def socket_folder() -> Iterator[Path]:
    """Give a folder for engines' sockets, whose paths may have no more than a hundred characters."""
    with tempfile.TemporaryDirectory(prefix="sb-", ignore_cleanup_errors=True) as place:
        yield Path(place)
