from __future__ import annotations

import json
import os
import resource
import shlex
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from fake_run import FAKE_BENCH, make_job, make_stack
from processes import gone, wait_for

from orchestrator.base.errors import InfrastructureError
from orchestrator.build.environment import environment_folder, find_python, has_python
from orchestrator.host.owner import Owner, boot, myself
from orchestrator.launchers import cell_environment, local
from orchestrator.launchers.local import LocalLauncher, sweep_processes
from orchestrator.measure.cell_spec import write_spec
from orchestrator.plan.stack import OF_THE_CELL, BuiltImage, Stack


def start(tmp_path: Path, method: str):
    launcher = LocalLauncher(FAKE_BENCH, lambda stack: Path(stack.python))
    prepared = launcher.prepare(make_stack())
    job = make_job(method, tmp_path)
    write_spec(job, launcher.places(job))
    return launcher.start(prepared, job)


def test_prepare_asks_what_is_installed() -> None:
    prepared = LocalLauncher(FAKE_BENCH, lambda stack: Path(stack.python)).prepare(make_stack())
    assert (prepared.fingerprint, prepared.packages) == ("0123456789abcdef", {"nothing": "1.0"})


def test_a_folder_named_from_the_current_one_is_found_from_the_cells_own(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    folders = {"cache": Path("cache"), "checkpoint": Path("weights"), "references": Path("results/references")}
    job = make_job("good", checkpoint_inside="inner", **folders)
    places = LocalLauncher(FAKE_BENCH, lambda stack: Path(stack.python)).places(job)
    assert places.cache == str(tmp_path / "cache")
    assert places.checkpoint == str(tmp_path / "weights" / "inner")
    assert places.references == str(tmp_path / "results" / "references")


def test_a_python_that_cannot_run_bench_is_refused(tmp_path: Path) -> None:
    for python in ("/bin/false", str(tmp_path / "nothing")):
        with pytest.raises(InfrastructureError) as caught:
            LocalLauncher(FAKE_BENCH, lambda _stack, python=python: Path(python)).prepare(make_stack())
        assert "\n" not in str(caught.value)


def test_its_reason_is_the_line_that_says_why(tmp_path: Path) -> None:
    broken = tmp_path / "python"
    lines = ["Traceback (most recent call last):", '  File "<frozen runpy>", line 198', "ImportError: no such thing"]
    broken.write_text(f"#!/bin/sh\nprintf '%s\\n' {shlex.join(lines)} >&2\nexit 1\n")
    broken.chmod(0o755)
    with pytest.raises(InfrastructureError) as caught:
        LocalLauncher(FAKE_BENCH, lambda _stack: broken).prepare(make_stack())
    assert caught.value.what.startswith("ImportError: no such thing; its Python does not run bench")


def test_the_end_is_noticed_at_once(tmp_path: Path) -> None:
    with start(tmp_path, "good") as handle:
        began = time.monotonic()
        ended = handle.wait(30)
        assert ended is not None
        assert (ended.code, ended.signal, ended.oom) == (0, None, False)
        assert time.monotonic() - began < 10
        assert handle.poll() == ended


def test_waiting_is_no_deadline(tmp_path: Path) -> None:
    with start(tmp_path, "hang") as handle:
        before = time.process_time()
        assert handle.wait(0.5) is None
        assert time.process_time() - before < 0.1  # slept, not spun
        handle.cancel()
        ended = handle.poll()
        assert ended is not None
        assert ended.signal == signal.SIGKILL


def test_leaving_the_context_kills_everything(tmp_path: Path) -> None:
    with pytest.raises(KeyboardInterrupt), start(tmp_path, "hang") as handle:  # noqa: PT012
        wait_for(tmp_path / "grandchild")
        raise KeyboardInterrupt
    assert handle.poll() is not None
    assert gone(int((tmp_path / "grandchild").read_text()))


def test_nothing_of_ours_leaks_into_a_cell(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TORCHINDUCTOR_MAX_AUTOTUNE", "1")
    monkeypatch.setenv("PYTHONHOME", "/nowhere")
    environment = LocalLauncher(FAKE_BENCH, lambda stack: Path(stack.python))._environment(
        make_stack(), "cpu", Path("/c")
    )
    assert "TORCHINDUCTOR_MAX_AUTOTUNE" not in environment
    assert "PYTHONHOME" not in environment
    assert environment["TORCHINDUCTOR_CACHE_DIR"] == "/c/inductor"
    assert environment["CUDA_VISIBLE_DEVICES"] == ""


def test_a_stacks_variables_reach_its_cells_behind_their_own() -> None:
    launcher = LocalLauncher(FAKE_BENCH, lambda stack: Path(stack.python))
    plain = launcher._environment(make_stack(), "cpu", Path("/c"))
    stack = make_stack().model_copy(update={"environment": {"A": "b", "PYTHONPATH": "/theirs"}})
    more = launcher._environment(stack, "cpu", Path("/c"))
    assert more == {**plain, "A": "b", "PYTHONPATH": f"{FAKE_BENCH.parent}:/theirs"}


def test_what_every_cell_gets_no_stack_can_set() -> None:
    assert set(cell_environment(make_stack(), "/c", python_path="/b", home="/")) - {"PYTHONPATH"} <= OF_THE_CELL


def test_processes_of_a_dead_orchestrator_are_swept(monkeypatch: pytest.MonkeyPatch) -> None:
    # A name of their own: an orchestrator that starts just now, beside this test, would sweep them too.
    monkeypatch.setattr(local, "OWNER_VARIABLE", f"STACKBENCH_TEST_{os.getpid()}")

    def child(owner: Owner) -> subprocess.Popen[bytes]:
        environment = {**os.environ, local.OWNER_VARIABLE: str(owner)}
        process = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"], env=environment)
        time.sleep(0.3)
        return process

    me = myself()
    orphan = child(Owner(me.pid, me.start_ticks + 1, boot()))
    mine, elsewhere = child(me), child(Owner(1, 1, boot().partition(".")[0] + ".1"))
    try:
        assert sweep_processes() == 1
        assert orphan.wait(10) == -signal.SIGKILL
        assert mine.poll() is None
        assert elsewhere.poll() is None
    finally:
        for process in (mine, elsewhere, orphan):
            process.kill()
            process.wait()


DAEMONS = ("daemon", "bare-daemon", "other-session")


@pytest.mark.parametrize("method", ["daemons", "daemons_then_hang"])
@pytest.mark.parametrize("grouped", [True, False])
def test_no_daemon_outlives_its_cell(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, method: str, grouped: bool
) -> None:
    if not grouped:
        monkeypatch.setattr(local, "_make_group", lambda _mark: None)  # as for most users
    bystander = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
    try:
        with start(tmp_path, method) as handle:
            wait_for(tmp_path / "other-session")
            if method == "daemons":
                assert handle.wait(60) is not None
            else:
                assert handle.pids() is not None
                handle.cancel()
        for name in DAEMONS:
            assert gone(int((tmp_path / name).read_text())), name
        assert bystander.poll() is None
        assert os.waitpid(-1, os.WNOHANG) == (0, 0)  # nothing but the bystander is left to be reaped
    finally:
        bystander.kill()
        bystander.wait()
    assert not any(f"{local.GROUP_PREFIX}{myself()}_" in group.name for group in local._groups(local._top_group()))


KILLED = """
import os, signal, sys
from pathlib import Path
sys.path[:0] = sys.argv[2:]
from test_local import local, start, wait_for
if os.environ.pop("UNGROUPED", None):
    local._make_group = lambda _mark: None
handle = start(Path(sys.argv[1]), "daemons_then_hang")
wait_for(Path(sys.argv[1]) / "grandchild")
os.kill(os.getpid(), signal.SIGKILL)
"""


@pytest.mark.parametrize("grouped", [True, False])
def test_daemons_of_a_killed_orchestrator_are_swept_at_the_next_start(tmp_path: Path, grouped: bool) -> None:
    places = [str(Path(__file__).parent), str(FAKE_BENCH.parents[1])]
    environment = os.environ if grouped else {**os.environ, "UNGROUPED": "1"}
    done = subprocess.run([sys.executable, "-c", KILLED, str(tmp_path), *places], env=environment, check=False)
    assert done.returncode == -signal.SIGKILL
    numbers = {name: int((tmp_path / name).read_text()) for name in (*DAEMONS, "grandchild")}
    assert sweep_processes() >= 3
    probe = local._make_group("probe")
    local._remove_group(probe)
    if not grouped or probe is None:
        # Without a group one that has dropped our variables cannot be told from a stranger.
        os.kill(numbers.pop("bare-daemon"), signal.SIGKILL)
    for name, number in numbers.items():
        assert gone(number), name


def test_a_cell_ends_before_us_where_memory_runs_out_and_dumps_no_core(tmp_path: Path) -> None:
    with start(tmp_path, "says_its_bounds") as handle:
        assert handle.wait(60) is not None
    said = json.loads((tmp_path / "work" / "record.json").read_text())["detail"]
    assert int(said["oom"]) > 500
    assert said["CORE"] == [0, 0]
    assert said["FSIZE"] == [20_000_000_000] * 2


def test_a_crash_leaves_no_core_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = resource.getrlimit(resource.RLIMIT_CORE)
    resource.setrlimit(resource.RLIMIT_CORE, (before[1], before[1]))
    try:
        with start(tmp_path, "dumps_core") as handle:
            ended = handle.wait(60)
    finally:
        resource.setrlimit(resource.RLIMIT_CORE, before)
    assert ended is not None
    assert ended.signal == signal.SIGABRT
    assert not list((tmp_path / "work").glob("*core*"))


def test_the_python_of_an_image_and_of_a_ready_stack(monkeypatch: pytest.MonkeyPatch) -> None:
    assert find_python(make_stack(), say=print) == Path(sys.executable)
    assert has_python(make_stack())
    with pytest.raises(InfrastructureError, match="no such Python"):
        find_python(make_stack(python="/nowhere/python"), say=print)
    monkeypatch.setenv("STACKBENCH_PYTHON", sys.executable)
    assert find_python(make_stack(python="/nowhere/python"), say=print) == Path(sys.executable)


def built_stack(folder: Path, lock: str = "") -> Stack:
    folder.mkdir(exist_ok=True)
    (folder / "requirements.lock").write_text(lock)
    stack = Stack(schema_version=1, name="mine", description="x", methods=("good",), build=BuiltImage())
    return stack.model_copy(update={"folder": folder})


def test_an_environment_is_made_once_for_each_lock(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("STACKBENCH_PYTHON", raising=False)
    said: list[str] = []
    stack = built_stack(tmp_path / "stack")
    assert not has_python(stack, tmp_path / "state")
    python = find_python(stack, say=said.append, state=tmp_path / "state")
    assert python.is_relative_to(environment_folder(stack, tmp_path / "state"))
    assert subprocess.run([python, "-c", "print(1)"], check=False).returncode == 0
    # On a busy machine lines of progress stand between.
    assert said[0].startswith("mine: making a virtual environment from requirements.lock")
    assert all(line.startswith("mine: installing, ") for line in said[1:-1])
    assert said[-1].startswith("mine: virtual environment ready after ")
    made = len(said)
    assert find_python(stack, say=said.append, state=tmp_path / "state") == python
    assert len(said) == made
    assert has_python(stack, tmp_path / "state")
    before = environment_folder(stack, tmp_path / "state")
    another = built_stack(tmp_path / "stack", "# another\n")
    assert environment_folder(another, tmp_path / "state") != before
    assert not has_python(another, tmp_path / "state")


def test_an_environment_that_fails_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("STACKBENCH_PYTHON", raising=False)
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    stack = built_stack(tmp_path / "stack", "no-such-package==1.0 --hash=sha256:" + "0" * 64 + "\n")
    with pytest.raises(InfrastructureError, match="could not be made") as caught:
        find_python(stack, say=print, state=tmp_path / "state")
    assert "\n" not in str(caught.value)
    assert caught.value.what.startswith("ERROR: No matching distribution found for no-such-package==1.0")
    assert list((tmp_path / "state" / "envs").iterdir()) == []
