"""The launcher `slurm`: a cell is a step on a node, where this package's own code runs and watches it."""

from __future__ import annotations

import contextlib
import re
import shutil
import threading
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Literal

from orchestrator.base import interrupt
from orchestrator.base.errors import InfrastructureError, StackbenchError
from orchestrator.base.files import make_folder
from orchestrator.base.text import Say
from orchestrator.host.folders import remove_tree
from orchestrator.host.gpu import HostGpu
from orchestrator.launchers import Job, Places, Prepared
from orchestrator.launchers import slurm_queue as slurm
from orchestrator.launchers.slurm_orders import (
    ANSWER,
    FIRST,
    ORDER,
    CellOrder,
    LookAnswer,
    LookOrder,
    M,
    StackAnswer,
    StackOrder,
    read,
    write,
)
from orchestrator.launchers.slurm_settings import SlurmSettings
from orchestrator.launchers.slurm_spool import Spool
from orchestrator.launchers.slurm_steps import Jobs, StepHandle, Steps
from orchestrator.plan.cell import Device
from orchestrator.plan.stack import Stack

LOOK_S, AGAIN_S, STACK_S = 180.0, 60.0, 7200.0
"""How long a node may take to look at itself, to do so again, and to build or import an image."""
CLEAN_S, PAUSE_S = 30.0, 1.0
"""For how long it is tried to remove what killed steps have left, and the pause between two tries."""
WAIT_S = 0.2
OF_A_CELL = re.compile(r"-[0-9a-f]{16}-r\d+$")
"""How the names of cells' steps end: cell_id and round."""


@dataclass
class Cluster:
    """What all workers of one entry share."""

    settings: SlurmSettings
    spool: Spool
    steps: Steps | Jobs
    bench: Path
    devices: Mapping[str, Device]
    gpus: int
    nodes: Sequence[str | None]
    """Those of the allocation; None stands for whichever Slurm gives."""
    allow_busy: bool
    purpose: str
    say: Say
    _stacks: dict[tuple[str, str], StackAnswer] = field(default_factory=dict)
    _locks: dict[tuple[str, str], threading.Lock] = field(default_factory=dict)
    _others: bool = False

    @property
    def images(self) -> Path:
        """Where an image lies that one node has made for the others."""
        place = self.spool.folder / "images"
        make_folder(place)
        return place

    @property
    def keep(self) -> bool:
        """Whether more than one node needs it."""
        return len(self.nodes) > 1 or None in self.nodes

    def ask(
        self,
        what: Literal["look", "stack"],
        name: str,
        order: LookOrder | StackOrder,
        answer: type[M],
        *,
        node: str | None,
        limit_s: float,
    ) -> M:
        """Run a step on the node and return its answer; InfrastructureError where none comes in `limit_s` seconds."""
        folder = self.spool.steps / name
        remove_tree(folder)
        make_folder(folder)
        write(folder / ORDER, order)
        handle = self.steps.begin(folder, name, [what], node)
        with handle:
            until: float | None = None
            while (ended := handle.wait(WAIT_S)) is None:
                interrupt.check()
                until = until or (time.monotonic() + limit_s if isinstance(self.steps, Steps) or handle.began else None)
                if until is not None and time.monotonic() > until:
                    raise InfrastructureError(f"no answer in {limit_s:g} s", where=name)
        if ended.error is not None:
            raise InfrastructureError(ended.error, where=name)
        return read(folder / ANSWER, answer)

    def look(self, node: str | None) -> LookAnswer:
        """Return what a node says of itself, before its first cell."""
        order = LookOrder(
            container=self.settings.container,
            gpus=self.gpus if "cuda" in self.devices.values() else 0,
            allow_busy=self.allow_busy,
        )
        return self.ask("look", f"look-{node or 'any'}", order, LookAnswer, node=node, limit_s=LOOK_S)

    def trouble(self, node: str, worker: str) -> str | None:
        """Return why a node that was looked at before can run no cells any more; None where it can."""
        order = LookOrder(container=self.settings.container, gpus=0, allow_busy=True)
        try:
            name = f"look-{node}-{worker}"
            return self.ask("look", name, order, LookAnswer, node=node, limit_s=AGAIN_S).trouble
        except InfrastructureError as error:
            return error.what

    def clean(self, jobs: Jobs) -> None:
        """Remove what steps that were killed outright have left, by a job on each of their nodes."""
        # Slurm kills so where its controller has lost a job, or where a step takes too long to end.
        there, until = replace(self, steps=jobs), time.monotonic() + CLEAN_S

        def clean(node: str) -> None:
            with contextlib.suppress(StackbenchError, interrupt.Interrupted):
                if slurm.node_trouble(node) is None:
                    there.trouble(node, "clean")

        # A node may not answer yet, and a step that is just being killed still looks alive.
        while (left := self.spool.left_on()) and time.monotonic() < until:
            with ThreadPoolExecutor(len(left)) as pool:
                pool.map(clean, left)
            if self.spool.left_on():
                time.sleep(PAUSE_S)
        for node in self.spool.left_on():
            self.say(f"warning: {node}: what a killed step has left there is removed when a run looks at it again")

    def stack(self, stack: Stack, node: str | None, gpus: tuple[HostGpu, ...]) -> StackAnswer:
        """Return the stack as it is ready on the node, made so once; InfrastructureError where it cannot be."""
        key = (node or "", stack.name)
        with self._locks.setdefault(key, threading.Lock()):
            if key not in self._stacks:
                order = StackOrder(
                    stack=stack,
                    folder=stack.folder,
                    device=self.devices[stack.name],
                    gpus=gpus,
                    container=self.settings.container,
                    bench=self.bench,
                    images=self.images,
                    keep=self.keep,
                )
                name = f"stack-{stack.name}-{node or 'any'}"
                found = self.ask("stack", name, order, StackAnswer, node=node, limit_s=STACK_S)
                for line in found.said:
                    self.say(line)
                self._stacks[key] = found
            found = self._stacks[key]
        if found.prepared is None:
            raise InfrastructureError(found.trouble or "it could not be made ready", where=stack.name)
        return found

    def without_names(self, text: str) -> str:
        """Return the text without the names of the nodes in it."""
        for node in filter(None, self.nodes):
            text = re.sub(rf"(node )?(?<![\w-]){re.escape(node)}(?![\w-])", "its node", text)
        return text

    def unfit(self, node: str | None, gpu: HostGpu | None) -> str | None:
        """Return why no container on the node sees the GPU; None where one does, or nobody has looked."""
        if gpu is None:
            return None
        found = [answer.unfit for (place, _), answer in self._stacks.items() if place == (node or "")]
        return next((said[gpu.uuid] for said in found if gpu.uuid in said), None)

    def begin(self, order: CellOrder, node: str | None) -> StepHandle:
        """Begin a cell, or take over a killed orchestrator's step that runs, or has run, this very round."""
        job = order.job
        name = f"{job.run}-{job.cell_id}-r{job.round}"
        folder = self.spool.steps / name
        if self.spool.adopted:
            self._end_others(job.run)
            found = self._found_again(folder, name)
            if found is not None:
                return found
        remove_tree(folder)
        make_folder(folder)
        write(folder / ORDER, order)
        return self.steps.begin(folder, name, ["cell"], node)

    def _found_again(self, folder: Path, name: str) -> StepHandle | None:
        if not folder.is_dir():
            return None
        if (folder / ANSWER).exists():
            return Answered(folder, lambda: None)
        found = self.steps.adopt(folder, name)
        if found is not None:
            self.say(f"{name}: found again, still running")
        return found

    def _end_others(self, run: str) -> None:
        """End the steps of a killed orchestrator that belong to another run than ours."""
        with self._locks.setdefault(("", ""), threading.Lock()):
            if self._others or not isinstance(self.steps, Steps):
                return
            self._others = True
            found = slurm.running_steps([self.steps.job]).get(self.steps.job, {})
            others = {name: step for name, step in found.items() if OF_A_CELL.search(name)}
            slurm.cancel(*(step for name, step in others.items() if not name.startswith(f"{run}-")))


