"""Engines that are not the usual one: users renamed, on another machine, gone for a moment, refusing an option."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import threading
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from engines import OwnEngine, own_engine
from fake_run import FAKE_BENCH, IMAGE, make_job, make_stack, write_stack, write_suite
from places import ROOT

from orchestrator.base.errors import InfrastructureError, UsageError
from orchestrator.build.image import ensure_image, why_not_here
from orchestrator.host import docker_engine as engine
from orchestrator.host.gpu import HostGpu
from orchestrator.launchers import arguments, gpu_access, trial
from orchestrator.launchers import work_area as workfolders
from orchestrator.launchers.docker import DockerLauncher, try_ways
from orchestrator.launchers.trial import works
from orchestrator.measure.cell_spec import write_spec
from orchestrator.measure.supervise import supervise
from orchestrator.plan.stack import Gpu
from orchestrator.runner.doctor import doctor

pytestmark = pytest.mark.docker
STACK = make_stack(python="python3")
NO_GPU = HostGpu("GPU-00000000", 0, "no GPU", "0", minor=0)


def launcher_of(client: Any, folder: Path, said: list[str] | None = None) -> DockerLauncher:
    bench = workfolders.copy_bench(FAKE_BENCH, folder / "stackbench" / "bench")
    return DockerLauncher(client, bench, say=(said if said is not None else []).append)


@pytest.fixture(scope="module")
def hidden(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder in whose place the other engine sees an empty one, as an engine of another machine does."""
    return tmp_path_factory.mktemp("hidden")


@pytest.fixture(scope="module")
def other(hidden: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[OwnEngine]:
    """An engine that renames users."""
    numbers = tmp_path_factory.mktemp("numbers") / "numbers"
    numbers.write_text("nobody:100000:65536\nnogroup:100000:65536\n")
    renames = (f"mount --bind {numbers} /etc/{name}" for name in ("subuid", "subgid"))
    before = " && ".join([*renames, f"mount -t tmpfs none {hidden}"])
    with own_engine("--userns-remap=nobody:nogroup", before=before) as found:
        yield found


@pytest.fixture
def elsewhere(other: OwnEngine, monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.setenv("DOCKER_HOST", other.host)
    return engine.connect()


def test_cells_run_where_the_engine_renames_users(elsewhere: Any, tmp_path: Path) -> None:
    assert any("userns" in option for option in elsewhere.info()["SecurityOptions"])
    launcher = launcher_of(elsewhere, tmp_path)
    assert works(launcher, STACK)
    record = supervise(launcher, launcher.prepare(STACK), make_job("looks_around", tmp_path / "cell", cache=tmp_path))
    assert (record.detail["uid"], record.detail["could"]) == (65534, [])


def test_a_work_folder_that_its_container_cannot_write_to_is_one_line(elsewhere: Any, tmp_path: Path) -> None:
    launcher = launcher_of(elsewhere, tmp_path)
    launcher.limits = replace(launcher.limits, without=frozenset({"userns_mode"}))
    with pytest.raises(UsageError, match=r"containers cannot run cells here .*ermission denied") as caught:
        works(launcher, STACK)
    assert "\n" not in str(caught.value)
    # What is a stack's own fault says nothing about the engine.
    assert not works(launcher_of(elsewhere, tmp_path), make_stack(python="/no/such/python"))


@pytest.mark.parametrize("image", [IMAGE, "stackbench/nowhere:1"])
def test_an_engine_of_another_machine_is_found_before_anything_is_built(
    elsewhere: Any, hidden: Path, image: str
) -> None:
    with pytest.raises(UsageError, match="bind source path does not exist"):
        works(launcher_of(elsewhere, hidden), make_stack(python="python3", image=image))


def run_all(folder: Path, state: Path, **variables: str) -> subprocess.CompletedProcess[str]:
    write_suite(folder)
    write_stack(folder, ["good"], python="python3")
    script = [sys.executable, str(ROOT / "tests" / "support" / "fake_run.py"), str(state), "run-all"]
    chosen = ["--suite", str(folder / "mine.toml"), "--stacks", str(folder / "stacks"), "--stack", "fake"]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), **variables}
    command = [*script, *chosen, "--results", str(folder / "results")]
    return subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)


def test_run_all_on_an_engine_of_another_machine_ends_before_the_run(
    elsewhere: Any, hidden: Path, tmp_path: Path
) -> None:
    done = run_all(tmp_path, hidden / "state")
    assert done.returncode == 4, done.stdout + done.stderr
    (line,) = [line for line in done.stderr.splitlines() if "containers cannot run cells here" in line]
    assert "bind source path does not exist" in line
    assert "Traceback" not in done.stdout + done.stderr
    assert list((tmp_path / "results").iterdir()) == []


