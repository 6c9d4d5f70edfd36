"""A cell's page, run for real: every benchmark leaves a record that its schema accepts, whatever happens."""

from __future__ import annotations

import gc
import json
import math
import os
from pathlib import Path

import pytest

torch = pytest.importorskip("torch")

from bench_specs import SHAPES, run_bench, write_spec  # noqa: E402

from bench import benchmarks, cell, prepare  # noqa: E402
from bench.benchmarks import train_dynamic  # noqa: E402
from bench.model import weights  # noqa: E402
from bench.observe.clock import Clock  # noqa: E402
from bench.prepare import make_model  # noqa: E402
from bench.spec import read_spec  # noqa: E402

MEASURED = [name for name in SHAPES if name != "ceilings"]


def run(folder: Path, benchmark: str, method: str = "eager", **changes):
    cell.run(read_spec(write_spec(folder, benchmark, method, **changes)))
    text = (folder / "record.json").read_text(encoding="utf-8")
    assert len(text) < 50_000
    return json.loads(text)


def check_schema(record):
    jsonschema = pytest.importorskip("jsonschema")
    from orchestrator.cli.schema import schema_text

    jsonschema.validate(record, json.loads(schema_text("record")))


@pytest.mark.parametrize("benchmark", MEASURED)
def test_every_benchmark_is_ok_and_fits_the_schema(tmp_path, benchmark):
    record = run(tmp_path, benchmark)
    assert (record["status"], record["reason"]) == ("ok", None)
    check_schema(record)
    assert [s["index"] for s in record["samples"]] == list(range(5))
    assert [s["phase"] for s in record["samples"]] == ["first", "warmup", "warmup", "timed", "timed"]
    assert all(s["end_ns"] > s["begin_ns"] for s in record["samples"])
    assert record["proof"]["weights_checksum"] == "dc9cd19da5b29b25"
    assert len(record["proof"]["inputs_checksum"]) == 16
    assert record["work"]["flops"] > 0
    assert record["flags"] == ["cold"]
    assert {check["status"] for check in record["proof"]["checks"]} == {"passed"}
    names = [p["name"] for p in record["phases"]]
    before = ["environment", "model", "method", "first call", "warm-up", "samples"]
    assert names == [*before, "memory", "proof", "dispatch", "record"]


def test_ceilings_are_raw_durations(tmp_path):
    record = run(tmp_path, "ceilings", "torch")
    check_schema(record)
    assert [r["kind"] for r in record["rates"]] == ["matrix_product", "device_copy"]
    assert [len(r["durations_ns"]) for r in record["rates"]] == [5, 5]
    assert record["rates"][0]["work"] == 2 * 64**3


def test_sustained_ceilings_are_rates_of_their_own(tmp_path):
    lasting = {"soak_s": 0.02, "sustained_s": 0.05, "precisions": ["tf32"]}
    record = run(tmp_path, "ceilings", "torch", dtype="float32", matrix_sizes=[32, 64], **lasting)
    check_schema(record)
    rates = [(r["kind"], r["size"], r.get("precision"), r.get("sustained", False)) for r in record["rates"]]
    bursts = [("matrix_product", size, precision, False) for precision in ("tf32", None) for size in (32, 64)]
    copy = ("device_copy", 4096, None, False)
    assert rates == [*bursts, copy, *((*burst[:3], True) for burst in bursts)]
    assert [phase["name"] for phase in record["phases"]] == ["environment", "samples", "sustained", "record"]
    began = record["phases"][2]["begin_ns"] + 0.02e9
    for burst, rate in zip(record["rates"][:4], record["rates"][5:], strict=True):
        assert rate["work"] == math.ceil(5e6 / min(burst["durations_ns"])) * 2 * rate["size"] ** 3
        assert rate["begin_ns"] >= began
        assert rate["end_ns"] - rate["begin_ns"] >= sum(rate["durations_ns"]) > 0
        began = rate["end_ns"]


@pytest.mark.parametrize("benchmark", ["generation", "model_inference"])
def test_generation_says_when_the_first_token_came_and_repeats_itself(tmp_path, benchmark):
    first, second = (run(tmp_path / name, benchmark) for name in "ab")
    for sample in first["samples"]:
        assert 0 < sample["first_token_ns"] < sample["end_ns"] - sample["begin_ns"]
    assert len(first["proof"]["generated"]) == 6
    assert first["proof"]["generated"] == second["proof"]["generated"]


