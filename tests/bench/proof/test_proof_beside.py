"""A probe in two precisions: two processes, one record.

Once as the command does it. Elsewhere the cell's own precision is computed in this process, which has torch already.
"""

from __future__ import annotations

import json
from dataclasses import replace

import pytest
from bench_specs import run_bench, workload, write_spec
from places import ROOT

torch = pytest.importorskip("torch")

import planted  # noqa: E402
from probe_cells import _without_dispatch  # noqa: E402, F401

from bench import beside, cell, methods, operators  # noqa: E402
from bench.operators import Operators  # noqa: E402
from bench.spec import read_spec  # noqa: E402

SHARP = {"source": "probe", "seed": 0, "fingerprint": None}
# Run by Python at its start: what the process of the other precision is given in place of eager.
PLANTED = """
import sys
if 'beside-float32' in sys.orig_argv[-1]:
    sys.path.append({support!r})
    import os, time
    import planted
    from bench import methods, operators
    from bench.operators import Operators
    from bench.status import Unsupported
    {what}
"""


def method(text):
    return f"methods.load = lambda _: {text}"


def scaled(factor):
    """What `SCALED` makes in the other process."""
    return planted.method(operators=Operators(attention=lambda q, *more: operators.attention(q * factor, *more)))


SCALED = "planted.method(operators=Operators(attention=lambda q, *more: operators.attention(q * 1.02, *more)))"


def probe(folder, benchmark="forward", **changes):
    """The spec of a probe in bfloat16 that has one in float32 beside it."""
    own, other = (workload(benchmark, dtype=dtype, weights=SHARP) for dtype in ("bfloat16", "float32"))
    path = write_spec(folder, benchmark, dtype="bfloat16", weights=SHARP, beside=[other])
    spec = {**json.loads(path.read_text()), "role": "probe", "repeats": False, "only_first": False}
    said = {"workload": other, "reference": None, "reference_sha256": None}
    path.write_text(json.dumps({**spec, "workload": {**own, "beside": [other]}, "beside": [said], **changes}))
    return path


def run(folder, monkeypatch, benchmark="forward", what="pass", **changes):
    """The record of a cell that is computed here, and beside it by a process that `what` is done in."""
    spec = read_spec(probe(folder, benchmark, **changes))
    support = str(ROOT / "tests" / "support")
    (folder / "sitecustomize.py").write_text(PLANTED.format(what=what, support=support))
    monkeypatch.setenv("PYTHONPATH", f"{folder}:{ROOT}")
    with beside.others(spec) as others:
        cell.run(spec, others)
    return json.loads((folder / "record.json").read_text())


def by_the_command(folder):
    probe(folder)
    ended = run_bench(folder, "spec.json")
    assert ended.returncode == 0, ended.stderr
    return json.loads((folder / "record.json").read_text())


@pytest.mark.parametrize("benchmark", ["forward", "generation", "train_static"])
def test_both_precisions_are_checked_in_one_record(tmp_path, monkeypatch, benchmark):
    record = by_the_command(tmp_path) if benchmark == "forward" else run(tmp_path, monkeypatch, benchmark)
    assert (record["status"], record["reason"], record["flags"]) == ("ok", None, ["cold"])
    names = [check["name"] for check in record["proof"]["checks"]]
    own = [name for name in names if not name.startswith("float32: ")]
    assert {f"float32: {name}" for name in own} <= set(names)
    assert own == names[: len(own)]
    assert record["workload"]["dtype"] == "bfloat16"
    said = record["detail"]["beside"]["float32"]
    assert said["seconds"] > 0
    assert said["weights_checksum"] == record["proof"]["weights_checksum"]
    if benchmark != "train_static":
        assert (record["proof"]["reference"]["dtype"], said["reference"]["dtype"]) == ("float32", "float64")


@pytest.mark.parametrize(
    ("what", "status", "reason"),
    [
        (method(SCALED), "incorrect", "forward: float32: logits: "),
        ("os._exit(3)", "crashed", "in float32: its process ended with exit code 3 and left no record"),
        ("os.kill(os.getpid(), 9)", "crashed", "in float32: its process ended with exit code -9 and left no record"),
        (method("1 / 0"), "crashed", "in float32: ZeroDivisionError"),
        (method("(_ for _ in ()).throw(Unsupported('no float32 here'))"), "unsupported", "in float32: no float32 here"),
        (
            method("(_ for _ in ()).throw(MemoryError('all of it'))"),
            "out_of_memory",
            "in float32: MemoryError: all of it",
        ),
    ],
)
def test_what_goes_wrong_in_the_other_precision_is_the_probes(tmp_path, monkeypatch, what, status, reason):
    record = run(tmp_path, monkeypatch, what=what)
    assert record["status"] == status
    assert reason in record["reason"]
    own = [check for check in record["proof"]["checks"] if not check["name"].startswith("float32: ")]
    assert own
    assert {check["status"] for check in own} == {"passed"}


