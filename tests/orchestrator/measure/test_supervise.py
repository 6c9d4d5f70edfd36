from __future__ import annotations

import json
import re
import time
from pathlib import Path

import pytest
from fake_rounds import with_seed
from fake_run import FAKE_BENCH, make_job, make_stack
from processes import gone, wait_for

from orchestrator.base.errors import InfrastructureError, UsageError
from orchestrator.host import folders
from orchestrator.host.folders import Written
from orchestrator.launchers import Exit, Handle, Job, Places, Prepared
from orchestrator.launchers.local import LocalLauncher
from orchestrator.measure import supervise as supervision
from orchestrator.measure import watch as watching
from orchestrator.measure.supervise import scrub, supervise
from orchestrator.measure.watch import Event, Watch
from orchestrator.records.record import Record


def run(
    tmp_path: Path, method: str, timeout_s: float = 60.0, events: list[Event] | None = None, seed: int = 0
) -> Record:
    launcher = LocalLauncher(FAKE_BENCH, lambda stack: Path(stack.python))
    prepared = launcher.prepare(make_stack())
    on_event = (events if events is not None else []).append
    return supervise(launcher, prepared, with_seed(make_job(method, tmp_path, timeout_s), seed), on_event)


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
    record = run(tmp_path, "hang", timeout_s=4.5)
    assert time.monotonic() - began < 10
    assert (record.status, record.written_by) == ("timeout", "orchestrator")
    assert record.reason == 'not done after 4.5 s, in the phase "first call" (3 of 10 samples done)'
    assert [phase.name for phase in record.phases] == ["environment", "first call"]
    grandchild = int((tmp_path / "grandchild").read_text())
    assert gone(grandchild)


def test_a_whole_record_counts_although_the_process_hangs_afterwards(tmp_path: Path) -> None:
    record = run(tmp_path, "hang_after_record", timeout_s=4.5)
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
        ("garbage", "cannot be believed: not valid JSON"),
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


STRANGE = {
    "infinite time": b'{"t_ns": 1e999, "event": "phase", "name": "x"}',
    "time of 400 digits": b'{"t_ns": 1' + b"0" * 400 + b', "event": "phase", "name": "x"}',
    "time of 5000 digits": b'{"t_ns": 1' + b"0" * 5000 + b', "event": "phase", "name": "x"}',
    "a phase that ends in 400 digits": b'{"t_ns": 1, "event": "phase", "name": "x"}\n{"t_ns": 1' + b"0" * 400
    + b', "event": "phase", "name": "y"}',
    "no time": b'{"t_ns": NaN, "event": "phase", "name": "x"}',
    "infinite index": b'{"t_ns": 1, "event": "sample", "index": 1e999, "of": 3}',
    "huge index": b'{"t_ns": 1, "event": "sample", "index": 1e300, "of": 1' + b"0" * 400 + b"}",
    "negative index": b'{"t_ns": 1, "event": "sample", "index": -5, "of": true}',
    "infinite ask": b'{"t_ns": 1, "event": "samples", "ask": 1e999, "rows": [], "more": false}',
    "huge rows": b'{"t_ns": 1, "event": "samples", "ask": 1, "rows": [[0, "timed", 0, 1' + b"0" * 400
    + b', null, [1], false]], "more": false}',
    "infinite rows": b'{"t_ns": 1, "event": "samples", "ask": 1, "rows": [[0, "timed", 0, 1e999, 1e999, [1e999], true]'
    b'], "more": false}',
    "large rows": b'{"t_ns": 1, "event": "samples", "ask": 1, "more": false, "rows": ['
    + b",".join([b'[0, "timed", 0, 1, null, [9223372036854775807, 9223372036854775807], false]'] * 9)
    + b', [0, "timed", 9223372036854775807, 0, 9223372036854775807, [0], false]]}',
    "no object": b'[[1, 2]]\n"t_ns"\nnull\n7\n',
    "objects within": b'{"t_ns": {"a": 1}, "event": ["phase"], "name": {}}',
    "nested name": b'{"t_ns": 1, "event": "phase", "name": ' + b"[" * 900 + b"]" * 900 + b"}",
    "nested": b'{"a": ' * 20_000 + b"1" + b"}" * 20_000,
    "not UTF-8": b'{"t_ns": 1, "event": "phase", "name": "\xff\xfe"}',
    "zero bytes": b"\x00" * 1000 + b"\n" + b'{"t_ns": 1, "event": "phase", "name": "a\\u0000b\\ud800"}',
    "a line without end": b'{"t_ns": 1, "event": "phase", "name": "' + b"x" * 3_000_000,
    "many lines": b'{"t_ns": 1, "event": "sample", "index": 1, "of": 2}\n' * 50_000,
}  # fmt: skip


@pytest.mark.parametrize("name", STRANGE)
def test_whatever_a_cell_says_in_its_events_its_round_has_a_row(tmp_path: Path, name: str) -> None:
    (tmp_path / "say").write_bytes(STRANGE[name] + b"\n")
    events: list[Event] = []
    record = run(tmp_path, "strange_events", events=events)
    # What is only shown does not make a good record bad.
    assert (record.status, record.written_by) == ("ok", "bench")
    assert all(0 <= number < 2**63 for event in events for number in (event.index, event.of) if number is not None)
    assert Record.model_validate_json(record.model_dump_json()) == record


