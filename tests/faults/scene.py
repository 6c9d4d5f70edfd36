"""A checkout of its own whose bench does what its methods are called, and what must hold after a fault there.

The command is the real one, `python -m orchestrator`, from a copy of this repository's orchestrator: its state, locks
and results lie in the scene's folder, so that all that is left over can be found.
"""

from __future__ import annotations

import atexit
import contextlib
import fcntl
import functools
import hashlib
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from fake_run import FAKE_BENCH, IMAGE
from places import ROOT

from orchestrator.base.errors import StackbenchError
from orchestrator.host import docker_engine
from orchestrator.launchers.work_area import OWNER_FILE, sweep_folders
from orchestrator.records.asked import FILE as ASKED
from orchestrator.records.record import FAILED, is_row
from orchestrator.records.store import CLAIM, RUN_FILE, Run, read_record, record_files, stem_of
from orchestrator.report.tables import render_tables

HERE = Path(__file__).parent
LIMIT_S = 120.0
"""No command here takes so long: one that does hangs."""
TRACEBACK = re.compile(r"^Traceback \(most recent call last\):$", re.MULTILINE)
"""The command's own: a cell's stands inside a line of its row."""
OURS = re.compile(r'File "[^"]*/orchestrator/|orchestrator[./]')
KINDS = ("lost", "doubled", "left over", "traceback", "exit code", "tables", "hang")


@dataclass(frozen=True)
class Problem:
    """What should not be: one of KINDS, and what was seen."""

    kind: str
    what: str


@dataclass(frozen=True)
class Outcome:
    """What came of one or more tries: for each a few words, and all that was wrong after them."""

    hows: Sequence[str]
    problems: Sequence[Problem]


@dataclass(frozen=True)
class Ended:
    """How a command ended; `code` is negative where a signal ended it, None where it had to be killed."""

    code: int | None
    output: str
    seconds: float


def own_folder() -> Path:
    """Return a new folder that is there until this process ends."""
    folder = Path(tempfile.mkdtemp(prefix="stackbench-faults-"))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    return folder


@functools.cache
def template() -> Path:
    """Return a checkout to copy: the orchestrator compiled, and the bench of these tests."""
    folder = own_folder()
    ignored = shutil.ignore_patterns("__pycache__", "wheels")
    for name in ("orchestrator", "images"):
        shutil.copytree(ROOT / name, folder / name, ignore=ignored)
    bench = folder / "bench"
    bench.mkdir()
    (bench / "__init__.py").write_text('"""Stands for bench."""\n')
    shutil.copyfile(FAKE_BENCH / "__main__.py", bench / "fake.py")
    shutil.copyfile(HERE / "hostile.py", bench / "__main__.py")
    (bench / "proof").mkdir()
    for name in ("models.json", "proof/checks.json"):
        shutil.copyfile(ROOT / "bench" / name, bench / name)
    subprocess.run([sys.executable, "-m", "compileall", "-q", "orchestrator"], cwd=folder, check=True)
    return folder


@functools.cache
def library(name: str, target: str) -> Path:
    """Return the C file `name` of this folder compiled to a shared library called `target`."""
    place = own_folder() / target
    command = ["cc", "-shared", "-fPIC", "-O1", "-o", str(place), str(HERE / name), "-ldl", "-lpthread"]
    subprocess.run(command, check=True)
    return place


