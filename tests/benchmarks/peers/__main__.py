"""Times a forward pass of a plain LLaMA with nothing of Stackbench: python peers SPEC, a JSON file. Prints JSON.

Seven calls are timed after three. With `sustained_s`, calls back to back follow: 10 s of soak, then so many for a mean.
A method that has `times` brings an engine's own tool instead, which says what each of its calls took, and may `refuse`.
"""

import importlib
import json
import os
import statistics
import sys
import time
from pathlib import Path

sys.path.insert(0, os.path.dirname(__file__))  # noqa: PTH120

SOAK_S = 10.0


def main(spec):
    method = importlib.import_module("methods." + spec["method"])
    refused = method.refuse(spec) if hasattr(method, "refuse") else None
    if refused:
        found = {"refused": refused}
    elif hasattr(method, "times"):
        timed = method.times(spec)
        found = {"median_s": statistics.median(timed), "timed_s": timed, "mean_s": statistics.mean(timed)}
    else:
        found = forward(spec, method.prepare)
    print(json.dumps(found))


def forward(spec, prepare):
    import torch
    from llama import LLaMA

    torch.set_grad_enabled(False)
    torch.set_default_dtype(getattr(torch, spec["dtype"]))
    with torch.device(spec["device"]):
        model = LLaMA(**spec["model"], length=spec["sequence"])
    for parameter in model.parameters():
        if parameter.dim() > 1:
            parameter.normal_(std=0.02)
    call = prepare(model.requires_grad_(False))
    vocabulary, shape = spec["model"]["vocabulary"], (spec["batch"], spec["sequence"])

    def seconds(_=None):
        tokens = torch.randint(vocabulary, shape, device=spec["device"])
        wait()
        began = time.perf_counter()
        call(tokens)
        wait()
        return time.perf_counter() - began

    def wait():
        if spec["device"] == "cuda":
            torch.cuda.synchronize()

    before = [seconds() for _ in range(3)]
    timed = [seconds() for _ in range(7)]
    found = {"first_s": before[0], "median_s": statistics.median(timed), "timed_s": timed, "mean_s": None}
    if spec["sustained_s"]:
        soak(seconds, SOAK_S)
        found["mean_s"] = statistics.mean(soak(seconds, spec["sustained_s"]))
    return found


def soak(call, for_s):
    until, took = time.perf_counter() + for_s, []
    while time.perf_counter() < until:
        took.append(call())
    return took


main(json.loads(Path(sys.argv[1]).read_text()))
