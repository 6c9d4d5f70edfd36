"""Scaling efficiency: against the same method on one device, weak before strong; ceilings of links, and of so many."""

from __future__ import annotations

from typing import Any

import pytest
from record_samples import ceilings, rate, record, samples, workload

from orchestrator.analysis.ceilings import ceiling
from orchestrator.analysis.reduce import rows
from orchestrator.analysis.reduced_run import Pair
from orchestrator.analysis.rows import Row
from orchestrator.records.record import Record
from orchestrator.report.columns import columns, scaling

NOISE = (1.0, 1.001, 0.999)


def rounds(name: str, milliseconds: float, *, batch: int, devices: int = 1, **changes: Any) -> list[Record]:
    parallel = {} if devices == 1 else {"devices": devices, "parallel": "ddp"}
    what = workload("train_static", batch=batch, **parallel)
    return [
        record(
            "train_static",
            workload=what,
            cell_id=name * 16,
            round=number,
            samples=samples(2000.0, milliseconds, *[milliseconds * noise] * 4),
            work={"flops": 10**13 * batch, "bytes": None, "tokens": 2048 * batch},
            **changes,
        )
        for number, noise in enumerate(NOISE)
    ]


def of_two(records: list[Record]) -> Row:
    (found,) = [row for row in rows(records, "steady") if row.workload.devices == 2]
    return found


def test_weak_scaling_is_against_one_device_with_its_share() -> None:
    row = of_two([*rounds("a", 100.0, batch=2), *rounds("b", 200.0, batch=4), *rounds("c", 110.0, batch=4, devices=2)])
    assert row.scaling is not None
    assert (row.scaling.against, row.scaling.devices, row.scaling.way) == ("a" * 16, 2, "weak")
    assert row.scaling.efficiency == pytest.approx(100 / 110)
    assert row.scaling.interval is not None
    low, high = row.scaling.interval
    assert low < row.scaling.efficiency < high
    assert scaling(row).line().startswith("90.9 % [")
    assert scaling(row).line().endswith("] weak")


def test_strong_scaling_is_against_the_same_work() -> None:
    row = of_two([*rounds("b", 200.0, batch=4), *rounds("c", 125.0, batch=4, devices=2)])
    assert row.scaling is not None
    assert (row.scaling.way, row.scaling.efficiency) == ("strong", pytest.approx(0.8))


def test_another_method_or_a_wrong_row_is_no_one_device() -> None:
    two = rounds("c", 110.0, batch=4, devices=2)
    assert of_two([*two, *rounds("a", 100.0, batch=2, method="eager")]).scaling is None
    assert of_two([*two, *rounds("a", 100.0, batch=2, status="incorrect", reason="NaN")]).scaling is None
    assert of_two(two).scaling is None


def test_only_a_table_of_several_devices_has_the_column() -> None:
    row = of_two([*rounds("b", 200.0, batch=4), *rounds("c", 125.0, batch=4, devices=2)])
    (column,) = [one for one in columns("train_static", (), 2) if one.key == "scaling"]
    assert column.line(Pair(row, row, None)).startswith("80.0 %")
    assert "scaling" not in [one.key for one in columns("train_static", ())]


def test_several_devices_can_do_so_many_times_what_one_can() -> None:
    links = ceilings(
        cell_id="d" * 16,
        workload=workload("ceilings", devices=2, matrix_sizes=None),
        rates=[rate("all_reduce", 2**30, 2**30, 300e9), rate("all_gather", 2**30, 2**29, 250e9)],
    )
    assert ceiling(links).in_words == "links of 2 devices: all-reduce 300 GB/s, all-gather 250 GB/s (sent by each)"
    records = [*rounds("a", 100.0, batch=2), *rounds("c", 100.0, batch=4, devices=2), ceilings(), links]
    shares = [row.share.share for row in rows(records, "steady")]
    assert shares[0] == pytest.approx(shares[1])
    assert shares[0] == pytest.approx(2e13 / 781e12 / 0.1, rel=1e-3)
