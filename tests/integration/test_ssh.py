"""Cells on another host: a real sshd of the tests' own on this machine, and the real Docker Engine behind it."""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import ssh_host as hosts
from fake_run import FAKE_BENCH, IMAGE, make_job, make_stack, write_stack, write_suite
from places import ROOT

from orchestrator.base.errors import InfrastructureError, UsageError
from orchestrator.host import docker_engine as engine
from orchestrator.host import locks
from orchestrator.launchers import Job, Prepared
from orchestrator.launchers import work_area as workfolders
from orchestrator.launchers.ssh import open_host, sweep
from orchestrator.launchers.ssh_launcher import SshLauncher
from orchestrator.launchers.worker import Opening, Worker
from orchestrator.measure import supervise as supervision
from orchestrator.measure import validity
from orchestrator.measure.supervise import supervise
from orchestrator.measure.warm import with_warm_start
from orchestrator.plan.hosts import HostEntry
from orchestrator.records.record import Record

pytestmark = pytest.mark.ssh
STACK = make_stack(python="python3")
HANGS_S = 180.0
"""The limit of a wait for what must come: it only ends a test that would hang."""


@dataclasses.dataclass
class Rig:
    """A host, a worker of it, and what it said."""

    host: hosts.SshHost
    worker: Worker
    launcher: SshLauncher
    prepared: Prepared
    said: list[str]
    folder: Path
    count: int = 0

    def job(self, method: str, **more: Any) -> Job:
        self.count += 1
        return make_job(method, self.folder / f"cell-{self.count}", **more)

    def run(self, method: str, **more: Any) -> Record:
        return supervise(self.launcher, self.prepared, self.job(method, **more))

    def left(self) -> list[str]:
        """Containers of this host's that are there."""
        return containers(self.host)


def containers(host: hosts.SshHost) -> list[str]:
    """The containers that have a folder of the host's work area: others' tests may run on the same engine."""
    found = engine.connect().api.containers(all=True)
    return [one["Id"] for one in found if any(str(host.area) in str(mount.get("Source")) for mount in one["Mounts"])]


def opening(folder: Path, said: list[str], **more: Any) -> Opening:
    bench = folder / "stackbench" / "bench"
    if not bench.exists():
        workfolders.copy_bench(FAKE_BENCH, bench)
    given: dict[str, Any] = {"stacks": {"fake": STACK}, "devices": {"fake": "cpu"}, "checkpoints": ()}
    given |= {"longest_s": 60.0, "total_s": 60.0, **more}
    return Opening(
        run="test", bench=bench, state=folder / "state", say=said.append, purpose="a test",
        **given,
    )  # fmt: skip


def entry(host: hosts.SshHost, **more: Any) -> HostEntry:
    # A lock that another test holds would be waited for: that is to fail soon.
    return HostEntry(name="node1", launcher="ssh", start_s=60.0, ssh={**host.settings, **more.pop("ssh", {})}, **more)


@pytest.fixture(autouse=True, scope="session")
def _needed() -> None:
    """`make test-ssh` was asked for: what it lacks is a failure."""
    if not Path(hosts.SSHD).exists():
        pytest.fail("no OpenSSH server is here: install openssh-server")
    if engine.answers() is None:
        pytest.fail("no Docker Engine answers")


@pytest.fixture(scope="module")
def host(tmp_path_factory: pytest.TempPathFactory) -> Iterator[hosts.SshHost]:
    folder = tmp_path_factory.mktemp("ssh")
    with hosts.ssh_host(folder, folder / "locks") as found:
        yield found


@pytest.fixture(scope="module")
def rig(host: hosts.SshHost, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Rig]:
    with rigged(host, tmp_path_factory.mktemp("run")) as found:
        yield found
    assert left_of(host) == []


@contextlib.contextmanager
def rigged(host: hosts.SshHost, folder: Path, *, more: dict[str, Any] | None = None, **given: Any) -> Iterator[Rig]:
    said = list[str]()
    with open_host(entry(host, **given), opening(folder, said, **(more or {}))) as (worker,):
        launcher = worker.launcher
        assert isinstance(launcher, SshLauncher)
        launcher.images["fake"] = IMAGE
        yield Rig(host, worker, launcher, launcher.prepare(STACK), said, folder)


def left_of(host: hosts.SshHost) -> list[str]:
    return [str(path) for path in (host.area / "work").iterdir()]


def soon(what: Callable[[], bool], limit_s: float = HANGS_S) -> bool:
    until = time.monotonic() + limit_s
    while not what():
        if time.monotonic() > until:
            return False
        time.sleep(0.1)
    return True


