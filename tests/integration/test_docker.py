"""The real Docker Engine: hardening in force, deadlines that kill, and nothing left over, whatever happens."""

from __future__ import annotations

import io
import json
import os
import re
import signal
import subprocess
import sys
import tarfile
import threading
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from fake_run import FAKE_BENCH, IMAGE, WORKLOAD, make_job, make_stack, write_stack, write_suite
from places import ROOT

from orchestrator.base.errors import InfrastructureError, UsageError
from orchestrator.host import docker_engine as engine
from orchestrator.host.gpu import HostGpu
from orchestrator.host.owner import Owner, boot, myself
from orchestrator.launchers import gpu_access
from orchestrator.launchers import work_area as workfolders
from orchestrator.launchers.arguments import OPTIONAL, Folders
from orchestrator.launchers.container import DockerHandle
from orchestrator.launchers.docker import DockerLauncher, find_access, try_ways
from orchestrator.measure.cell_spec import write_spec
from orchestrator.measure.host_load import watch_host
from orchestrator.measure.supervise import supervise
from orchestrator.plan.stack import Gpu, ReadyImage
from orchestrator.records.record import Record
from orchestrator.runner.compose_gpu import services

pytestmark = pytest.mark.docker


@pytest.fixture(scope="module")
def client() -> Any:
    found = engine.answers()
    if found is None:
        pytest.skip("no Docker Engine answers")
    if not found.images.list(IMAGE):
        pytest.skip(f"no image {IMAGE}")
    return found


@pytest.fixture
def launcher(client: Any, tmp_path: Path) -> Iterator[DockerLauncher]:
    # As in a run: a copy that the container's user can read.
    yield DockerLauncher(client, workfolders.copy_bench(FAKE_BENCH, tmp_path / "stackbench" / "bench"))
    assert ours(client, label=f"{engine.LABEL_OWNER}={myself()}") == []


def ours(client: Any, label: str = engine.LABEL_OWNER) -> list[str]:
    return [container["Id"] for container in client.api.containers(all=True, filters={"label": label})]


def run(launcher: DockerLauncher, tmp_path: Path, method: str, timeout_s: float = 60.0, **job: object) -> Record:
    prepared = launcher.prepare(make_stack(python="python3"))
    if "references" in job:
        job["reference_sha256"] = "d" * 64
    return supervise(launcher, prepared, make_job(method, tmp_path / "cell", timeout_s, **job))


def test_a_container_is_answered_and_a_link_in_the_answers_place_is_not_written_through(
    launcher: DockerLauncher, tmp_path: Path
) -> None:
    record = run(launcher, tmp_path, "plants_links")
    assert (record.reason, record.detail) == (None, {"victim": "untouched", "answer": '{"repeat": []}'})


def test_a_stacks_variables_reach_its_containers_behind_the_cells_own(launcher: DockerLauncher) -> None:
    variables = {"PYTHONPATH": "/theirs", "MINE": "yes"}
    stack = make_stack(python="python3").model_copy(update={"environment": variables})
    look = "import os, sys; print(os.environ['MINE'], [sys.path.index(p) for p in ('/stackbench', '/theirs')])"
    assert launcher.ask(stack, ("-c", look)) == (0, "yes [1, 2]\n")


def test_a_containers_processes_are_known_by_their_numbers_on_this_host(
    launcher: DockerLauncher, tmp_path: Path
) -> None:
    job = make_job("hang", tmp_path / "cell")
    prepared = launcher.prepare(make_stack(python="python3"))
    write_spec(job, launcher.places(job))
    with launcher.start(prepared, job) as handle:
        for _ in range(100):
            commands = {pid: Path(f"/proc/{pid}/cmdline").read_bytes() for pid in handle.pids() or ()}
            # The cell and what it started; the engine's own init may be a third.
            if sum(b"python3" in command for command in commands.values()) >= 2:
                break
            time.sleep(0.1)
        else:
            pytest.fail(str(commands))
        assert os.getpid() not in commands
        handle.cancel()
        assert handle.pids() is None