@dataclass
class Scene:
    """One checkout, one suite, one stack. `start` may be called again and again: it is always the same command."""

    folder: Path
    launcher: str
    methods: Sequence[str]
    engine: str | None = None
    """Address of an engine of its own; None: the host's."""
    pids: list[int] = field(default_factory=list)
    kept: dict[str, str] = field(default_factory=dict)
    """Finished records that were seen, by path below the results, with their SHA-256."""

    @property
    def results(self) -> Path:
        return self.folder / "results"

    @property
    def state(self) -> Path:
        return self.folder / "checkout" / ".stackbench"

    @property
    def runs(self) -> list[Path]:
        return sorted(place.parent for place in self.results.glob(f"*/{RUN_FILE}"))

    @property
    def is_finished(self) -> bool:
        """Whether a run was finished: the same command would start another."""
        return any(Run.open(folder).finished for folder in self.runs)

    def lay(self, *, rounds: int, timeout_s: float, device: str, shapes: int, suite_keys: str) -> None:
        shutil.copytree(template(), self.folder / "checkout")
        stack = self.folder / "stacks" / "fake"
        stack.mkdir(parents=True)
        listed = ", ".join(f'"{method}"' for method in self.methods)
        python = sys.executable if self.launcher == "local" else "python3"
        gpu = "required = true\n" if device == "cuda" else ""
        (stack / "stack.toml").write_text(
            f'schema_version = 1\nname = "fake"\ndescription = "for a test"\nmethods = [{listed}]\n'
            f'[ready]\nname = "{IMAGE}"\npython = "{python}"\n[gpu]\naccess = "none"\n{gpu}'
        )
        batches = list(range(1, shapes + 1))
        (self.folder / "mine.toml").write_text(
            'schema_version = 1\nname = "mine"\ndescription = "for a test"\nreferences = false\nprobes = false\n'
            f"{suite_keys}[defaults]\ntimeout_s = {timeout_s}\nrounds = {rounds}\n"
            f'[[cells]]\nbenchmark = "forward"\nmodel = "tiny"\nbatch = {batches}\nsequence = 64\n'
            "iterations = 5\nwarmup = 1\n"
        )

    def command(self, *arguments: str) -> list[str]:
        return [sys.executable, "-m", "orchestrator", *arguments]

    @property
    def run_all(self) -> list[str]:
        chosen = ["--suite", str(self.folder / "mine.toml"), "--stacks", str(self.folder / "stacks")]
        chosen += ["--stack", "fake", "--launcher", self.launcher, "--results", str(self.results)]
        return self.command("run-all", *chosen)

    def start(self, command: Sequence[str] | None = None, **variables: str) -> tuple[subprocess.Popen[bytes], Path]:
        """Start the command (`run-all` where none is given); return it and the file of its output."""
        log = self.folder.parent / f"output-{len(self.pids)}.txt"
        environment = {
            **{name: os.environ[name] for name in ("PATH", "HOME", "LANG", "TMPDIR") if name in os.environ},
            **({"DOCKER_HOST": self.engine} if self.engine else {}),
            "PYTHONPATH": str(self.folder / "checkout"),
            "STACKBENCH_LOCKS": str(self.folder / "locks"),
            **variables,
        }
        with log.open("wb") as out:
            process = subprocess.Popen(
                command or self.run_all, cwd=self.folder / "checkout", env=environment,
                stdin=subprocess.DEVNULL, stdout=out, stderr=subprocess.STDOUT,
            )  # fmt: skip
        self.pids.append(process.pid)
        return process, log

    def run(self, command: Sequence[str] | None = None, limit_s: float = LIMIT_S, **variables: str) -> Ended:
        """Run the command to its end."""
        began = time.monotonic()
        process, log = self.start(command, **variables)
        return wait_for(process, log, began, limit_s)

    # What must hold.

    def kept_records(self, *, others_run: bool = False) -> list[Problem]:
        """Remember finished records, and return what is lost of those that were seen before."""
        found = dict[str, str]()
        problems = []
        for folder in self.runs:
            for path in record_files(folder):
                name = path.relative_to(self.results).as_posix()
                try:
                    record = read_record(path)
                except StackbenchError as error:
                    problems.append(Problem("lost", f"{name} cannot be read: {error}"))
                    continue
                if record.status not in FAILED:
                    found[name] = hashlib.sha256(path.read_bytes()).hexdigest()
        for name, sha256 in self.kept.items():
            if name not in found:
                problems.append(Problem("lost", f"{name} is gone"))
            elif found[name] != sha256 and not others_run:
                problems.append(Problem("doubled", f"{name} was finished, and was run again"))
        self.kept = found
        return problems

    def finished(self, ended: Ended, wanted: Mapping[str, Sequence[str]], codes: Sequence[int] = (0,)) -> list[Problem]:
        """Return what is wrong after a whole run; `wanted`: the statuses that each method's rows may have."""
        return [*said(ended, codes), *self.finished_run(wanted), *self.left_over()]

    def finished_run(self, wanted: Mapping[str, Sequence[str]]) -> list[Problem]:
        """Return what is wrong with the one run that there should be."""
        problems = self.kept_records()
        if len(self.runs) != 1:
            problems.append(Problem("doubled", f"{len(self.runs)} runs"))
        return problems + [problem for folder in self.runs for problem in whole(folder, wanted)]

    def left_over(self) -> list[Problem]:
        """Return what no process of the scene needs any more and is there all the same."""
        running = self.processes()
        problems = [Problem("left over", f"{len(running)} processes: {running[0]}")] if running else []
        problems += [Problem("left over", f"container {name}") for name in self.containers()]
        mounts = Path("/proc/self/mounts").read_text().splitlines()
        inside = [line.split()[1] for line in mounts if line.split()[1].startswith(f"{self.folder}/")]
        problems += [Problem("left over", f"mount {place}") for place in inside]
        places = self.work_folders()
        problems += [Problem("left over", f"work folder {place.name}") for place in places]
        hidden = [path for path in self.results.rglob(".*") if path.name not in (CLAIM, ASKED)]
        problems += [Problem("left over", f"file {path.relative_to(self.results)}") for path in hidden]
        return problems + self.locks()

    def work_folders(self) -> list[Path]:
        """Return work folders that the next run would not remove: a minute after it was made, a folder is nobody's."""
        work = self.state / "work"
        for place in work.glob("*"):
            if not (place / OWNER_FILE).exists():
                os.utime(place, (0, 0))
        if work.is_dir():
            sweep_folders(self.state)
        return sorted(work.glob("*"))

    def locks(self) -> list[Problem]:
        """Return locks that somebody holds: none, once all commands have ended."""
        places = [*(self.folder / "locks").glob("*"), *(folder / CLAIM for folder in self.runs)]
        return [Problem("left over", f"lock of {place.name}") for place in places if held(place)]

    def processes(self) -> list[str]:
        """Return the processes of this scene that run: they name its folder, or carry it in their variables."""
        token, found = str(self.folder).encode(), []
        for place in Path("/proc").iterdir():
            if not place.name.isdigit() or int(place.name) == os.getpid():
                continue
            with contextlib.suppress(OSError):
                command = (place / "cmdline").read_bytes()
                texts = command + (place / "environ").read_bytes() + os.fsencode((place / "cwd").readlink())
                if token in texts and b"orchestrator\0run-all" not in command:
                    found.append(f"{place.name} {command.replace(bytes(1), b' ').decode('utf-8', 'replace')[:80]}")
        return found

    def kill_processes(self) -> None:
        """Kill what is left of the scene's processes; one that flees is another one by then, so again and again."""
        for _ in range(1000):
            running = self.processes()
            for line in running:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(int(line.split()[0]), signal.SIGKILL)
            if not running:
                return

    def containers(self) -> list[str]:
        if self.launcher != "docker":
            return []
        client = engine_client(self.engine)
        with contextlib.closing(client):
            found = client.api.containers(all=True, filters={"label": docker_engine.LABEL_OWNER})
        mine = {str(pid) for pid in self.pids}
        owners = [(each["Id"][:12], each["Labels"][docker_engine.LABEL_OWNER]) for each in found]
        return [name for name, owner in owners if owner.partition(":")[0] in mine]