def test_training_learns_and_keeps_its_losses(tmp_path):
    record = run(tmp_path, "train_static", iterations=8, warmup=4, learning_rate=0.05)
    losses = [s["loss"] for s in record["samples"]]
    assert all(5 < loss < 9 for loss in losses)
    assert len(set(losses)) > 1


def test_dynamic_batches_are_padded_to_their_longest(tmp_path):
    task = train_dynamic.DynamicTraining.__new__(train_dynamic.DynamicTraining)
    spec = read_spec(write_spec(tmp_path, "train_dynamic", sequence=60))
    task.workload = spec.workload
    task.context = type("C", (), {"device": "cpu", "model": type("M", (), {"config": spec.workload.model})})
    shapes = set()
    for index in range(20):
        tokens, targets = task.inputs(index)
        lengths = (targets != -1).sum(1)
        assert int(lengths.max()) == tokens.shape[1]
        assert all(4 <= int(n) <= 60 for n in lengths)
        for row, n in enumerate(lengths):
            assert tokens[row, n:].eq(0).all()
            assert targets[row, n:].eq(-1).all()
            assert torch.equal(tokens[row, 1:n], targets[row, : n - 1])
        shapes.add(tokens.shape[1])
    assert len(shapes) > 10


def test_a_model_that_makes_nan_is_incorrect(tmp_path, monkeypatch):
    fill = weights.fill

    def poisoned(model, seed, **more):
        fill(model, seed, **more)
        with torch.no_grad():
            model.head.weight[0, 0] = float("nan")

    monkeypatch.setattr(weights, "fill", poisoned)
    for benchmark in MEASURED:
        record = run(tmp_path / benchmark, benchmark)
        assert record["status"] == "incorrect"
        assert "not finite" in record["reason"]
        check_schema(record)


def test_unknown_method_and_missing_gpu_are_unsupported(tmp_path):
    assert run(tmp_path / "a", "forward", "warp_drive")["status"] == "unsupported"
    path = write_spec(tmp_path / "b", "forward")
    spec = json.loads(path.read_text())
    path.write_text(json.dumps({**spec, "device": "cuda"}))
    if not torch.cuda.is_available():
        record = cell.run(read_spec(path))
        assert record["status"] == "unsupported"
        assert "CUDA" in record["reason"]


@pytest.mark.parametrize("benchmark", SHAPES)
def test_the_largest_seed_is_one_like_others(tmp_path, benchmark):
    record = run(tmp_path, benchmark, "torch" if benchmark == "ceilings" else "eager", seed=2**63 - 1)
    assert (record["status"], record["reason"]) == ("ok", None)


@pytest.mark.parametrize(
    ("benchmark", "changes", "says"),
    [
        ("generation", {"prompt": [1, 700]}, "prompt: id 700 is not in the vocabulary of tiny ("),
        ("model_inference", {"prompt": [2**62]}, f"prompt: id {2**62} is not in the vocabulary of tiny ("),
        ("generation", {"prompt": [1] * 300}, "prompt: 6 new tokens after 300 are beyond the block size 256 of tiny"),
        ("generation", {"prompt": []}, "prompt: no token comes of it"),
        ("forward", {"ids_below": 10**6}, "ids_below: 1000000 is beyond the vocabulary of tiny ("),
        ("train_static", {"ids_below": 10**6}, "ids_below: 1000000 is beyond the vocabulary of tiny ("),
        ("train_dynamic", {"ids_below": 10**6}, "ids_below: 1000000 is beyond the vocabulary of tiny ("),
    ],
)
def test_ids_that_the_model_has_no_row_for_are_refused_before_anything_runs(tmp_path, benchmark, changes, says):
    record = run(tmp_path, benchmark, **changes)
    assert record["status"] == "unsupported"
    assert record["reason"].startswith(says)
    assert record["samples"] == []
    check_schema(record)


@pytest.mark.parametrize(
    ("ids", "says"),
    [
        ([1, 700], "prompt_text, by the checkpoint's tokenizer: id 700 is not in the vocabulary of tiny ("),
        ([1] * 300, "prompt_text, by the checkpoint's tokenizer: 6 new tokens after 300 are beyond the block size 256"),
        ([], "prompt_text, by the checkpoint's tokenizer: no token comes of it"),
    ],
)
def test_so_is_what_a_tokenizer_makes_of_a_text(tmp_path, monkeypatch, ids, says):
    tokenizer = type("Tokenizer", (), {"encode": lambda _self, _text: ids})()
    monkeypatch.setattr(cell, "make_model", lambda spec, method: (make_model(spec, method)[0], tokenizer))
    record = run(tmp_path, "generation", prompt_text="Hello")
    assert record["status"] == "unsupported"
    assert record["reason"].startswith(says)


