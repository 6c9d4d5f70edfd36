"""Slurm's scripts are the recorded ones, what is in a name stays one word, its answers are understood."""

from __future__ import annotations

import contextlib
import subprocess
from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest
from fake_run import FAKE_BENCH, make_job, make_stack
from golden_files import golden
from pydantic import ValidationError

from orchestrator.base.errors import InfrastructureError, UsageError
from orchestrator.base.lockfile import try_lock
from orchestrator.host.owner import myself
from orchestrator.launchers import Prepared, pyxis, slurm_scripts
from orchestrator.launchers import slurm_queue as slurm
from orchestrator.launchers.slurm_orders import AT_WORK, ORDER, CellOrder, LookOrder, read, write
from orchestrator.launchers.slurm_scripts import gpu_options, job_script, pyxis_script, step_script, time_limit
from orchestrator.launchers.slurm_settings import SlurmSettings
from orchestrator.launchers.slurm_spool import Spool
from orchestrator.plan.hosts import HostEntry
from orchestrator.plan.stack import ReadyImage, Stack
from orchestrator.runner import slurm_node
from orchestrator.runner.slurm import settings_of

ODD = Path('/shared/it\'s $HOME "a" %j')
SETTINGS = SlurmSettings(
    partition="gpu", account="lab", qos="normal", constraint="a100&nvlink", gres="gpu:a100",
    before=("module load docker",), options=("--mem=0", '--comment=a "b" $c'), scratch="$TMPDIR",
    python="/venv/bin/python",
)  # fmt: skip


