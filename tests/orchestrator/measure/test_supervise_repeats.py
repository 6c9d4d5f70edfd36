"""Samples that are measured again: the question, the answer, the budget, and real processes that ask."""

from __future__ import annotations

import json
import os
import threading
import time
from collections import Counter
from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest
from fake_rounds import run, with_seed
from scripted_nvml import HARDWARE_THERMAL, POWER_CAP, UUID, NVMLError_GpuIsLost, NVMLError_NotSupported, ScriptedNvml

from bench import repeats as asking
from bench.record import Events
from orchestrator.analysis.protocol import steady
from orchestrator.base.untrusted import place_file
from orchestrator.launchers import Job
from orchestrator.measure.supervise import TELEMETRY_FILE
from orchestrator.measure.watch import MOST_ROWS, Question

ROW = [3, "timed", 10, 20, None, [2, 64], False]


def told(ask: int = 1, rows: object = None, more: object = False) -> dict:
    return {"ask": ask, "rows": [ROW] if rows is None else rows, "more": more}


def answered(question: Question, folder: Path, indices: list[int]) -> list[int]:
    """Which samples the answer was made from; empty where none was given."""
    seen: list[int] = []

    def choose(samples) -> dict:
        seen.extend(sample.index for sample in samples)
        return {"repeat": indices}

    question.answer(folder, choose)
    return seen


def test_a_question_in_several_lines_is_answered_once_when_it_is_whole(tmp_path: Path) -> None:
    question = Question()
    assert answered(question, tmp_path, []) == []
    question.take(told(more=True))
    assert answered(question, tmp_path, []) == []
    question.take(told(rows=[[4, *ROW[1:]]]))
    assert answered(question, tmp_path, [4]) == [3, 4]
    assert json.loads((tmp_path / "repeat-1.json").read_text()) == {"repeat": [4]}
    assert answered(question, tmp_path, [4]) == []
    question.take(told(2))
    assert answered(question, tmp_path, []) == [3]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["repeat-1.json", "repeat-2.json"]


@pytest.mark.parametrize(
    "line",
    [
        {}, told(0), told(5), told("x"), told(rows=7), told(rows=[[]]), told(rows=[ROW[:-1]]),
        told(rows=[["3", *ROW[1:]]]), told(rows=[[-1, *ROW[1:]]]), told(rows=[[3, "good", *ROW[2:]]]),
        told(rows=[[*ROW[:5], [], False]]), told(rows=[[*ROW[:5], [1] * 9, False]]), told(rows=[[*ROW[:6], 1]]),
        told(rows=[[True, *ROW[1:]]]), told(rows=[[3, "timed", 10, 2**70, *ROW[4:]]]),
        told(rows=[ROW] * (MOST_ROWS + 1)),
    ],
)  # fmt: skip
def test_what_bench_would_not_write_is_no_question(tmp_path: Path, line: dict) -> None:
    question = Question()
    with pytest.raises((ValueError, TypeError, KeyError)):
        question.take(line)
    assert answered(question, tmp_path, [1]) == []
    assert list(tmp_path.iterdir()) == []


