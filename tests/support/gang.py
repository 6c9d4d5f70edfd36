"""`python gang.py MANIFEST DEVICES`: the ranks of several cells one after the other, some with a planted fault.

Each rank does what `python -m bench SPEC --rank N` does of one cell. They are forked: so torch is imported once.
"""

from __future__ import annotations

import json
import multiprocessing
import sys
from contextlib import contextmanager
from pathlib import Path
from unittest import mock

import torch
import torch.distributed.fsdp
import torch.distributed.tensor  # not by every rank for itself

from bench import cell, parallel, ranks
from bench.parallel import data, spread, tensor
from bench.spec import read_spec


def not_reduced(model, method, workload, team):
    """Training without DDP."""
    return data.Called(model, method.compile_model(model, workload))


def stale(model, workload, team, divided=spread.divided):
    part = divided(model, workload, team)
    if team.rank == 1:
        with torch.no_grad():
            part.blocks[0].up.weight.mul_(1.25)
    return part


def one_left_out(links, part, place, total=tensor.Links.total):
    return part if place == "the MLP of layer 0" else total(links, part, place)


def asleep(optimizer, closure=None, step=torch.optim.SGD.step):
    """No step on rank 1: its weights stay behind."""
    return None if torch.distributed.get_rank() == 1 else step(optimizer, closure)


FAULTS = {
    "not reduced": (data, "spread", not_reduced),
    "mean of means": (data.Share, "weight", lambda self, targets, ignored: 1.0),
    "same data": (data.Share, "of", lambda self, rows: rows[: self.rows]),
    "stale part": (spread, "divided", stale),
    "sum left out": (tensor.Links, "total", one_left_out),
    "asleep": (torch.optim.SGD, "step", asleep),
}


@contextmanager
def planted(fault):
    if fault is None:
        yield
        return
    with mock.patch.object(*FAULTS[fault]):
        yield


def main(manifest: Path, rank: int) -> None:
    torch.set_num_threads(1)
    entries = json.loads(manifest.read_text(encoding="utf-8"))
    first = read_spec(Path(entries[0]["spec"]))
    leave, parallel.leave = parallel.leave, lambda: None
    for entry in entries:
        spec = ranks.of(read_spec(Path(entry["spec"])), rank)
        spec = type(spec)(**{**vars(spec), "meeting": str(first.folder / "meeting")})
        with planted(entry["fault"]):
            cell.run(spec)
    leave()


if __name__ == "__main__":
    fork = multiprocessing.get_context("fork")
    members = [fork.Process(target=main, args=(Path(sys.argv[1]), rank)) for rank in range(int(sys.argv[2]))]
    for member in members:
        member.start()
    for member in members:
        member.join()
    sys.exit(any(member.exitcode for member in members))
