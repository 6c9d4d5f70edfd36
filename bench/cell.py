"""One round of one cell, from the environment to the record, as a sequence of named phases."""

from __future__ import annotations

import gc
import hashlib
import traceback
from collections.abc import Sequence
from functools import partial
from time import monotonic_ns
from typing import Any

from bench import benchmarks, beside, caches, engine, methods, parallel, repeats
from bench.benchmarks.engine import EngineTask
from bench.environment import environment
from bench.methods import eager
from bench.model import hashing, weights
from bench.model.checkpoint import find_tokenizer
from bench.observe import ceilings, compiles, dispatch
from bench.observe.clock import Clock
from bench.observe.memory import Memory
from bench.parallel import spread
from bench.prepare import GRAD_MODES, fill_again, grad_mode, make_model, prepare_process
from bench.proof import engine as engine_proof
from bench.proof import gate, levels, make_references, make_weights
from bench.record import Events, blank, write_json
from bench.spec import Spec
from bench.status import Unsupported, classify

# Samples that may be measured again, and of those that are sustained, that are kept too.
SPARE = 8 + 2 * repeats.SUSTAINED_KEPT


def run(spec: Spec, others: Sequence[beside.Other] = ()) -> dict[str, Any]:
    """Run the cell and write its record, whatever happens; return the record. `others` are run beside it."""
    events = Events(spec.folder)
    record = blank(spec)
    cache_state = caches.state(spec)
    try:
        events.phase("environment")
        prepare_process(spec)
        team = parallel.join(spec)
        record["environment"] = environment(spec.device)
        if team.size > 1:
            record["detail"]["devices"] = team.all(record["environment"]["gpu"])
        if spec.workload.benchmark == "ceilings":
            clock = Clock(spec.device, team)
            record["rates"] = ceilings.measure(spec.workload, spec.device, clock, events)
        elif spec.workload.benchmark == "reference":
            make_references.run(spec, record, events)
        elif spec.workload.benchmark == "weights":
            make_weights.run(spec, record, events)
        else:
            record["flags"] = ["unchecked", cache_state]
            if spec.of_engine:
                measure_engine(spec, record, events)
            else:
                measure(spec, record, events, team)
            # What is wrong in its own precision is so whatever becomes of the others.
            for other in others if gate.verdict(spec.workload.benchmark, record["proof"]) is None else ():
                events.phase("beside")
                beside.take_in(record, other)
        team.barrier()  # no rank is done before all are
        reason = gate.verdict(spec.workload.benchmark, record.get("proof") or {})
        record["status"], record["reason"] = ("incorrect", reason) if reason else ("ok", None)
    except Exception as error:  # noqa: BLE001  (whatever happens is a record with its status)
        traceback.print_exc()
        record["status"], record["reason"] = classify(error)
    events.phase("record")
    events.close()
    record["phases"] = events.phases
    write_json(spec.folder / "record.json", record)
    parallel.leave()
    return record


def measure(spec: Spec, record: dict[str, Any], events: Events, team: parallel.Team = parallel.ALONE) -> None:
    """Fill the record of a benchmark: model, method, samples, memory, proof, dispatch."""
    workload, clock, memory = spec.workload, Clock(spec.device, team), Memory(spec.device)
    method = methods.load(spec.method)
    if reason := method.refuse(workload, spec.device) or spread.refuse(workload, spec.device, method):
        raise Unsupported(reason)
    record["detail"]["method"] = method.settings(workload)

    events.phase("model")
    model, tokenizer = make_model(spec, method)
    record["proof"] = weights.facts(model)
    model = spread.divided(model, workload, team)
    # A compiler that asks the weights and not the grad mode would keep all activations for a backward pass.
    model.requires_grad_(workload.benchmark in spread.TRAINING)

    events.phase("method")
    refill = partial(fill_again, spec, model, method, team)
    context = benchmarks.Context(workload, model, method, clock, spec.device, tokenizer, refill, team)
    task = benchmarks.load(workload.benchmark).build(context)

    record["detail"]["grad_mode"] = mode = grad_mode(task.inference)
    with GRAD_MODES[mode]():
        with memory.aside():
            task.make_room(workload.iterations + SPARE)
        # In a list, so that the proof can free it.
        output = [take_samples(task, spec, record, clock=clock, memory=memory, events=events)]
        if report := getattr(method, "report", None):
            record["detail"].update(report())  # what the method really ran: known only now
        if spec.only_first:
            return
        events.phase("memory")
        record["memory"] = parallel.largest(team.all(memory.peaks()))
        timed = [sample["shape"] for sample in record["samples"] if sample["phase"] == "timed"]
        record["work"] = task.work(timed or [record["samples"][-1]["shape"]])
        events.phase("proof")
        record["proof"].update(gate.gate(context, task, spec, output))
        flag(record)
        events.phase("dispatch")
        dispatch.gather(task, spec, record, method.expects(workload, spec.device))