@pytest.fixture(autouse=True)
def _package(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(slurm_scripts, "REPOSITORY", Path("/shared/stackbench"))


def test_the_script_of_an_allocation_is_the_recorded_one() -> None:
    made = job_script(SETTINGS, name="stackbench-note", spool=Path("/shared/s"), nodes=4, gpus=8, minutes=90)
    golden("slurm-allocation.sh", made)


def test_the_script_of_an_array_is_the_recorded_one_also_in_a_folder_with_an_odd_name() -> None:
    made = job_script(SETTINGS, name="it's $x", spool=ODD, nodes=4, gpus=8, minutes=90, array=True)
    golden("slurm-array.sh", made)


def test_the_script_of_a_step_is_the_recorded_one() -> None:
    made = step_script(SETTINGS, log=ODD / "step.txt", begun=ODD / "begun", words=["cell", str(ODD / "a cell")])
    golden("slurm-step.sh", made)


def pyxis_made(image: str = "/scratch/images/0123.sqsh") -> str:
    return pyxis_script(
        image=Path(image), source="docker://registry.example#lab/stack:1", job="12", node="gpu1", name="stackbench-1",
        gpu="GPU-1", mounts=["/scratch/a b:/scratch/a b:ro", "/weights:/weights:ro"], variables=["HOME", "PYTHONPATH"],
        python="/opt/stack/bin/python",
    )  # fmt: skip


def test_the_script_for_pyxis_is_the_recorded_one() -> None:
    golden("slurm-pyxis.sh", pyxis_made())


def test_an_image_is_imported_once_and_half_an_image_is_imported_again(tmp_path: Path) -> None:
    # No pyxis is here: what the script does around it is seen with two commands that note what they were given.
    commands, noted = tmp_path / "bin", tmp_path / "noted"
    commands.mkdir()
    for name, does in {
        "enroot": 'echo image > "$3"',
        "srun": 'printf "%s|" "$@" >> "$NOTED"; echo >> "$NOTED"',
    }.items():
        path = commands / name
        path.write_text(f'#!/bin/bash\necho {name} >> "$NOTED"\n{does}\n')
        path.chmod(0o755)
    image, script = tmp_path / "an image.sqsh", tmp_path / "python.sh"
    script.write_text(pyxis_made(str(image)))
    variables = {"PATH": f"{commands}:/usr/bin:/bin", "NOTED": str(noted)}

    def call() -> list[str]:
        subprocess.run(["bash", str(script), "-m", "bench", "a b $x"], env=variables, cwd=tmp_path, check=True)
        lines = noted.read_text().splitlines()
        noted.write_text("")
        return lines

    first, second = call(), call()
    assert (first[0], second[0]) == ("enroot", "srun")
    assert first[-1] == second[-1]
    assert first[-1].endswith("|/opt/stack/bin/python|-m|bench|a b $x|")
    assert f"|--container-image={image}|--container-readonly|" in first[-1]
    assert f"|--container-mounts=/scratch/a b:/scratch/a b:ro,/weights:/weights:ro,{tmp_path}:{tmp_path}|" in first[-1]
    image.write_text("hal")
    assert call()[0] == "enroot"
    assert image.read_text() == "image\n"


def test_an_image_that_cannot_be_imported_is_not_the_cells_doing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    commands = tmp_path / "bin"
    commands.mkdir()
    (commands / "enroot").write_text("#!/bin/bash\necho 'no space left' >&2\nexit 1\n")
    (commands / "enroot").chmod(0o755)
    monkeypatch.setenv("PATH", f"{commands}:/usr/bin:/bin")
    monkeypatch.setenv("SLURM_JOB_ID", "12")
    monkeypatch.setenv("SLURMD_NODENAME", "gpu1")
    places = {"scripts": tmp_path, "images": tmp_path / "images", "readable": (), "writable": ()}
    launcher = pyxis.on_node(FAKE_BENCH, None, **places)
    stack, job = make_stack(), make_job("good", tmp_path / "cell")
    with launcher.start(Prepared(stack, str(launcher.python(stack)), "f" * 16), job) as handle:
        ended = handle.wait(60.0)
    assert ended is not None
    assert str(ended.error).startswith("enroot could not import its image")
    assert "no space left" in job.log.read_text()
    assert list((tmp_path / "images").glob("*.sqsh")) == []


@pytest.mark.parametrize("image", ["lab/stack:1", "registry.example/lab/stack:1", "localhost:5000/stack@sha256:ab"])
def test_enroot_is_given_the_registry_before_a_hash(image: str) -> None:
    wanted = {
        "lab/stack:1": "docker://lab/stack:1",
        "registry.example/lab/stack:1": "docker://registry.example#lab/stack:1",
        "localhost:5000/stack@sha256:ab": "docker://localhost:5000#stack@sha256:ab",
    }
    assert pyxis.uri(image) == wanted[image]
    stack = Stack(schema_version=1, name="a", description="b", methods=("c",), ready=ReadyImage(name=image))
    assert pyxis.digest_of(stack) == ("sha256:ab" if "@" in image else None)


@pytest.mark.parametrize(
    ("option", "gres", "wanted"),
    [
        ("gres", "gpu:h100", ["--gres=gpu:h100:8"]),
        ("gres", "gpu", ["--gres=gpu:8"]),
        ("gpus-per-node", "gpu:h100", ["--gpus-per-node=h100:8"]),
        ("gpus-per-node", "gpu", ["--gpus-per-node=8"]),
        ("gpus", "gpu:h100", ["--gpus=h100:32"]),
        ("none", "gpu", []),
    ],
)
def test_gpus_are_asked_for_in_the_clusters_own_dialect(option: str, gres: str, wanted: list[str]) -> None:
    assert gpu_options(SlurmSettings.model_validate({"gpu_option": option, "gres": gres}), 4, 8) == wanted


@pytest.mark.parametrize(("seconds", "wanted"), [(1, 2), (601, 11), (10**6, 240)])
def test_the_time_limit_is_of_the_deadlines_and_no_longer_than_allowed(seconds: float, wanted: int) -> None:
    assert time_limit(SlurmSettings(), seconds=seconds) == wanted


@pytest.mark.parametrize(
    "wrong",
    [
        {"partition": "a b"},
        {"before": ["a\nb"]},
        {"options": ["rm"]},
        {"scratch": "tmp"},
        {"scratch": "$(x)"},
        {"part": "a"},
    ],
)
def test_settings_that_cannot_be_meant_are_refused_with_their_key(wrong: dict[str, object]) -> None:
    with pytest.raises(ValidationError):
        SlurmSettings.model_validate(wrong)
    entry = HostEntry.model_validate({"name": "here", "launcher": "slurm", "gpus": 1, "slurm": wrong})
    with pytest.raises(UsageError, match=next(iter(wrong))):
        settings_of(entry)


def test_what_squeue_says_is_understood() -> None:
    said = (
        "12|RUNNING|gpu[1-3]|None\n13_0|PENDING||ReqNodeNotAvail, UnavailableNodes:gpu1\n13_1|NODE_FAIL|gpu2|NodeDown\n"
    )
    found = slurm.parse_queue(said)
    assert {job: (state.name, state.over) for job, state in found.items()} == {
        "12": ("RUNNING", False), "13_0": ("PENDING", False), "13_1": ("NODE_FAIL", True),
    }  # fmt: skip
    assert found["13_0"].reason == "ReqNodeNotAvail, UnavailableNodes:gpu1"


def test_what_accounting_says_is_understood() -> None:
    said = "12|CANCELLED by 1000|gpu1\n13_0|OUT_OF_ME+|gpu2\n14|TIMEOUT|gpu3\n15||\n"
    found = {job: state.name for job, state in slurm.parse_accounts(said).items()}
    assert found == {"12": "CANCELLED", "13_0": "OUT_OF_ME", "14": "TIMEOUT"}


def test_a_jobs_name_cannot_pretend_to_be_its_state() -> None:
    said = "JobId=2 JobName=a JobState=COMPLETED UserId=root(0) JobState=RUNNING Reason=None"
    said += " ReqNodeList=(null) NodeList=gpu1 X=1"
    assert slurm.parse_job(said) == slurm.JobState("RUNNING", "None", "gpu1")


def test_a_command_that_is_not_here_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "")
    with pytest.raises(InfrastructureError, match="there is no such command here"):
        slurm.queued(["1"])


