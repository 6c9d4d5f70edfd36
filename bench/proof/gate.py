"""The gate: what of a row's output is checked, and what the checks say."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

from bench import proof
from bench.benchmarks import Context, Task
from bench.parallel import worst
from bench.proof.again import FASTER, seen_again
from bench.proof.checks import Checks, first_failed
from bench.proof.reference_file import Reference, read
from bench.spec import Spec


def gate(context: Context, task: Task, spec: Spec, output: list[Any]) -> dict[str, Any]:
    """Run every check of a cell; return what the record's `proof` says of them.

    `output` holds the last sample's result alone, and is emptied before anything else is computed. To be called in the
    grad mode of the samples.
    """
    begin, checks = time.monotonic_ns(), Checks()
    facts: dict[str, Any] = {"resembles": None}
    with checks.guard("finite"):
        facts.update(task.proof(output.pop()))
        checks.judge("finite", passed=True, what="the last sample's output")
    reference = None
    with checks.guard("reference"):
        reference = find_reference(context, spec)
        if reference is None:
            checks.unchecked("reference", "no reference was given, and the model is too large to make one here")
    found = proof.module(spec.workload.benchmark)
    with checks.guard("checks"):
        facts.update(found.check(context, task, reference, checks))
    with checks.guard("seen again"):
        facts["seen_again"] = seen_again(context, task)
    facts["checks_version"] = checks.complete(spec.workload.benchmark, spec.role, spec.workload.dtype)
    places = {name: place for place, name in enumerate(found.ORDER)}
    facts["checks"] = sorted(
        worst(context.team.all(checks.items)), key=lambda item: places.get(item["name"], len(places))
    )
    facts["seconds"] = (time.monotonic_ns() - begin) / 1e9
    return facts


def find_reference(context: Context, spec: Spec) -> Reference | None:
    """The mounted file, verified; or made here where the model is tiny; or None."""
    if spec.reference is not None:
        return read(Path(spec.reference), spec.reference_sha256, spec.device)
    if proof.effort(context) > proof.IN_CELL:
        return None
    from bench.proof.make_references import in_cell

    found: Reference = context.team.first(lambda: in_cell(spec))
    return found


def verdict(benchmark: str, said: dict[str, Any]) -> str | None:
    """Why the cell is incorrect: its first failed check; None where none failed."""
    failed = first_failed(said.get("checks", ()))
    if failed is None:
        return None
    resembles = f"; resembles {said['resembles']}" if said.get("resembles") else ""
    return f"{benchmark}: {failed['name']}: {failed['what']}{resembles}"


def complete(said: dict[str, Any]) -> bool:
    """Whether every check could be made."""
    return bool(said["checks"]) and all(item["status"] != "unchecked" for item in said["checks"])


def memoised(said: dict[str, Any]) -> bool:
    """Whether it was faster on an input that it had just seen."""
    ratio = said.get("seen_again")
    return ratio is not None and ratio < FASTER