class Answered(StepHandle):
    """A step that has ended before it was asked for."""

    def _over(self) -> str | None:
        return ""

    def _why(self) -> str | None:
        return None


@dataclass
class SlurmLauncher:
    """Starts cells on one GPU of one node; in an array, on whichever node Slurm gives."""

    cluster: Cluster
    node: str | None
    gpu: HostGpu | None
    of_node: tuple[HostGpu, ...] = ()
    name: str = "slurm"
    here: bool = False

    @property
    def peers(self) -> tuple[HostGpu, ...]:
        """Further GPUs of its node, for cells of several; a job of an array has one GPU alone."""
        return () if self.gpu is None or self.node is None else self.gpu.alike(self.of_node)

    def prepare(self, stack: Stack) -> Prepared:
        """Make the stack ready on the node; InfrastructureError where that fails."""
        found = self.cluster.stack(stack, self.node, self.of_node)
        assert found.prepared is not None
        # Its folder is not among what a node answers; what pyxis cannot give is.
        mine = stack.model_copy(update={"deviations": found.prepared.stack.deviations})
        return replace(found.prepared, stack=mine)

    def facts(self, prepared: Prepared) -> str:
        """Return what `python -m bench --facts` printed on the node."""
        return self.cluster.stack(prepared.stack, self.node, self.of_node).facts

    def places(self, job: Job) -> Places:  # noqa: ARG002
        """Say that the node decides that."""
        return Places()

    def start(self, prepared: Prepared, job: Job) -> StepHandle:
        """Begin the cell's step."""
        found = self.cluster.stack(prepared.stack, self.node, self.of_node)
        order = CellOrder(
            job=job,
            prepared=prepared,
            folder=prepared.stack.folder,
            gpu=self.gpu if job.cell.device == "cuda" else None,
            peers=self.peers[: job.cell.workload.devices - 1] if job.cell.device == "cuda" else (),
            any_gpu=self.node is None,
            access=found.access,
            container=self.cluster.settings.container,
            bench=self.cluster.bench,
            images=self.cluster.images,
            keep=self.cluster.keep,
            purpose=self.cluster.purpose,
        )
        return self.cluster.begin(order, self.node)

    def alive(self) -> str | None:
        """Return why no more cells can run here; None where they can."""
        trouble = self.cluster.unfit(self.node, self.gpu) or self.cluster.steps.trouble()
        if trouble is None and self.node is not None:
            with contextlib.suppress(StackbenchError):
                trouble = slurm.node_trouble(self.node)
            # One on which every cell fails at once would take all that are left.
            trouble = trouble or self.cluster.trouble(self.node, self.gpu.uuid if self.gpu else "cpu")
        return trouble


def collect(handle: StepHandle, job: Job) -> Path | None:
    """Move what a cell has left to where the job has its files; return its answer, None where none came."""
    for name in ("log.txt", "telemetry.jsonl"):
        _move(handle.folder / name, job.log.with_name(job.log.name if name == "log.txt" else name))
    with contextlib.suppress(OSError):
        for path in (handle.folder / "work").iterdir():
            _move(path, job.work / path.name)
    return next((handle.folder / name for name in (ANSWER, FIRST) if (handle.folder / name).exists()), None)


def _move(source: Path, target: Path) -> None:
    with contextlib.suppress(FileNotFoundError):
        shutil.move(source, target)