def test_a_check_that_could_not_be_made_there_leaves_the_probe_unchecked(tmp_path, monkeypatch):
    (own,) = json.loads(probe(tmp_path).read_text())["beside"]
    record = run(tmp_path, monkeypatch, beside=[{**own, "reference": "/none"}])
    found = {check["name"]: check["status"] for check in record["proof"]["checks"]}
    assert (found["reference"], found["float32: reference"]) == ("passed", "unchecked")
    assert (record["status"], record["flags"]) == ("ok", ["cold", "unchecked"])


def test_what_is_wrong_in_its_own_precision_comes_first(tmp_path, monkeypatch):
    monkeypatch.setattr(methods, "load", lambda _: scaled(1.5))
    record = run(tmp_path, monkeypatch, what=method(SCALED.replace("1.02", "1.5")))
    assert record["status"] == "incorrect"
    assert record["reason"].startswith("forward: logits: ")
    monkeypatch.setattr(methods, "load", lambda _: 1 / 0)
    crashed = run(tmp_path / "crashed", monkeypatch)
    assert (crashed["status"], crashed["reason"]) == ("crashed", "ZeroDivisionError: division by zero")
    assert "beside" not in crashed["detail"]
    assert "beside" not in [phase["name"] for phase in crashed["phases"]]


@pytest.mark.parametrize(
    "other", ["time.sleep(600)", method("(_ for _ in ()).throw(Unsupported('not here'))"), "os._exit(3)"]
)
def test_what_is_wrong_in_its_own_precision_is_so_whatever_the_other_does(tmp_path, monkeypatch, other):
    monkeypatch.setattr(methods, "load", lambda _: scaled(1.5))
    record = run(tmp_path, monkeypatch, what=other)
    assert record["status"] == "incorrect"
    assert record["reason"].startswith("forward: logits: ")


def test_an_output_that_is_none_in_the_other_precision_is_incorrect(tmp_path, monkeypatch):
    lazy = method("planted.method(model=lambda target: lambda tokens: [target(tokens)])")
    record = run(tmp_path, monkeypatch, what=lazy)
    assert record["status"] == "incorrect", record["reason"]
    assert record["reason"].startswith("in float32: ")


def test_a_first_call_alone_has_nothing_beside_it(tmp_path, monkeypatch):
    record = run(tmp_path, monkeypatch, only_first=True)
    assert record["status"] == "ok"
    assert not list(tmp_path.glob("beside-*"))


def test_on_a_gpu_they_run_at_the_same_time_and_none_is_left(tmp_path):
    spec = replace(read_spec(probe(tmp_path)), device="cuda")
    with beside.others(spec) as (other,):
        assert other.process.poll() is None
    assert other.process.poll() is not None


def test_one_cell_makes_the_references_of_several_models(tmp_path):
    subjects = [workload("forward", dtype=dtype, weights=SHARP, model=model)
                for model in ("tiny", "tiny_gqa") for dtype in ("bfloat16", "float32")]  # fmt: skip
    path = write_spec(tmp_path, "forward", "reference")
    whole = {**subjects[0], "benchmark": "reference", "batch": None, "sequence": None, "iterations": 1, "warmup": 0}
    ids = [f"{place}" * 16 for place in range(len(subjects))]
    spec = {**json.loads(path.read_text()), "role": "reference", "subject_ids": ids}
    path.write_text(json.dumps({**spec, "workload": {**whole, "subjects": subjects}}))
    cell.run(read_spec(path))
    made = json.loads((tmp_path / "record.json").read_text())["detail"]["references"]
    assert len({facts["sha256"] for facts in made.values()}) == len(subjects)
    for name, subject in zip(ids, subjects):  # noqa: B905  (Python 3.10's zip)
        row = write_spec(tmp_path / name, "forward")
        known = {"reference": str(tmp_path / f"reference-{name}.safetensors"), "reference_sha256": made[name]["sha256"]}
        row.write_text(json.dumps({**json.loads(row.read_text()), **known, "workload": subject}))
        cell.run(read_spec(row))
        record = json.loads((tmp_path / name / "record.json").read_text())
        assert (record["status"], record["reason"], record["flags"]) == ("ok", None, ["cold"])
        assert record["proof"]["reference"]["sha256"] == made[name]["sha256"]
