from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import jsonschema
import pytest
from plan_samples import SUITE, record, write_stack

from orchestrator.base.files import read_toml
from orchestrator.base.paths import IMAGES, SUITES
from orchestrator.cli import run
from orchestrator.cli.schema import FILES, schema_text

if TYPE_CHECKING:
    from pathlib import Path


def validator(name: str) -> Any:
    schema = json.loads(schema_text(name))
    kind = jsonschema.validators.validator_for(schema)
    kind.check_schema(schema)
    return kind(schema)


@pytest.mark.parametrize("name", FILES)
def test_the_command_prints_it(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["schema", name]) == 0
    schema = json.loads(capsys.readouterr().out)
    assert schema == json.loads(schema_text(name))
    assert schema["additionalProperties"] is False
    assert "schema_version" in schema["required"]


def test_no_other_file_has_one(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["schema", "table"]) == 4
    assert "'record', 'stack', 'suite'" in capsys.readouterr().err


@pytest.mark.parametrize("path", sorted(SUITES.glob("*.toml")), ids=lambda path: path.stem)
def test_the_suites_of_the_repository_are_valid(path: Path) -> None:
    validator("suite").validate(read_toml(path))


@pytest.mark.parametrize("path", sorted(IMAGES.glob("*/stack.toml")), ids=lambda path: path.parent.name)
def test_the_stacks_of_the_repository_are_valid(path: Path) -> None:
    validator("stack").validate(read_toml(path))


def test_a_list_and_a_value_alone_are_both_valid(tmp_path: Path) -> None:
    path = tmp_path / "suite.toml"
    for value in ("2", "[2, 3]"):
        path.write_text(SUITE.replace("batch = 2", f"batch = {value}"))
        validator("suite").validate(read_toml(path))


@pytest.mark.parametrize("value", ["0", "[]", '"2"', "[2, -1]", "2.5"])
def test_what_the_orchestrator_refuses_the_schema_refuses(tmp_path: Path, value: str) -> None:
    path = tmp_path / "suite.toml"
    path.write_text(SUITE.replace("batch = 2", f"batch = {value}"))
    assert not validator("suite").is_valid(read_toml(path))


def test_records_are_valid_and_unknown_keys_are_not(tmp_path: Path) -> None:
    raw = json.loads(record().model_dump_json())
    validator("record").validate(raw)
    assert not validator("record").is_valid({**raw, "speed": 1})
    stack = read_toml(write_stack(tmp_path) / "stack.toml")
    validator("stack").validate(stack)
    assert not validator("stack").is_valid({**stack, "folder": "x"})
