from __future__ import annotations

import io

from fake_run import make_job
from record_samples import check, proof, record, samples

from orchestrator.measure.supervise import blank_record
from orchestrator.measure.watch import Event
from orchestrator.records.record import Refusal, Sample
from orchestrator.runner.progress import LiveProgress, Progress, outcome


def good():
    samples = tuple(
        Sample(index=i, phase="timed", shape=(2, 64), begin_ns=i * 10**9, end_ns=i * 10**9 + 123456789, device_ns=None)
        for i in range(5)
    )
    return blank_record(make_job("good"), Refusal("ok", "")).model_copy(update={"samples": samples, "reason": None})


def test_plain_lines() -> None:
    out = io.StringIO()
    with Progress(out=out) as progress:
        progress.begin("forward good@fake", 3, 11, 125)
        for event in (Event("first call"), Event("samples", 0, 5), Event("samples", 1, 5)):
            progress.event(event)
        progress.end(good(), 95)
    lines = out.getvalue().splitlines()
    assert lines[0] == "[3/11] forward good@fake: started, 2 min left in all"
    assert [line.partition(": ")[2].partition(" (")[0] for line in lines[1:3]] == ["first call", "samples"]
    assert lines[3].startswith("[3/11] forward good@fake: 0.1235 s; took 0.0 s, 2 min left")
    assert len(lines) == 4


def test_an_outcome_is_one_line() -> None:
    record = blank_record(make_job("x"), Refusal("crashed", "exit code 1; end of the log:\nTraceback\n  File"))
    assert outcome(record) == "crashed (exit code 1; end of the log: Traceback File)"
    assert outcome(good()) == "0.1235 s"


def test_the_figure_is_that_which_the_tables_show_first() -> None:
    assert outcome(record(samples=samples(9000.0, *[450.0] * 4, 400.0, 500.0, 460.0, warmup=2))) == "0.4500 s"


def test_a_terminal_gets_a_live_line() -> None:
    with LiveProgress() as progress:
        progress.say("[red]no markup[/red]")
        progress.begin("forward good@fake", 1, 2, 10)
        progress.event(Event("samples", 1, 5))
        progress.end(good(), 0)


def test_the_end_of_a_round_says_how_many_checks_passed() -> None:
    proved = proof(0.01, check("sampler", "unchecked", what="no draws"))
    assert outcome(record(samples=samples(9000.0, *[450.0] * 4), proof=proved)) == "0.4500 s, 3 of 4 checks passed"