def test_without_a_compiler_inductor_is_unsupported_and_says_so(tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.delenv("CXX", raising=False)
    record = run(tmp_path, "forward", "inductor")
    assert record["status"] == "unsupported"
    assert "g++" in record["reason"]
    check_schema(record)


def test_the_collector_walks_through_nothing_older_than_the_samples(tmp_path, monkeypatch):
    aside, timed = [], Clock.time

    def seen(clock, *arguments):
        aside.append(gc.get_freeze_count())
        return timed(clock, *arguments)

    monkeypatch.setattr(Clock, "time", seen)
    record = run(tmp_path, "forward")
    assert record["status"] == "ok"
    assert aside[0] == 0
    assert min(aside[1 : len(record["samples"])]) > 10_000
    assert gc.get_freeze_count() == 0


@pytest.mark.parametrize(("benchmark", "trained"), [("forward", False), ("generation", False), ("train_static", True)])
def test_weights_ask_for_gradients_where_they_are_trained_alone(tmp_path, monkeypatch, benchmark, trained):
    asked, made = [], benchmarks.Context

    def seen(workload, model, *more):
        asked.append({weight.requires_grad for weight in model.parameters()})
        return made(workload, model, *more)

    monkeypatch.setattr(benchmarks, "Context", seen)
    assert run(tmp_path, benchmark)["status"] == "ok"
    assert asked[0] == {trained}  # then come the references', which are never compiled


def test_a_crash_is_a_record(tmp_path):
    record = run(tmp_path, "forward", sequence=10_000)  # beyond the rotary tables
    assert record["status"] == "crashed"
    assert record["reason"]
    check_schema(record)


def test_the_command_runs_inductor(inductor_cell):
    folder, record = inductor_cell
    assert (record["status"], record["reason"]) == ("ok", None)
    assert record["detail"]["graphs"] == [1] * 5
    assert record["detail"]["method"]["compile"]["mode"] == "default"
    assert (folder / "cache" / "inductor").is_dir()


def test_the_command_refuses_a_bad_spec_in_one_line(tmp_path):
    (tmp_path / "spec.json").write_text("{")
    done = run_bench(tmp_path, "spec.json")
    assert done.returncode == 4
    assert len(done.stderr.strip().splitlines()) == 1


def test_fingerprint_needs_no_torch(tmp_path):
    done = run_bench(tmp_path, "--fingerprint")
    content = json.loads(done.stdout)
    assert content["packages"]["torch"].split("+")[0] == torch.__version__.split("+")[0]
    assert len(content["fingerprint"]) == 16


@pytest.mark.parametrize(
    ("group", "files", "cpus"),
    [
        ("0::/", {"cpu.max": "25000 100000"}, 0.25),
        ("0::/a/b", {"a/b/cpu.max": "max 100000", "a/cpu.max": "50000 50000"}, 1.0),
        ("3:cpu,cpuacct:/x", {"cpu,cpuacct/cpu.cfs_quota_us": "10", "cpu,cpuacct/cpu.cfs_period_us": "100"}, 0.1),
        ("3:cpu:/x", {"cpu/x/cpu.cfs_quota_us": "-1", "cpu/x/cpu.cfs_period_us": "100"}, None),
        ("0::/", {"cpu.max": "1 0"}, None),
        ("what is this", {}, None),
    ],
)
def test_a_quota_of_cpu_time_is_read_as_either_version_says_it(tmp_path, group, files, cpus):
    for name, text in files.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
    (tmp_path / "own").write_text(group + "\n")
    assert prepare.cpu_quota(tmp_path / "own", tmp_path) == (cpus or os.cpu_count())


@pytest.mark.parametrize(("threads", "cpus", "used"), [(4, 2.5, 2), (4, 0.25, 1), (None, 2.0, 2), (2, 8.0, 2)])
def test_there_are_no_more_threads_than_a_quota_has_cpus(tmp_path, monkeypatch, threads, cpus, used):
    before = torch.get_num_threads()
    monkeypatch.setattr(prepare, "cpu_quota", lambda: cpus)
    path = write_spec(tmp_path, "forward")
    path.write_text(json.dumps({**json.loads(path.read_text()), "threads": threads, "only_first": True}))
    try:
        torch.set_num_threads(3)
        cell.run(read_spec(path))
    finally:
        torch.set_num_threads(before)
    assert json.loads((tmp_path / "record.json").read_text())["environment"]["threads"] == used
