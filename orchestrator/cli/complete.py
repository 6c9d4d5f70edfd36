"""What a shell may complete: runs, suites, stacks, methods, benchmarks. Folders are listed; no file is read."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from pathlib import Path

import click

from orchestrator.base.paths import BENCH, BUNDLE_ENDING, IMAGES, RESULTS, SUITES

Complete = Callable[[click.Context, click.Parameter, str], list[str]]


def _completing(names: Callable[[click.Context], Iterable[str]]) -> Complete:
    def complete(context: click.Context, _parameter: click.Parameter, incomplete: str) -> list[str]:
        return sorted(name for name in names(context) if name.startswith(incomplete))

    return complete


def _runs(context: click.Context) -> Iterable[str]:
    results = Path(context.params.get("results") or RESULTS)
    folders = (place.parent.name for place in results.glob("*/run.json"))
    return {*folders, *(place.name.removesuffix(BUNDLE_ENDING) for place in results.glob(f"*{BUNDLE_ENDING}"))}


def _stacks(context: click.Context) -> Iterable[str]:
    folders = (IMAGES, *(context.params.get("stack_folders") or ()))
    return {place.parent.name for folder in folders for place in Path(folder).glob("*/stack.toml")}


def _methods(context: click.Context) -> Iterable[str]:
    folders = (BENCH / "methods", *(context.params.get("method_folders") or ()))
    return {place.stem for folder in folders for place in Path(folder).glob("[!_]*.py")}


runs = _completing(_runs)
suites = _completing(lambda _context: (place.stem for place in SUITES.glob("*.toml")))
stacks = _completing(_stacks)
methods = _completing(_methods)
benchmarks = _completing(lambda _context: (place.stem for place in (BENCH / "benchmarks").glob("[!_]*.py")))
