from __future__ import annotations

import errno
import fcntl
import hashlib
import json
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from fake_run import FAKE_BENCH, SOURCE, make_job, make_stack, write_stack, write_suite
from places import ROOT
from processes import gone

from orchestrator.base.paths import BENCH
from orchestrator.build.ready import Ready
from orchestrator.cli import run
from orchestrator.launchers import Prepared
from orchestrator.launchers import work_area as workfolders
from orchestrator.measure.supervise import blank_record
from orchestrator.plan.cell import Plan
from orchestrator.plan.workload import Workload
from orchestrator.records.record import Refusal
from orchestrator.records.store import Run
from orchestrator.report.page import render_page
from orchestrator.runner import run_all as pipeline
from orchestrator.runner.order import interleave
from orchestrator.runner.outcomes import Outcomes
from orchestrator.runner.progress import Progress


def go(place: Path, *more: str, methods: list[str] | None = None, **suite: Any) -> int:
    if not (place / "mine.toml").exists():
        write_suite(place, **suite)
    if not (place / "stacks").exists():
        write_stack(place, methods or ["good"])
    return run(
        [
            *("run-all", "--suite", str(place / "mine.toml"), "--stacks", str(place / "stacks"), "--stack", "fake"),
            *("--launcher", "local", "--results", str(place / "results"), *more),
        ]
    )


def records(place: Path, number: int = -1) -> dict[str, Any]:
    folder = sorted((place / "results").iterdir(), key=lambda path: path.stat().st_mtime_ns)[number]
    found = [json.loads(path.read_text()) for path in (folder / "records").iterdir()]
    return {f"{record['method']}-{record['round']}": record for record in found}


def headers(place: Path) -> list[dict[str, Any]]:
    return [json.loads((folder / "run.json").read_text()) for folder in sorted((place / "results").iterdir())]


def test_a_run_from_end_to_end(
    place: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "400")  # no more than 100 are used
    assert go(place) == 0
    out, err = capsys.readouterr()
    assert err.startswith("suite mine on the CPU, stacks fake, in plain processes")
    assert "[2/2] forward good@fake: 0.1000 s; took" in err
    assert "that was the last" in err
    assert err.splitlines()[-1].startswith("2 records in ")
    (folder,) = (place / "results").iterdir()
    assert re.search(r"^good@fake +0\.1000 s  \u2013 +none; probe unchecked +ok", out, re.MULTILINE)
    assert "only good has a speed, and there is nothing to compare it with: eager was" in " ".join(out.split())
    *shown, tables, page, proof = out.splitlines()
    assert max(map(len, shown)) <= 100
    for line in (tables, page, proof):
        words = shlex.split(line.rpartition(": ")[2])
        assert str(folder) in words
        assert run(words[1:]) == 0, "what it says can be pasted"
    found = records(place)
    assert {record["status"] for record in found.values()} == {"ok"}
    (header,) = headers(place)
    assert header["finished_utc"] is not None
    assert header["stacks"]["fake"]["fingerprint"] == "0123456789abcdef"
    assert str(place) not in json.dumps(header)
    assert list((place / "state" / "work").iterdir()) == []