def test_an_answered_question_is_not_asked_again_nor_a_list_without_end_kept(tmp_path: Path) -> None:
    question = Question()
    question.take(told())
    answered(question, tmp_path, [])
    with pytest.raises(ValueError, match="1"):
        question.take(told())
    for _ in range(MOST_ROWS // 100):
        question.take(told(2, [ROW] * 100, more=True))
    with pytest.raises(ValueError, match="100"):
        question.take(told(2, [ROW] * 100))
    with pytest.raises(ValueError, match="4"):
        question.take(told(4))
    assert answered(question, tmp_path, []) == []


def test_the_answer_is_written_through_no_link(tmp_path: Path) -> None:
    victim, folder = tmp_path / "victim", tmp_path / "work"
    victim.write_text("untouched")
    folder.mkdir()
    (folder / "answer").symlink_to(victim)
    place_file(folder, "answer", "new")
    assert victim.read_text() == "untouched"
    assert not (folder / "answer").is_symlink()
    assert (folder / "answer").read_text() == "new"
    assert (folder / "answer").stat().st_mode & 0o777 == 0o644
    assert [path.name for path in folder.iterdir()] == ["answer"]


def test_not_even_a_guessed_name_is_written_through(tmp_path: Path, monkeypatch) -> None:
    victim, folder = tmp_path / "victim", tmp_path / "work"
    victim.write_text("untouched")
    folder.mkdir()
    monkeypatch.setattr("orchestrator.base.untrusted.secrets.token_hex", lambda _: "guessed")
    (folder / ".answer.guessed").symlink_to(victim)
    place_file(folder, "answer", "new")
    assert victim.read_text() == "untouched"
    assert not (folder / "answer").exists()


def test_where_no_answer_can_be_placed_there_is_none(tmp_path: Path) -> None:
    (tmp_path / "there").mkdir()
    (tmp_path / "link").symlink_to("there")
    place_file(tmp_path / "link", "answer", "new")
    place_file(tmp_path / "nothing", "answer", "new")
    (tmp_path / "there" / "answer").mkdir()
    (tmp_path / "there" / "answer" / "full").mkdir()
    place_file(tmp_path / "there", "answer", "new")
    assert [path.name for path in (tmp_path / "there").iterdir()] == ["answer"]


def bench_record(count: int = 12, taken_ns: int = 10**6) -> dict:
    phases = ["first", "warmup", *["timed"] * (count - 2)]
    rows = [
        {"index": at, "phase": phase, "shape": [2, 64], "begin_ns": 0, "end_ns": taken_ns, "device_ns": None}
        for at, phase in enumerate(phases)
    ]
    graphs = [1, 1, 1, 2, *[2] * (count - 4)]
    return {"samples": rows, "workload": {"benchmark": "forward"}, "detail": {"graphs": graphs}}


def test_bench_tells_in_which_samples_a_compiler_worked(tmp_path: Path) -> None:
    record = bench_record()
    record["detail"]["kernels"] = [5, 5, 6, *[6] * 9]
    measured(tmp_path, record, {1: []})
    (line,) = (tmp_path / "events.jsonl").read_text().splitlines()
    assert [at for at, row in enumerate(json.loads(line)["rows"]) if row[-1]] == [2, 3]


def measured(folder: Path, record: dict, answers: dict[int, list[int]], taken_ns: int = 10**6) -> list[int]:
    """The indices that bench measures again where `answers` lie ready."""
    for ask, indices in answers.items():
        (folder / f"repeat-{ask}.json").write_text(json.dumps({"repeat": indices}))
    done = []
    for index, phase, _ in asking.asked(folder, record, Events(folder)):
        done.append(index)
        again = {**record["samples"][index], "phase": phase, "begin_ns": 0, "end_ns": taken_ns}
        record["samples"].append(again)
    return done


def test_bench_asks_until_nothing_is_left_and_tells_all_samples_each_time(tmp_path: Path) -> None:
    assert measured(tmp_path, bench_record(), {1: [4], 2: []}) == [4]
    lines = [json.loads(line) for line in (tmp_path / "events.jsonl").read_text().splitlines()]
    questions = [line for line in lines if line["event"] == "samples"]
    assert [(q["ask"], len(q["rows"]), q["more"]) for q in questions] == [(1, 12, False), (2, 13, False)]
    assert [row[6] for row in questions[0]["rows"]] == [at == 3 for at in range(12)]
    assert questions[0]["rows"][3] == [3, "timed", 0, 10**6, None, [2, 64], True]
    assert questions[1]["rows"][-1][:2] == [4, "repeat"]
    assert [line["name"] for line in lines if line["event"] == "phase"] == ["repeats"]


def test_the_budget_is_three_rounds_and_a_fifth_of_the_time_but_one_in_any_case(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setattr(asking, "WAIT_S", 0.2)
    ways = {name: tmp_path / name for name in ("rounds", "time", "one", "cheap", "strange")}
    for folder in ways.values():
        folder.mkdir()
    assert measured(ways["rounds"], bench_record(), {n: [4] for n in range(1, 9)}, taken_ns=1) == [4, 4, 4]
    assert measured(ways["time"], bench_record(52), {1: list(range(2, 52))}) == list(range(2, 12))
    assert measured(ways["one"], bench_record(5), {1: [2, 3, 4]}) == [2]
    last = [json.loads(line) for line in (ways["rounds"] / "events.jsonl").read_text().splitlines()][-1]
    # The repeats of the third round are reported too.
    assert (last["ask"], len(last["rows"])) == (4, 15)
    cheap = {n: list(range(2, 12)) for n in (1, 2, 3)}
    assert len(measured(ways["cheap"], bench_record(), cheap, taken_ns=0)) == 10
    # Only what was timed can be timed again.
    assert measured(ways["strange"], bench_record(), {1: [0, 1, 99, 5]}) == [5]


def test_without_an_answer_or_without_timed_samples_bench_goes_on(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setattr(asking, "WAIT_S", 0.2)
    began = time.monotonic()
    assert measured(tmp_path, bench_record(), {}) == []
    assert 0.2 <= time.monotonic() - began < 2
    (tmp_path / "b").mkdir()
    assert measured(tmp_path / "b", {"samples": bench_record()["samples"][:2], "detail": {}}, {1: [4]}) == []
    assert (tmp_path / "b" / "events.jsonl").read_text() == ""


def test_many_samples_go_out_in_lines_that_a_look_can_take(tmp_path: Path) -> None:
    (tmp_path / "repeat-1.json").write_text('{"repeat": []}')
    measured(tmp_path, bench_record(302), {})
    lines = [json.loads(line) for line in (tmp_path / "events.jsonl").read_text().splitlines()]
    assert [(len(line["rows"]), line["more"]) for line in lines] == [(100, True), (100, True), (100, True), (2, False)]
    assert max(len(json.dumps(line)) for line in lines) < 10_000
    question = Question()
    for line in lines:
        question.take(line)
    assert len(answered(question, tmp_path, [])) == 302


def test_a_sleep_in_one_sample_of_a_real_process_is_found_and_measured_again(tmp_path: Path) -> None:
    record = run(tmp_path, "stalls")
    assert record.status == "ok"
    tainted = [sample for sample in record.samples if sample.taint]
    assert [(sample.index, sample.phase) for sample in tainted] == [(4, "timed")]
    assert (tainted[0].taint or "").startswith("stalled: ")
    assert [(sample.index, sample.phase) for sample in record.samples[10:]] == [(4, "repeat")]
    assert record.flags == ("unchecked", "cold")
    reduced = steady(record)
    assert reduced.basis == "median of the 8 valid of 9 timed samples"
    assert reduced.seconds is not None
    assert reduced.seconds < 0.1
    assert max(reduced.walls) < 0.2
    assert record.telemetry is None


def test_an_undisturbed_process_is_answered_at_once_and_repeats_nothing(tmp_path: Path) -> None:
    began = time.monotonic()
    record = run(tmp_path, "stalls", change=lambda job: with_seed(job, 1))
    assert time.monotonic() - began < 4  # far from the five seconds that it would wait for an answer
    assert len(record.samples) == 10
    assert not any(sample.taint for sample in record.samples)


def test_a_link_planted_by_the_process_is_not_written_through(tmp_path: Path) -> None:
    record = run(tmp_path, "plants_links")
    assert record.detail == {"victim": "untouched", "answer": '{"repeat": []}'}


def while_running(work: Path, index: int, value, otherwise):
    """A scripted value that holds while the real process, as its events say, is in its sample `index`."""

    def now(_: int):
        try:
            last = (work / "events.jsonl").read_text().splitlines()[-1]
            done = json.loads(last).get("index")
        except (OSError, IndexError, ValueError):
            done = None
        return value if done == index - 1 else otherwise

    return now


def often(monkeypatch) -> None:
    """Read often even on a busy machine, though the scripts read files."""
    monkeypatch.setattr("orchestrator.measure.telemetry.REST", 1)
    for name in ("INTERVAL_S", "SLOW_INTERVAL_S", "LONGEST_S"):
        monkeypatch.setattr(f"orchestrator.measure.telemetry.{name}", 0.005)


def long_samples(job: Job, timeout_s: float | None = None, **workload: object) -> Job:
    """Undisturbed by itself; on a GPU, as far as the orchestrator knows. `workload` are changes of its workload."""
    seeded = with_seed(job, 2)
    changes = {
        "workload": seeded.cell.workload.model_copy(update=workload),
        "timeout_s": timeout_s or job.cell.timeout_s,
    }
    return replace(seeded, cell=seeded.cell.model_copy(update={"device": "cuda", **changes}))


def at_the_cap(monkeypatch: pytest.MonkeyPatch, *, soak_s: float, sustain_s: float) -> None:
    monkeypatch.setattr("orchestrator.host.gpu.pynvml", ScriptedNvml(reasons=POWER_CAP))
    monkeypatch.setattr("orchestrator.measure.supervise.SOAK_S", soak_s)
    monkeypatch.setattr("orchestrator.measure.supervise.SUSTAIN_S", sustain_s)
    often(monkeypatch)


def test_telemetry_of_a_real_process_taints_its_sample_and_has_it_repeated(tmp_path: Path, monkeypatch) -> None:
    work = tmp_path / "work"
    reasons = while_running(work, 5, HARDWARE_THERMAL, 0x4)
    monkeypatch.setattr("orchestrator.host.gpu.pynvml", ScriptedNvml(reasons=reasons))
    monkeypatch.setattr("orchestrator.measure.supervise.SUSTAIN_S", 0.0)
    often(monkeypatch)
    threads = threading.active_count()
    record = run(tmp_path, "stalls", gpu=UUID, change=long_samples)
    assert threading.active_count() == threads
    assert record.status == "ok"
    tainted = {sample.index: sample.taint for sample in record.samples if sample.taint}
    assert tainted.get(5) == "thermal slowdown (hardware)"
    assert set(tainted) <= {4, 5, 6}  # on a busy machine the script's look comes a moment after the reading's time
    repeated = {sample.index for sample in record.samples if sample.phase == "repeat"}
    assert repeated
    assert repeated <= set(tainted)
    assert "tainted" not in record.flags
    assert record.telemetry is not None
    assert record.telemetry.throttled["software power cap"] > 0.5
    assert record.telemetry.energy_joules is not None
    timed_s = sum(sample.end_ns - sample.begin_ns for sample in record.samples if sample.phase == "timed") / 1e9
    assert record.telemetry.energy_joules / timed_s == pytest.approx(500, rel=0.1)
    assert record.telemetry.foreign == ()
    content = (tmp_path / TELEMETRY_FILE).read_bytes()
    assert len(content.splitlines()) > record.telemetry.readings > 20
    assert record.telemetry.series_sha256 is not None


@pytest.mark.parametrize(
    ("script", "limit", "default", "ecc"),
    [
        ({}, 350, 700, True),
        ({"limit": 700_000, "ecc": [0, 1]}, 700, 700, False),
        # What the driver does not say stays as bench has it.
        (dict.fromkeys(("limit", "default", "ecc"), NVMLError_NotSupported()), 1, 1, False),
    ],
)
def test_what_can_be_set_of_a_gpu_says_the_host_and_not_the_cell(  # noqa: PLR0917
    tmp_path, monkeypatch, script, limit, default, ecc
) -> None:
    monkeypatch.setattr("orchestrator.host.gpu.pynvml", ScriptedNvml(**script))
    gpu = run(tmp_path, "on_gpu", gpu=UUID, change=long_samples).environment.gpu
    assert (gpu.power_limit_watts, gpu.power_default_watts, gpu.ecc) == (limit, default, ecc)
    assert (gpu.name, gpu.driver) == ("NVIDIA H100", "580.159.04")


def test_a_real_process_at_the_power_cap_goes_on_back_to_back_and_its_figure_is_made_of_that(tmp_path, monkeypatch):
    at_the_cap(monkeypatch, soak_s=2.6, sustain_s=1.6)
    record = run(tmp_path, "stalls", gpu=UUID, change=long_samples)
    assert record.status == "ok"
    phases = [sample.phase for sample in record.samples]
    # Eight timed samples of 0.25 s count for the soak.
    assert phases == [
        "first",
        "warmup",
        *["timed"] * 8,
        *["soak"] * phases.count("soak"),
        *["sustained"] * phases.count("sustained"),
    ]
    assert 1 <= phases.count("soak") <= 3
    sustained = [sample for sample in record.samples if sample.phase == "sustained"]
    assert 4 <= len(sustained) <= 7
    assert [sample.index for sample in sustained] == list(range(2, 2 + len(sustained)))
    walls = [(sample.end_ns - sample.begin_ns) / 1e9 for sample in sustained]
    assert sum(walls) >= 1.6 > sum(walls[:-1])
    reduced = steady(record)
    assert reduced.seconds == pytest.approx(sum(walls) / len(walls))
    assert reduced.basis == f"mean of {len(walls)} samples sustained for {sum(walls):.3g} s at the power cap"
    assert record.telemetry is not None
    assert record.telemetry.energy_joules == pytest.approx(500 * sum(walls), rel=0.1)
    assert [line["ask"] for line in events(tmp_path) if line["event"] == "samples" and not line["more"]] == [1, 2]
    assert [line["name"] for line in events(tmp_path) if line["event"] == "phase"][-2:] == ["soak", "sustained"]


def test_what_is_asked_of_a_cell_besides_is_not_taken_from_its_own_time(tmp_path: Path, monkeypatch) -> None:
    at_the_cap(monkeypatch, soak_s=2.0, sustain_s=3.0)

    record = run(tmp_path, "stalls", gpu=UUID, change=partial(long_samples, timeout_s=4.0))
    assert (record.status, record.reason) == ("ok", None)
    assert sum(sample.phase == "sustained" for sample in record.samples) >= 12


def test_nor_are_the_whole_turns_of_many_lengths(tmp_path: Path, monkeypatch) -> None:
    at_the_cap(monkeypatch, soak_s=0.1, sustain_s=0.1)
    of_many_lengths = partial(long_samples, timeout_s=4.5, benchmark="train_dynamic")
    record = run(tmp_path, "stalls", gpu=UUID, change=of_many_lengths)
    assert (record.status, record.reason) == ("ok", None)
    phases = Counter(sample.phase for sample in record.samples)
    assert phases["soak"] == phases["sustained"] == phases["timed"]


@pytest.mark.parametrize("nvml", [{"reasons": 0}, {"reasons": HARDWARE_THERMAL}, {"reasons": NVMLError_NotSupported()}])
def test_where_no_power_cap_is_seen_nothing_is_sustained(tmp_path: Path, monkeypatch, nvml: dict) -> None:
    monkeypatch.setattr("orchestrator.host.gpu.pynvml", ScriptedNvml(**nvml))
    often(monkeypatch)
    record = run(tmp_path, "stalls", gpu=UUID, change=long_samples)
    assert {sample.phase for sample in record.samples} <= {"first", "warmup", "timed", "repeat"}


def test_bench_sustains_whole_turns_of_what_is_a_total_and_no_more_than_a_record_has_room_for(tmp_path: Path) -> None:
    ways = {name: tmp_path / name for name in ("turns", "many", "soaked", "whole", "single")}
    for folder in ways.values():
        folder.mkdir()
    lasting = {"repeat": [], "soak_s": 0.0, "sustain_s": 0.0105}
    record = {**bench_record(6), "workload": {"benchmark": "train_dynamic"}}
    # Each shape once more before the figure's: a compiler may record a graph of it then.
    soak = [(at, "soak") for at in [2, 3, 4, 5]]
    assert extras(ways["turns"], record, lasting) == soak + [(at, "sustained") for at in [2, 3, 4, 5] * 3]
    many = extras(ways["many"], bench_record(taken_ns=10), {"repeat": [], "soak_s": 1.0, "sustain_s": 1.0}, taken_ns=10)
    assert [phase for _, phase in many] == ["soak"] * asking.MOST_SUSTAINED + ["sustained"] * asking.MOST_SUSTAINED
    # Ten timed samples of 1 ms: seven more to the soak, then as many as it takes.
    soaked = extras(ways["soaked"], bench_record(), {"repeat": [], "soak_s": 0.017, "sustain_s": 0.003})
    assert [phase for _, phase in soaked] == ["soak"] * 7 + ["sustained"] * 3
    lines = [json.loads(line) for line in (ways["many"] / "events.jsonl").read_text().splitlines()]
    question = Question()
    for line in lines:
        if line["event"] == "samples" and line["ask"] == 2:
            question.take(line)
    assert len(answered(question, ways["many"], [])) == 12 + 2 * asking.MOST_SUSTAINED
    # Of seven lengths as many whole turns as there is room for; one length alone comes twice too.
    whole = {**bench_record(9, taken_ns=10), "workload": record["workload"]}
    taken = extras(ways["whole"], whole, {"repeat": [], "soak_s": 1.0, "sustain_s": 1.0}, taken_ns=10)
    assert [phase for _, phase in taken] == ["soak"] * 1995 + ["sustained"] * 1995
    single = {**bench_record(3), "workload": record["workload"]}
    assert extras(ways["single"], single, {"repeat": [], "soak_s": 0.0, "sustain_s": 0.0005})[0] == (2, "soak")


def test_of_what_is_sustained_a_few_outputs_are_kept_that_no_one_can_foresee(tmp_path: Path) -> None:
    kept = []
    for at in range(80):
        (folder := tmp_path / str(at)).mkdir()
        # Of samples of 1 ms: all that are wanted, or the most that a record has room for.
        seconds = 0.1 if at < 40 else 10.0
        (folder / "repeat-1.json").write_text(json.dumps({"repeat": [], "soak_s": 0.0, "sustain_s": seconds}))
        (folder / "repeat-2.json").write_text('{"repeat": []}')
        record, found = bench_record(), []
        for index, phase, keep in asking.asked(folder, record, Events(folder)):
            record["samples"].append({**record["samples"][index], "phase": phase})
            found += [len(record["samples"])] if keep else []
            assert phase == "sustained" or not keep
        kept.append(found)
    for some in (kept[:40], kept[40:]):
        assert 40 * 4 < sum(map(len, some)) < 40 * 13
        assert len(set(map(tuple, some))) > 30


def extras(folder: Path, record: dict, answer: dict, taken_ns: int = 10**6) -> list[tuple[int, str]]:
    """What bench takes besides the timed samples, each of `taken_ns`, after that answer."""
    (folder / "repeat-1.json").write_text(json.dumps(answer))
    (folder / "repeat-2.json").write_text('{"repeat": []}')
    found = []
    for index, phase, _ in asking.asked(folder, record, Events(folder)):
        found.append((index, phase))
        record["samples"].append({**record["samples"][index], "phase": phase, "begin_ns": 0, "end_ns": taken_ns})
    return found


def events(folder: Path) -> list[dict]:
    return [json.loads(line) for line in (folder / "work" / "events.jsonl").read_text().splitlines()]


def test_a_second_process_on_the_gpu_is_found_beside_a_real_one(tmp_path: Path, monkeypatch) -> None:
    work = tmp_path / "work"

    def pids(now: int) -> list[int]:
        try:
            own = int((work / "pid").read_text())
        except (OSError, ValueError):
            return []
        return [own, *while_running(work, 6, [os.getpid()], [])(now)]

    monkeypatch.setattr("orchestrator.host.gpu.pynvml", ScriptedNvml(pids=pids))
    often(monkeypatch)
    record = run(tmp_path, "stalls", gpu=UUID, change=long_samples)
    tainted = {sample.index: sample.taint for sample in record.samples if sample.taint}
    assert tainted.get(6) == f"another process on the GPU: job{os.getpid()}"
    assert set(tainted) <= {5, 6, 7}
    repeated = {sample.index for sample in record.samples if sample.phase == "repeat"}
    assert repeated
    assert repeated <= set(tainted)
    assert record.telemetry is not None
    assert record.telemetry.foreign == (f"job{os.getpid()}",)


@pytest.mark.parametrize(
    ("program", "status", "reason"),
    [
        ("fails", "infrastructure", "the GPU fell off meanwhile (NVML: GPU is lost); cannot open "),
        ("not_able", "infrastructure", "the GPU fell off meanwhile (NVML: GPU is lost); "),
        ("stalls", "ok", None),
    ],
)
@pytest.mark.parametrize("place", ["sm", "handle"])
def test_a_gpu_that_falls_off_is_not_the_stacks_fault(  # noqa: PLR0917
    tmp_path, monkeypatch, place, program, status, reason
) -> None:
    lost = ScriptedNvml(**{place: NVMLError_GpuIsLost("GPU is lost")})
    monkeypatch.setattr("orchestrator.host.gpu.pynvml", lost)
    record = run(tmp_path, program, gpu=UUID, change=long_samples)
    assert record.status == status
    assert (record.reason or "").startswith(reason or "")
