"""How well several devices do what one does: rows of several beside the row of one."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Literal

from orchestrator.analysis.rows import Row, Scaling
from orchestrator.analysis.statistics import verdict

Ground = tuple[str | None, ...]


def beside_one_device(rows: Sequence[Row]) -> list[Row]:
    """Return the rows, those of several devices with their efficiency where the same is there on one.

    By the same method on the same stack and model of device. Each device's share of the batch is looked for first
    (weak scaling), then the whole of it (strong): of what is no training the whole alone.
    """
    if all(row.workload.devices == 1 for row in rows):
        return list(rows)
    alone = {_ground(row, row.workload_id): row for row in _best_last(rows) if row.workload.devices == 1}
    return [row if row.workload.devices == 1 else _beside(row, alone) for row in rows]


def _beside(row: Row, alone: dict[Ground, Row]) -> Row:
    whole, devices = row.workload.alone, row.workload.devices
    ways: list[tuple[Literal["strong", "weak"], str]] = []
    if row.workload.parallel != "tensor" and whole.batch is not None and whole.batch % devices == 0:
        ways.append(("weak", whole.model_copy(update={"batch": whole.batch // devices}).workload_id))
    ways.append(("strong", whole.workload_id))
    for way, workload_id in ways:
        one = alone.get(_ground(row, workload_id))
        if one is not None and one.headline is not None and row.headline is not None:
            found = verdict(row.figure.round_seconds, one.figure.round_seconds)
            mine, theirs = (side.work.tokens if side.work else None for side in (row, one))
            if not mine or not theirs or found.speedup is None:
                continue
            share = mine / theirs / devices
            interval = found.speedup_interval
            scaling = Scaling(
                against=one.cell_id,
                devices=devices,
                way=way,
                efficiency=found.speedup * share,
                interval=None if interval is None else (interval[0] * share, interval[1] * share),
            )
            return row.model_copy(update={"scaling": scaling})
    return row


def _ground(row: Row, workload_id: str) -> Ground:
    return (workload_id, row.method, row.stack, row.hardware.device, row.hardware.name, row.fingerprint)


def _best_last(rows: Iterable[Row]) -> list[Row]:
    return sorted(rows, key=lambda row: (row.status == "ok", row.cell_id))
