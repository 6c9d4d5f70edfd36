"""How the first call grows with a model's layers: rows of one run that differ in the layers alone, side by side."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from orchestrator.analysis.rows import Row
from orchestrator.base.files import Frozen


class GrowthPoint(Frozen):
    """A first call from an empty compile cache, compilation included."""

    cell_id: str
    layers: int
    first_call_seconds: float
    further_layer_seconds: float | None
    """What each layer more than in the point before took; null of the first one, and where that ran on another GPU:
    it is mostly in another host, whose CPU compiles at another speed."""
    gpus: tuple[str, ...]
    """UUIDs of what its rounds ran on."""


class Growth(Frozen):
    """One method's first calls at several numbers of layers, the fewest first."""

    name: str
    """`method@stack`."""
    points: tuple[GrowthPoint, ...]

    @property
    def gpus(self) -> tuple[str, ...]:
        """Those of all points."""
        return tuple(dict.fromkeys(gpu for point in self.points for gpu in point.gpus))


def growths(rows: Iterable[Row]) -> tuple[Growth, ...]:
    """Return what of `rows` (of one run and protocol) shows a growth: compiled, cold, at two numbers of layers or more.

    Two rows that agree in the layers too (the same workload twice) count once, the first of them.
    """
    found: dict[tuple[str, str, str], dict[int, tuple[float, Row]]] = {}
    but_for_layers: dict[str, str] = {}
    for row in rows:
        model, seconds = row.workload.model, row.first_call.seconds
        if model is None or seconds is None or row.first_call.cache != "cold" or not _compiled(row):
            continue
        if row.workload_id not in but_for_layers:
            nameless = model.model_copy(update={"layers": 1, "name": ""})
            but_for_layers[row.workload_id] = row.workload.model_copy(update={"model": nameless}).model_dump_json()
        key = (row.benchmark, row.name, but_for_layers[row.workload_id])
        found.setdefault(key, {}).setdefault(model.layers, (seconds, row))
    return tuple(
        Growth(name=name, points=_points(by_layers))
        for (_, name, _), by_layers in sorted(found.items())
        if len(by_layers) > 1
    )


def _compiled(row: Row) -> bool:
    return row.status == "ok" and row.evidence.compiles is not None and row.evidence.compiles.made > 0


def _points(by_layers: Mapping[int, tuple[float, Row]]) -> tuple[GrowthPoint, ...]:
    points: list[GrowthPoint] = []
    for layers, (seconds, row) in sorted(by_layers.items()):
        further = None
        if points and points[-1].gpus == row.gpus:
            further = (seconds - points[-1].first_call_seconds) / (layers - points[-1].layers)
        points.append(
            GrowthPoint(
                cell_id=row.cell_id,
                layers=layers,
                first_call_seconds=seconds,
                further_layer_seconds=further,
                gpus=row.gpus,
            )
        )
    return tuple(points)
