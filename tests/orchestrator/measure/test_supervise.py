from __future__ import annotations

import json
import time
from pathlib import Path

import pytest
from fake_run import FAKE_BENCH, make_job, make_stack
from processes import gone

from orchestrator.base.errors import InfrastructureError, UsageError
from orchestrator.launchers import Exit, Handle, Job, Places, Prepared
from orchestrator.launchers.local import LocalLauncher
from orchestrator.measure.supervise import Event, Watch, scrub, supervise
from orchestrator.records.record import Record


def run(tmp_path: Path, method: str, timeout_s: float = 60.0, events: list[Event] | None = None) -> Record:
    launcher = LocalLauncher(FAKE_BENCH, lambda stack: Path(stack.python))
    prepared = launcher.prepare(make_stack())
    on_event = (events if events is not None else []).append
    return supervise(launcher, prepared, make_job(method, tmp_path, timeout_s), on_event)


def test_a_good_record_comes_back_with_its_provenance(tmp_path: Path) -> None:
    events: list[Event] = []
    record = run(tmp_path, "slow", events=events)
    assert (record.status, record.written_by, len(record.samples)) == ("ok", "bench", 5)
    assert record.provenance is not None
    assert (record.provenance.launcher, record.provenance.exit_code) == ("local", 0)
    assert record.provenance.wall_ns is not None
    assert 0 < record.provenance.wall_ns < 60e9
    assert events[-1] == Event("first call")
    assert (tmp_path / "log.txt").read_text() == "the log's only line\n"


def test_a_deadline_kills_and_names_the_phase(tmp_path: Path) -> None:
    began = time.monotonic()
    record = run(tmp_path, "hang", timeout_s=1.5)
    assert time.monotonic() - began < 10
    assert (record.status, record.written_by) == ("timeout", "orchestrator")
    assert record.reason == 'not done after 1.5 s, in the phase "first call" (3 of 10 samples done)'
    assert [phase.name for phase in record.phases] == ["environment", "first call"]
    grandchild = int((tmp_path / "grandchild").read_text())
    assert gone(grandchild)


def test_a_whole_record_counts_although_the_process_hangs_afterwards(tmp_path: Path) -> None:
    record = run(tmp_path, "hang_after_record", timeout_s=1.5)
    assert (record.status, record.written_by) == ("ok", "bench")
    assert record.provenance is not None
    assert record.provenance.exit_code == 137


@pytest.mark.parametrize(
    ("method", "words"),
    [
        ("killed", "SIGSEGV"),
        ("fails", "exit code 3"),
        ("silent", "exit code 0, in the phase"),
        ("link", "cannot be believed: links are not followed here"),
        ("pipe", "cannot be believed: not a plain file"),
        ("big", "bytes, more than the limit of 8000000"),
        ("garbage", "cannot be believed: no valid JSON"),
        ("other_cell", "another cell's"),
        ("other_workload", "another cell's"),
        ("pretends", "only the orchestrator says"),
        ("judges_itself", "only the orchestrator says"),
        ("blames_others", "only the orchestrator says"),
    ],
)
def test_what_cannot_be_believed_is_crashed(tmp_path: Path, method: str, words: str) -> None:
    record = run(tmp_path, method)
    assert (record.status, record.written_by, record.samples) == ("crashed", "orchestrator", ())
    assert record.reason is not None
    # The words for a link differ between the checks that can find it first.
    assert words in record.reason or (method == "link" and "cannot be believed" in record.reason)
    assert "end of the log:\nthe log's only line" in record.reason


def test_a_crash_names_the_last_line_of_its_log_first(tmp_path: Path) -> None:
    record = run(tmp_path, "raises")
    assert record.reason is not None
    first, _, rest = record.reason.partition("; end of the log:\n")
    assert first.startswith("ModuleNotFoundError: No module named 'nowhere'; exit code 1, in the phase")
    assert "Traceback (most recent call last):" in rest