def test_a_neighbour_of_a_container_on_the_hosts_cpus_is_reported(launcher: DockerLauncher, tmp_path: Path) -> None:
    job = make_job("hang", tmp_path / "cell")
    prepared = launcher.prepare(make_stack(python="python3"))
    write_spec(job, launcher.places(job))
    neighbour = subprocess.Popen([sys.executable, "-c", "while True: pass"])
    try:
        with launcher.start(prepared, job) as handle, watch_host(handle.pids) as sampler:
            time.sleep(2)
            begin = time.monotonic_ns()
            time.sleep(1)
            end = time.monotonic_ns()
            time.sleep(0.5)
            found = sampler.load([(begin, end)])
    finally:
        neighbour.kill()
        neighbour.wait()
    assert found is not None
    assert found.cpus == os.cpu_count()
    assert found.others > 0.2
    assert found.own < found.others, "the cell sleeps"


def test_a_cell_in_a_container(launcher: DockerLauncher, tmp_path: Path) -> None:
    record = run(launcher, tmp_path, "good")
    assert (record.status, record.written_by) == ("ok", "bench")
    assert record.provenance is not None
    assert (record.provenance.launcher, record.provenance.image) == ("docker", IMAGE)
    assert record.provenance.image_id is not None
    assert (tmp_path / "cell" / "log.txt").read_text() == "the log's only line\n"


def test_the_hardening_is_in_force(launcher: DockerLauncher, tmp_path: Path) -> None:
    (tmp_path / "checkpoint" / "inside").mkdir(parents=True)
    (tmp_path / "checkpoint" / "inside" / "config.json").write_text("{}")
    for folder in (tmp_path, tmp_path / "checkpoint", tmp_path / "checkpoint" / "inside"):
        folder.chmod(0o755)
    (tmp_path / "shared").mkdir()
    (tmp_path / "references").mkdir()
    (tmp_path / "references").chmod(0o777)  # read-only all the same
    (tmp_path / "references" / f"{WORKLOAD.workload_id}.safetensors").write_text("truth")
    record = run(
        launcher,
        tmp_path,
        "looks_around",
        cache=tmp_path / "shared",
        checkpoint=tmp_path / "checkpoint",
        checkpoint_inside="inside",
        references=tmp_path / "references",
    )
    assert record.status == "ok", record.reason
    detail = record.detail
    expected = 65534 if os.getuid() == 0 else os.getuid()
    assert detail["uid"] == expected
    assert detail["gid"] == (65534 if os.getuid() == 0 else os.getgid())
    assert set(detail["capabilities"]) == {"0"}
    assert detail["no_new_privileges"] == "1"
    assert detail["interfaces"] == ["lo"]
    assert detail["could"] == []
    assert detail["tmp_runs"] == 0
    assert detail["socket"] is False
    assert detail["host"] == "stackbench"
    assert detail["init"] in ("docker-init", "tini", "catatonit")
    assert detail["home"] == "/tmp"  # noqa: S108  (the container's)
    assert detail["caches"] == ["/cache/inductor", "/cache/triton"]
    assert detail["cache"] == "/cache"
    assert detail["checkpoint"] == ["config.json"]
    assert detail["reference"] == "truth"
    assert detail["shm"] == 2**30
    assert (tmp_path / "shared" / "kept").read_text() == "x"


def test_limits_are_set(launcher: DockerLauncher, client: Any, tmp_path: Path) -> None:
    stack = make_stack(python="python3")
    arguments = launcher._arguments(stack, ("-c", "import time; time.sleep(60)"), "cpu", None)
    with launcher._start(arguments, engine.labels("test", "limits"), tmp_path / "log") as handle:
        host = client.api.inspect_container(handle._container)["HostConfig"]
    assert host["PidsLimit"] == launcher.limits.pids
    assert 0 < host["Memory"] <= engine.memory_limit_bytes(client.info()["MemTotal"]) < client.info()["MemTotal"]
    assert host["MemorySwap"] in (host["Memory"], -1)
    assert host["NanoCpus"] == launcher.limits.cpus * 10**9
    assert host["ReadonlyRootfs"]
    assert host["NetworkMode"] == "none"
    assert {limit["Name"]: (limit["Soft"], limit["Hard"]) for limit in host["Ulimits"]} == {
        "core": (0, 0),
        "fsize": (stack.work_bytes, stack.work_bytes),
    }


WRITES = """
import errno
try:
    with open("large", "wb", buffering=0) as file:
        for _ in range(4):
            file.write(bytes(2**20))
except OSError as error:
    print(errno.errorcode[error.errno])
"""


