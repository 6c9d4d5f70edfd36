from __future__ import annotations

import errno
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from plan_samples import record, smoke_cell, stack

from orchestrator.base.errors import UsageError
from orchestrator.plan.planner import make_plan
from orchestrator.plan.suite import load_suite
from orchestrator.plan.workload import RECORD_LIMIT_BYTES, fits_into_a_record
from orchestrator.records.record import FAILED, Record
from orchestrator.records.runs import find_run, newest_run, resumable, runs, unfinished
from orchestrator.records.store import Header, Run, being_made, finished_keys, read_record, record_files, stem_of

PLAN = make_plan(load_suite("smoke"), {"cpu": stack()}, device="cpu")
SOURCE = "5" * 16


@pytest.fixture
def run(tmp_path: Path) -> Run:
    return Run.create(tmp_path / "results", PLAN, SOURCE)


def test_a_run_is_a_folder_that_opens_again(tmp_path: Path) -> None:
    run = Run.create(tmp_path / "a" / "results", PLAN, SOURCE, host={"gpu": None}, stacks={"cpu": {"image": "x"}})
    assert run.folder.name.endswith("-smoke")
    assert sorted(place.name for place in run.folder.iterdir()) == ["logs", "records", "run.json"]
    again = Run.open(run.folder)
    assert again.header == run.header
    assert again.plan == PLAN
    assert again.header.plan_id == PLAN.plan_id
    raw = json.loads((run.folder / "run.json").read_text())
    assert raw["finished_utc"] is None
    assert str(tmp_path) not in (run.folder / "run.json").read_text()


def test_two_runs_of_one_second_have_two_folders(tmp_path: Path) -> None:
    made = [Run.create(tmp_path, PLAN, SOURCE).folder.name for _ in range(3)]
    assert len(set(made)) == 3
    assert newest_run(tmp_path).folder.name == made[-1]


DIES = """
import os, signal, sys
from pathlib import Path
from orchestrator.records.store import being_made
with being_made(Path(sys.argv[1])) as folder:
    (folder / ".run.json.1.tmp").write_text("half")
    os.kill(os.getpid(), signal.SIGKILL)
"""


def test_what_a_killed_process_left_of_a_run_is_never_seen_and_goes_with_the_next(tmp_path: Path) -> None:
    subprocess.run([sys.executable, "-c", DIES, str(tmp_path)], check=False)
    assert [place.name[:8] for place in tmp_path.iterdir()] == [".making-"]
    assert runs(tmp_path) == []
    with being_made(tmp_path) as living:
        run = Run.create(tmp_path, PLAN, SOURCE)
        assert sorted(tmp_path.iterdir()) == sorted([living.parent, run.folder])  # another's is left alone
    assert list(tmp_path.iterdir()) == [run.folder]
    assert sorted(place.name for place in run.folder.iterdir()) == ["logs", "records", "run.json"]


def test_records_and_logs_come_back_as_stored(run: Run, tmp_path: Path) -> None:
    log = tmp_path / "log"
    log.write_text("what happened")
    stored = run.save(record(number=1), log)
    assert list(run.records([])) == [stored]
    stem = stem_of(stored)
    assert stem == "forward-eager@cpu-0000000000000001-r0"
    assert (run.folder / "logs" / f"{stem}.log").read_text() == "what happened"
    assert stored.log_sha256
    run.save(record(number=1, status="timeout"))
    assert [kept.status for kept in run.records([])] == ["timeout"]


def test_a_very_long_log_keeps_beginning_and_end(run: Run, tmp_path: Path) -> None:
    log = tmp_path / "log"
    log.write_bytes(b"begin" + b"x" * 9_000_000 + b"end")
    stem = stem_of(run.save(record(), log))
    kept = (run.folder / "logs" / f"{stem}.log").read_bytes()
    assert len(kept) < 8_100_000
    assert kept.startswith(b"begin")
    assert kept.endswith(b"end")
    assert b"bytes left out" in kept


def test_failed_keys_are_run_again_and_all_others_not(run: Run) -> None:
    statuses = ["ok", "incorrect", "unsupported", "out_of_memory", "timeout", "crashed", "skipped", "infrastructure"]
    for number, status in enumerate(statuses):
        run.save(record(number=number, status=status))
    final = {f"{number:016x}" for number, status in enumerate(statuses) if status not in FAILED}
    assert finished_keys(run.records([])) == {(cell, 0) for cell in final}
    assert len(final) == 5


def test_rounds_are_keys_of_their_own(run: Run) -> None:
    run.save(record(round=0))
    run.save(record(round=1, status="crashed"))
    assert finished_keys(run.records([])) == {("0" * 16, 0)}
    assert len(list(run.records([]))) == 2


