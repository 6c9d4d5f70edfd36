"""A run's references: for each workload the truth that rows are checked by.

Plain eager operators on the method-free model; a subject that fails is noted with its reason, and the others go on.
"""

from __future__ import annotations

import gc
import time
import traceback
from dataclasses import replace
from functools import partial
from typing import Any

import torch

from bench import benchmarks, proof
from bench.methods import eager
from bench.model import weights
from bench.observe.clock import Clock
from bench.observe.memory import Memory
from bench.operators import reference_dtype
from bench.parallel import alone
from bench.prepare import GRAD_MODES, fill_model, grad_mode, make_model
from bench.proof.reference_file import Reference, write
from bench.record import Events
from bench.spec import Spec, Workload
from bench.status import Unsupported, classify


def run(spec: Spec, record: dict[str, Any], events: Events) -> None:
    """Write `reference-<subject id>.safetensors` for each subject; Unsupported where none could be made."""
    subjects = spec.workload.subjects or ()
    if len(subjects) != len(spec.subject_ids):
        raise ValueError(f"a reference of {len(subjects)} subjects has {len(spec.subject_ids)} subject ids")
    found: dict[str, Any] = {}
    record["detail"]["references"] = found
    model = None
    for place, (subject, name) in enumerate(zip(subjects, spec.subject_ids)):  # noqa: B905  (Python 3.10's zip)
        begin = time.monotonic_ns()
        try:
            if model is None or of_model(spec.workload) != of_model(subject):
                events.phase("model")
                model = None  # before there is another
                spec = replace(spec, workload=replace(spec.workload, **of_model(subject)))
                model, tokenizer = make_model(spec, eager)
                record.setdefault("proof", weights.facts(model))
                events.phase("references")
            tensors, facts = make_one(spec, subject, model, tokenizer)
            sha256, size = write(spec.folder / f"reference-{name}.safetensors", tensors, facts)
            found[name] = {"sha256": sha256, "bytes": size, "eager_error": facts["eager_error"]}
            del tensors
        except Exception as error:  # the reason stands in the record; the other subjects go on
            traceback.print_exc()
            status, reason = classify(error)
            if status == "infrastructure":
                raise  # the host's fault: the round is run again
            found[name] = {"sha256": None, "bytes": None, "eager_error": None, "reason": f"{status}: {reason}"}
        found[name]["seconds"] = (time.monotonic_ns() - begin) / 1e9
        gc.collect()
        if spec.device == "cuda":
            torch.cuda.empty_cache()
        events.sample(place, len(subjects))
    record["memory"] = Memory(spec.device).peaks()
    if found and all(entry["sha256"] is None for entry in found.values()):
        raise Unsupported("no reference could be made: " + next(iter(found.values()))["reason"])


def of_model(workload: Workload) -> dict[str, Any]:
    """What decides which model a reference is made with."""
    return {key: getattr(workload, key) for key in ("model", "weights", "dtype")}


def make_one(spec: Spec, subject: Workload, model: Any, tokenizer: Any) -> Any:
    """(tensors, facts) of one workload, by eager on `model`, in the grad mode of its samples."""
    refill = partial(fill_model, spec, model)
    context = benchmarks.Context(subject, model, eager, Clock(spec.device), spec.device, tokenizer, refill)
    task = benchmarks.load(subject.benchmark).build(context)
    with GRAD_MODES[grad_mode(task.inference)]():
        tensors, facts = proof.module(subject.benchmark).make(context, task)
        common = {
            "stack": spec.stack,
            "torch": torch.__version__,
            "benchmark": subject.benchmark,
            "dtype": str(reference_dtype(getattr(torch, subject.dtype))).removeprefix("torch."),
            "weights_checksum": weights.checksum(model),
        }
    return tensors, {**common, **facts}


def in_cell(spec: Spec) -> Reference:
    """The reference of the cell's own workload, by a model of its own: the timed one stays as it is."""
    model, tokenizer = make_model(spec, eager)
    return Reference(*make_one(spec, alone(spec.workload), model, tokenizer))