def test_no_file_of_a_container_is_larger_than_all_that_its_stack_may_write(
    launcher: DockerLauncher, tmp_path: Path
) -> None:
    stack = make_stack(python="python3").model_copy(update={"work_bytes": 3 * 2**20})
    (work := tmp_path / "work").mkdir()
    work.chmod(0o777)
    assert launcher.run(stack, ("-c", WRITES), Folders(work)) == (0, "EFBIG\n")
    assert (work / "large").stat().st_size == stack.work_bytes


@pytest.mark.parametrize(
    ("method", "status", "words"),
    [
        ("killed", "crashed", "SIGSEGV"),
        ("fails", "crashed", "exit code 3"),
        ("link", "crashed", "cannot be believed"),
        ("big", "crashed", "cannot be believed"),
        ("not_able", "unsupported", "no C++ compiler"),
    ],
)
def test_exits_become_statuses(launcher: DockerLauncher, tmp_path: Path, method: str, status: str, words: str) -> None:
    record = run(launcher, tmp_path, method)
    assert record.status == status
    assert record.reason is not None
    assert words in record.reason


def test_a_container_that_writes_too_much_is_killed_and_its_folder_is_gone(
    launcher: DockerLauncher, tmp_path: Path
) -> None:
    stack = make_stack(python="python3").model_copy(update={"work_bytes": 10_000_000})
    record = supervise(launcher, launcher.prepare(stack), make_job("fills_the_disk", tmp_path / "cell"))
    assert (record.status, record.samples) == ("crashed", ())
    assert record.reason is not None
    assert re.match(r"it has written \d+ MB, and may write 10 MB, in the phase", record.reason), record.reason
    assert not (tmp_path / "cell" / "work").exists()


def test_a_deadline_kills_the_container(launcher: DockerLauncher, client: Any, tmp_path: Path) -> None:
    began = time.monotonic()
    record = run(launcher, tmp_path, "hang", timeout_s=2)
    assert time.monotonic() - began < 15
    assert record.status == "timeout"
    assert record.reason is not None
    assert "not done after 2 s" in record.reason


class BusyEngine:
    """The real engine, which has heard of a container's end before it heard that memory was wanting."""

    def __init__(self, client: Any) -> None:
        self.api, self._api = self, client.api

    def inspect_container(self, container: str) -> dict[str, Any]:
        found = self._api.inspect_container(container)
        return {**found, "State": {**found["State"], "OOMKilled": False}}

    def __getattr__(self, name: str) -> Any:
        return getattr(self._api, name)


@pytest.mark.parametrize(("method", "oom"), [("takes_memory", True), ("hang", False)])
def test_a_busy_engine_reports_out_of_memory_by_an_event(
    client: Any, launcher: DockerLauncher, tmp_path: Path, method: str, oom: bool
) -> None:
    launcher.limits = replace(launcher.limits, memory_bytes=128 * 2**20)
    prepared = launcher.prepare(make_stack(python="python3"))
    job = make_job(method, tmp_path / "cell")
    write_spec(job, launcher.places(job))
    with launcher.start(prepared, job) as started:
        handle = DockerHandle(BusyEngine(client), started._container, tmp_path / "log")
        if not oom:
            client.api.kill(started._container)
        ended = handle.wait(60)
    assert ended is not None
    assert (ended.signal, ended.oom) == (signal.SIGKILL, oom)


def test_want_of_memory_is_no_crash(launcher: DockerLauncher, tmp_path: Path) -> None:
    import dataclasses

    launcher.limits = dataclasses.replace(launcher.limits, memory_bytes=128 * 2**20)
    record = run(launcher, tmp_path, "takes_memory")
    assert record.status == "out_of_memory", record.reason


def test_a_container_removed_from_outside_says_nothing_about_the_stack(
    launcher: DockerLauncher, client: Any, tmp_path: Path
) -> None:
    def remove() -> None:
        for _ in range(100):
            found = ours(client, label=f"{engine.LABEL_CELL}={'0' * 16}")
            if found:
                time.sleep(0.5)
                engine.remove(client, found[0])
                return
            time.sleep(0.1)

    thread = threading.Thread(target=remove)
    thread.start()
    record = run(launcher, tmp_path, "hang")
    thread.join()
    assert record.status in ("infrastructure", "crashed")
    assert record.reason is not None
    if record.status == "crashed":  # the kill was seen before the removal
        assert "SIGKILL" in record.reason


