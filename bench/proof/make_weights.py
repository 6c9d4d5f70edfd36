"""A run's folders of weights: for each model, weights and precision that engines have, one that they all read."""

from __future__ import annotations

import shutil
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

from bench.methods import eager
from bench.model import huggingface, weights
from bench.model.checkpoint import TOKENIZER, TOKENIZER_JSON
from bench.observe.memory import Memory
from bench.prepare import make_model
from bench.proof.make_references import of_model
from bench.record import Events
from bench.spec import Spec


def run(spec: Spec, record: dict[str, Any], events: Events) -> None:
    """Write `weights-<subject id>/` for each subject, with a checkpoint's tokenizer where there is one."""
    subjects = spec.workload.subjects or ()
    found = record["detail"]["weights"] = {}
    for place, (subject, name) in enumerate(zip(subjects, spec.subject_ids)):  # noqa: B905  (Python 3.10's zip)
        begin, folder = time.monotonic_ns(), spec.folder / f"weights-{name}"
        events.phase("model")
        model, _ = make_model(replace(spec, workload=replace(spec.workload, **of_model(subject))), eager)
        record.setdefault("proof", weights.facts(model))
        events.phase("weights")
        folder.mkdir()
        files = huggingface.write_folder(folder, model.config, dict(model.named_parameters()))
        if spec.checkpoint is not None:
            for tokenizer in (TOKENIZER, TOKENIZER_JSON):
                if (source := Path(spec.checkpoint) / tokenizer).is_file():
                    shutil.copyfile(source, folder / tokenizer)
        found[name] = {"files": files, "seconds": (time.monotonic_ns() - begin) / 1e9}
        del model
        events.sample(place, len(subjects))
    record["memory"] = Memory(spec.device).peaks()
