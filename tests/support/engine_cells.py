"""Cells of engines, run in this process over a folder that is made as a run makes it."""

from __future__ import annotations

import json

import torch
from bench_specs import write_spec

from bench import cell, prepare
from bench.methods import eager
from bench.model import huggingface
from bench.spec import read_spec


def run(folder, method="transformers", **changes):
    """Return the record of a cell of `generation`."""
    path = write_spec(folder, "generation", method, **changes)
    spec = {**json.loads(path.read_text()), "checkpoint": str(folder / "weights"), "kind": "engine"}
    path.write_text(json.dumps({**spec, "kind": "model"}))
    model, _ = prepare.make_model(read_spec(path), eager)
    (folder / "weights").mkdir()
    huggingface.write_folder(folder / "weights", model.config, dict(model.named_parameters()))
    path.write_text(json.dumps(spec))
    torch.manual_seed(0)
    cell.run(read_spec(path))
    return json.loads((folder / "record.json").read_text(encoding="utf-8"))