def engine_client(address: str | None) -> Any:
    import docker

    return docker.DockerClient(base_url=address) if address else docker.from_env()


@contextlib.contextmanager
def scene(
    launcher: str, methods: Sequence[str], *, rounds: int = 2, timeout_s: float = 60.0, device: str = "cpu",
    shapes: int = 1, engine: str | None = None, disk_bytes: int | None = None, suite_keys: str = "",
) -> Iterator[Scene]:  # fmt: skip
    """Lay out a scene, on a disk of its own where `disk_bytes` are given (root only), and remove it in the end."""
    folder = Path(tempfile.mkdtemp(prefix="stackbench-faults-")) / "scene"
    folder.mkdir()
    made = Scene(folder, launcher, methods, engine)
    if disk_bytes:
        subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={disk_bytes}", "faults", str(folder)], check=True)
    try:
        made.lay(rounds=rounds, timeout_s=timeout_s, device=device, shapes=shapes, suite_keys=suite_keys)
        yield made
    finally:
        made.kill_processes()
        if disk_bytes:
            subprocess.run(["umount", "--lazy", str(folder)], check=False)
        # Not by Python, which a cell's thousands of nested folders would end.
        subprocess.run(["rm", "-rf", str(folder.parent)], check=False)


def wait_for(process: subprocess.Popen[bytes], log: Path, began: float, limit_s: float = LIMIT_S) -> Ended:
    """Wait for the process's end; one that takes longer than any can is killed."""
    code: int | None
    try:
        code = process.wait(limit_s)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
        code = None
    return Ended(code, log.read_text("utf-8", "replace"), time.monotonic() - began)


