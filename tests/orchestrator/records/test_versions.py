"""Readers keep schema version 1 for ever: every committed record is read, also without fields that came later."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from committed import FOLDERS
from pydantic import BaseModel

from orchestrator.base.errors import UsageError
from orchestrator.records.record import Record
from orchestrator.records.store import read_record

RECORDS = sorted(path for run in FOLDERS for path in run.glob("records/*.json"))
by_run = pytest.mark.parametrize("run", FOLDERS, ids=lambda run: run.name)


def without_later_fields(value: Any) -> Any:
    """The value as the first version's oldest writer would have left it: no optional field but what holds others."""
    if isinstance(value, BaseModel):
        fields = type(value).model_fields
        kept = {name: inner for name, inner in value if fields[name].is_required() or holds_values(inner)}
        return {name: without_later_fields(inner) for name, inner in kept.items()}
    return [without_later_fields(item) for item in value] if isinstance(value, tuple) else value


def holds_values(value: Any) -> bool:
    return isinstance(value, BaseModel) or (
        isinstance(value, tuple) and any(isinstance(item, BaseModel) for item in value)
    )


def narrowed(read: Any, raw: Any) -> Any:
    """What was read, without the keys that the file has not got."""
    if isinstance(raw, dict):
        return {key: narrowed(read[key], inner) for key, inner in raw.items()}
    if isinstance(raw, list) and len(raw) == len(read):
        return [narrowed(one, inner) for one, inner in zip(read, raw, strict=True)]
    return read


@by_run
def test_every_committed_record_is_read_and_nothing_of_it_is_lost(run: Path) -> None:
    paths = sorted((run / "records").glob("*.json"))
    assert paths
    for path in paths:
        raw = json.loads(path.read_text(encoding="utf-8"))
        assert raw["schema_version"] == 1
        assert narrowed(json.loads(read_record(path).model_dump_json()), raw) == raw


@by_run
def test_a_record_without_the_fields_that_came_later_is_read(run: Path, tmp_path: Path) -> None:
    for path in sorted((run / "records").glob("*.json")):
        record, old = read_record(path), tmp_path / path.name
        raw = without_later_fields(record)
        assert raw != json.loads(path.read_text(encoding="utf-8"))
        old.write_text(json.dumps(raw), encoding="utf-8")
        read = read_record(old)
        assert (read.cell_id, read.workload_id, read.status) == (record.cell_id, record.workload_id, record.status)
        assert [sample.begin_ns for sample in read.samples] == [sample.begin_ns for sample in record.samples]


def test_only_what_the_first_version_required_is_required() -> None:
    required = {name for name, field in Record.model_fields.items() if field.is_required()}
    assert required == {
        *("schema_version", "written_by", "cell_id", "workload_id", "round", "stack", "method", "workload", "device"),
        *("status", "reason", "flags", "bench_source", "started_utc"),
    }


def test_a_check_that_the_first_version_did_not_make_is_not_asked_of_it(tmp_path: Path) -> None:
    path = next(path for path in RECORDS if path.name.startswith("forward-"))
    raw = json.loads(path.read_text(encoding="utf-8"))
    assert len(raw["proof"]["checks"]) > 1
    raw["proof"]["checks"] = raw["proof"]["checks"][:1]
    fewer = tmp_path / path.name
    fewer.write_text(json.dumps(raw), encoding="utf-8")
    assert read_record(fewer).status == read_record(path).status


def test_a_version_that_is_not_known_here_is_refused_in_one_line(tmp_path: Path) -> None:
    raw = json.loads(RECORDS[0].read_text(encoding="utf-8"))
    path = tmp_path / RECORDS[0].name
    path.write_text(json.dumps({**raw, "schema_version": 2}), encoding="utf-8")
    with pytest.raises(UsageError, match="schema_version") as caught:
        read_record(path)
    assert "\n" not in str(caught.value)
