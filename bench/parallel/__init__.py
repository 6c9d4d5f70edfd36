"""Several devices in one cell: every rank runs the same page on its own device, and they meet here.

`data` is for training (each rank has its share of the batch), `tensor` for the others (each has its share of every
layer). What a clock, a random choice or the orchestrator's answer decides, rank 0 decides for all of them: else they
would wait for one another in different places.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from dataclasses import replace
from datetime import timedelta
from typing import Any

import torch
import torch.distributed as dist

from bench.ranks import VARIABLES
from bench.spec import Spec, Workload
from bench.status import Unsupported

TIMEOUT_S = 600.0
"""Of a collective operation: one rank may compile for minutes longer than another."""


gather: Any = getattr(dist, "all_gather_single", None) or getattr(dist, "all_gather_into_tensor", None)
"""All ranks' tensors into one, along the first axis, as torch 2.13 and as older ones name it; None where torch was
built without torch.distributed."""


class Team:
    """The ranks of a cell; of one device alone every method gives back what it was given."""

    def __init__(self, rank: int = 0, size: int = 1, words: Any = None) -> None:
        """`words`: the process group of what is said in plain objects, never on the devices."""
        self.rank, self.size, self.words = rank, size, words

    def all(self, value: Any) -> list[Any]:
        """What each rank said, in their order."""
        if self.size == 1:
            return [value]
        said: list[Any] = [None] * self.size
        dist.all_gather_object(said, value, group=self.words)
        return said

    def same(self, value: Any) -> Any:
        """What rank 0 said."""
        if self.size == 1:
            return value
        said = [value]
        dist.broadcast_object_list(said, src=0, group=self.words)
        return said[0]

    def first(self, make: Callable[[], Any]) -> Any:
        """What `make` gives on rank 0, where alone it is called; what it raises is raised by all."""
        if self.size == 1:
            return make()
        made, failed = None, None
        if self.rank == 0:
            try:
                made = make()
            except Exception as error:  # noqa: BLE001  (raised below, by all ranks)
                failed = error
        made, failed = self.same((made, failed))
        if failed is not None:
            raise failed
        return made

    def follow(self, items: Iterator[Any]) -> Iterator[Any]:
        """The items of rank 0's iterator, on all ranks; the others' are not looked at."""
        if self.size == 1:
            yield from items
            return
        while (said := self.same([next(items, None)] if self.rank == 0 else None))[0] is not None:
            yield said[0]

    def barrier(self) -> None:
        """Wait for all ranks."""
        if self.size > 1:
            dist.barrier(group=self.words)


ALONE = Team()


def join(spec: Spec) -> Team:
    """Meet the cell's other ranks, and take this rank's device; Unsupported where there are too few."""
    workload, cuda = spec.workload, spec.device == "cuda"
    if workload.devices == 1:
        return ALONE
    if cuda and torch.cuda.device_count() < workload.devices:
        raise Unsupported(f"the cell is one of {workload.devices} GPUs, and torch sees {torch.cuda.device_count()}")
    if cuda:
        torch.cuda.set_device(spec.rank)
    if not dist.is_initialized():
        os.environ.update(VARIABLES)
        dist.init_process_group(
            "nccl" if cuda else "gloo",
            init_method=f"file://{spec.meeting}",
            rank=spec.rank,
            world_size=workload.devices,
            timeout=timedelta(seconds=TIMEOUT_S),
        )
    words = dist.new_group(backend="gloo", timeout=timedelta(seconds=TIMEOUT_S))
    return Team(spec.rank, workload.devices, words)


def leave() -> None:
    """Part from the other ranks, where there are any."""
    if dist.is_available() and dist.is_initialized():
        dist.destroy_process_group()


def worst(reports: list[list[dict[str, Any]]]) -> list[dict[str, Any]]:
    """The checks of all ranks as one list: of each name the worst verdict, with its rank where that is not rank 0."""
    order = {"failed": 0, "unchecked": 1, "passed": 2}
    merged = {item["name"]: item for item in reports[0]}
    for rank, items in enumerate(reports[1:], 1):
        for item in items:
            known = merged.get(item["name"])
            if known is None or order[item["status"]] < order[known["status"]]:
                merged[item["name"]] = {**item, "what": f"rank {rank}: {item['what']}"}
    return list(merged.values())


def largest(reports: list[dict[str, int | None]]) -> dict[str, int | None]:
    """Of each figure the largest that any rank has."""
    found = {name: [report[name] for report in reports] for name in reports[0]}
    return {name: max((one for one in of_all if one is not None), default=None) for name, of_all in found.items()}


def alone(workload: Workload) -> Workload:
    """The same computed on one device: what a workload of several is checked against."""
    return replace(workload, devices=1, parallel=None)