def said(ended: Ended, codes: Sequence[int]) -> list[Problem]:
    """Return what is wrong with how a command ended and with what it printed."""
    problems = []
    if ended.code is None:
        problems.append(Problem("hang", f"no end after {ended.seconds:.0f} s: {ended.output[-300:]}"))
    elif ended.code not in codes:
        problems.append(Problem("exit code", f"{ended.code}, not {codes}: {ended.output[-300:]}"))
    if found := TRACEBACK.search(ended.output):
        problems.append(Problem("traceback", ended.output[found.start() :][-1500:]))
    return problems


def before_its_first_line(ended: Ended) -> bool:
    """Whether Python was interrupted while it started, before any line of the program could run."""
    return not OURS.search(ended.output)


def whole(folder: Path, wanted: Mapping[str, Sequence[str]]) -> list[Problem]:
    """Return what is wrong with a finished run: a round without a record, or with two; tables that say otherwise."""
    problems = []
    run = Run.open(folder)
    try:
        records = [read_record(path) for path in record_files(folder)]
    except StackbenchError as error:
        return [Problem("lost", str(error))]
    names = [path.stem for path in record_files(folder)]
    if not run.finished:
        problems.append(Problem("lost", f"{folder.name} is not finished"))
    if sorted(names) != sorted({stem_of(record) for record in records}):
        problems.append(Problem("doubled", f"{folder.name} has files of other names: {names}"))
    planned = sorted(
        (cell.workload.workload_id, cell.method, number) for cell in run.plan.cells for number in range(cell.rounds)
    )
    have = sorted((record.workload_id, record.method, record.round) for record in records)
    if lost := [key for key in planned if key not in have]:
        problems.append(Problem("lost", f"{len(lost)} of {len(planned)} rounds have no record: {lost[0]}"))
    if len(set(have)) != len(have) or len(have) > len(planned):
        problems.append(Problem("doubled", f"{len(have)} records of {len(planned)} rounds"))
    rows = [record for record in records if is_row(record)]
    odd = [record for record in rows if record.status not in wanted.get(record.method, ("ok",))]
    problems += [Problem("lost", f"{record.method} is {record.status}: {record.reason}") for record in odd]
    return problems + right_tables(folder)


def right_tables(folder: Path) -> list[Problem]:
    """Return how the run's tables differ from what its records say."""
    problems = []
    for form, ending in (("json", "json"), ("csv", "csv"), ("markdown", "md")):
        place = folder / f"tables.{ending}"
        made = render_tables(folder, form=form)
        if not place.is_file():
            problems.append(Problem("tables", f"no {place.name}"))
        elif place.read_text() != made:
            problems.append(Problem("tables", f"{place.name} does not say what the records say"))
    return problems


def held(place: Path) -> bool:
    """Whether somebody holds the lock on a file or folder."""
    try:
        descriptor = os.open(place, os.O_RDONLY)
    except OSError:
        return False
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        return True
    else:
        return False
    finally:
        os.close(descriptor)