def test_every_cell_is_run_whatever_becomes_of_the_others(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert go(place, methods=["killed", "good", "not_able", "hang"], timeout_s=4.5) == 1
    found = {name.partition("-")[0]: record["status"] for name, record in records(place).items()}
    assert found == {"torch": "ok", "killed": "crashed", "good": "ok", "not_able": "unsupported", "hang": "timeout"}
    assert "timeout (not done after 4.5 s" in capsys.readouterr().err


@pytest.mark.parametrize(
    "redirect",
    [
        "| head -n 1",
        ">&-",
        "> /dev/full",
        "<&- >&- 2>&-",
        "2>&1 | true",
        "2>&-",
        "2> /dev/full",
        "2>&1 >&- | head -n 1",
    ],
)
@pytest.mark.parametrize("encoding", ["utf-8", "ascii"])
def test_a_run_goes_on_to_its_end_whoever_reads_its_output(tmp_path: Path, redirect: str, encoding: str) -> None:
    suite, stacks = write_suite(tmp_path), write_stack(tmp_path, ["good"])
    words = [sys.executable, str(FAKE_BENCH.parents[1] / "fake_run.py"), str(tmp_path / "state"), "run-all"]
    words += ["--suite", str(suite), "--stacks", str(stacks), "--stack", "fake", "--launcher", "local"]
    line = f"{shlex.join([*words, '--results', str(tmp_path / 'results')])} {redirect}"
    variables = {**os.environ, "PYTHONPATH": str(ROOT), "PYTHONIOENCODING": encoding}
    done = subprocess.run(["bash", "-o", "pipefail", "-c", line], env=variables, capture_output=True, check=False)
    assert done.returncode == 0
    assert b"Traceback" not in done.stderr
    assert b"rror" not in done.stderr
    said = done.stderr.decode().splitlines()
    assert not said if "2>" in redirect else said[0].startswith("suite mine on the CPU")
    lost = [line for line in said if line.startswith("orchestrator: the tables could not be shown (No space left")]
    assert len(lost) == (redirect == "> /dev/full")
    assert {record["status"] for record in records(tmp_path).values()} == {"ok"}
    assert headers(tmp_path)[0]["finished_utc"] is not None


def test_a_crash_is_named_by_what_its_log_says_last_wherever_it_is_shown(
    place: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    results = str(place / "results")
    assert go(place, methods=["raises"]) == 3
    for arguments in ([], ["table"], ["explain", "forward raises@fake"], ["table", "--format", "latex"]):
        if arguments:
            run([*arguments, "--results", results])
        lines = [line for line in capsys.readouterr().out.replace("{}", "").splitlines() if "crashed" in line]
        assert any("ModuleNotFoundError: No module named " in line[:140] for line in lines), lines
    (folder,) = (place / "results").iterdir()
    (reason,) = re.findall(r'"status":"crashed","reason":"(.*?)"', render_page([folder]))
    assert reason.startswith("ModuleNotFoundError: No module named 'nowhere'")


def test_what_is_incorrect_needs_no_further_rounds(place: Path) -> None:
    assert go(place, methods=["wrong", "good"], rounds=3) == 1
    found = {name: (record["status"], record["reason"]) for name, record in records(place).items()}
    why = "round 1 was incorrect, and no other round would make it right"
    assert [found[f"wrong-{n}"] for n in range(3)] == [("incorrect", "row 3"), ("skipped", why), ("skipped", why)]
    assert {found[f"good-{n}"][0] for n in range(3)} == {"ok"}
    page = (files_of(place).parent / "tables.md").read_text()
    assert re.search(r"`wrong@fake`.*\*\*incorrect\*\*.*row 3", page)
    assert go(place, "--rerun") == 1
    assert records(place)["wrong-0"]["status"] == "incorrect", "all are run again, the first one too"


def test_one_round_shows_what_a_method_does_that_is_incorrect_on_the_probe(place: Path) -> None:
    assert go(place, proving=True, methods=["wrong_on_the_probe"], rounds=3) == 1
    (folder,) = (place / "results").iterdir()
    rows = [json.loads(path.read_text()) for path in (folder / "records").iterdir()]
    rows = sorted((row["round"], row["status"]) for row in rows if row["role"] == "row")
    assert rows == [(0, "ok"), (1, "skipped"), (2, "skipped")]


def test_a_stack_without_torch_is_found_before_its_first_cell(
    place: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(workfolders, "BENCH", BENCH)  # the real one, on this Python, which has no torch
    assert go(place, methods=["eager"]) == 3
    out = capsys.readouterr().err
    assert f"fake: cannot run: there is no torch in {sys.executable}\n" in out
    assert {record["status"] for record in records(place).values()} == {"unsupported"}
    assert {record["provenance"] for record in records(place).values()} == {None}, "something was started"


def test_nothing_measured_is_exit_3(place: Path) -> None:
    assert go(place, methods=["not_able"]) == 3


def test_a_finished_run_is_followed_by_another_and_rerun_repeats_it(place: Path) -> None:
    assert go(place) == 0
    before = records(place)["good-0"]["samples"][0]["begin_ns"]
    assert go(place, "--rerun") == 0
    assert len(headers(place)) == 1
    assert records(place)["good-0"]["samples"][0]["begin_ns"] > before
    assert headers(place)[0]["finished_utc"] is not None
    assert go(place) == 0
    assert len(headers(place)) == 2


def test_an_unfinished_run_goes_on(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert go(place, "--max-minutes", "0.00001") == 3  # time is over before the first cell
    assert "minutes are over" in capsys.readouterr().err
    assert headers(place)[0]["finished_utc"] is None
    assert go(place) == 0
    assert "going on with run" in capsys.readouterr().err
    assert len(headers(place)) == 1
    assert headers(place)[0]["finished_utc"] is not None


def test_run_json_says_finished_last(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def killed(run: Run) -> None:
        if run.finished:
            raise KeyboardInterrupt
        write(run)

    write = Run._write
    monkeypatch.setattr(Run, "_write", killed)
    go(place)
    (run_folder,) = (place / "results").iterdir()
    tables = json.loads((run_folder / "tables.json").read_text())
    assert tables["run"]["finished_utc"] is not None
    assert headers(place)[0]["finished_utc"] is None
    monkeypatch.undo()


def test_what_a_killed_run_left_half_written_is_removed(place: Path) -> None:
    go(place, "--max-minutes", "0.00001")
    (run_folder,) = (place / "results").iterdir()
    left = [run_folder / ".tables.csv.841.tmp", run_folder / "records" / ".x.json.7.tmp"]
    for path in left:
        path.write_bytes(b"{")
    assert go(place) == 0
    assert not any(path.exists() for path in left)


def test_folders_nested_too_deep_in_what_a_killed_run_left_end_no_run(
    place: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    inner = place / "state" / "work" / "1-abandoned"
    inner.mkdir(parents=True)
    os.utime(inner, (0, 0))
    here = os.open(inner, os.O_RDONLY)
    for _ in range(3000):
        os.mkdir("d", dir_fd=here)
        outer, here = here, os.open("d", os.O_RDONLY, dir_fd=here)
        os.close(outer)
    os.close(here)
    os.utime(inner, (0, 0))
    assert go(place) == 0
    assert "removed what a killed run left behind: 1 folder" in capsys.readouterr().err
    assert not inner.exists()


@pytest.mark.parametrize("what", ["container", "process", "folder"])
def test_a_sweep_that_fails_is_a_warning(
    place: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, what: str
) -> None:
    def fail(*_: Any, **__: Any) -> int:
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    name = "_sweep_containers" if what == "container" else {"process": "sweep_processes"}.get(what, "sweep_folders")
    monkeypatch.setattr(pipeline, name, fail)
    assert go(place) == 0
    assert f"warning: a killed run may have left a {what} behind, which cannot be removed: " in capsys.readouterr().err
    assert {record["status"] for record in records(place).values()} == {"ok"}


def test_a_record_that_cannot_be_read_is_missing(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert go(place, "--max-minutes", "0.00001") == 3
    assert go(place) == 0
    (run_folder,) = (place / "results").iterdir()
    header = json.loads((run_folder / "run.json").read_text())
    (run_folder / "run.json").write_text(json.dumps({**header, "finished_utc": None}))
    bad = next((run_folder / "records").glob("forward-*"))
    whole = json.loads(bad.read_text())
    bad.write_bytes(bad.read_bytes()[:100])
    capsys.readouterr()
    assert go(place) == 0
    out = capsys.readouterr().err
    assert f"records/{bad.name}: not valid JSON: it counts as missing" in out
    assert out.count(bad.name) == 1
    assert "1 of 2 rounds already have results" in out
    assert json.loads(bad.read_text())["cell_id"] == whole["cell_id"]


def test_another_plan_or_fresh_starts_another_run_and_says_why(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    go(place, "--max-minutes", "0.00001")
    assert go(place, "--rounds", "2") == 0
    assert "starting another run: the unfinished run" in capsys.readouterr().err
    assert len(headers(place)) == 2
    assert go(place, "--fresh") == 0
    assert len(headers(place)) == 3


def test_a_stack_without_its_python_keeps_no_other_from_running_and_is_tried_again(
    place: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_stack(place, ["good"])
    write_stack(place / "more", ["good"], python=str(place / "later" / "python"), name="late")
    both = ("--stacks", str(place / "more" / "stacks"), "--stack", "late")
    assert go(place, *both) == 1
    found = {r["stack"]: r for r in records(place).values() if r["workload"]["benchmark"] == "forward"}
    assert found.keys() <= {"fake", "late"}
    assert "late: cannot run" in capsys.readouterr().err
    assert headers(place)[0]["finished_utc"] is None
    (place / "later").mkdir()
    (place / "later" / "python").symlink_to(sys.executable)
    assert go(place, *both) == 0
    out = capsys.readouterr().err
    assert "2 of 4 rounds already have results" in out
    assert headers(place)[0]["finished_utc"] is not None
    folder = next((place / "results").iterdir())
    assert len(list((folder / "records").iterdir())) == 4


def test_the_variables_that_a_stack_sets_are_part_of_its_identity() -> None:
    def identity(**variables: str) -> str:
        stack = make_stack().model_copy(update={"environment": variables})
        return Ready(prepared={"fake": Prepared(stack, "python3", "f" * 16)}).environment("fake")

    assert identity() == "f" * 16
    assert len({identity(), identity(A="1"), identity(A="2")}) == 3


def test_rounds_are_interleaved_and_what_proves_rows_goes_first() -> None:
    cells = tuple(make_job(name).cell.model_copy(update={"rounds": rounds}) for name, rounds in
                  (("torch", 1), ("a", 3), ("b", 3)))  # fmt: skip
    cells = (cells[0].model_copy(update={"role": "ceilings"}), *cells[1:])
    order = [(cell.method, number) for cell, number in interleave(Plan(suite="x", cells=cells))]
    assert order == [("torch", 0), ("a", 0), ("b", 0), ("b", 1), ("a", 1), ("b", 2), ("a", 2)]


def outcome(tmp_path: Path, *statuses: str) -> int:
    jobs = [replace(make_job("x"), round=number) for number in range(len(statuses))]
    made = [blank_record(job, Refusal(status, "")) for job, status in zip(jobs, statuses, strict=True)]  # type: ignore[arg-type]
    return Outcomes(Run.create(tmp_path, Plan(suite="x", cells=()), SOURCE), made).exit_code


@pytest.mark.parametrize(
    ("statuses", "code"),
    [
        (("ok", "unsupported", "skipped", "out_of_memory"), 0),
        (("ok", "crashed"), 1),
        (("ok", "timeout"), 1),
        (("ok", "infrastructure"), 1),
        (("ok", "incorrect"), 1),
        (("incorrect",), 1),
        (("crashed", "skipped"), 3),
        (("unsupported",), 3),
    ],
)
def test_exit_codes(tmp_path: Path, statuses: tuple[str, ...], code: int) -> None:
    assert outcome(tmp_path, *statuses) == code


def start(place: Path, method: str, *more: str) -> subprocess.Popen[str]:
    write_suite(place)
    write_stack(place, ["good", "hang", "slow"])
    command = [
        *(sys.executable, str(ROOT / "tests" / "support" / "fake_run.py"), str(place / "state"), "run-all", "--suite"),
        *(str(place / "mine.toml"), "--stacks", str(place / "stacks"), "--stack", "fake", "--method", method),
        *("--launcher", "local", "--results", str(place / "results"), *more),
    ]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    process = subprocess.Popen(
        command, cwd=ROOT, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )
    assert process.stdout is not None
    for line in process.stdout:
        if f"{method}@fake: first call" in line:
            return process
    raise AssertionError("the cell never started")


def processes_in(place: Path) -> list[str]:
    found = []
    for path in Path("/proc").iterdir():
        if path.name.isdigit():
            try:
                if str(place).encode() in (path / "cmdline").read_bytes():
                    found.append(path.name)
            except OSError:
                continue
    return found


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_signal_keeps_what_is_finished(place: Path, number: int) -> None:
    process = start(place, "hang")
    process.send_signal(number)
    process.send_signal(number)  # as a closed terminal and `timeout` do: one stop
    out, _ = process.communicate(timeout=30)
    assert process.returncode == 128 + number
    assert "stopped; 1 record kept in" in out
    assert out.rstrip().endswith("; the same command goes on from there")
    assert "Traceback" not in out
    assert processes_in(place) == []
    assert list((place / "state" / "work").iterdir()) == []
    assert (next((place / "results").iterdir()) / "tables.md").exists()


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_after_a_signal_between_two_rounds_no_other_begins(
    place: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], number: int
) -> None:
    real = Progress.end

    def end(progress: Progress, *arguments: Any) -> None:
        real(progress, *arguments)
        os.kill(os.getpid(), number)

    monkeypatch.setattr(Progress, "end", end)
    assert go(place, methods=["good", "slow"]) == 128 + number
    out = capsys.readouterr().err
    assert "[2/3]" not in out
    assert "stopped; 1 record kept in" in out
    assert len(records(place)) == 1


@pytest.mark.parametrize(
    ("option", "says"),
    [
        ("--fresh", "the same command without --fresh goes on from there"),
        ("--rerun", "the same command runs all of its rounds again"),
    ],
)
def test_what_is_said_of_going_on_is_true_of_the_options(place: Path, option: str, says: str) -> None:
    process = start(place, "hang", option)
    process.send_signal(signal.SIGINT)
    out, _ = process.communicate(timeout=30)
    assert out.rstrip().endswith(says)


def test_a_run_that_was_begun_fresh_goes_on_without_it(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert go(place, "--fresh", "--max-minutes", "0.00001") == 3
    assert "the same command without --fresh goes on from there" in capsys.readouterr().err
    assert go(place) == 0
    assert len(headers(place)) == 1


def imported(place: Path, name: str, **changes: Any) -> None:
    """Somebody's unfinished run of the same plan, sent in a bundle, with a round that never was."""
    assert go(place) == 0
    (folder,) = (place / "results").iterdir()
    header = json.loads((folder / "run.json").read_text())
    (folder / "run.json").write_text(json.dumps({**header, "run_id": name, "finished_utc": None, **changes}))
    folder.rename(place / name)
    assert run(["bundle", str(place / name), "-o", str(place / "sent.tar.gz")]) == 0
    shutil.rmtree(place / name)
    assert run(["import", str(place / "sent.tar.gz"), "--results", str(place / "results")]) == 0


@pytest.mark.parametrize("claims", [{}, {"imported_utc": None, "started_utc": "2999-12-31T23:59:59Z"}])
def test_an_imported_run_of_the_future_is_not_gone_on_with_unless_asked(
    place: Path, capsys: pytest.CaptureFixture[str], claims: dict[str, Any]
) -> None:
    name = "29991231-235959-mine"
    imported(place, name, **claims)
    capsys.readouterr()
    assert go(place, "--max-minutes", "0.00001") == 3
    assert f"the unfinished run {name} was imported (--resume {name} goes on with it)" in capsys.readouterr().err
    assert go(place) == 0, "one's own is gone on with, though the imported one's name is later"
    out = capsys.readouterr().err
    assert "already have results" not in out
    assert len(headers(place)) == 2
    mine = min(folder.name for folder in (place / "results").iterdir())
    assert run(["table", "--format", "json", "--results", str(place / "results")]) == 0
    assert json.loads(capsys.readouterr().out)["run"]["run_id"] == mine
    assert go(place, "--resume", name) == 0
    assert "2 of 2 rounds already have results" in capsys.readouterr().err
    assert go(place, "--resume", name, "--rounds", "2") == 4
    assert "has another plan" in capsys.readouterr().err


@pytest.mark.parametrize("content", ["", "{", "[]"])
def test_a_bad_run_keeps_none_from_running(place: Path, capsys: pytest.CaptureFixture[str], content: str) -> None:
    bad = place / "results" / "29990101-000000-tiny"
    bad.mkdir(parents=True)
    (bad / "run.json").write_text(content)
    assert go(place) == 0
    assert capsys.readouterr().err.count("29990101-000000-tiny/run.json: ") == 1


@pytest.mark.parametrize("number", [errno.EBADF, errno.ENOLCK, errno.ENOSYS])
def test_results_without_locks_go_on_and_it_is_said_once(
    place: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    def flock(_descriptor: int, _operation: int) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(fcntl, "flock", flock)
    monkeypatch.setattr("orchestrator.base.lockfile._without", set())
    assert go(place, "--max-minutes", "0.00001") == 3
    assert capsys.readouterr().err.count("files cannot be locked here") == 1
    assert go(place) == 0
    assert len(headers(place)) == 1


def test_a_hang_up_that_nohup_ignores_ends_nothing(place: Path) -> None:
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        process = start(place, "slow")
    finally:
        signal.signal(signal.SIGHUP, before)
    process.send_signal(signal.SIGHUP)
    out, _ = process.communicate(timeout=60)
    assert process.returncode == 0, out


def test_kill_9_takes_the_cell_along(place: Path) -> None:
    process = start(place, "hang")
    process.kill()
    process.communicate(timeout=30)
    for _ in range(50):
        if not processes_in(place):
            break
        time.sleep(0.1)
    assert processes_in(place) == []
    assert workfolders.sweep_folders(place / "state") == 1


def test_the_next_run_ends_what_a_killed_ones_cell_had_started(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    process = start(place, "hang")
    for _ in range(100):
        if found := [pid for path in (place / "state").rglob("grandchild") if (pid := path.read_text())]:
            break
        time.sleep(0.1)
    process.kill()
    process.communicate(timeout=30)
    (grandchild,) = map(int, found)
    os.kill(grandchild, 0)  # nobody's child now, and alive
    assert go(place, "--method", "good") == 0
    assert "removed what a killed run left behind: 1 process, 1 folder" in capsys.readouterr().err
    assert gone(grandchild)


def test_results_that_cannot_be_written_are_one_clear_line(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (place / "results").write_text("")
    assert go(place) == 4
    assert len(capsys.readouterr().err.strip().splitlines()) == 1


def test_a_stack_that_the_host_cannot_run_is_skipped(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("orchestrator.build.ready.why_not", lambda *_: "this stack needs a GPU, and this host has none")
    assert go(place) == 3
    found = records(place)
    assert {record["status"] for record in found.values()} == {"skipped"}
    assert found["good-0"]["bench_source"] != SOURCE


def test_a_shared_cache_outlives_the_cell(place: Path) -> None:
    assert go(place, "--cache", "shared", methods=["looks_around"]) == 0
    told = records(place)["looks_around-0"]["detail"]
    assert Path(told["cache"]).is_relative_to(place / "state" / "cache")
    assert (Path(told["cache"]) / "kept").exists()


def files_of(place: Path) -> Path:
    return next((place / "results").iterdir()) / "references"


def by_role(place: Path) -> dict[str, dict[str, Any]]:
    folder = next((place / "results").iterdir())
    found = [json.loads(path.read_text()) for path in (folder / "records").iterdir()]
    return {record["role"]: record for record in found}


def test_references_and_probes_go_before_the_rows(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert go(place, proving=True, methods=["tells_spec"]) == 0
    out = capsys.readouterr().err
    titles = [line.partition(": started")[0] for line in out.splitlines() if ": started" in line]
    assert [title.partition("] ")[2].partition(" (")[0] for title in titles] == [
        "ceilings torch@fake",
        *["reference reference@fake"] * 2,
        "probe of forward tells_spec@fake",
        "forward tells_spec@fake",
    ]
    found = by_role(place)
    assert found["probe"]["workload"]["model"]["name"] == "probe"
    row = found["row"]
    spec = row["detail"]["spec"]
    assert (spec["role"], row["role"]) == ("row", "row")
    kept = files_of(place) / f"{row['workload_id']}.safetensors"
    assert spec["reference"] == str(kept)
    assert kept.read_bytes() == f"reference of {row['workload_id']}".encode()
    assert spec["reference_sha256"] == hashlib.sha256(kept.read_bytes()).hexdigest()
    told_probe = found["probe"]["detail"]["spec"]
    (beside,) = told_probe["beside"]
    parts = Workload.model_validate(told_probe["workload"]).parts
    assert [one.dtype for one in parts] == ["bfloat16", "float32"]
    for part, said in zip(parts, (told_probe, beside), strict=True):
        kept = files_of(place) / f"{part.workload_id}.safetensors"
        assert said["reference"] == str(kept)
        assert said["reference_sha256"] == hashlib.sha256(kept.read_bytes()).hexdigest()
    assert Workload.model_validate(beside["workload"]) == parts[1]
    told = found["reference"]["detail"]["references"]
    assert all(facts["sha256"] and facts["seconds"] == 1.5 for facts in told.values())
    page = (files_of(place).parent / "tables.md").read_text()
    assert page.count("`tells_spec@fake` |") == 1


@pytest.mark.parametrize("maker", ["reference_link", "reference_none", "reference_crash"])
def test_rows_go_on_without_a_reference(
    place: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], maker: str
) -> None:
    monkeypatch.setattr("orchestrator.plan.proof_cells.REFERENCE", maker)
    assert go(place, proving=True, methods=["tells_spec"]) == (1 if maker == "reference_crash" else 0)
    found = by_role(place)
    assert found["row"]["status"] == "ok"
    assert found["row"]["detail"]["spec"]["reference"] is None
    assert not list(files_of(place).iterdir() if files_of(place).exists() else [])
    if maker == "reference_crash":
        assert "no reference could be made: crashed" in capsys.readouterr().out
        assert "**No reference could be made:** crashed" in (files_of(place).parent / "tables.md").read_text()
    else:
        assert "no reference for forward: no file was taken over" in capsys.readouterr().err


def test_a_copy_of_a_run_without_its_references_makes_again_those_it_needs(place: Path) -> None:
    assert go(place, proving=True, methods=["tells_spec"]) == 0
    folder = next((place / "results").iterdir())
    began = {path.name: path.stat().st_mtime_ns for path in (folder / "records").iterdir()}
    shutil.rmtree(folder / "references")
    next(path for path in (folder / "records").iterdir() if path.name.startswith("forward-")).unlink()
    header = json.loads((folder / "run.json").read_text())
    (folder / "run.json").write_text(json.dumps({**header, "finished_utc": None}))
    assert go(place) == 0
    now = {path.name: path.stat().st_mtime_ns for path in (folder / "records").iterdir()}
    again = sorted(name.partition("-")[0] for name in now if now[name] != began.get(name))
    assert again == ["forward", "reference"]
    assert by_role(place)["row"]["detail"]["spec"]["reference"] is not None
    assert len(list(files_of(place).iterdir())) == 1


def test_what_a_process_says_of_its_role_is_not_believed(place: Path) -> None:
    assert go(place, methods=["says_probe"]) == 0
    assert by_role(place)["row"]["method"] == "says_probe"


def test_a_row_is_incorrect_where_its_probe_is(place: Path) -> None:
    assert go(place, proving=True, methods=["wrong_on_the_probe"]) == 1
    page = (files_of(place).parent / "tables.md").read_text()
    assert "**incorrect** (unchecked): on the probe: forward: rows: row 3" in page
    assert by_role(place)["row"]["status"] == "ok"


def test_the_listing_of_what_ran_is_kept_where_it_is_the_one_that_the_record_names(place: Path) -> None:
    assert go(place, methods=["lists", "lists_another"]) == 0
    folder = next((place / "results").iterdir())
    (kept,) = (folder / "dispatch").iterdir()
    told = records(place)["lists-0"]["dispatch"]["listing_sha256"]
    assert hashlib.sha256(kept.read_bytes()).hexdigest() == told
    assert kept.name.startswith("forward-lists@fake-")
    assert records(place)["lists_another-0"]["dispatch"]["listing_sha256"] is None
