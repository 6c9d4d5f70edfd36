"""Figures that others published, with their caveats: data files, shown beside the rows of the same workload."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Literal

from pydantic import model_validator

from orchestrator.analysis.protocol import Unit, unit_of
from orchestrator.base.files import Count, Frozen, read_json, validate
from orchestrator.base.paths import PUBLISHED
from orchestrator.plan.workload import Benchmark, Dtype, ModelConfig, Workload


class ModelShape(Frozen):
    """The dimensions that make a published model what it is, whatever name it goes by."""

    layers: Count
    width: Count
    heads: Count
    kv_heads: Count
    mlp_width: Count
    vocabulary: Count

    def fits(self, model: ModelConfig | None) -> bool:
        """Whether the model has this shape."""
        return model is not None and all(getattr(model, key) == value for key, value in self)


class Conditions(Frozen):
    """What a workload must be for a published figure to stand beside it. Null: not asked for."""

    dtype: Dtype
    model: ModelShape
    batch: Count
    sequence: Count | None = None
    shortest: Count | None = None
    prompt: tuple[Count, ...] | None = None
    new_tokens: Count | None = None
    iterations: Count | None = None

    def fits(self, workload: Workload) -> bool:
        """Whether the workload is the published one. Weights may be anyone's: they do not change the speed."""
        asked = {key: value for key, value in self if key != "model" and value is not None}
        return self.model.fits(workload.model) and all(getattr(workload, key) == value for key, value in asked.items())


class PublishedFigure(Frozen):
    """One cell of a published table. `corrected` is what its authors put in its place later."""

    benchmark: Benchmark
    method: str
    label: str
    status: Literal["ok", "incorrect", "unsupported"]
    figure: float | None
    corrected: float | None = None
    unit: Unit
    memory_bytes: Count | None
    caveats: tuple[str, ...]


class Published(Frozen):
    """One published comparison: where it stands, on what it was measured, its figures and what is wrong with them."""

    schema_version: Literal[1]
    name: str
    title: str
    short: str
    source: str
    gpu: str
    driver: str | None
    cuda: str | None
    conditions: dict[Benchmark, Conditions]
    caveats: dict[str, str]
    figures: tuple[PublishedFigure, ...]

    @model_validator(mode="after")
    def _consistent(self) -> Published:
        for figure in self.figures:
            place = f"{figure.benchmark} {figure.method}"
            if figure.unit != unit_of(figure.benchmark):
                raise ValueError(f"{place}: the unit must be {unit_of(figure.benchmark)}, so that figures compare")
            if unknown := [key for key in figure.caveats if key not in self.caveats]:
                raise ValueError(f"{place}: no such caveat: {', '.join(unknown)}")
            if figure.benchmark not in self.conditions:
                raise ValueError(f"{place}: no conditions for {figure.benchmark}")
        return self

    def for_workload(self, workload: Workload) -> tuple[PublishedFigure, ...]:
        """Return the figures of every method for the workload, or none where it is not the published one."""
        conditions = self.conditions.get(workload.benchmark)
        if conditions is None or not conditions.fits(workload):
            return ()
        return tuple(figure for figure in self.figures if figure.benchmark == workload.benchmark)


def read_published(folder: Path = PUBLISHED) -> tuple[Published, ...]:
    """Return every published comparison in `folder`, by file name; nothing where the folder is not there."""
    if not folder.is_dir():
        return ()
    return tuple(validate(Published, read_json(path), path) for path in sorted(folder.glob("*.json")))


def find_figure(published: Sequence[Published], workload: Workload, method: str) -> PublishedFigure | None:
    """Return the figure that was published for the method on the workload; the first comparison that has one."""
    for comparison in published:
        for figure in comparison.for_workload(workload):
            if figure.method == method:
                return figure
    return None