def test_what_a_command_says_of_itself_is_said_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    command = tmp_path / "squeue"
    command.write_text("#!/bin/sh\necho 'squeue: error: Invalid user: \"x\"' >&2\nexit 1\n")
    command.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    with pytest.raises(InfrastructureError) as raised:
        slurm.queued(["1"])
    assert str(raised.value) == 'squeue: error: Invalid user: "x"'


def test_variables_of_a_job_that_we_run_in_change_no_other_job(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("SLURM_JOB_ID", "SBATCH_PARTITION", "SRUN_DEBUG", "SLURM_CONF", "MINE"):
        monkeypatch.setenv(name, "1")
    kept = slurm.environment()
    assert {"SLURM_CONF", "MINE"} <= kept.keys()
    assert not {"SLURM_JOB_ID", "SBATCH_PARTITION", "SRUN_DEBUG"} & kept.keys()


def test_a_killed_step_counts_as_left_on_its_node_until_that_is_looked_at(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lock = try_lock(tmp_path / "lock", None)
    assert lock is not None
    spool = Spool(tmp_path, adopted=False, lock=lock)
    me = myself()
    said = {
        "killed": f"gpu1\n{replace(me, start_ticks=me.start_ticks - 1)}",
        "elsewhere": f"gpu2\n{replace(me, start_ticks=me.start_ticks - 1)}",
        "running": f"gpu3\n{me}",
    }
    for name, words in said.items():
        (spool.steps / name).mkdir(parents=True)
        (spool.steps / name / AT_WORK).write_text(words)
    assert spool.left_on() == ["gpu1", "gpu2", "gpu3"]
    for node in ("gpu1", "gpu3"):
        monkeypatch.setenv("SLURMD_NODENAME", node)
        folder = spool.steps / f"look-{node}"
        folder.mkdir()
        write(folder / ORDER, LookOrder(container="local", gpus=0, allow_busy=True))
        assert slurm_node.main(["--scratch", str(tmp_path / "scratch"), "look", str(folder)]) == 0
    assert spool.left_on() == ["gpu2", "gpu3"]


def test_a_node_reads_the_order_that_was_written_for_it_but_not_what_waits_on_this_side(tmp_path: Path) -> None:
    order = CellOrder(
        job=replace(make_job("good", worker={"host": "n1"}), away=partial(contextlib.nullcontext, "its turn")),
        prepared=Prepared(make_stack(), "python3", "f" * 16),
        folder=tmp_path, gpu=None, access="none", container="local", bench=FAKE_BENCH, images=tmp_path, keep=False,
        purpose="a test",
    )  # fmt: skip
    write(tmp_path / ORDER, order)
    there = read(tmp_path / ORDER, CellOrder)
    assert there == order.model_copy(update={"job": replace(order.job, away=contextlib.nullcontext)})
