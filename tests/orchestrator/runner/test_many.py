"""Runs on several GPUs: real processes side by side, on GPUs that are none."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections import defaultdict
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from fake_gpus import put_gpus
from fake_run import write_stack, write_suite
from places import ROOT
from processes import gone
from record_samples import workload

from orchestrator.build.ready import Ready
from orchestrator.cli import run
from orchestrator.launchers.local import LocalHandle
from orchestrator.plan.cell import Cell, Plan
from orchestrator.plan.choice import RunOptions
from orchestrator.plan.hosts import HostEntry
from orchestrator.records.record import Refusal
from orchestrator.records.store import Run
from orchestrator.runner import crew as crews
from orchestrator.runner import estimate as budget
from orchestrator.runner import hosts as opening
from orchestrator.runner import many, side_by_side
from orchestrator.runner.schedule import Piece, Policy, Seat, forecast


def written(
    place: Path, methods: list[str], sequences: str = "[32, 64, 96]", rounds: int = 1, **suite: Any
) -> list[str]:
    """A suite of several workloads by these methods on a stack that uses a GPU; return the command's arguments."""
    path = write_suite(place, rounds=rounds, **suite)
    path.write_text(path.read_text().replace("sequence = 64", f"sequence = {sequences}"))
    toml = write_stack(place, methods) / "fake" / "stack.toml"
    toml.write_text(toml.read_text().replace('access = "none"', 'access = "auto"'))
    words = ["run-all", "--suite", str(path), "--stacks", str(place / "stacks"), "--stack", "fake"]
    return [*words, "--launcher", "local", "--results", str(place / "results")]


def records(place: Path) -> list[dict[str, Any]]:
    (folder,) = (place / "results").iterdir()
    return [json.loads(path.read_text()) for path in sorted((folder / "records").iterdir())]


def keys(place: Path) -> list[tuple[str, int]]:
    return [(record["cell_id"], record["round"]) for record in records(place)]


