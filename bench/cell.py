"""One round of one cell, from the environment to the record, as a sequence of named phases."""

from __future__ import annotations

import datetime as dt
import hashlib
import traceback
from collections.abc import Sequence
from functools import partial
from typing import Any

import torch

from bench import benchmarks, caches, methods, repeats
from bench.benchmarks import Task
from bench.environment import environment
from bench.model import hashing, weights
from bench.observe import ceilings, compiles
from bench.observe.clock import Clock
from bench.observe.dispatch import SETTLE, examine
from bench.observe.memory import Memory
from bench.prepare import GRAD_MODES, fill_model, grad_mode, make_model
from bench.proof import gate, make_references
from bench.record import Events, write_json
from bench.spec import Spec
from bench.status import Unsupported, classify


def run(spec: Spec) -> dict[str, Any]:
    """Run the cell and write its record, whatever happens; return the record."""
    events = Events(spec.folder)
    record = blank(spec)
    flag = caches.state(spec)
    try:
        events.phase("environment")
        prepare_process(spec)
        record["environment"] = environment(spec.device)
        if spec.workload.benchmark == "ceilings":
            record["rates"] = ceilings.measure(spec.workload, spec.device, Clock(spec.device), events)
        elif spec.workload.benchmark == "reference":
            make_references.run(spec, record, events)
        else:
            record["flags"] = ["unchecked", flag]
            measure(spec, record, events)
        reason = gate.verdict(spec.workload.benchmark, record.get("proof") or {})
        record["status"], record["reason"] = ("incorrect", reason) if reason else ("ok", None)
    except Exception as error:  # noqa: BLE001  (whatever happens is a record with its status)
        traceback.print_exc()
        record["status"], record["reason"] = classify(error)
    events.phase("record")
    events.close()
    record["phases"] = events.phases
    write_json(spec.folder / "record.json", record)
    return record


def measure(spec: Spec, record: dict[str, Any], events: Events) -> None:
    """Fill the record of a benchmark: model, method, samples, memory, proof, dispatch."""
    workload, clock, memory = spec.workload, Clock(spec.device), Memory(spec.device)
    method = methods.load(spec.method)
    if reason := method.refuse(workload, spec.device):
        raise Unsupported(reason)
    record["detail"]["method"] = method.settings(workload)

    events.phase("model")
    model, tokenizer = make_model(spec, method)
    record["proof"] = {
        "weights_checksum": weights.checksum(model),
        "parameters": sum(parameter.numel() for parameter in model.parameters()),
    }

    events.phase("method")
    refill = partial(fill_model, spec, model)
    context = benchmarks.Context(workload, model, method, clock, spec.device, tokenizer, refill)
    task = benchmarks.load(workload.benchmark).build(context)

    record["detail"]["grad_mode"] = mode = grad_mode(task.inference)
    with GRAD_MODES[mode]():
        # In a list, so that the proof can free it.
        output = [take_samples(task, spec, record, clock=clock, memory=memory, events=events)]
        if report := getattr(method, "report", None):
            record["detail"].update(report())  # what the method really ran: known only now
        if spec.only_first:
            return
        events.phase("memory")
        record["memory"] = memory.peaks()
        timed = [sample["shape"] for sample in record["samples"] if sample["phase"] == "timed"]
        record["work"] = task.work(timed or [record["samples"][-1]["shape"]])
        events.phase("proof")
        record["proof"].update(gate.gate(context, task, spec, output))
        if gate.complete(record["proof"]):
            record["flags"].remove("unchecked")
        events.phase("dispatch")
        gather(task, spec, record, method.expects(workload, spec.device))


def take_samples(
    task: benchmarks.Task, spec: Spec, record: dict[str, Any], *, clock: Clock, memory: Memory, events: Events
) -> Any:
    """Time every sample: the first call apart, then the warm-up, then the rest. Returns the last output.

    Last come the repeats of those that something else disturbed, where somebody says which.
    """
    workload = spec.workload
    inputs_hash, ledger = hashlib.sha256(), compiles.Ledger()
    record["detail"].update(graphs=ledger.graphs, kernels=ledger.kernels)

    def sample(index: int, phase: str) -> Any:
        inputs = task.inputs(index)
        if phase != "repeat":
            content = task.content(inputs)
            inputs_hash.update(b"".join(hashing.checksum(part).to_bytes(8, "little") for part in content))
        output, timing = clock.time(lambda: task.call(inputs))
        told = {"index": index, "phase": phase, "shape": task.shape(inputs), **vars(timing), "loss": task.loss(output)}
        record["samples"].append(told)
        ledger.after(index, task.shape(inputs))
        record["compiles"] = ledger.summary()
        return output

    events.phase("first call")
    for index in range(1 if spec.only_first else workload.iterations):
        if index == 1:
            events.phase("warm-up")
        if index == min(workload.warmup + 1, workload.iterations - 1):
            memory.steady()
            events.phase("samples")
        output = None  # what the last sample returned is freed before the next
        output = sample(index, "first" if index == 0 else "warmup" if index <= workload.warmup else "timed")
        events.sample(index, workload.iterations)
    record["proof"]["inputs_checksum"] = inputs_hash.hexdigest()[:16]
    for index in repeats.asked(spec.folder, record, events) if spec.repeats else ():
        output = None
        output = sample(index, "repeat")
    return output


def prepare_process(spec: Spec) -> None:
    """Settings of the whole process; refuses a device that is not there."""
    if spec.threads:
        torch.set_num_threads(spec.threads)
    if spec.device == "cuda":
        if not torch.cuda.is_available():
            raise Unsupported("torch sees no CUDA device in this stack")
        torch.cuda.init()
    torch.manual_seed(spec.workload.seed)


def blank(spec: Spec) -> dict[str, Any]:
    """The record before anything was done."""
    now = dt.datetime.now(tz=dt.timezone.utc)
    return {
        "schema_version": 1,
        "written_by": "bench",
        "cell_id": spec.cell_id,
        "workload_id": spec.workload_id,
        "round": spec.round,
        "stack": spec.stack,
        "method": spec.method,
        "workload": spec.raw,
        "device": spec.device,
        "status": "crashed",
        "reason": None,
        "flags": [],
        "bench_source": spec.bench_source,
        "started_utc": now.isoformat(),
        "samples": [],
        "rates": [],
        "detail": {},
    }


def gather(task: Task, spec: Spec, record: dict[str, Any], expected: Sequence[str]) -> None:
    """Fill the record's `dispatch`; flag it `not_fused`, or `unchecked` where there is no evidence at all."""
    workload = spec.workload
    timed = [sample["shape"] for sample in record["samples"] if sample["phase"] == "timed"]
    changing = any(shape != timed[0] for shape in timed)
    # Where shapes change, one more sample as they were; else the last one again. What was compiled settles before: the
    # proof may have called for other things meanwhile, and a CUDA graph is replayed from the third call on.
    settle = SETTLE if record["compiles"] and not changing else 0
    inputs = task.inputs(workload.iterations if changing else workload.iterations - 1)
    flag: str | None = None
    try:
        for _ in range(settle):
            task.brief(inputs)
        record["dispatch"] = found = examine(lambda: task.brief(inputs), expected, spec.device, spec.folder)
    except Exception as error:  # noqa: BLE001  (a row without evidence is a row, and says so)
        record["detail"]["dispatch"] = f"no evidence: {type(error).__name__}: {error}"[:500]
        flag = "unchecked"
    else:
        if found["missing"]:
            flag = "not_fused"
    if flag is not None and flag not in record["flags"]:
        record["flags"].append(flag)