def test_an_exception_leaves_no_container(launcher: DockerLauncher, tmp_path: Path) -> None:
    def interrupt(_event: object) -> None:
        raise KeyboardInterrupt

    prepared = launcher.prepare(make_stack(python="python3"))
    with pytest.raises(KeyboardInterrupt):
        supervise(launcher, prepared, make_job("hang", tmp_path / "cell"), interrupt)


def test_the_sweep_takes_the_dead_ones_only(client: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    # A label of their own: an orchestrator that starts just now, beside this test, would sweep them too.
    monkeypatch.setattr(engine, "LABEL_OWNER", f"stackbench.test.{os.getpid()}")
    me = myself()
    owners = {
        "dead": Owner(me.pid, me.start_ticks + 1, boot()),
        "other boot": Owner(1, 1, "0.0"),
        "mine": me,
        "other namespace": Owner(1, 1, boot().partition(".")[0] + ".1"),
    }
    made = {
        name: client.api.create_container(IMAGE, ["true"], labels={engine.LABEL_OWNER: str(owner)})["Id"]
        for name, owner in owners.items()
    }
    try:
        assert set(engine.left_over(client)) == {made["dead"], made["other boot"]}
        assert engine.sweep(client) == 2
        left = ours(client, label=engine.LABEL_OWNER)
        assert made["dead"] not in left
        assert made["other boot"] not in left
        assert made["mine"] in left
        assert made["other namespace"] in left
        assert engine.remove_own(client) == 1
    finally:
        for container in made.values():
            engine.remove(client, container)


def start_run_all(tmp_path: Path, method: str) -> subprocess.Popen[str]:
    if not (tmp_path / "mine.toml").exists():
        write_suite(tmp_path)
        write_stack(tmp_path, ["good", "hang", "slow"], python="python3")
    command = [
        *(sys.executable, str(ROOT / "tests" / "support" / "fake_run.py"), str(tmp_path / "state"), "run-all"),
        *("--suite", str(tmp_path / "mine.toml"), "--stacks", str(tmp_path / "stacks"), "--stack", "fake"),
        *("--method", method, "--launcher", "docker", "--results", str(tmp_path / "results")),
    ]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    return subprocess.Popen(
        command, cwd=ROOT, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )


def wait_for_phase(process: subprocess.Popen[str]) -> None:
    assert process.stdout is not None
    for line in process.stdout:
        if "hang@fake: first call" in line:
            return
    raise AssertionError("the cell never started")


def containers_of(client: Any, process: subprocess.Popen[str]) -> list[str]:
    found = client.api.containers(all=True, filters={"label": engine.LABEL_OWNER})
    return [c["Id"] for c in found if c["Labels"][engine.LABEL_OWNER].startswith(f"{process.pid}:")]


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_ctrl_c_leaves_nothing_and_keeps_what_is_finished(client: Any, tmp_path: Path, number: int) -> None:
    process = start_run_all(tmp_path, "hang")
    wait_for_phase(process)
    assert len(containers_of(client, process)) == 1
    process.send_signal(number)
    out, _ = process.communicate(timeout=60)
    assert process.returncode == 128 + number
    assert "the same command goes on from there" in out
    assert containers_of(client, process) == []
    assert list((tmp_path / "state" / "work").iterdir()) == []
    (folder,) = (tmp_path / "results").iterdir()
    (kept,) = (folder / "records").iterdir()
    assert json.loads(kept.read_text())["workload"]["benchmark"] == "ceilings"


def test_kill_9_and_the_next_run_leave_nothing(client: Any, tmp_path: Path) -> None:
    process = start_run_all(tmp_path, "hang")
    wait_for_phase(process)
    process.kill()
    process.wait()
    assert process.stdout is not None
    process.stdout.close()
    after = start_run_all(tmp_path, "good")
    out, _ = after.communicate(timeout=60)
    assert after.returncode == 0, out
    # The container may have been removed by any orchestrator of this host that began meanwhile.
    assert re.search("removed what a killed run left behind: (1 container, )?1 folder", out), out
    assert containers_of(client, process) == []
    assert containers_of(client, after) == []
    assert list((tmp_path / "state" / "work").iterdir()) == []


def test_an_engine_that_does_not_answer_is_one_clear_line(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("DOCKER_HOST", f"unix://{tmp_path}/no.sock")
    with pytest.raises(UsageError) as caught:
        engine.connect()
    assert "does not answer (no such file or directory)" in str(caught.value).lower()
    assert "\n" not in str(caught.value)
    assert engine.answers() is None


NEEDED = {"libcuda.so", "libcuda.so.1", "libnvidia-ml.so.1", "libnvidia-ptxjitcompiler.so.1"}
NO_GPU = HostGpu("GPU-00000000", 0, "no GPU", "0", minor=0)


def test_raw_devices_and_mounts(launcher: DockerLauncher) -> None:
    device = next(path for path in ("/dev/loop-control", "/dev/kmsg", "/dev/fuse") if Path(path).exists())
    launcher.gpu = NO_GPU
    stack = make_stack(python="python3").model_copy(
        update={
            "ready": ReadyImage(name=IMAGE, python="python3", mounts=("/usr/share",)),
            "gpu": Gpu(access="raw", devices=(device[:-1] + "*",)),
            "environment": {"LD_LIBRARY_PATH": "/somewhere"},
        }
    )
    look = f"import os, stat; print(stat.S_ISCHR(os.stat({device!r}).st_mode), os.access('/usr/share', os.W_OK), *("
    look += "os.environ[n] for n in ('LD_LIBRARY_PATH', 'CUDA_VISIBLE_DEVICES')))"
    assert launcher.ask(stack, ("-c", look), "cuda") == (0, "True False /somewhere GPU-00000000\n")


def driver_of(folder: Path, *names: str) -> Path:
    """Shared libraries that are named as a driver's are, each as NAME.VERSION.real with a link."""
    folder.mkdir()
    for name in names:
        real = folder / f"{name}.570.1"
        made = f'int cuInit(int x) {{ return 0 * x; }} const char name[] = "{name}";'
        command = ["gcc", "-shared", "-fPIC", f"-Wl,-soname,{name}", "-x", "c", "-", "-o", str(real)]
        subprocess.run(command, input=made.encode(), check=True)
        (folder / name).symlink_to(real.name)
    return folder


DRIVER = ("libcuda.so.1", "libnvidia-ml.so.1", "libnvidia-ptxjitcompiler.so.1")


@pytest.mark.parametrize("missing", [None, *DRIVER])
def test_compilers_find_the_drivers_libraries_in_every_way_they_look(
    launcher: DockerLauncher, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, missing: str | None
) -> None:
    library = driver_of(tmp_path / "lib", *(name for name in DRIVER if name != missing))
    tool = tmp_path / "bin" / "nvidia-smi"
    tool.parent.mkdir()
    tool.write_text("#!/bin/sh\necho driver")
    tool.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tool.parent}:{os.environ['PATH']}")
    monkeypatch.setattr(gpu_access, "LIBRARY_FOLDERS", (str(library),))
    launcher.gpu, launcher.state = NO_GPU, tmp_path / "state"
    stack = make_stack(python="python3").model_copy(update={"gpu": Gpu(access="raw")})
    lacks = launcher.driver_lacks(stack, "raw")
    assert {line.partition(" ")[0] for line in lacks} == (
        {missing, missing.removesuffix(".1")} & NEEDED if missing else set()
    )
    look = """
import ctypes, os, subprocess
print(ctypes.CDLL("libcuda.so.1").cuInit(1), subprocess.check_output(["nvidia-smi"], text=True).strip(), os.getuid())
listed = subprocess.check_output(["/sbin/ldconfig", "-p"], text=True)
print(*sorted(line.split(" (")[0].strip() for line in listed.splitlines() if "libcuda" in line), "libc.so.6" in listed)
print(*[p for p in os.environ["LD_LIBRARY_PATH"].split(":") if os.path.exists(os.path.join(p, "libcuda.so"))])
print(os.access("/usr/local/nvidia/lib64", os.W_OK), os.access("/etc/ld.so.cache", os.W_OK))
"""
    if missing != "libcuda.so.1":
        uid = launcher.limits.user.partition(":")[0]
        listed, folder = "libcuda.so libcuda.so.1 True", "/usr/local/nvidia/lib64"
        assert launcher.ask(stack, ("-c", look), "cuda") == (0, f"0 driver {uid}\n{listed}\n{folder}\nFalse False\n")
    assert len(list((tmp_path / "state" / "driver").glob("*.ld.so.cache"))) == 1


def test_compose_gets_the_drivers_libraries_without_a_toolkit(launcher, tmp_path: Path, monkeypatch) -> None:
    if subprocess.run(["docker", "compose", "version"], capture_output=True, check=False).returncode:
        pytest.skip("no compose")
    library, device = driver_of(tmp_path / "lib$x", *DRIVER), "/dev/null"
    monkeypatch.setattr(gpu_access, "LIBRARY_FOLDERS", (str(library),))
    launcher.gpu, launcher.state = NO_GPU, tmp_path / "state"
    stack = make_stack(python="python3").model_copy(update={"gpu": Gpu(access="raw", devices=(device,))})
    grant = replace(launcher.grant(stack, "raw"), devices=(f"{device}:/dev/nvidia0:rwm",))
    (tmp_path / "gpu.yml").write_text(services([("one", grant, frozenset(OPTIONAL))]))
    look = "import os; print(os.environ['CUDA_VISIBLE_DEVICES'], os.path.exists('/dev/nvidia0'))"
    command = ["python3", "-c", look + gpu_access.FIND_DRIVER]
    reserved = {"resources": {"reservations": {"devices": [{"driver": "nvidia", "capabilities": ["gpu"]}]}}}
    service = {"image": IMAGE, "command": command, "read_only": True, "user": "65534:65534", "network_mode": "none"}
    service |= {"init": True, "security_opt": ["seccomp:not-there.json"]}  # of what is refused, and left out
    (tmp_path / "docker-compose.yml").write_text(json.dumps({"services": {"one": {**service, "deploy": reserved}}}))
    compose = ["docker", "compose", "-p", f"stackbench-test-{os.getpid()}", "-f", "docker-compose.yml"]
    outcomes = []
    for more in ([], ["-f", "gpu.yml"]):
        done = subprocess.run(
            [*compose, *more, "run", "--rm", "-T", "one"], cwd=tmp_path, capture_output=True, text=True, check=False
        )
        outcomes.append((done.returncode == 0, done.stdout))
    subprocess.run([*compose, "down"], cwd=tmp_path, capture_output=True, check=False)
    assert outcomes == [(False, ""), (True, "GPU-00000000 True\nnvidia-smi is not on the PATH\n")]


def test_ways_to_a_gpu_that_do_not_work_say_why_and_leave_nothing(launcher: DockerLauncher, tmp_path: Path) -> None:
    launcher.gpu = NO_GPU
    stack = make_stack(python="python3")
    answers = try_ways(launcher, stack)
    assert list(answers) == ["request", "cdi", "raw"]
    assert all(answer and "\n" not in answer for answer in answers.values())
    with pytest.raises(InfrastructureError, match="no container sees the GPU"):
        find_access(launcher, stack, tmp_path)
    assert not (tmp_path / "gpu-access.json").exists()


def test_an_image_of_empty_folders_over_the_hosts_own_system(client: Any, tmp_path: Path) -> None:
    python = Path("/usr/bin/python3")
    if not python.exists():
        pytest.skip("this host has no Python of its own in /usr")
    layer = io.BytesIO()
    with tarfile.open(fileobj=layer, mode="w") as tar:
        for name in ("usr", "etc", "tmp", "proc", "sys", "dev", "work"):
            folder = tarfile.TarInfo(name)
            folder.type, folder.mode = tarfile.DIRTYPE, 0o1777 if name == "tmp" else 0o755
            tar.addfile(folder)
        for name, target in {"bin": "usr/bin", "sbin": "usr/sbin", "lib": "usr/lib", "lib64": "usr/lib64"}.items():
            link = tarfile.TarInfo(name)
            link.type, link.linkname = tarfile.SYMTYPE, target
            tar.addfile(link)
    image = "stackbench/testonly-empty:1"
    client.api.import_image_from_data(layer.getvalue(), repository="stackbench/testonly-empty", tag="1")
    try:
        launcher = DockerLauncher(client, workfolders.copy_bench(FAKE_BENCH, tmp_path / "stackbench" / "bench"))
        ready = ReadyImage(name=image, python=str(python), mounts=("/usr", "/etc"))
        stack = make_stack().model_copy(update={"ready": ready})
        prepared = launcher.prepare(stack)
        record = supervise(launcher, prepared, make_job("looks_around", tmp_path / "cell"))
        assert record.status == "ok", record.reason
        assert record.detail["could"] == []
    finally:
        client.images.remove(image, force=True)
    assert ours(client, label=f"{engine.LABEL_OWNER}={myself()}") == []