def test_a_crash_after_the_record_keeps_the_samples(tmp_path: Path) -> None:
    record = run(tmp_path, "fails_after_record")
    assert (record.status, record.written_by, len(record.samples)) == ("crashed", "bench", 5)
    assert record.reason is not None
    assert record.reason.startswith("the log's only line; exit code 9 after it had written its record")


def test_a_reason_holds_no_folders(tmp_path: Path) -> None:
    record = run(tmp_path, "fails")
    assert record.reason is not None
    assert ".../model.bin" in record.reason
    assert "somebody" not in record.reason


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ('File "/home/me/x/y.py", line 3', 'File ".../y.py", line 3'),
        ("1/2 of a/b", "1/2 of a/b"),
        ("/etc/passwd: no", ".../passwd: no"),
        ("~/models/seven", ".../seven"),
        ("nothing", "nothing"),
        ("a:/b/c", "a:.../c"),
    ],
)
def test_scrub(text: str, shown: str) -> None:
    assert scrub(text) == shown


class BrokenLauncher:
    name = "broken"

    def __init__(self, ended: Exit | None) -> None:
        self.ended = ended

    def prepare(self, stack: object) -> Prepared:
        raise NotImplementedError

    def places(self, job: Job) -> Places:
        return Places()

    def start(self, prepared: Prepared, job: Job) -> Handle:
        if self.ended is None:
            raise InfrastructureError("the engine is gone", where="Docker Engine")
        return EndedHandle(self.ended)


class EndedHandle:
    def __init__(self, ended: Exit) -> None:
        self.ended, self.closed = ended, False

    def poll(self) -> Exit:
        return self.ended

    def wait(self, timeout_s: float) -> Exit:
        return self.ended

    def pids(self) -> None: ...

    def cancel(self) -> None: ...

    def collect(self) -> None:
        raise InfrastructureError("no log any more")

    def close(self) -> None:
        self.closed = True

    def __enter__(self) -> EndedHandle:  # noqa: PYI034
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


@pytest.mark.parametrize(
    ("ended", "status", "words"),
    [
        (None, "infrastructure", "Docker Engine: the engine is gone"),
        (Exit(None, error="its container was removed from outside"), "infrastructure", "removed from outside"),
        (Exit(137, 9, oom=True), "out_of_memory", "the host's memory was not enough: ended by signal 9 (SIGKILL)"),
        (Exit(137, 9), "crashed", "SIGKILL"),
        (Exit(228, 100), "crashed", "ended by signal 100"),
    ],
)
def test_exits_become_statuses(tmp_path: Path, ended: Exit | None, status: str, words: str) -> None:
    prepared = Prepared(make_stack(), "python3", "0" * 16)
    record = supervise(BrokenLauncher(ended), prepared, make_job("good", tmp_path))
    assert record.status == status
    assert record.reason is not None
    assert words in record.reason


def test_a_spec_that_cannot_be_written_is_the_users_to_mend(tmp_path: Path) -> None:
    job = make_job("good", tmp_path)
    job.work.rmdir()
    prepared = Prepared(make_stack(), "python3", "0" * 16)
    with pytest.raises(UsageError):
        supervise(BrokenLauncher(None), prepared, job)


def test_events_are_followed_as_they_grow(tmp_path: Path) -> None:
    path, events = tmp_path / "events.jsonl", list[Event]()
    watch = Watch(path, events.append)
    watch.look()
    assert watch.where() == "before its first phase"
    line = json.dumps({"t_ns": 1, "event": "phase", "name": "mod\x1b[31mel"}) + "\n"
    path.write_text(line[:10])
    watch.look()
    assert events == []
    with path.open("a") as file:
        file.write(line[10:])
    watch.look()
    assert events == [Event("mod[31mel")]
    with path.open("a") as file:
        file.writelines(json.dumps({"t_ns": 2, "event": "phase", "name": str(n)}) + "\n" for n in range(100))
    watch.look()
    assert len(watch.phases) == 32
    assert events == [Event("mod[31mel"), Event("30")]