@pytest.mark.parametrize("name", [name for name in STRANGE if re.search("time|digits|index|nested", name)])
def test_whatever_a_cell_says_before_it_fails_its_row_can_be_read_again(tmp_path: Path, name: str) -> None:
    (tmp_path / "say").write_bytes(STRANGE[name] + b"\n")
    record = run(tmp_path, "strange_events", seed=1)
    assert (record.status, record.written_by) == ("crashed", "orchestrator")
    assert "exit code 3" in (record.reason or "")
    assert Record.model_validate_json(record.model_dump_json()) == record


@pytest.mark.parametrize("where", ["events", "record"])
def test_what_goes_wrong_with_a_cells_words_is_its_row(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, where: str
) -> None:
    def wrong(*_: object) -> None:
        if where == "events":
            wait_for(tmp_path / "grandchild")
        raise OverflowError("cannot convert \x1b[31minfinity")

    monkeypatch.setattr(*(Watch, "_take") if where == "events" else (supervision, "judged"), wrong)
    record = run(tmp_path, "hang" if where == "events" else "good")
    assert (record.status, record.written_by) == ("crashed", "orchestrator")
    assert record.reason is not None
    assert record.reason.startswith("what it wrote cannot be worked with (OverflowError: cannot convert  [31minfinity)")
    if where == "events":
        assert gone(int((tmp_path / "grandchild").read_text()))


def limited(tmp_path: Path, method: str, work_bytes: int = 10_000_000, work_files: int = 1000, seed: int = 0) -> Record:
    launcher = LocalLauncher(FAKE_BENCH, lambda stack: Path(stack.python))
    stack = make_stack().model_copy(update={"work_bytes": work_bytes, "work_files": work_files})
    job = with_seed(make_job(method, tmp_path), seed)
    return supervise(launcher, launcher.prepare(stack), job)


@pytest.mark.parametrize(
    ("method", "words"),
    [
        ("fills_the_disk", r"it has written 1\d MB, and may write 10 MB, in the phase .first call."),
        ("prints_without_end", r"it has written 1\d MB, and may write 10 MB"),
        ("fills_the_disk_at_its_end", r"it has written \d+ MB, and may write 10 MB|exit code 1"),
        ("makes_files", r"it has made more than 1000 files, in the phase .first call."),
        ("nests", r"it has made more than 1000 files|cannot be counted \(file name too long\)"),
    ],
)
def test_a_cell_that_writes_too_much_is_killed_and_its_folder_is_gone(tmp_path: Path, method: str, words: str) -> None:
    record = limited(tmp_path, method)
    assert (record.status, record.written_by, record.samples) == ("crashed", "orchestrator", ())
    assert record.reason is not None
    assert re.search(words, record.reason), record.reason
    assert record.provenance is not None
    assert record.provenance.wall_ns is not None
    assert record.provenance.wall_ns < 60e9, "it was left alone until its deadline"
    assert not (tmp_path / "work").exists()
    assert (tmp_path / "log.txt").stat().st_size <= 4_000_000


def test_what_takes_no_room_counts_for_nothing(tmp_path: Path) -> None:
    assert limited(tmp_path, "makes_a_hole", work_bytes=2**31).status == "ok"
    written = Written((tmp_path / "work",), 10_000_000, 1000)
    assert written.trouble(last=True) is None


def test_a_shared_cache_counts_and_is_given_up_too(tmp_path: Path) -> None:
    cache = tmp_path / "cache"
    cache.mkdir()
    (cache / "graphs").write_bytes(bytes(11_000_000))
    launcher = LocalLauncher(FAKE_BENCH, lambda stack: Path(stack.python))
    stack = make_stack().model_copy(update={"work_bytes": 10_000_000})
    record = supervise(launcher, launcher.prepare(stack), make_job("slow", tmp_path, cache=cache))
    assert record.status == "crashed"
    assert not cache.exists()


def test_a_disk_that_the_cell_did_not_fill_is_not_its_fault(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    free = iter([10**9, *[10**7] * 1000])
    monkeypatch.setattr(folders, "free_bytes", lambda _place: next(free))
    record = run(tmp_path, "hang")
    assert record.status == "infrastructure"
    assert record.reason is not None
    assert record.reason.startswith("the disk is nearly full (10 MB left), of which the cell has taken 0 MB, in the")


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
    far = None

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


def test_where_a_cell_got_to_says_how_long_its_last_sample_took_where_that_is_long(tmp_path: Path) -> None:
    watch = Watch(path := tmp_path / "events.jsonl", lambda _: None)

    def says(t_s: float, **said: object) -> str:
        with path.open("a") as file:
            file.write(json.dumps({"t_ns": int(t_s * 1e9), **said}) + "\n")
        watch.look()
        return watch.where()

    says(2.0, event="phase", name="first call")
    assert says(97.0, event="sample", index=0, of=50).endswith("(1 of 50 samples done, the last in some 100 s)")
    says(97.5, event="phase", name="warm-up")
    assert says(98.0, event="sample", index=1, of=50).endswith('"warm-up" (2 of 50 samples done)')
    assert says(192.26, event="sample", index=2, of=50).endswith("(3 of 50 samples done, the last in some 90 s)")
    assert says(3.0, event="sample", index=3, of=50).endswith("(4 of 50 samples done)")  # nonsense: time goes backwards


def test_events_are_followed_as_they_grow(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
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
    opened = list[Path]()
    monkeypatch.setattr(watching, "open_plain", opened.append)
    watch.look()
    assert opened == [], "nothing is new, so it is not opened"