def test_only_an_unfinished_run_of_equal_plan_and_source_goes_on(tmp_path: Path) -> None:
    assert resumable(tmp_path / "none", PLAN, SOURCE, "docker") == (None, "")
    run = Run.create(tmp_path, PLAN, SOURCE)
    found, why = resumable(tmp_path, PLAN, SOURCE, "docker")
    assert found
    assert (found.folder, why) == (run.folder, "")
    other = make_plan(load_suite("smoke"), {"cpu": stack()}, device="cpu", rounds=2)
    assert resumable(tmp_path, other, SOURCE, "docker") == (
        None,
        f"the unfinished run {run.folder.name} has another plan (other cells, rounds or deadlines)",
    )
    note = make_plan(load_suite("note"), {"cpu": stack()}, device="cpu")
    assert "(suite smoke)" in resumable(tmp_path, note, SOURCE, "docker")[1]
    assert "another version of bench" in resumable(tmp_path, PLAN, "6" * 16, "docker")[1]
    run.finish()
    assert resumable(tmp_path, PLAN, SOURCE, "docker") == (None, "")
    run.reopen()
    assert list(unfinished(tmp_path))


def test_a_run_goes_on_by_its_own_launcher_alone(tmp_path: Path) -> None:
    run = Run.create(tmp_path, PLAN, SOURCE, launcher="docker")
    assert resumable(tmp_path, PLAN, SOURCE, "docker")[0] is not None
    assert resumable(tmp_path, PLAN, SOURCE, "local") == (
        None,
        f"the unfinished run {run.folder.name} has its cells run by the launcher docker",
    )


def test_an_unfinished_run_goes_on_elsewhere_after_a_copy(run: Run, tmp_path: Path) -> None:
    import shutil

    run.save(record())
    elsewhere = tmp_path / "elsewhere"
    shutil.copytree(run.folder, elsewhere / run.folder.name)
    found, _ = resumable(elsewhere, PLAN, SOURCE, "docker")
    assert found
    assert finished_keys(found.records([])) == {("0" * 16, 0)}


def test_of_renamed_runs_the_newest_is_the_one_begun_last(tmp_path: Path) -> None:
    for name, second in (("late", 59), ("early", 1), ("middle", 30)):
        folder = Run.create(tmp_path, PLAN, SOURCE).folder.rename(tmp_path / name)
        header = json.loads((folder / "run.json").read_text())
        (folder / "run.json").write_text(json.dumps({**header, "started_utc": f"2026-11-23T07:31:{second:02}Z"}))
    assert newest_run(tmp_path).folder.name == "late"
    (tmp_path / "late" / "run.json").write_text("{")
    assert newest_run(tmp_path).folder.name == "middle", "one that cannot be read does not hide the others"


def test_a_run_that_was_renamed_is_kept_and_not_gone_on_with(run: Run) -> None:
    kept = run.folder.rename(run.folder.parent / "h100")
    assert not list(unfinished(kept.parent))
    assert find_run(kept.parent, "h100").folder == kept
    assert find_run(kept.parent, str(kept)).folder == kept
    assert newest_run(kept.parent).folder == kept
    newer = Run.create(kept.parent, PLAN, SOURCE)
    assert newest_run(kept.parent).folder == newer.folder


def test_two_commands_cannot_go_on_with_one_run(run: Run) -> None:
    other = Run.open(run.folder)
    assert run.claim()
    assert run.claim()
    assert not other.claim()
    run.release()
    assert other.claim()
    other.release()


def test_an_unknown_run_lists_the_known(run: Run, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=f'no run "x"; known: {run.folder.name}'):
        find_run(run.folder.parent, "x")
    with pytest.raises(UsageError, match="no run here; start one"):
        find_run(tmp_path / "nowhere", None)
    with pytest.raises(UsageError):
        find_run(run.folder.parent, "\0")


def damaged(content: Any, path: Path) -> str:
    path.write_bytes(content if isinstance(content, bytes) else json.dumps(content).encode())
    with pytest.raises(UsageError) as caught:
        read_record(path)
    assert "\n" not in str(caught.value)
    return str(caught.value).replace(str(path), "FILE")