@pytest.fixture
def gpus(place: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(many, "STATE", place / "state")
    put_gpus(monkeypatch.setattr, 3)
    return place


def test_cells_run_side_by_side_and_what_is_compared_on_one_gpu(gpus: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run([*written(gpus, ["good", "slow"], rounds=2, proving=True), "--gpus", "all"]) in (0, 1)
    found, on = records(gpus), defaultdict[str, set[str]](set)
    spans = []
    for record in found:
        assert record["provenance"]["worker"] == {"gpus": "3"}
        if record["role"] == "row":
            on[record["workload_id"]].add(record["provenance"]["gpu"])
        if record["role"] == "row" and record["method"] == "slow":
            end = record["samples"][0]["begin_ns"]
            spans.append((end - record["provenance"]["wall_ns"] / 2, end, record["provenance"]["gpu"]))
    assert any(a[0] < b[1] and b[0] < a[1] and a[2] != b[2] for a in spans for b in spans), "some at once"
    assert len(on) == 3
    assert all(len(where) == 1 for where in on.values())
    assert len(set.union(*on.values())) == 3, "each workload has a GPU of its own"
    for role in ("ceilings", "reference"):
        mine = [(record["round"], record["provenance"]["gpu"]) for record in found if record["role"] == role]
        assert len({gpu for _, gpu in mine}) == 3
        assert len(dict(mine)) == 3, "one round for each GPU"
    (folder,) = (gpus / "results").iterdir()
    assert sorted(path.name for path in (folder / "references").iterdir() if path.is_dir()) == ["1", "2"]
    assert json.loads((folder / "run.json").read_text())["finished_utc"] is not None
    err = capsys.readouterr().err
    assert "cells run on 3 GPUs (Fake GPU) of 1 host" in err
    assert "round 2 on here:" in err


def test_one_gpu_has_the_records_that_a_run_on_one_has(gpus: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    put_gpus(monkeypatch.setattr, 1)
    words = written(gpus, ["good"], proving=True)
    assert run(words) == 0
    before = keys(gpus)
    (folder,) = (gpus / "results").iterdir()
    folder.rename(gpus / "before")
    assert run([*words, "--gpus", "0"]) == 0
    assert keys(gpus) == before


def test_it_goes_on_after_the_orchestrator_was_killed_and_runs_nothing_twice(tmp_path: Path) -> None:
    words = [sys.executable, str(ROOT / "tests" / "support" / "fake_gpus.py"), str(tmp_path / "state"), "2"]
    words += [*written(tmp_path, ["good", "slow"], rounds=2), "--gpus", "all"]
    variables = {**os.environ, "PYTHONPATH": str(ROOT)}
    with subprocess.Popen(words, env=variables, stderr=subprocess.PIPE, text=True) as process:
        assert process.stderr is not None
        for line in process.stderr:
            if "slow" in line and "round 1" in line and "started" in line:
                break
        time.sleep(0.3)
        children = Path(f"/proc/{process.pid}/task").glob("*/children")
        cells = [int(child) for path in children for child in path.read_text().split()]
        process.send_signal(signal.SIGKILL)
    assert cells
    assert all(map(gone, cells)), "the kernel ends a cell with the thread that started it"
    began = {path: path.stat().st_mtime_ns for path in (tmp_path / "results").glob("*/records/*")}
    assert subprocess.run(words, env=variables, capture_output=True, check=False).returncode == 0
    assert all(path.stat().st_mtime_ns == when for path, when in began.items())
    rows = [record for record in records(tmp_path) if record["role"] == "row"]
    assert len(rows) == 12
    assert {record["status"] for record in rows} == {"ok"}


def test_ctrl_c_ends_every_cell_and_keeps_what_was_finished(tmp_path: Path) -> None:
    words = [sys.executable, str(ROOT / "tests" / "support" / "fake_gpus.py"), str(tmp_path / "state"), "3"]
    words += [*written(tmp_path, ["hang"]), "--gpus", "all"]
    with subprocess.Popen(
        words, env={**os.environ, "PYTHONPATH": str(ROOT)}, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True
    ) as process:
        assert process.stderr is not None
        hanging = 0
        for line in process.stderr:
            hanging += "hang@fake" in line and "started" in line
            if hanging == 3:
                break
        process.send_signal(signal.SIGINT)
        rest = process.stderr.read()
        assert process.wait(30) == 130
    assert "stopped; 3 records kept" in rest
    assert "Traceback" not in rest
    assert not list((tmp_path / "state" / "work").iterdir())


def test_a_workload_whose_gpu_is_gone_begins_again_on_another(
    gpus: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    words = written(gpus, ["good", "slow"], "32", rounds=2)
    done, real = [], crews.Crew._done

    def one_round_alone(self: Any, number: int, turn: Any, record: Any) -> None:
        real(self, number, turn, record)
        done.append(turn)
        if turn.cell.role == "row":
            self.over = "enough"

    monkeypatch.setattr(crews.Crew, "_done", one_round_alone)
    put_gpus(monkeypatch.setattr, 1)
    run([*words, "--gpus", "all"])
    assert [turn.cell.role for turn in done] == ["ceilings", "row"]
    monkeypatch.setattr(crews.Crew, "_done", real)
    put_gpus(monkeypatch.setattr, 1, first=7)
    assert run([*words, "--gpus", "all"]) == 0
    assert "1 round of 1 workload ran on a GPU that is not here now" in capsys.readouterr().err
    rows = [record for record in records(gpus) if record["role"] == "row"]
    assert len(rows) == 4
    assert {record["provenance"]["gpu"] for record in rows} == {"GPU-00000007"}


def begun(words: list[str], place: Path, ran: dict[int, list[int]]) -> dict[Path, int]:
    """Make an unfinished run whose rounds of workloads, by their sequence, ran on these GPUs; when each was written."""
    assert run([*words, "--gpus", "0"]) == 0
    (folder,) = (place / "results").iterdir()
    for path in (folder / "records").iterdir():
        record = json.loads(path.read_text())
        if record["role"] != "row":
            continue
        on = ran.get(record["workload"]["sequence"], [])
        if record["round"] >= len(on):
            path.unlink()
            continue
        record["provenance"]["gpu"] = f"GPU-{on[record['round']]:08d}"
        path.write_text(json.dumps(record))
    header = json.loads((folder / "run.json").read_text())
    (folder / "run.json").write_text(json.dumps({**header, "finished_utc": None}))
    return {path: path.stat().st_mtime_ns for path in (folder / "records").iterdir()}


AWAY, STRAY, KEPT = (
    "ran on a GPU that is not here now, or not this run's",
    "ran on other GPUs than the one that goes on with it",
    "ran on another GPU",
)


@pytest.mark.parametrize(
    ("ran", "options", "said", "ends"),
    [
        ({32: [0], 64: [1], 96: [2]}, [], [f"2 rounds of 2 workloads {KEPT}"], {32: "0", 64: "01", 96: "02"}),
        ({32: [0, 0, 1], 64: [2], 96: [1, 1, 0, 1]}, ["--gpus", "all"], [f"1 round of 1 workload {STRAY}"],
         {32: "0", 64: "2", 96: "01"}),
        ({32: [0, 1, 1], 64: [1, 2]}, ["--gpus", "0"],
         [f"2 rounds of 1 workload {STRAY}", f"2 rounds of 1 workload {AWAY}"], {32: "0", 64: "0", 96: "0"}),
        ({32: [2, 1, 1], 64: [0]}, ["--gpu", "1"],
         [f"2 rounds of 2 workloads {KEPT}"], {32: "12", 64: "01", 96: "1"}),
        ({32: [0, 1, 2], 64: [0, 0, 0], 96: [2] * 4}, ["--gpus", "0", "--spread"], [], {32: "012", 64: "0", 96: "2"}),
    ],
)  # fmt: skip
def test_a_workload_goes_on_on_one_gpu_whatever_the_options_were(  # noqa: PLR0917
    gpus: Path, capsys: pytest.CaptureFixture[str],
    ran: dict[int, list[int]], options: list[str], said: list[str], ends: dict[int, str],
) -> None:  # fmt: skip
    words = written(gpus, ["good"], rounds=4)
    before = begun(words, gpus, ran)
    capsys.readouterr()
    assert run([*words, *options]) == 0
    told = [line.partition(": they are ") for line in capsys.readouterr().err.splitlines() if ": they are " in line]
    assert sorted(line for line, _, _ in told) == sorted(said)
    assert [what.startswith("kept") for _, _, what in told] == [line.endswith(KEPT) for line, _, _ in told]
    rows = [record for record in records(gpus) if record["role"] == "row"]
    on = {
        sequence: {r["provenance"]["gpu"][-1] for r in rows if r["workload"]["sequence"] == sequence}
        for sequence in ends
    }
    assert (len(rows), on) == (12, {sequence: set(numbers) for sequence, numbers in ends.items()})
    kept = [path for path, when in before.items() if path.stat().st_mtime_ns == when]
    again = sum(int(line.split()[0]) for line in said if not line.endswith(KEPT))
    assert len(before) - len(kept) == again, "nothing else is run again"


def test_what_jobs_of_an_array_have_run_is_at_home_nowhere_and_kept(
    gpus: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    words = written(gpus, ["good"], rounds=2)
    before = begun(words, gpus, {32: [8, 9], 64: [9]})
    monkeypatch.setattr(opening, "Worker", partial(opening.Worker, facts={"slurm": "array"}))
    assert run([*words, "--gpus", "all"]) == 0
    assert "are run again" not in capsys.readouterr().err
    assert all(path.stat().st_mtime_ns == when for path, when in before.items())
    assert len([record for record in records(gpus) if record["role"] == "row"]) == 6


def test_one_gpu_that_goes_on_with_anothers_run_has_ceilings_and_references_of_its_own(gpus: Path) -> None:
    words = written(gpus, ["good"], rounds=2, proving=True)
    begun(words, gpus, {32: [0, 0], 64: [0]})
    assert run([*words, "--gpu", "1"]) in (0, 1)
    for role in ("ceilings", "reference"):
        found = [(one["round"], one["provenance"]["gpu"]) for one in records(gpus) if one["role"] == role]
        assert set(found) == {(0, "GPU-00000000"), (1, "GPU-00000001")}
    (folder,) = (gpus / "results").iterdir()
    assert [path.name for path in (folder / "references").iterdir() if path.is_dir()] == ["1"]
    assert json.loads((folder / "run.json").read_text())["finished_utc"] is not None


def test_a_worker_that_dies_takes_its_round_with_it_and_no_other(
    gpus: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    dead: list[int] = []
    start = opening.launcher_of

    def launcher_of(*arguments: Any, gpu: Any) -> Any:
        launcher = start(*arguments, gpu=gpu)
        if gpu.index == 1:

            def failing(prepared: Any, job: Any) -> LocalHandle:
                if job.cell.role == "row":
                    dead.append(1)
                    raise opening.InfrastructureError("the node is down")
                return type(launcher).start(launcher, prepared, job)

            launcher.start = failing
        return launcher

    monkeypatch.setattr(opening, "launcher_of", launcher_of)
    monkeypatch.setattr(opening, "_why_dead", lambda _client: "the node is down" if dead else None)
    words = [*written(gpus, ["good", "slow"]), "--gpus", "all"]
    assert run(words) == 1
    assert "here:1 runs nothing more: the node is down; 1 round that it had begun with stay" in capsys.readouterr().err
    rows = [record["status"] for record in records(gpus) if record["role"] == "row"]
    assert sorted(rows) == ["infrastructure", "ok", "ok", "ok", "ok"]
    dead.clear()
    monkeypatch.setattr(opening, "launcher_of", start)
    assert run(words) == 0
    assert [record["status"] for record in records(gpus) if record["role"] == "row"] == ["ok"] * 6


FAR = '[[hosts]]\nname = "{}"\nlauncher = "ssh"\nssh = {{ address = "{}" }}\n'


@pytest.mark.parametrize(
    ("hosts", "said"),
    [
        ("", "hosts: missing"),
        (
            '[[hosts]]\nname = "a"\nlauncher = "local"\n[[hosts]]\nname = "a"\nlauncher = "ssh"',
            'two hosts are called "a"',
        ),
        ('[[hosts]]\nname = "a"\nlauncher = "slurm"', "must be a number"),
        ('[[hosts]]\nname = "a"\nlauncher = "ssh"\n[hosts.slurm]\nx = 1', "is of the launcher slurm"),
        ('[[hosts]]\nname = "a"\nlauncher = "local"\n[[hosts]]\nname = "b"', "a and b are all this host"),
        (FAR.format("a", "ssh://u@h") + FAR.format("b", "u@h"), "a and b are one host, u@h"),
        ('[[hosts]]\nname = "a"\ngpu = "all"', "hosts[0].gpu"),
        (
            '[[hosts]]\nname = "a"\ngpus = 0',
            "hosts[0].gpus: must be 'all' or must be greater than 0 or must be a list, is 0\n",
        ),
        ('[[hosts]]\nname = "a"\nstart_s = 0', "hosts[0].start_s: must be greater than 0, is 0\n"),
        ('[[hosts]]\nname = "a"\nlauncher = "ssh"', "a: [hosts.ssh]: address: missing"),
        (
            '[[hosts]]\nname = "a"\nlauncher = "ssh"\n[hosts.ssh]\naddress = "ssh://b:99999"',
            "address: Port out of range",
        ),
        (
            '[[hosts]]\nname = "a"\nlauncher = "slurm"\ngpus = 1\n[hosts.slurm]\nqueue = "x"',
            "a: [hosts.slurm]: queue: unknown key",
        ),
        ('[[hosts]]\nname = "a"\nlauncher = "slurm"\ngpus = 9999\nnodes = 9999', "99980001 GPUs in all"),
    ],
)
def test_a_bad_hosts_file_is_one_line(gpus: Path, capsys: pytest.CaptureFixture[str], hosts: str, said: str) -> None:
    (gpus / "hosts.toml").write_text(f"schema_version = 1\n{hosts}\n")
    _, *selection = written(gpus, ["good"])
    for command in ("run-all", "plan"):
        assert run([command, *selection, "--hosts", str(gpus / "hosts.toml")]) == 4
        said_here = capsys.readouterr().err
        assert said in said_here
        assert len(said_here.splitlines()) == 1


@pytest.mark.parametrize("more", [[], ["--spread"]])
def test_a_budget_stops_further_rounds_and_no_first_one(
    gpus: Path, capsys: pytest.CaptureFixture[str], more: list[str]
) -> None:
    words = [*written(gpus, ["good", "checked"], "[32, 64, 96, 128]", proving=True), "--gpus", "all", *more]
    assert run([*words, "--rounds", "3", "--max-minutes", "1e-9"]) == 3
    assert run([*words, "--budget", "0.01s"]) == 0
    said = capsys.readouterr().err
    assert "3 rounds of each row, expected" in said
    assert "the budget is used up: stopped; " in said
    found = records(gpus)
    assert [record["round"] for record in found if record["role"] == "row"] == [0] * 8
    on = {
        role: {record["provenance"]["gpu"] for record in found if record["role"] == role}
        for role in ("row", "ceilings")
    }
    assert on["row"] <= on["ceilings"]
    assert run([*words, "--rounds", "3"]) == 0
    assert len([record for record in records(gpus) if record["role"] == "row"]) == 24


def test_a_plan_says_how_long_it_takes_on_these_hosts(gpus: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (gpus / "hosts.toml").write_text(
        'schema_version = 1\n[[hosts]]\nname = "here"\nlauncher = "local"\ngpus = ["0", "1"]\n[hosts.cost]\n'
        'per_gpu_hour = 2.0\n[[hosts]]\nname = "cluster"\nlauncher = "slurm"\ngpus = 4\nnodes = 2\n'
        '[[hosts]]\nname = "far"\nlauncher = "ssh"\nssh = { address = "far" }\n'
    )
    words = [word for word in written(gpus, ["good"])[1:] if word not in ("--launcher", "local")]
    assert run(["plan", *words, "--hosts", str(gpus / "hosts.toml")]) == 0
    out = capsys.readouterr().out
    assert "on 11 GPUs of 3 hosts: " in out
    assert "GPU-hours of work" in out
    assert "cost, all GPUs held until the end: " in out
    assert "far says how many GPUs it has only when it is reached: counted as 1" in out
    assert not (gpus / "results").exists()


def test_what_hosts_are_called_does_not_change_what_they_cost(gpus: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = [word for word in written(gpus, ["good"])[1:] if word not in ("--launcher", "local")]
    lab = 'name = "lab"\nlauncher = "slurm"\ngpus = 1\nnodes = 2\n[hosts.cost]\nper_gpu_hour = 100000\n'
    paid = []
    for second in ("other", "lab-own", "lab-0", "lab-1"):
        hosts = f'schema_version = 1\n[[hosts]]\n{lab}[[hosts]]\nname = "{second}"\nlauncher = "slurm"\ngpus = 1\n'
        (gpus / "hosts.toml").write_text(hosts)
        assert run(["plan", *words, "--hosts", str(gpus / "hosts.toml")]) == 0
        (line,) = [line for line in capsys.readouterr().out.splitlines() if line.startswith("cost, all GPUs held")]
        paid.append(float(line.rpartition(" ")[2]))
    assert paid[0] > 0
    assert paid == [paid[0]] * 4


HERE, SSH = ('launcher = "local"', 'launcher = "ssh"\nssh = { address = "far" }')
SLURM = 'launcher = "slurm"\ngpus = 1\nslurm = { container = "%s" }'


@pytest.mark.parametrize(
    ("entries", "launchers", "says"),
    [
        ([HERE], "local", "plain processes"),
        ([SSH], "docker", "Docker (of these hosts)"),
        ([SLURM % "local"], "local", "plain processes"),
        ([SLURM % "pyxis"], "pyxis", "pyxis"),
        ([SSH, HERE], "docker, local", "Docker (of other hosts) and plain processes"),
        ([SSH, SLURM % "docker"], "docker", "Docker (of these hosts)"),
    ],
)
def test_a_hosts_file_says_how_cells_run(
    gpus: Path, capsys: pytest.CaptureFixture[str], entries: list[str], launchers: str, says: str
) -> None:
    hosts = "".join(f'[[hosts]]\nname = "h{number}"\n{entry}\n' for number, entry in enumerate(entries))
    (gpus / "hosts.toml").write_text(f"schema_version = 1\n{hosts}")
    words = [word for word in written(gpus, ["good"])[1:] if word not in ("--launcher", "local")]
    words = ["plan", *words, "--hosts", str(gpus / "hosts.toml")]
    assert run([*words, "--format", "json"]) == 0
    said = json.loads(capsys.readouterr().out)
    assert (said["launcher"], f" in {says}: " in said["reason"]) == (launchers, True)
    assert run([*words, "--launcher", "docker"]) == (0 if launchers == "docker" else 4)
    if launchers != "docker":
        err = capsys.readouterr().err
        assert err.startswith("orchestrator: --launcher docker: cells of the host h")
        assert err.count("\n") == 1


def test_the_run_and_its_records_say_how_cells_ran(gpus: Path) -> None:
    (gpus / "hosts.toml").write_text(f'schema_version = 1\n[[hosts]]\nname = "here"\n{HERE}\n')
    assert (
        run([*written(gpus, ["good"])[:-4], "--results", str(gpus / "results"), "--hosts", str(gpus / "hosts.toml")])
        == 0
    )
    (folder,) = (gpus / "results").iterdir()
    header = json.loads((folder / "run.json").read_text())
    assert (header["launcher"], " in plain processes: " in header["note"]) == ("local", True)
    assert {record["provenance"]["launcher"] for record in records(gpus)} == {"local"}


def test_a_run_says_what_a_host_that_can_run_a_stack_has_of_it(gpus: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The first host has no image, the second runs everything; what run.json says outlives a run without that host."""
    entry = '[[hosts]]\nname = "{}"\nlauncher = "{}"\n'
    (gpus / "hosts.toml").write_text(
        f"schema_version = 1\n{entry.format('here', 'local')}{entry.format('far', 'ssh')}ssh = {{ address = 'far' }}\n"
    )
    far, ready_on = HostEntry(name="far", launcher="local", gpus=("1",)), opening.ready_on
    opened = opening.open_here
    monkeypatch.setattr(
        opening, "opener_of", lambda one: lambda _, given: opened(far if one.name == "far" else here, given)
    )
    here, lacking = HostEntry(name="here", launcher="local", gpus=("0",)), {0}

    def ready(launcher: Any, gpu: Any, choice: Any, say: Any) -> Any:
        if gpu.index in lacking:
            return Ready(refused={"fake": Refusal("infrastructure", "its image is not on this host")})
        return ready_on(launcher, gpu, choice, say)

    monkeypatch.setattr(opening, "ready_on", ready)
    words = [word for word in written(gpus, ["good"]) if word not in ("--launcher", "local")]
    words += ["--hosts", str(gpus / "hosts.toml")]
    assert run(words) == 0
    (folder,) = (gpus / "results").iterdir()
    (said,) = json.loads((folder / "run.json").read_text())["stacks"].values()
    assert said["fingerprint"]
    assert [path.name for path in (folder / "stacks").iterdir()] == ["fake.lock.json"]
    lacking.add(1)
    run([*words, "--rerun", "--resume", folder.name])
    assert json.loads((folder / "run.json").read_text())["stacks"] == {"fake": said}


def with_devices(words: list[str], devices: str) -> list[str]:
    """The same command of a suite with that axis."""
    path = Path(words[words.index("--suite") + 1])
    path.write_text(path.read_text().replace("sequence = [64]", f"sequence = [64]\ndevices = {devices}"))
    return words


@pytest.mark.parametrize(
    ("host", "most"),
    [
        ('launcher = "local"', 3),
        ('launcher = "slurm"\ngpus = 4\nnodes = 2', 4),
        ('launcher = "slurm"\ngpus = 4\nslurm = { cells = "array" }', 1),
        ('launcher = "ssh"\nssh = { address = "far" }', None),
    ],
)
def test_a_plan_says_which_cells_take_more_gpus_than_a_host_has(
    gpus: Path, capsys: pytest.CaptureFixture[str], host: str, most: int | None
) -> None:
    (gpus / "hosts.toml").write_text(f'schema_version = 1\n[[hosts]]\nname = "a"\n{host}\n')
    words = with_devices(written(gpus, ["good"], "[64]")[1:], "[1, 2, 4, 8]")
    words = words if "local" in host else [word for word in words if word not in ("--launcher", "local")]
    assert run(["plan", *words, "--hosts", str(gpus / "hosts.toml")]) == 0
    said = [line for line in capsys.readouterr().out.splitlines() if "will be skipped" in line]
    wide = [] if most is None else [devices for devices in (2, 4, 8) if devices > most]
    assert [line.partition(": ")[0] for line in said] == [f"cells of {n} GPUs will be skipped" for n in wide]


def test_a_cell_of_several_gpus_has_nothing_to_run_beside(gpus: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["side-by-side", *with_devices(written(gpus, ["good"], "[64]")[1:], "[1, 2]"), "--gpus", "all"]
    assert run([*words, "--rounds", "1"]) == 2
    said = capsys.readouterr()
    assert "cells of several GPUs are left out" in said.out + said.err
    assert {record["workload"]["devices"] for record in records(gpus)} == {1}
    path = Path(words[words.index("--suite") + 1])
    path.write_text(path.read_text().replace("devices = [1, 2]", "devices = 2"))
    assert run(words) == 4
    assert "each of its cells takes several GPUs" in capsys.readouterr().err


def test_what_cells_at_once_do_to_each_other_is_measured_and_kept_to(
    gpus: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    put_gpus(monkeypatch.setattr, 2)
    words = ["side-by-side", *written(gpus, ["good"], "[64]")[1:]]
    assert run(words) == 4
    assert run([*words, "--gpus", "0"]) == 4
    assert "needs 2" in capsys.readouterr().err
    assert run([*words, "--gpus", "all", "--rounds", "5"]) == 0, "each sample of the fake bench takes the same time"
    (line, *_) = [line for line in capsys.readouterr().out.splitlines() if "good@fake" in line]
    assert "same, 1.000 times as fast" in line
    assert len(records(gpus)) == 2 + 2 * 2 * 5
    (folder,) = (gpus / "results").iterdir()
    path = folder / side_by_side.FILE
    finding = json.loads(path.read_text())
    assert [one["verdict"]["rounds"] for one in finding["found"]] == [[5, 5], [5, 5]]
    key = tuple(finding["found"][0]["key"])
    assert side_by_side.findings(gpus / "results") == {key: False}
    finding["found"][1]["verdict"]["outcome"] = "slower"
    path.write_text(json.dumps(finding))
    assert side_by_side.findings(gpus / "results") == {key: True}
    policy = many.policy_of(RunOptions(results=gpus / "results"), {})
    rows = [cell for cell in Run.open(folder).plan.cells if cell.role == "row"]
    assert [policy.alone(cell) for cell in rows] == [True]
    assert run(["bundle", folder.name, "--results", str(gpus / "results"), "-o", str(gpus / "sent.tar.gz")]) == 0
    shutil.rmtree(folder)
    assert run(["import", str(gpus / "sent.tar.gz"), "--results", str(gpus / "results")]) == 0
    (folder,) = (gpus / "results").iterdir()
    assert json.loads((folder / side_by_side.FILE).read_text()) == finding
    assert side_by_side.findings(gpus / "results") == {}, "it is of another host"


def test_a_trial_in_which_cells_fail_compares_each_gpu_with_itself_and_says_so(
    gpus: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    put_gpus(monkeypatch.setattr, 2)
    words = ["side-by-side", *written(gpus, ["by_gpu", "crashes_on_0"], "[32, 64]")[1:], "--gpus", "all"]
    assert run([*words, "--rounds", "5"]) == 1
    lines = capsys.readouterr().out.splitlines()
    for sequence in (32, 64):
        mine = [line for line in lines if f"tiny, batch 2, sequence {sequence}, " in line]
        assert [line for line in mine if "same, 1.000 times as fast" in line and "5 rounds against 5" in line] == [
            line for line in mine if "crashes_on_0" not in line or "GPU-00000000" not in line
        ]
        (failed,) = [line for line in mine if "crashes_on_0" in line and "GPU-00000000" in line]
        assert len(mine) == 2 * 2
        assert "10 rounds crashed: " in failed
        assert "exit code 3" in failed
    (folder,) = (gpus / "results").iterdir()
    finding = json.loads((folder / side_by_side.FILE).read_text())
    assert finding["gpus"] == 2
    assert len(finding["found"]) == 2 * (2 + 1)


@pytest.mark.parametrize("more", ["--budget=10s", "--spread", "--exclusive-host", "--gpu=0", "--hosts=hosts.toml"])
def test_a_trial_refuses_what_says_nothing_of_it(gpus: Path, capsys: pytest.CaptureFixture[str], more: str) -> None:
    assert run(["side-by-side", *written(gpus, ["good"], "64")[1:], "--gpus", "all", more]) == 4
    (line,) = capsys.readouterr().err.splitlines()
    assert more.partition("=")[0] in line
    assert not (gpus / "results").exists()


@pytest.mark.parametrize("finished", [False, True])
def test_nothing_goes_on_with_a_trial(
    gpus: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], *, finished: bool
) -> None:
    done = crews.Crew._done

    def interrupting(self: Any, number: int, turn: Any, record: Any) -> None:
        done(self, number, turn, record)
        if turn.cell.role == "row":
            os.kill(os.getpid(), signal.SIGINT)

    put_gpus(monkeypatch.setattr, 2)
    words = [*written(gpus, ["good"], "64")[1:], "--gpus", "all"]
    with monkeypatch.context() as patched:
        patched.setattr(crews.Crew, "_done", done if finished else interrupting)
        assert run(["side-by-side", *words, "--rounds", "1"]) == (2 if finished else 130)
    said = capsys.readouterr()
    assert finished or "; the same command starts again\n" in said.out + said.err
    (trial,) = (gpus / "results").iterdir()
    before = sorted(path.name for path in (trial / "records").iterdir())
    assert run(["run-all", *words, "--rounds", "4", "--resume", trial.name]) == 4
    assert "is one of side-by-side, which nothing goes on with" in capsys.readouterr().err
    monkeypatch.setattr(budget, "MOST_BUDGETED", 2)
    for more in (["--rounds", "4"], ["--rounds", "4", "--rerun"], ["--budget", "5h", "--fresh"], ["--budget", "5h"]):
        assert run(["run-all", *words, *more]) == 0
        said = capsys.readouterr()
        # One that was begun in the same second has its name with a number behind it.
        assert trial.name not in said.err.replace(f"{trial.name}-", "")
        assert "as the unfinished run began" not in said.err
    assert sorted(path.name for path in (trial / "records").iterdir()) == before


def test_trials_run_alone_then_beside_then_the_other_way_round() -> None:
    cell = Cell(stack="s", method="eager", device="cuda", workload=workload("forward"), timeout_s=1.0, rounds=8)
    schedule, seen = side_by_side.Trials(Plan(suite="t", cells=(cell,)), 2, 2, lambda _cell: 10.0), []
    left = []
    while True:
        taken = [(number, piece) for number in (0, 1) if isinstance(piece := schedule.take(number), Piece)]
        if not taken:
            break
        seen.append([(number, piece.round) for number, piece in taken])
        left.append(schedule.left_s)
        for number, _ in taken:
            schedule.ended(number)
    assert seen == [[(0, 0)], [(1, 1)], [(0, 2), (1, 3)], [(0, 6), (1, 7)], [(1, 5)], [(0, 4)]]
    assert schedule.waiting == schedule.left_s == 0
    assert left == [2 * 10.0 * steps for steps in (6, 5, 4, 3, 2, 1)]  # two workers, of which one may wait
    plan, seats = Plan(suite="t", cells=(cell,)), [Seat("here"), Seat("here")]
    policy = Policy(lambda _cell: 10.0)
    found = forecast(plan, seats, policy, side_by_side.Trials(plan, 2, 2, policy.seconds))
    assert (found.makespan_s, found.busy_s) == (60.0, 80.0)


def test_few_rounds_are_worked_on_at_once_while_the_processes_of_all_run(
    gpus: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With one hand for three GPUs: their cells' processes run side by side, what this process does does not."""
    monkeypatch.setattr(crews, "HANDS", 1)
    monkeypatch.setattr(crews, "SWITCH_EACH_S", 0.01)
    working, running, most, lock = set[int](), set[int](), {"working": 0, "running": 0}, threading.Lock()
    interval, intervals = sys.getswitchinterval(), set[float]()
    run_round, away = crews.run_round, crews.Crew._away

    def counted(session: Any, turn: Any) -> Any:
        with lock:
            working.add(threading.get_ident())
            most["working"] = max(most["working"], len(working))
        intervals.add(round(sys.getswitchinterval(), 4))
        record = run_round(session, turn)
        with lock:
            working.discard(threading.get_ident())
        return record

    @contextlib.contextmanager
    def going(crew: Any) -> Any:
        here = threading.get_ident()
        with lock:
            working.discard(here)
            running.add(here)
            most["running"] = max(most["running"], len(running))
        with away(crew):
            yield
            with lock:
                running.discard(here)
        with lock:
            working.add(here)
            most["working"] = max(most["working"], len(working))

    monkeypatch.setattr(crews, "run_round", counted)
    monkeypatch.setattr(crews.Crew, "_away", going)
    assert run([*written(gpus, ["slow"]), "--gpus", "all"]) == 0
    assert most == {"working": 1, "running": 3}
    assert intervals == {0.03}, "of three workers each asks for the interpreter every 30 ms"
    assert sys.getswitchinterval() == interval
