"""How the first call grows with the layers: what makes a series, and where it is shown."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from record_samples import ENVIRONMENT, GPU, compiled_in, record, samples, save_run, with_layers, workload

from orchestrator.analysis.growth import growths
from orchestrator.analysis.reduce import rows
from orchestrator.base.text import MISSING
from orchestrator.records.record import Record
from orchestrator.report.tables import render_tables


def found(*records: Record) -> list[list[tuple[int, float, float | None]]]:
    series = growths(rows(list(records), "steady"))
    return [[(p.layers, p.first_call_seconds, p.further_layer_seconds) for p in each.points] for each in series]


def test_points_are_by_layers_with_what_each_further_one_takes() -> None:
    (points,) = found(with_layers(32, 160.0), with_layers(2, 10.0), with_layers(8, 34.0))
    assert points == [(2, 10.0, None), (8, 34.0, pytest.approx(4.0)), (32, 160.0, pytest.approx(5.25))]


def test_each_method_has_a_series_of_its_own() -> None:
    inductor = [with_layers(n, n / 2, method="inductor", cell_id=f"{n:016x}") for n in (2, 8)]
    series = growths(rows([with_layers(2, 10.0), with_layers(8, 34.0), *inductor], "steady"))
    assert [each.name for each in series] == ["inductor@cuda", "thunder@cuda"]


@pytest.mark.parametrize(
    "other",
    [
        with_layers(8, 34.0, flags=["warm"]),
        with_layers(8, 34.0, compiles=None),
        with_layers(8, 34.0, stack="cpu"),
        with_layers(8, 34.0, status="crashed", reason="exit code 139", samples=[]),
        with_layers(2, 34.0, cell_id="f" * 16),
        record(
            cell_id="e" * 16,
            method="thunder",
            workload=workload(batch=1),
            samples=samples(34e3, 14.0, *[14.0] * 4),
            compiles=compiled_in(0),
        ),
    ],
    ids=["warm", "not compiled", "another stack", "crashed", "as many layers", "another batch"],
)
def test_what_makes_no_series(other: Record) -> None:
    assert found(with_layers(2, 10.0), other) == []


def test_the_tables_show_it(tmp_path: Path) -> None:
    run = save_run(tmp_path, [with_layers(32, 160.0), with_layers(2, 10.0)])
    shown = render_tables(run).split("## How the first call grows with the layers")[1].split("##")[0]
    lines = [[cell.strip() for cell in line.split("|")[3:6]] for line in shown.splitlines() if "thunder" in line]
    assert lines == [["2", "10.0", MISSING], ["32", "160", "5.00"]]
    (growth,) = json.loads(render_tables(run, form="json"))["growth"]
    assert [point["layers"] for point in growth["points"]] == [2, 32]
    assert "hosts may compile" not in shown
    alone = save_run(tmp_path / "alone", [with_layers(2, 10.0)])
    assert "grows with the layers" not in render_tables(alone)


def test_points_on_several_gpus_say_so(tmp_path: Path) -> None:
    other = {**ENVIRONMENT, "gpu": {**GPU, "uuid": "GPU-1"}}
    records = [with_layers(2, 10.0), with_layers(8, 34.0), with_layers(32, 160.0, environment=other)]
    (growth,) = growths(rows(records, "steady"))
    assert growth.gpus == ("GPU-0", "GPU-1")
    assert [point.further_layer_seconds for point in growth.points] == [None, pytest.approx(4.0), None]
    shown = render_tables(save_run(tmp_path, records))
    assert "- `thunder@cuda`: measured on 2 GPUs, whose hosts may compile at different speeds." in shown