def test_a_record_is_checked_before_it_is_believed(tmp_path: Path) -> None:
    path = tmp_path / "record.json"
    good = json.loads(record().model_dump_json())
    assert damaged({**good, "speed": 1}, path).startswith("FILE: speed: unknown key")
    assert damaged({**good, "status": "fine"}, path).startswith("FILE: status: must be 'ok', 'incorrect'")
    assert damaged({**good, "schema_version": 2}, path).startswith("FILE: schema_version: must be 1, is 2")
    samples = [{**good["samples"][0], "index": -1}]
    assert damaged({**good, "samples": samples}, path).startswith("FILE: samples[0].index: must be greater than or")
    assert damaged(b"{", path).startswith("FILE: ")
    assert damaged(b"[]", path).startswith("FILE: ")
    assert damaged(b"\xff\xfe", path).startswith("FILE: ")
    assert damaged(b"[" * 40_000, path).startswith("FILE: ")
    assert damaged(b" " * (RECORD_LIMIT_BYTES + 1), path).startswith("FILE: 16000001 bytes, more than the limit")


def test_links_folders_and_pipes_are_no_records(tmp_path: Path) -> None:
    real = tmp_path / "real.json"
    real.write_text(record().model_dump_json())
    assert read_record(real) == record()
    (tmp_path / "link.json").symlink_to(real)
    os.mkfifo(tmp_path / "pipe.json")
    (tmp_path / "folder.json").mkdir()
    for name in ("link.json", "pipe.json", "folder.json", "gone.json"):
        with pytest.raises(UsageError):
            read_record(tmp_path / name)


def test_a_record_over_the_limit_is_a_row_that_says_so(run: Run) -> None:
    stored = run.save(record(detail={"long": "x" * RECORD_LIMIT_BYTES}))
    assert (stored.status, stored.written_by) == ("crashed", "orchestrator")
    assert "bytes, more than the limit" in (stored.reason or "")
    unreadable: list[str] = []
    assert list(run.records(unreadable)) == [stored]
    assert not unreadable


@pytest.mark.parametrize("count", [280, 520, 5_000])
def test_what_grows_when_it_is_stored_can_be_read_again(run: Run, count: int) -> None:
    sample = {"index": 0, "phase": "timed", "shape": [1], "begin_ns": 0, "end_ns": 1, "device_ns": None}
    made = [{**sample, "index": number, "taint": "other processes took part of the CPU"} for number in range(count)]
    stored = run.save(Record.model_validate({**record().model_dump(), "samples": made}))
    assert (run.folder / "records" / f"{stem_of(stored)}.json").stat().st_size > 180 * count
    assert list(run.records([])) == [stored]
    assert len(stored.samples) == count


def test_the_largest_plan_that_is_allowed_has_a_record_with_room_to_spare(run: Run) -> None:
    count = next(number for number in range(10**6) if not fits_into_a_record(number, 0)) - 1
    times = {"begin_ns": 2**63 - 1, "end_ns": 2**63 - 1, "device_ns": 2**63 - 1, "first_token_ns": 2**63 - 1}
    longest = {"phase": "repeat", "shape": [2**31, 2**31], **times, "loss": -1.2345678901234567e-300}
    made = [{**longest, "index": index} for index in range(count) for _ in ("timed", "repeat")]
    assert len(json.dumps(made)) < RECORD_LIMIT_BYTES // 2
    for sample in made:
        sample.update(taint="another process on the GPU: " + "x" * 100, energy_joules=1.2345678901234567e-300)
    stored = run.save(Record.model_validate({**record().model_dump(), "samples": made}))
    assert (stored.status, len(stored.samples)) == ("ok", 2 * count)
    assert list(run.records([])) == [stored]


@pytest.mark.parametrize("number", ["1" + "0" * 400, "1" + "0" * 5_000, "1e999", "NaN", "-Infinity", str(2**63)])
@pytest.mark.parametrize("key", ["end_ns", "loss", "index", "energy_joules"])
def test_numbers_beyond_bounds_are_no_record(tmp_path: Path, key: str, number: str) -> None:
    content = json.loads(record().model_dump_json())
    content["samples"][0][key] = "NUMBER"
    path = tmp_path / "record.json"
    path.write_text(json.dumps(content).replace('"NUMBER"', number))
    if number == str(2**63) and key in ("loss", "energy_joules"):
        assert read_record(path)
    else:
        with pytest.raises(UsageError):
            read_record(path)


