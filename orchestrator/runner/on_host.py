"""The other half of a worker on a host that is not ours: one order is done there, and its answer is left beside it."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

from orchestrator.base import interrupt
from orchestrator.base.errors import EXIT_BAD_ROWS, EXIT_OK, StackbenchError
from orchestrator.base.paths import BENCH, STATE
from orchestrator.base.text import on_stderr, show
from orchestrator.build.ready import launcher_of, prepare_stack
from orchestrator.host import locks
from orchestrator.host.gpu import HostGpu, gpus
from orchestrator.launchers.local import sweep_processes
from orchestrator.launchers.order import LOG_FILE, WORK, Answer, Order, read_order, write_answer
from orchestrator.measure.supervise import Event, supervise

LEASE_S = 60.0
"""A lease that was not renewed for so long means that whoever gave the order is gone."""
LOOK_EVERY_S = 1.0


def on_host(folder: Path, *, lease: Path | None = None, stdin: bool = False) -> int:
    """Do the order in `folder`; return 0 where it was done, whatever the cell's status is.

    Whoever gave it may be gone: the cell is cancelled, and its container removed, where `lease` was not touched for a
    minute, or standard input (with `stdin`) comes to its end; SIGTERM does the same.
    """
    order = read_order(folder)
    with interrupt.interruptible(), _watched(lease, stdin=stdin):
        try:
            answer = _done(folder, order)
        except StackbenchError as error:
            answer = Answer(error=str(error))
        write_answer(folder, answer)
    if answer.error is not None:
        on_stderr(answer.error)
    return EXIT_OK if answer.error is None else EXIT_BAD_ROWS


def _done(folder: Path, order: Order) -> Answer:
    found = gpus()
    client = _client(order)
    if order.what == "gpus":
        sweep_processes()
        if client is not None:
            from orchestrator.host import docker_engine as engine

            with contextlib.suppress(StackbenchError), engine.engine_errors():
                engine.sweep(client)
        return Answer(gpus=found.found)
    gpu = next((gpu for gpu in found.found if gpu.uuid == order.gpu), None)
    if order.gpu is not None and gpu is None:
        return Answer(error=f"this GPU is not here any more ({found.why_none})")
    place = launcher_of(client, order.bench or BENCH, on_stderr, STATE, gpu=gpu)
    if order.what == "prepare":
        assert order.stack is not None
        stack = order.stack.model_copy(update={"folder": order.stack_folder or Path()})
        prepared, _ = prepare_stack(place, stack, on_stderr, STATE, access=gpu is not None)
        return Answer(prepared=prepared, facts=place.facts(prepared))
    with locks.hold(order.gpu, purpose=order.purpose, say=on_stderr):
        return _round(folder, order, place, gpu)


def _round(folder: Path, order: Order, place: Any, gpu: HostGpu | None) -> Answer:
    """Run one round in the folder, supervised from here."""
    assert order.prepared is not None
    assert order.job is not None
    job = replace(order.job, work=folder / WORK, log=folder / LOG_FILE)
    if place.name == "docker":
        from orchestrator.launchers.docker import find_access

        stack = order.prepared.stack
        place.images[stack.name] = order.prepared.image
        if gpu is not None and stack.gpu.access == "auto":
            place.access = find_access(place, stack)
    return Answer(record=supervise(place, order.prepared, job, _tell))


def _tell(event: Event) -> None:
    """Say on standard output what the cell does, for whoever gave the order."""
    show(json.dumps({"phase": event.phase, "index": event.index, "of": event.of}))


def _client(order: Order) -> Any:
    if order.launcher != "docker":
        return None
    from orchestrator.host import docker_engine as engine

    return engine.connect()


@contextlib.contextmanager
def _watched(lease: Path | None, *, stdin: bool) -> Iterator[None]:
    """Stop this process as SIGTERM does once nobody waits for it any more."""
    over = threading.Event()

    def look() -> None:
        while not over.wait(LOOK_EVERY_S):
            try:
                old = lease is not None and time.time() - lease.stat().st_mtime > LEASE_S
            except OSError:
                old = True  # removed: whoever gave the order has cleaned up
            if old:
                os.kill(os.getpid(), signal.SIGTERM)
                return

    def read() -> None:
        while sys.stdin.buffer.read(1):
            pass
        if not over.is_set():
            os.kill(os.getpid(), signal.SIGTERM)

    for wanted, run in ((lease is not None, look), (stdin, read)):
        if wanted:
            threading.Thread(target=run, daemon=True).start()
    try:
        yield
    finally:
        over.set()