@pytest.mark.usefixtures("elsewhere")
def test_the_doctor_finds_that_an_engine_is_another_machines(
    hidden: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(workfolders, "STATE", hidden / "state")
    assert doctor() == 1
    (line,) = [line for line in capsys.readouterr().out.splitlines() if line[6:].startswith("trial container")]
    assert line.startswith("fail ")
    assert "bind source path does not exist" in line


def test_an_engine_that_is_restarted_at_a_containers_start_is_waited_for(
    other: OwnEngine, elsewhere: Any, tmp_path: Path
) -> None:
    launcher = launcher_of(elsewhere, tmp_path)
    prepared = launcher.prepare(STACK)
    other.stop()
    back = threading.Timer(1, other.start)
    back.start()
    try:
        record = supervise(launcher, prepared, make_job("good", tmp_path / "cell"))
    finally:
        back.join()
    assert (record.status, record.reason) == ("ok", None)
    assert elsewhere.api.containers(all=True) == []


def test_a_cell_that_lives_on_while_its_engine_is_restarted_is_waited_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with own_engine("--live-restore") as found:
        monkeypatch.setenv("DOCKER_HOST", found.host)
        launcher = launcher_of(engine.connect(), tmp_path)
        prepared, job = launcher.prepare(STACK), make_job("slow", tmp_path / "cell")
        write_spec(job, launcher.places(job))
        with launcher.start(prepared, job) as handle:
            found.stop()
            found.start()
            ended = handle.wait(60)
    assert ended is not None
    assert (ended.code, ended.error) == (0, None)


def test_an_engine_that_stays_away_is_infrastructure(
    other: OwnEngine, elsewhere: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(engine, "GRACE_S", (0.1, 0.1))
    launcher = launcher_of(elsewhere, tmp_path)
    prepared = launcher.prepare(STACK)
    other.stop()
    try:
        record = supervise(launcher, prepared, make_job("good", tmp_path / "cell"))
    finally:
        other.start()
    assert record.status == "infrastructure"
    assert "\n" not in (record.reason or "\n")


def test_options_that_the_engine_refuses_are_left_out_and_said_and_no_others(
    client: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    said: list[str] = []
    launcher = launcher_of(client, tmp_path, said)
    launcher.limits = replace(launcher.limits, cpus=10**6)
    monkeypatch.setattr(arguments, "OOM_SCORE_ADJ", 5000)
    assert works(launcher, STACK)
    assert launcher.refused == {IMAGE: {"nano_cpus", "oom_score_adj"}}
    (line,) = said
    assert line.startswith(f"{IMAGE}: the engine refuses nano_cpus, oom_score_adj (")
    record = supervise(launcher, launcher.prepare(STACK), make_job("looks_around", tmp_path / "cell", cache=tmp_path))
    assert record.detail["init"] in ("docker-init", "tini", "catatonit")
    assert len(said) == 1


def test_an_engine_that_has_no_init_runs_cells_without_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    said: list[str] = []
    with own_engine("--init-path=/no/such/catatonit") as bare:
        monkeypatch.setenv("DOCKER_HOST", bare.host)
        launcher = launcher_of(engine.connect(), tmp_path, said)
        assert works(launcher, STACK)
        assert launcher.refused == {IMAGE: {"init"}}
        assert "catatonit" in said[0]
        assert supervise(launcher, launcher.prepare(STACK), make_job("good", tmp_path / "cell")).status == "ok"
        # A copy knows what its original found out, and one that tries nothing before a GPU finds it out by itself.
        assert replace(launcher, name="copy").ask(STACK, ("-c", "print(7)")) == (0, "7\n")
        library = tmp_path / "lib"
        library.mkdir()
        (library / "libcuda.so.1").touch()
        monkeypatch.setattr(gpu_access, "LIBRARY_FOLDERS", (str(library),))
        again = replace(launcher, gpu=NO_GPU, state=tmp_path / "state", refused={})
        stack = STACK.model_copy(update={"gpu": Gpu(access="raw", devices=("/dev/null",))})
        look = "import os; print(os.environ['CUDA_VISIBLE_DEVICES'])"
        assert again.ask(stack, ("-c", look), "cuda") == (0, "GPU-00000000\n")
        fresh = replace(launcher, gpu=NO_GPU, refused={})
        assert not any("catatonit" in (answer or "") for answer in try_ways(fresh, STACK).values())


@pytest.mark.parametrize(
    ("write", "says"),
    [
        (trial.WRITE, "PermissionError: [Errno 13] Permission denied: 'trial'"),
        ("pass", "what a container writes into its work folder does not arrive here"),
    ],
)
def test_what_the_trial_container_could_not_leave_in_its_folder_is_said(
    client: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, write: str, says: str
) -> None:
    monkeypatch.setattr(trial, "give_away", lambda folder, _user: folder.chmod(0o755))
    monkeypatch.setattr(trial, "WRITE", write)
    with pytest.raises(UsageError) as caught:
        works(launcher_of(client, tmp_path), STACK)
    assert caught.value.what == f"containers cannot run cells here ({says})"


def test_what_no_option_is_to_blame_for_is_the_engines_first_reason(client: Any, tmp_path: Path) -> None:
    said: list[str] = []
    launcher = launcher_of(client, tmp_path, said)
    shutil.rmtree(launcher.bench)
    with pytest.raises(UsageError, match="bind source path does not exist"):
        works(launcher, STACK)
    assert (said, launcher.refused) == ([], {})


CLOSED = """
import ctypes, errno, json, resource, socket
def kind(family, *more):
    try:
        socket.socket(family, *more).close()
    except OSError as error:
        return errno.errorcode[error.errno]
    return "open"
libc = ctypes.CDLL(None, use_errno=True)
rings = []
for call in (425, 426, 427):
    rings.append((libc.syscall(call, 1, 0), errno.errorcode[ctypes.get_errno()]))
print(json.dumps({
    "vsock": kind(40, socket.SOCK_STREAM), "crypto": kind(38, socket.SOCK_SEQPACKET),
    "unix": kind(socket.AF_UNIX), "ip": kind(socket.AF_INET), "rings": rings,
    "core": resource.getrlimit(resource.RLIMIT_CORE), "oom": int(open("/proc/self/oom_score_adj").read()),
}))
"""


def test_a_cells_core_files_rings_and_sockets_are_off_and_it_is_killed_first(client: Any, tmp_path: Path) -> None:
    code, output = launcher_of(client, tmp_path).ask(STACK, ("-c", CLOSED))
    assert code == 0, output
    found = json.loads(output)
    assert found.pop("oom") > 500
    assert found == {
        "vsock": "EPERM",
        "crypto": "EPERM",
        "unix": "open",
        "ip": "open",
        "rings": [[-1, "EPERM"]] * 3,
        "core": [0, 0],
    }


@pytest.mark.parametrize("config", ['{"auths": {}, "credsStore": "nowhere"}', '{"credHelpers": {"docker.io": "no"}}'])
def test_a_missing_credential_helper_is_named_and_done_without(
    client: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, config: str
) -> None:
    from stack_folders import make

    (tmp_path / "config.json").write_text(config)
    monkeypatch.setenv("DOCKER_CONFIG", str(tmp_path))
    own = engine.connect()
    said: list[str] = []
    stack = make(tmp_path / "stack", f"FROM {IMAGE}\nCOPY *.lock /\n")
    try:
        tag = ensure_image(own, stack, say=said.append, state=tmp_path)
        assert client.images.get(tag)
    finally:
        for image in client.images.list("stackbench/testonly"):
            client.images.remove(image.id, force=True)
    (line,) = [line for line in said if "credential helper" in line]
    assert f"{tmp_path}/config.json: its credential helper fails (docker-credential-no" in line


def test_a_registry_is_asked_without_the_credential_helper_that_is_missing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "config.json").write_text('{"credsStore": "desktop"}')
    monkeypatch.setenv("DOCKER_CONFIG", str(tmp_path))
    stack = make_stack(image="registry.invalid/team/torch:1")
    for _ in range(2):  # each command has clients of its own
        assert "cannot be pulled: no such host" in (why_not_here(engine.connect(), stack) or "")
    assert capsys.readouterr().err.count("its credential helper fails (docker-credential-desktop") == 1
    with pytest.raises(InfrastructureError, match=r"could not be pulled \(.*no such host") as caught:
        ensure_image(engine.connect(), stack, say=print, state=tmp_path)
    assert "\n" not in str(caught.value)


def test_a_missing_ready_image_is_named_with_the_command_that_brings_it(client: Any, tmp_path: Path) -> None:
    stack = make_stack(image="registry.invalid/team/torch:1")
    with pytest.raises(InfrastructureError, match="could not be pulled") as caught:
        ensure_image(client, stack, say=lambda _line: None, state=tmp_path)
    assert str(caught.value).startswith("registry.invalid/team/torch:1: this image is not on this host")
    assert str(caught.value).endswith("; `docker pull registry.invalid/team/torch:1`")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "raised", [NameError("name 'X' is not defined"), KeyError("Id"), ValueError("not JSON"), RuntimeError("StoreError")]
)
def test_whatever_the_sdk_raises_is_one_line(raised: Exception) -> None:
    with pytest.raises(InfrastructureError) as caught, engine.engine_errors():
        raise raised
    assert "\n" not in str(caught.value)
    assert type(raised).__name__ in str(caught.value)


@pytest.mark.parametrize("address", ["ssh://nobody@127.0.0.1", "tcp://127.0.0.1:1", "nonsense://x", "http://[", ""])
def test_an_address_that_leads_nowhere_is_one_clear_line(
    monkeypatch: pytest.MonkeyPatch, address: str, tmp_path: Path
) -> None:
    monkeypatch.setenv("DOCKER_HOST", address or f"unix://{tmp_path}/no.sock")
    with pytest.raises(UsageError, match="does not answer") as caught:
        engine.connect()
    assert "\n" not in str(caught.value)
    assert "is not defined" not in str(caught.value)