@pytest.mark.parametrize("kind", ["header", "record"])
def test_what_would_take_a_thousand_times_its_bytes_is_refused_before_it_is_parsed(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    def never(*_: Any) -> None:
        raise AssertionError

    monkeypatch.setattr(Record if kind == "record" else Header, "model_validate_json", never)
    path = tmp_path / "record.json" if kind == "record" else run.folder / "run.json"
    for content, says in (
        (b"[" + b"0," * 700_000 + b"0]", "more than [0-9]+ values"),
        (b'{"a": "' + b"x" * 60_000_000 + b'"}', "60000009 bytes, more than the limit"),
    ):
        path.write_bytes(content)
        with pytest.raises(UsageError, match=says):
            read_record(path) if kind == "record" else Run.open(run.folder)


@pytest.mark.parametrize("number", ["1" + "0" * 400, "1e999", "NaN"])
def test_detail_has_bounds_too(tmp_path: Path, number: str) -> None:
    path = tmp_path / "record.json"
    path.write_text(record(detail={"a": [{"b": "NUMBER"}]}).model_dump_json().replace('"NUMBER"', number))
    with pytest.raises(UsageError):
        read_record(path)


def test_a_name_that_leaves_the_folder_is_refused(run: Run) -> None:
    with pytest.raises(UsageError, match="cannot be a file's name"):
        run.save(record(smoke_cell(method="../../x")))
    with pytest.raises(UsageError):
        run.save(record(cell_id="../x"))


@pytest.mark.parametrize(
    ("number", "says"),
    [(errno.ENOSPC, "no space left on device; make room"), (errno.EROFS, "read-only file system; name a folder")],
)
def test_what_the_disk_refuses_is_a_line_and_loses_nothing(
    run: Run, monkeypatch: pytest.MonkeyPatch, number: int, says: str
) -> None:
    run.save(record())

    def full(path: Path, content: bytes) -> int:
        with path.open("wb") as file:
            file.write(content[: len(content) // 2])
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(Path, "write_bytes", full)
    with pytest.raises(UsageError) as caught:
        run.save(record(status="crashed"))
    assert says in str(caught.value)
    monkeypatch.undo()
    assert [kept.status for kept in Run.open(run.folder).records([])] == ["ok"]
    assert [place.name for place in (run.folder / "records").iterdir()] == [f"{stem_of(record())}.json"]


def test_a_run_that_could_not_begin_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(path: Path, content: bytes) -> int:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(Path, "write_bytes", full)
    with pytest.raises(UsageError, match="no space left on device"):
        Run.create(tmp_path / "results", PLAN, SOURCE)
    assert list((tmp_path / "results").iterdir()) == []


@pytest.mark.parametrize("parts", [("records",), ("logs",), ("records", "logs")])
def test_folders_that_somebody_deletes_underneath_are_made_again(run: Run, tmp_path: Path, parts: tuple[str]) -> None:
    (tmp_path / "log").write_text("said")
    for part in parts:
        shutil.rmtree(run.folder / part)
    stored = run.save(record(), tmp_path / "log")
    assert list(run.records([])) == [stored]
    assert len(list((run.folder / "logs").iterdir())) == 1


def test_a_results_folder_that_is_a_file_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "results"
    path.write_text("")
    with pytest.raises(UsageError, match="results: file exists; name a folder, not a file"):
        Run.create(path, PLAN, SOURCE)
    with pytest.raises(UsageError, match="results: not a directory; name a folder, not a file"):
        runs(path)


def test_a_damaged_run_is_named(run: Run) -> None:
    path = run.folder / "run.json"
    for content, says in (
        ("{", "not valid JSON"),
        ("", "not valid JSON"),
        ("[]", "must be a table"),
        ("3", "must be a table"),
        ("{}", "schema_version: missing"),
    ):
        path.write_text(content)
        with pytest.raises(UsageError, match=rf"run.json: {says}.*; repair it or move it away"):
            Run.open(run.folder)


def test_left_over_temporary_files_are_no_records(run: Run) -> None:
    run.save(record())
    (run.folder / "records" / ".forward.json.1.tmp").write_text("half")
    (run.folder / "records" / "notes.txt").write_text("mine")
    assert len(record_files(run.folder)) == 1


def test_each_record_of_a_thousand_is_read_once(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    for number in range(1000):
        one = record(number=number)
        (run.folder / "records" / f"{stem_of(one)}.json").write_text(one.model_dump_json())
    asked: list[Path] = []

    def counted(path: Path) -> Record:
        asked.append(path)
        return read_record(path)

    # How long it takes is measured by `make scaling`.
    monkeypatch.setattr("orchestrator.records.store.read_record", counted)
    assert len(list(run.records([]))) == 1000
    assert sorted(asked) == sorted((run.folder / "records").iterdir())


def test_a_run_that_cannot_be_begun_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: Any) -> None:
        raise OSError(errno.ENOSPC, "no space left on device")

    for what in ("try_lock", "Path.rename"):
        with monkeypatch.context() as patch:
            patch.setattr(f"orchestrator.records.store.{what}", refuse)
            with pytest.raises(UsageError, match="no space left"):
                Run.create(tmp_path, PLAN, SOURCE)
        assert list(tmp_path.iterdir()) == []
