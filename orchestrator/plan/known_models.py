"""Models by name: those of `bench/models.json`, and those that a suite file describes."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pydantic import RootModel

from orchestrator.base.files import read_json, unknown, validate
from orchestrator.base.paths import BENCH
from orchestrator.plan.workload import ModelConfig

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

MODELS = BENCH / "models.json"


class _Models(RootModel[dict[str, ModelConfig]]):
    """The file: name to dimensions."""


def named_models(path: Path = MODELS) -> dict[str, ModelConfig]:
    """Return the built-in models."""
    raw = read_json(path)
    named = {name: {**dims, "name": name} if isinstance(dims, dict) else dims for name, dims in raw.items()}
    return validate(_Models, named, path).root


def resolve_model(name: str, models: Mapping[str, ModelConfig], *, where: str = "") -> ModelConfig:
    """Return the model called `name`; an unknown one is a UsageError that lists the known."""
    if name not in models:
        raise unknown("model", name, list(models), where=where)
    return models[name]
