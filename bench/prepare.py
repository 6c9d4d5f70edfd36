"""What a cell needs before its first call: the process's settings, the filled model, the grad mode of its samples."""

from __future__ import annotations

import os
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from types import ModuleType
from typing import Any

import torch

from bench.model import weights
from bench.model.gpt import GPT, build
from bench.parallel import Team, spread
from bench.spec import Spec
from bench.status import Unsupported

GRAD_MODES: dict[str, Callable[[], Any]] = {
    "train": torch.enable_grad,
    "inference": torch.inference_mode,
    "no_grad": torch.no_grad,
}


def prepare_process(spec: Spec) -> None:
    """Settings of the whole process; refuses a device that is not there."""
    # More threads than a quota has CPUs would use it up at once, and then all wait.
    threads = min(spec.threads or torch.get_num_threads(), max(1, int(cpu_quota())))
    if spec.workload.devices > 1 and spec.threads is None:
        threads = max(1, threads // spec.workload.devices)  # the ranks share this host
    if threads != torch.get_num_threads():
        torch.set_num_threads(threads)
    if spec.device == "cuda":
        if not torch.cuda.is_available():
            raise Unsupported("torch sees no CUDA device in this stack")
        torch.cuda.init()
    torch.manual_seed(spec.workload.seed)


def cpu_quota(own: Path = Path("/proc/self/cgroup"), groups: Path = Path("/sys/fs/cgroup")) -> float:
    """How many CPUs this process's control groups (of either version) let it use; as many as there are without a quota.

    The CPUs that it may run on are another matter: torch heeds them itself.
    """
    least = float(os.cpu_count() or 1)
    with suppress(OSError, ValueError):
        for line in own.read_text(encoding="utf-8").splitlines():
            _, controllers, path = line.split(":", 2)
            for top in (groups, groups / (controllers or "unified")):
                inner = top / path.lstrip("/")
                least = min(least, *(group_quota(place) for place in (inner, *inner.parents)))
    return least


def group_quota(place: Path) -> float:
    """How many CPUs one control group may use; infinite where it has no quota, or is not there."""
    with suppress(OSError, ValueError, ArithmeticError):
        if (place / "cpu.max").exists():
            most, period = (place / "cpu.max").read_text(encoding="ascii").split()
        else:
            most, period = ((place / f"cpu.cfs_{what}_us").read_text() for what in ("quota", "period"))
        if int(most) > 0:  # else it says "max" or -1
            return int(most) / int(period)
    return float("inf")


def grad_mode(inference: bool) -> str:
    """`train`; or `inference`, as `no_grad` under torch 2.1, which cannot compile in-place caches in inference mode."""
    if not inference:
        return "train"
    return "no_grad" if torch.__version__.startswith("2.1.") else "inference"


def make_model(spec: Spec, method: ModuleType) -> tuple[GPT, Any]:
    """The filled model, and the checkpoint's tokenizer where there is one."""
    workload = spec.workload
    assert workload.model is not None
    assert workload.weights is not None
    model = build(workload.model, method.operators(), getattr(torch, workload.dtype), spec.device)
    fill_model(spec, model)
    if not spec.has_folder:
        return model, None
    from bench.model.checkpoint import find_tokenizer

    return model, find_tokenizer(str(spec.checkpoint))


def fill_model(spec: Spec, model: GPT) -> None:
    """Give the model the workload's weights, in place; also again after timing."""
    workload = spec.workload
    assert workload.model is not None
    assert workload.weights is not None
    if not spec.has_folder:
        fill = weights.fill_probe if workload.sharp else weights.fill
        # Of a mixture whose experts its own router chooses, as it does in an engine, which reads these weights alone.
        fill(model, workload.weights["seed"], routed=workload.weights.get("routing") == "router")
        return
    from bench.model.checkpoint import load_checkpoint

    if spec.checkpoint is None:
        raise ValueError("the weights are a checkpoint's, and the spec names no checkpoint folder")
    load_checkpoint(spec.checkpoint, dict(model.named_parameters()), workload.model)


def fill_again(spec: Spec, model: GPT, method: ModuleType, team: Team) -> None:
    """The same after timing: of a model that is cut into parts by way of a whole one, freed at once."""
    if spread.in_parts(model):
        spread.take(model, make_model(spec, method)[0], team)
    else:
        fill_model(spec, model)
