"""A plan as text or JSON: what would be run, how long it would take, what it needs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any

from orchestrator.base.text import counted, fitted, in_words, json_document, scaled, size_in_words, wrapped
from orchestrator.build.image import bring, why_not_here
from orchestrator.build.ready import here_already, missing_images, reach_engine
from orchestrator.plan import memory
from orchestrator.plan.cell import Cell
from orchestrator.plan.choice import Choice
from orchestrator.plan.workload import Role, describe
from orchestrator.runner.estimate import Earlier, Estimate, Expected, Key, estimate, expected, history, weights_bytes

BELOW = (5, 1)
"""The columns that a narrow terminal has below each row."""

Line = tuple[str, str, str, str, str, str]


def render(choice: Choice, results: Path, form: str, width: int | None = None, *, elsewhere: bool = False) -> str:
    """Return the plan as `form` (text or json); times come from the records in `results` where it has any.

    `width`: of the text, in columns; null: no bound. `elsewhere`: cells run on other hosts alone.
    """
    known = history(results)
    client = None if elsewhere else reach_engine(choice)
    here = here_already(choice, client)
    cost = estimate(choice.plan, choice.stacks, known, here)
    missing = missing_images(choice, here)
    if form == "json":
        return as_json(choice, known, cost, missing)
    stacks = choice.stacks.items() if client else ()
    lacking = [f"{name}: {why}" for name, stack in stacks if (why := why_not_here(client, stack))]
    return "\n".join(
        [
            as_text(choice, known, cost, missing, width),
            *(piece for line in lacking for piece in wrapped(line, width, indent=2)),
        ]
    )


def as_text(
    choice: Choice,
    known: Mapping[Key, Earlier],
    cost: Estimate,
    missing: Mapping[str, str] = MappingProxyType({}),
    width: int | None = None,
) -> str:
    """Return a line of what and why, the cells (references and probes in a line each), and what they cost."""
    rows: list[Line] = [("cell", "workload", "device", "rounds", "expected", "computes")]
    cells, shown = choice.plan.cells, set[Role]()
    for cell in cells:
        if cell.role not in ("weights", "reference", "probe"):
            rows.append(_line(cell, expected(cell, known)))
        elif cell.role not in shown:
            rows.append(_together([other for other in cells if other.role == cell.role], known))
        shown.add(cell.role)
    lines = [f"{stack}: image {image} is missing; {bring(image)} brings it" for stack, image in missing.items()]
    lines = [*lines, cost_line(cost, marked=True), f"plan {choice.plan.plan_id}"]
    below = (piece for line in lines for piece in wrapped(line, width, indent=2))
    return "\n".join([*wrapped(choice.line, width, indent=2), "", *fitted(rows, BELOW, width), "", *below])


def _line(cell: Cell, time: Expected) -> Line:
    workload, weights = cell.workload, cell.workload.weights
    held = memory.expected(workload, compiled=is_compiled(cell))
    about = f", about {scaled(held.peak_bytes, 'B')} of memory" if held else ""
    what = f"{describe(workload)}{about}, {counted(workload.iterations, 'iteration')}"
    if weights is not None and weights.source == "checkpoint":
        what += f", weights {weights.fingerprint}"
    spent = _time(time.seconds, guessed=time.source != "measured")
    return cell.title, workload.workload_id, cell.device, str(cell.rounds), spent, what


def is_compiled(cell: Cell) -> bool:
    """Whether a compiler decides what is kept for the backward, by the method's name."""
    return "inductor" in cell.method


def _together(cells: Sequence[Cell], known: Mapping[Key, Earlier]) -> Line:
    """Return one line for all cells of a role that proves rows: what they are for, and how many."""
    times = [expected(cell, known) for cell in cells]
    if cells[0].role == "reference":
        count = sum(len(cell.workload.subjects or ()) for cell in cells)
        models = dict.fromkeys(cell.workload.model.name for cell in cells if cell.workload.model)
        what = f"{counted(count, 'reference')} for {', '.join(models)}"
    elif cells[0].role == "weights":
        subjects = [subject for cell in cells for subject in cell.workload.subjects or ()]
        models = dict.fromkeys(f"{subject.model.name} in {subject.dtype}" for subject in subjects if subject.model)
        what = f"for engines: {', '.join(models)}, {scaled(weights_bytes(cells), 'B')} on disk while they run"
    else:
        what = f"{', '.join(dict.fromkeys(cell.benchmark for cell in cells))}: "
        what += ", ".join(dict.fromkeys(f"{cell.method}@{cell.stack}" for cell in cells))
    devices = ", ".join(dict.fromkeys(cell.device for cell in cells))
    spent = _time(sum(time.seconds for time in times), guessed=any(time.source != "measured" for time in times))
    return counted(len(cells), f"{cells[0].role} cell"), "", devices, "1", spent, what


def _time(seconds: float, *, guessed: bool) -> str:
    return in_words(seconds) + (" ?" if guessed else "")


def cost_line(cost: Estimate, *, marked: bool = False) -> str:
    """Return the time, and what is downloaded and stored for stacks that are not here yet."""
    guess = f" ({cost.guessed} of {cost.cells} cells guessed{', marked ?' if marked else ''})" if cost.guessed else ""
    sizes = f"to download at most: {size_in_words(cost.download_bytes)}; disk: {size_in_words(cost.disk_bytes)}"
    if cost.download_bytes == cost.disk_bytes == 0:
        sizes = "nothing to download or build"
    else:
        guess += ", when all is built"
    return f"expected: {in_words(cost.seconds)}{guess}; {sizes}"


def as_json(
    choice: Choice, known: Mapping[Key, Earlier], cost: Estimate, missing: Mapping[str, str] = MappingProxyType({})
) -> str:
    """Return the same for programs; unknown is null, times in seconds, sizes in bytes.

    `suite`, `plan_id`, `launcher`, `stacks`, `reason` (why these), `expected_s`, `download_bytes`, `disk_bytes`,
    `missing_images`, and `cells`: each with `title`, `key`, `workload_id`, its own `expected_s` and where that is from
    (`expected_from`), and the keys of `Cell`.
    """
    cells = []
    for cell in choice.plan.cells:
        time = expected(cell, known)
        names = {"title": cell.title, "key": cell.key, "workload_id": cell.workload.workload_id}
        cost_of_it: dict[str, Any] = {"expected_s": time.seconds, "expected_from": time.source}
        held = memory.expected(cell.workload, compiled=is_compiled(cell))
        cost_of_it["memory"] = held and held._asdict()
        cells.append({**names, **cost_of_it, **cell.model_dump(mode="json")})
    content = {
        "schema_version": 1,
        "suite": choice.suite.name,
        "plan_id": choice.plan.plan_id,
        "launcher": choice.launchers,
        "stacks": list(choice.stacks),
        "reason": choice.line,
        "expected_s": cost.seconds,
        "download_bytes": cost.download_bytes,
        "disk_bytes": cost.disk_bytes,
        "missing_images": list(missing.values()),
        "cells": cells,
    }
    return json_document(content)