def flag(record: dict[str, Any], *, seen: bool = True) -> None:
    """Put the flags that the proof asks for. `seen`: there is evidence of what ran, or there will be."""
    if gate.complete(record["proof"]) and seen:
        record["flags"].remove("unchecked")
    if gate.memoised(record["proof"]):
        record["flags"].append("memoised")
    if levels.coarser(record["proof"]["checks"]):
        record["flags"].append("coarser")


def measure_engine(spec: Spec, record: dict[str, Any], events: Events) -> None:
    """The same by an engine. What it answers is judged once it is closed: the reference may need the whole device."""
    workload, memory, method = spec.workload, Memory(spec.device), methods.load(spec.method)
    if reason := engine.refuse(spec) or method.refuse(workload, spec.device):
        raise Unsupported(reason)
    record["detail"]["method"] = method.settings(workload)

    events.phase("method")
    record["proof"], begin = {}, monotonic_ns()
    with engine.closing(method.load(spec.checkpoint, workload, spec.device)) as loaded:
        startup = {"load_ns": monotonic_ns() - begin}
        # The host's clock alone: what an engine returns is in the host's memory, whatever computed it.
        task = EngineTask(workload, loaded, Clock("cpu"), find_tokenizer(str(spec.checkpoint)))
        output = take_samples(task, spec, record, clock=task.clock, memory=memory, events=events)
        startup["first_call_ns"] = record["samples"][0]["end_ns"] - record["samples"][0]["begin_ns"]
        record["detail"]["startup"] = {"startup_ns": sum(startup.values()), **startup}
        if spec.only_first:
            return
        events.phase("memory")
        record["memory"] = engine.plausible(memory.peaks(), str(spec.checkpoint))
        record["work"] = task.work([record["samples"][-1]["shape"]])
        record["detail"]["engine"] = settings = engine.reported(loaded.settings())
        events.phase("answers")
        record["proof"].update(task.proof(output))
        asked = engine_proof.ask(task, spec, settings)
        events.phase("dispatch")
        expected = getattr(method, "expects", lambda *_: ())(workload, spec.device)
        dispatch.gather(task, spec, record, expected)
        events.phase("close")

    events.phase("model")
    model, _ = make_model(spec, eager)
    record["proof"].update(weights.facts(model))
    events.phase("proof")
    context = benchmarks.Context(workload, model, eager, Clock(spec.device), spec.device)
    with GRAD_MODES["no_grad"]():
        record["proof"].update(engine_proof.judge(context, task, spec, asked))
    flag(record, seen=record.get("dispatch") is not None or not expected)


def take_samples(
    task: benchmarks.Task, spec: Spec, record: dict[str, Any], *, clock: Clock, memory: Memory, events: Events
) -> Any:
    """Time every sample: the first call apart, then the warm-up, then the rest. Returns the last output.

    Last come those that somebody asks for: repeats of what something else disturbed, and more of all back to back.
    """
    workload, team = spec.workload, clock.team
    inputs_hash, ledger = hashlib.sha256(), compiles.Ledger()
    record["detail"].update(graphs=ledger.graphs, kernels=ledger.kernels)

    def sample(index: int, phase: str, *, again: bool = False, kept: bool = True) -> Any:
        inputs = task.inputs(index)
        if not again:
            content = task.content(inputs)
            inputs_hash.update(b"".join(hashing.checksum(part).to_bytes(8, "little") for part in content))
        output, timing = clock.time(lambda: task.call(inputs), task.look)
        if kept:
            task.keep(index, inputs, output)
        shape = task.shape(inputs)
        taken = {"index": index, "phase": phase, "shape": shape, **vars(timing), "loss": task.loss(output)}
        record["samples"].append(taken)
        ledger.after(index, shape)
        record["compiles"] = ledger.summary()
        return output

    events.phase("first call")
    for index in range(1 if spec.only_first else workload.iterations):
        if index == 1:
            events.phase("warm-up")
            # A walk through all that stands by now, imports above all, would take a tenth of a second of some sample.
            gc.collect()
            gc.freeze()
        if index == min(workload.warmup + 1, workload.iterations - 1):
            memory.steady()
            events.phase("samples")
        output = None  # what the last sample returned is freed before the next
        output = sample(index, "first" if index == 0 else "warmup" if index <= workload.warmup else "timed")
        events.sample(index, workload.iterations)
    record["proof"]["inputs_checksum"] = inputs_hash.hexdigest()[:16]
    extras = repeats.asked(spec.folder, record, events) if spec.repeats else iter(())
    for index, phase, kept in team.follow(extras):
        output = None
        output = sample(index, phase, again=True, kept=kept)
    gc.unfreeze()
    return output