def test_a_cell_runs_there_and_its_files_log_and_load_come_back(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    seen = list[validity.Seen]()
    judged = validity.judged

    def judge(record: Record, series: Any, throttled: Any, saw: validity.Seen) -> Record:
        seen.append(saw)
        return judged(record, series, throttled, saw)

    monkeypatch.setattr(supervision, "judged", judge)
    job = rig.job("slow")
    record = supervise(rig.launcher, rig.prepared, job)
    assert (record.status, record.reason) == ("ok", None)
    assert job.log.read_text() == "the log's only line\n"
    assert record.provenance is not None
    assert record.provenance.launcher == "docker"
    assert rig.left() == []
    # Seen near the cell, by the clock that bench has too: no network between them widens what is not known.
    sightings = seen[0].sightings
    assert sightings != []
    for one in sightings:
        assert one.earliest_ns - 10**9 < one.bench_ns <= one.latest_ns < one.bench_ns + 10**9


def test_bench_is_sent_once(rig: Rig) -> None:
    rig.run("good")
    assert [line for line in rig.said if "sending bench" in line] == [rig.said[0]]
    stored = [path for path in (rig.host.area / "bench").iterdir() if path.is_dir()]
    assert len(stored) == 1


def test_a_cell_that_waits_for_an_answer_gets_it_through_no_link(rig: Rig) -> None:
    record = rig.run("plants_links")
    assert record.detail == {"victim": "untouched", "answer": '{"repeat": []}'}


def test_a_second_process_over_the_compile_cache_finds_it_there(rig: Rig) -> None:
    job = rig.job("compiles")
    record = with_warm_start(
        rig.launcher, rig.prepared, job, supervise(rig.launcher, rig.prepared, job), lambda _event: None
    )
    assert record.compiles is not None
    assert record.compiles.warm is not None
    assert (record.compiles.warm.first_ns is not None, record.compiles.warm.reason) == (True, None)


def test_references_are_there_by_their_content(rig: Rig) -> None:
    job = rig.job("tells_spec")
    folder, content = rig.folder / "references", b"the truth"
    folder.mkdir()
    workload = job.cell.workload.workload_id
    (folder / f"{workload}.safetensors").write_bytes(content)
    sha256 = hashlib.sha256(content).hexdigest()
    job = dataclasses.replace(job, references=folder, reference_sha256=sha256)
    record = supervise(rig.launcher, rig.prepared, job)
    assert record.detail["spec"]["reference"] == f"/references/{workload}.safetensors"
    assert (rig.host.area / "references" / sha256 / "file").read_bytes() == content
    # One that is not what it should be is not used.
    with pytest.raises(InfrastructureError, match="came to its host changed"):
        rig.launcher.connection.store(
            "references", "0" * 64, {"file": (folder / f"{workload}.safetensors", "0" * 64)}, print
        )
    assert not (rig.host.area / "references" / ("0" * 64)).exists()


def test_weights_are_there_once_whatever_links_they_are_behind(rig: Rig) -> None:
    blobs, snapshot = rig.folder / "model" / "blobs", rig.folder / "model" / "snapshots" / "1"
    for folder in (blobs, snapshot):
        folder.mkdir(parents=True)
    (blobs / "abc").write_bytes(os.urandom(9 * 2**20))
    (snapshot / "model.safetensors").symlink_to("../../blobs/abc")
    (snapshot / "config.json").write_text("{}")
    (snapshot / "picture.png").write_text("not read")
    job = dataclasses.replace(rig.job("looks_around"), checkpoint=rig.folder / "model", checkpoint_inside="snapshots/1")
    assert rig.launcher.places(job).checkpoint == "/checkpoint"
    there = Path(str(rig.launcher._checkpoint_there(job)))
    assert sorted(path.name for path in there.iterdir()) == ["config.json", "model.safetensors"]
    assert (there / "model.safetensors").read_bytes() == (blobs / "abc").read_bytes()
    assert not (there / "model.safetensors").is_symlink()
    before = len(rig.said)
    rig.launcher._checkpoint_there(job)
    assert rig.said[before:] == []


@pytest.mark.parametrize(
    ("method", "status", "reason"),
    [
        ("fails", "crashed", "exit code 3"),
        ("link", "crashed", "no record was written"),
        ("garbage", "crashed", "cannot be believed"),
        ("killed", "crashed", "SIGSEGV"),
    ],
)
def test_what_comes_back_is_not_believed(rig: Rig, method: str, status: str, reason: str) -> None:
    record = rig.run(method)
    assert record.status == status
    assert reason in str(record.reason)


def test_a_deadline_kills_there(rig: Rig) -> None:
    record = rig.run("hang", timeout_s=3)
    assert record.status == "timeout"
    assert rig.left() == []


def test_a_cell_that_fills_the_disk_there_is_stopped_and_blamed(rig: Rig) -> None:
    prepared = dataclasses.replace(rig.prepared, stack=STACK.model_copy(update={"work_bytes": 50_000_000}))
    record = supervise(rig.launcher, prepared, rig.job("fills_the_disk"))
    assert record.status == "crashed", record.reason
    assert (
        "it has written" in str(record.reason) or "SIGXFSZ" in str(record.reason) or "exit code" in str(record.reason)
    )
    assert rig.run("good").status == "ok"


def test_the_cells_cpus_are_those_near_its_gpu(rig: Rig) -> None:
    near = dataclasses.replace(rig.launcher, cpuset="0", images={"fake": IMAGE})
    near.bench = rig.launcher.bench
    code, output = near.ask(STACK, ("-c", "import os; print(sorted(os.sched_getaffinity(0)))"))
    assert (code, output.strip(), near.limits.cpus) == (0, "[0]", 1)


def test_an_image_of_another_content_is_refused(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    rig.launcher.bring(IMAGE)  # the same

    class Other:
        """This host's engine, whose image of that name has other layers."""

        class images:  # noqa: N801
            @staticmethod
            def get(name: str) -> Any:
                found = engine.connect().images.get(name)
                found.attrs["RootFS"]["Layers"] = ["sha256:" + "0" * 64]
                return found

    monkeypatch.setattr(engine, "answers", lambda: Other)
    with pytest.raises(InfrastructureError, match="another image of this name"):
        rig.launcher.bring(IMAGE)


def test_an_image_that_is_here_alone_is_sent(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    client = engine.connect()
    name = "stackbench-test/sent:1"
    client.api.import_image_from_data(b"\0" * 10240, repository="stackbench-test/sent", tag="1")
    try:
        saved = b"".join(client.api.get_image(name))
        here = client.images.get(name)
        client.images.remove(name)

        class Here:
            """This host's engine, which has the image that the other has not."""

            class api:  # noqa: N801
                timeout = 60
                get_image = staticmethod(lambda _name: iter([saved]))

            class images:  # noqa: N801
                get = staticmethod(lambda _name: here)

        monkeypatch.setattr(engine, "answers", lambda: Here)
        rig.launcher.bring(name)
        assert client.images.get(name).id == here.id
    finally:
        with contextlib.suppress(Exception):
            client.images.remove(name)


def test_an_image_that_the_host_cannot_take_is_a_reason(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    class Here:
        """This host's engine, from which only the beginning of the image comes."""

        class api:  # noqa: N801
            timeout = 60
            get_image = staticmethod(lambda _name: iter([b"half an image"]))

        class images:  # noqa: N801
            get = staticmethod(lambda _name: engine.connect().images.get(IMAGE))

    monkeypatch.setattr(engine, "answers", lambda: Here)
    with pytest.raises(InfrastructureError) as caught:
        rig.launcher.bring("stackbench-test/half:1")
    assert "\n" not in str(caught.value)
    assert "make room there" in str(caught.value)


def while_it_hangs(rig: Rig, act: Callable[[], None]) -> Record:
    """Run a cell that never ends, and do something once it is there."""
    running = threading.Event()

    def do() -> None:
        running.wait(HANGS_S)
        act()

    actor = threading.Thread(target=do)
    actor.start()
    record = supervise(rig.launcher, rig.prepared, rig.job("hang"), lambda _event: running.set())
    actor.join()
    return record


def test_a_connection_that_breaks_costs_its_round_and_no_other(rig: Rig) -> None:
    record = while_it_hangs(rig, rig.host.cut)
    assert record.status == "infrastructure"
    assert str(record.reason).startswith("the ssh connection to its host was lost")
    assert "the same command runs it again" in str(record.reason)
    assert "127.0.0.1" not in str(record.reason)
    assert soon(lambda: rig.left() == [])
    assert rig.run("good").status == "ok"
    assert "node1: connected again" in rig.said
    assert rig.worker.alive() is None
    assert rig.left() == []


def test_an_sshd_that_is_away_is_a_reason_and_comes_back(rig: Rig) -> None:
    record = while_it_hangs(rig, rig.host.stop)
    assert record.status == "infrastructure"
    why = rig.worker.alive()
    assert why is not None
    assert "no sshd answers there" in why
    assert soon(lambda: rig.left() == [])
    rig.host.start()
    assert rig.worker.alive() is None
    assert rig.run("good").status == "ok"


def test_a_gpus_lock_is_held_there_as_long_as_the_connection(rig: Rig) -> None:
    assert not locks.is_free(None, rig.host.folder / "locks")
    with pytest.raises(InfrastructureError, match="in use by process"):
        rig.launcher.claim(wait_s=0)  # the same keeper's second try is another's as well


def test_a_host_key_that_is_not_known_or_changed_is_refused(host: hosts.SshHost, tmp_path: Path) -> None:
    known = host.folder / "known"
    before = known.read_text()
    changed = before.replace(before.split()[-1], (host.folder / "user_key.pub").read_text().split()[1])
    for content, words in (("", "its host key is not known"), (changed, "its host key changed")):
        known.write_text(content)
        with pytest.raises(InfrastructureError) as caught, open_host(entry(host), opening(tmp_path, [])):
            pass
        known.write_text(before)
        assert words in str(caught.value)


def test_hosts_that_cannot_be_had_say_why(host: hosts.SshHost, tmp_path: Path) -> None:
    silent = socket.create_server(("127.0.0.1", 0))  # it takes the connection, and then nothing comes
    for settings, words in (
        ({"python": "python9"}, "no such Python"),
        ({"socket": "/nowhere.sock"}, "its engine does not answer"),
        ({"address": "ssh://127.0.0.1:9"}, "no sshd answers there"),
        ({"address": f"ssh://127.0.0.1:{silent.getsockname()[1]}"}, "it does not answer"),
        ({"folder": "/proc/nothing"}, "its folder there is /proc/nothing"),
    ):
        with pytest.raises(InfrastructureError) as caught, open_host(entry(host, ssh=settings), opening(tmp_path, [])):
            pass
        assert words in str(caught.value), settings
        assert "\n" not in str(caught.value)
    with pytest.raises(UsageError, match="adress"), open_host(entry(host, ssh={"adress": "x"}), opening(tmp_path, [])):
        pass
    silent.close()
    on_gpu = opening(tmp_path, [], devices={"fake": "cuda"})
    with pytest.raises(UsageError, match='no GPU "7"'), open_host(entry(host, gpus=("7",)), on_gpu):
        pass


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    place = tmp_path / "small"
    place.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=60m", "none", place], check=True)
    yield place
    subprocess.run(["umount", "--lazy", place], check=True)


def test_a_full_disk_there_is_said_with_what_to_do_and_nothing_half_is_left(small_disk: Path, tmp_path: Path) -> None:
    (tmp_path / "other").mkdir()
    with (
        hosts.ssh_host(tmp_path / "other", tmp_path / "locks") as other,
        rigged(other, tmp_path, ssh={"folder": str(small_disk)}) as rig,
    ):
        big, filler = tmp_path / "big", small_disk / "filler"
        big.write_bytes(bytes(80 * 2**20))
        with pytest.raises(InfrastructureError, match=r"No space left on device .*; make room there"):
            rig.launcher.connection.store("checkpoints", "big", {"big": (big, "0" * 64)}, print)
        assert list((small_disk / "checkpoints").glob("*big*")) == [small_disk / "checkpoints" / "big.lock"]

        def fill() -> None:
            with contextlib.suppress(OSError):
                filler.write_bytes(bytes(80 * 2**20))

        record = while_it_hangs(rig, fill)
        assert record.status == "infrastructure"
        assert "the disk is nearly full" in str(record.reason)
        record = rig.run("good")
        assert record.status == "infrastructure"
        assert "make room there" in str(record.reason)
        assert "its disk is full" in str(rig.worker.alive())
        filler.unlink()
        assert rig.run("good").status == "ok"


@pytest.fixture(scope="module")
def nvml(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("nvml")
    folder.chmod(0o755)
    source = Path(hosts.__file__).with_name("fake_nvml.c")
    compiler = shutil.which("cc")
    assert compiler is not None, "no C compiler to make the library with"
    command = [compiler, "-shared", "-fPIC", "-w", "-o", str(folder / "libnvidia-ml.so.1"), str(source)]
    subprocess.run(command, check=True)
    return folder


def test_a_gpu_there_is_locked_there_and_read_there(nvml: Path, tmp_path: Path) -> None:
    (tmp_path / "other").mkdir()
    on_gpu = {"devices": {"fake": "cuda"}}
    with (
        hosts.ssh_host(tmp_path / "other", tmp_path / "locks", LD_LIBRARY_PATH=str(nvml)) as other,
        rigged(other, tmp_path, gpus=("1",), more=on_gpu) as rig,
    ):
        gpu = rig.worker.gpu
        assert gpu is not None
        assert (rig.worker.name, gpu.index, rig.worker.facts["over"]) == ("node1:1", 1, "ssh")
        assert rig.worker.facts["cpus"].startswith("all (")
        assert not locks.is_free(gpu.uuid, tmp_path / "locks")
        assert locks.is_free(None, tmp_path / "locks")
        with pytest.raises(InfrastructureError, match="raw devices of another host"):
            rig.launcher.ask(STACK, ("-c", ""), "cuda", "raw")
        # A container without the GPU is enough to read it meanwhile.
        job = rig.job("slow", gpu=gpu.uuid)
        record = supervise(rig.launcher, rig.prepared, job)
        assert (record.status, record.reason) == ("ok", None)
        series = rig.launcher.round.readings()
        assert series["settings"]["driver"] == "555.85"
        lines = series["series"].decode().splitlines()
        assert lines[0].startswith('{"columns": ["t_ns"')
        assert len(lines) > 2
    assert locks.is_free(gpu.uuid, tmp_path / "locks")


DIES = """
import sys
from pathlib import Path
sys.path[:0] = [sys.argv[1]]
import test_ssh as t
folder = Path(sys.argv[2])
host = t.hosts.SshHost(Path(sys.argv[3]), int(sys.argv[4]))
with t.open_host(t.entry(host), t.opening(folder, [])) as (worker,):
    worker.launcher.images["fake"] = t.IMAGE
    prepared = worker.launcher.prepare(t.STACK)
    t.supervise(worker.launcher, prepared, t.make_job("hang", folder / "cell"), lambda _e: print("runs", flush=True))
"""


def test_who_is_killed_outright_leaves_nothing_there(host: hosts.SshHost, tmp_path: Path) -> None:
    variables = {**os.environ, "PYTHONPATH": f"{ROOT}:{ROOT / 'tests' / 'support'}"}
    (tmp_path / "other").mkdir()
    with hosts.ssh_host(tmp_path / "other", tmp_path / "locks") as other:
        arguments = (Path(__file__).parent, tmp_path, other.folder, other.port)
        command = [sys.executable, "-c", DIES, *map(str, arguments)]
        with subprocess.Popen(command, env=variables, stdout=subprocess.PIPE, text=True) as process:
            assert process.stdout is not None
            assert process.stdout.readline() == "runs\n"
            process.send_signal(signal.SIGKILL)
        assert soon(lambda: left_of(other) == [])
        assert containers(other) == []
        assert locks.is_free(None, tmp_path / "locks")


def test_what_a_keeper_that_was_killed_left_is_swept(host: hosts.SshHost, tmp_path: Path) -> None:
    dead = host.area / "work" / "1-dead"
    dead.mkdir(parents=True, exist_ok=True)
    (dead / "owner.lock").touch()
    client = engine.connect()
    container = client.api.create_container(IMAGE, ["true"], labels={engine.LABEL_OWNER: "1:1:another-boot.1"})["Id"]
    assert sweep(entry(host), print) >= 1  # another test's run may be the first to remove the container
    assert not dead.exists()
    assert container not in [one["Id"] for one in client.api.containers(all=True)]


def hosts_file(folder: Path, *tables: dict[str, str]) -> Path:
    """A hosts file with an entry for each table of settings."""
    text = "schema_version = 1\n"
    for number, table in enumerate(tables, 1):
        text += f'[[hosts]]\nname = "node{number}"\nlauncher = "ssh"\nstart_s = 60\n[hosts.ssh]\n'
        text += "".join(f"{key} = {json.dumps(value)}\n" for key, value in table.items())
    path = folder / "hosts.toml"
    path.write_text(text)
    return path


def begun(host: hosts.SshHost) -> list[Path]:
    """The files in which cells that wait have said their process's number."""
    return [path for path in (host.area / "work").glob("*/*/work/pid") if path.read_text()]


def records(results: Path) -> dict[Path, dict[str, Any]]:
    return {path: json.loads(path.read_text()) for path in results.glob("*/records/*.json")}


NOWHERE, NOWHERE_ELSE = ({"address": f"ssh://127.0.0.1:{port}"} for port in (9, 11))


def test_a_run_that_was_killed_goes_on_there_without_another_host_and_no_round_is_lost_or_run_twice(
    tmp_path: Path,
) -> None:
    write_stack(tmp_path, ["waits", "good"], python="python3")
    results, (own, area) = tmp_path / "results", (tmp_path / "own-locks", tmp_path / "other")
    area.mkdir()
    script = [sys.executable, str(ROOT / "tests/support/fake_run.py"), str(tmp_path / "state"), "run-all"]
    chosen = {"--suite": write_suite(tmp_path, 600.0), "--stacks": tmp_path / "stacks", "--stack": "fake"}
    chosen |= {"--hosts": tmp_path / "hosts.toml", "--results": results}
    command = [*script, *(str(word) for pair in chosen.items() for word in pair)]
    variables = {**os.environ, "PYTHONPATH": str(ROOT), "STACKBENCH_LOCKS": str(own)}
    with hosts.ssh_host(area, tmp_path / "locks") as other:
        hosts_file(tmp_path, other.settings)
        with subprocess.Popen(command, env=variables, stderr=subprocess.DEVNULL) as process:
            assert soon(lambda: begun(other) != [])
            process.send_signal(signal.SIGKILL)
        before = {path: path.read_bytes() for path in records(results)}
        assert soon(lambda: left_of(other) == [])
        hosts_file(tmp_path, other.settings, NOWHERE)
        with subprocess.Popen(command, env=variables, stderr=subprocess.PIPE, text=True) as process:
            assert soon(lambda: begun(other) != [])
            begun(other)[0].with_name("go").touch()
            _, said = process.communicate()
        assert process.returncode == 0, said
        assert "host node2 is left out: the ssh connection to its host was lost (no sshd answers there)" in said
        found = records(results)
        keys = sorted((one["method"], one["round"], one["status"]) for one in found.values())
        assert keys == [("good", 0, "ok"), ("torch", 0, "ok"), ("waits", 0, "ok")]
        assert {path: path.read_bytes() for path in before} == before != {}
        assert all(one["provenance"]["worker"]["over"] == "ssh" for one in found.values())
        assert soon(lambda: left_of(other) == [])


def test_a_run_on_hosts_none_of_which_can_be_had_is_one_line_each(tmp_path: Path) -> None:
    write_stack(tmp_path, ["good"], python="python3")
    chosen = {"--suite": write_suite(tmp_path), "--stacks": tmp_path / "stacks", "--stack": "fake"}
    chosen |= {"--hosts": hosts_file(tmp_path, NOWHERE, NOWHERE_ELSE), "--results": tmp_path / "results"}
    script = [sys.executable, str(ROOT / "tests/support/fake_run.py"), str(tmp_path / "state"), "run-all"]
    command = [*script, *(str(word) for pair in chosen.items() for word in pair)]
    variables = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(command, env=variables, check=False, capture_output=True, text=True)
    assert done.returncode == 1, done.stderr
    assert "Traceback" not in done.stderr
    assert [line for line in done.stderr.splitlines() if "is left out" in line and "no sshd answers there" in line][1:]


def test_the_suite_smoke_runs_there_to_its_end(tmp_path: Path) -> None:
    (tmp_path / "other").mkdir()
    with hosts.ssh_host(tmp_path / "other", tmp_path / "locks") as other:
        chosen = {"--suite": "smoke", "--stack": "cpu", "--timeout": "900", "--results": tmp_path / "results"}
        chosen |= {"--hosts": hosts_file(tmp_path, other.settings)}
        words = [str(word) for pair in chosen.items() for word in pair]
        variables = {"STACKBENCH_BASE_IMAGE": IMAGE, **os.environ, "STACKBENCH_STATE": str(tmp_path / "state")}
        command = [sys.executable, "-m", "orchestrator", "run-all", *words]
        done = subprocess.run(command, cwd=ROOT, env=variables, check=False, capture_output=True, text=True)
        print(done.stderr)
        found = list(records(tmp_path / "results").values())
        wrong = [one for one in found if one["status"] not in ("ok", "unsupported", "skipped")]
        assert (done.returncode, wrong) == (0, []), done.stderr
        keys = [(one["cell_id"], one["round"]) for one in found]
        assert len(set(keys)) == len(keys) > 0
        assert all(one["provenance"]["worker"]["over"] == "ssh" for one in found if one["written_by"] == "bench")
        assert soon(lambda: left_of(other) == [])
