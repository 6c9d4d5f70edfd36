"""A cell of several devices ends with the reason of the rank that failed first, and never waits for ever."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time

import pytest
from bench_specs import write_spec
from places import ROOT
from processes import gone

from bench import engine, ranks
from bench.spec import read_spec

RANK = """
import json, os, pathlib, signal, sys, time
folder, rank = pathlib.Path(sys.argv[1]).parent, int(sys.argv[3])
folder = folder / f"rank-{rank}" if rank else folder
def record(status="ok", reason=None):
    (folder / "record.json").write_text(json.dumps({"status": status, "reason": reason, "of": rank}))
"""


@pytest.fixture
def run(tmp_path, monkeypatch):
    monkeypatch.setattr(ranks, "GRACE_S", 0.5)
    monkeypatch.setattr(ranks, "DEAD_S", 0.3)

    def run(behaviour):
        script = tmp_path / "rank.py"
        script.write_text(RANK + behaviour, encoding="utf-8")
        spec = read_spec(write_spec(tmp_path / "cell", "forward", devices=3, parallel="tensor"))
        record = ranks.run(spec, (sys.executable, str(script)))
        assert json.loads((tmp_path / "cell" / "record.json").read_text()) == record
        return record

    return run


def test_the_record_of_rank_0_stands_where_all_end_well(run):
    record = run("record()")
    assert record == {"status": "ok", "reason": None, "of": 0}


@pytest.mark.parametrize(
    ("death", "how"),
    [
        ("os.kill(os.getpid(), 9)", "was killed by signal 9 (SIGKILL)"),
        ("sys.exit(3)", "ended with exit code 3"),
        ("pass", "ended with exit code 0 and left no record"),
    ],
)
def test_a_dead_rank_ends_the_cell_while_the_others_wait(run, death, how):
    record = run(f"if rank == 1:\n    {death}\nelse:\n    time.sleep(100)")
    assert (record["status"], record["reason"]) == ("crashed", f"rank 1 of 3 {how}")
    assert record["workload"]["devices"] == 3


def test_a_rank_that_dies_is_the_reason_of_what_the_others_say_afterwards(run):
    record = run("if rank == 2:\n    os.kill(os.getpid(), 11)\ntime.sleep(0.1)\nrecord('crashed', 'connection closed')")
    assert (record["status"], record["reason"]) == ("crashed", "rank 2 of 3 was killed by signal 11 (SIGSEGV)")


def test_the_rank_that_failed_first_is_the_reason(run):
    record = run(
        "time.sleep(0.5 * (rank != 1))\nrecord(*(('out_of_memory', 'no room') if rank == 1 else ('crashed', 'peer')))"
    )
    assert (record["status"], record["reason"]) == ("out_of_memory", "rank 1 of 3: no room")


def test_what_all_ranks_say_alike_is_said_once(run):
    record = run("record('unsupported', 'no FSDP2 here')")
    assert (record["status"], record["reason"]) == ("unsupported", "no FSDP2 here")


def test_a_rank_that_does_not_end_after_the_others_is_killed(run):
    record = run("time.sleep(100 * (rank == 2))\nrecord()")
    assert (record["status"], record["reason"]) == ("crashed", "rank 2 of 3 was not done 0.5 s after another")


RANKS = "from bench import ranks; ranks.run(read_spec(Path(sys.argv[1])), sys.argv[2:])"
BESIDE = """
from bench import beside
sys.executable = sys.argv[3]
beside.Other("float32", Path(sys.argv[1]).parent).record()
"""
SLEEPS = """#!{python}
import os, pathlib, sys, time
with (pathlib.Path(__file__).parent / "pids").open("a") as file:
    file.write(f"{{os.getpid()}}\\n")
time.sleep(100)
"""


@pytest.mark.parametrize(("starts", "count"), [(RANKS, 2), (BESIDE, 1)])
def test_what_a_cell_has_started_ends_with_it_where_it_is_killed(tmp_path, starts, count):
    script, pids = tmp_path / "sleeps", tmp_path / "pids"
    script.write_text(SLEEPS.format(python=sys.executable), encoding="utf-8")
    script.chmod(0o755)
    spec = write_spec(tmp_path / "cell", "forward", devices=2, parallel="tensor")
    code = f"import sys\nfrom pathlib import Path\nfrom bench.spec import read_spec\n{starts}"
    words = [sys.executable, "-c", code, str(spec), sys.executable, str(script)]
    with subprocess.Popen(words, env={**os.environ, "PYTHONPATH": str(ROOT)}) as cell:
        while not pids.exists() or len(pids.read_text().splitlines()) < count:
            assert cell.poll() is None
            time.sleep(0.05)
        cell.kill()
    assert [gone(int(pid)) for pid in pids.read_text().split()] == [True] * count


def test_no_engine_runs_on_several(tmp_path):
    spec = read_spec(write_spec(tmp_path, "generation", devices=2, parallel="tensor", batch=2))
    assert engine.refuse(spec) == "engines run on one device here, and the cell is one of 2"
