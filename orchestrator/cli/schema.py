"""The JSON Schemas of what people and `bench` write: `python -m orchestrator.cli.schema` writes them anew."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from orchestrator.base.files import make_folder, write_text
from orchestrator.base.paths import SCHEMAS
from orchestrator.plan.stack import Stack
from orchestrator.plan.suite import SuiteFile
from orchestrator.records.record import Record

if TYPE_CHECKING:
    from orchestrator.base.files import Frozen

DIALECT = "https://json-schema.org/draft/2020-12/schema"
FILES: dict[str, type[Frozen]] = {"suite": SuiteFile, "stack": Stack, "record": Record}


def schema_text(name: str) -> str:
    """Return the schema of `suite`, `stack` or `record` as it stands in the repository."""
    schema = {"$schema": DIALECT, **_plain(FILES[name].model_json_schema())}
    if name == "stack":
        # Where a stack was found is known to the orchestrator, and no key of the file.
        del schema["properties"]["folder"]
    return json.dumps(schema, indent=1) + "\n"


def _plain(node: Any) -> Any:
    """Leave out what says nothing and differs from one version of pydantic to the next."""
    if isinstance(node, list):
        return [_plain(item) for item in node]
    if not isinstance(node, dict):
        return node
    plain = {key: _plain(value) for key, value in node.items() if key != "title" or isinstance(value, dict)}
    if "const" in plain:
        plain.pop("enum", None)
        plain.pop("type", None)
    if plain.get("additionalProperties") is True:
        del plain["additionalProperties"]
    match plain.get("allOf"):
        case [dict(only)]:
            del plain["allOf"]
            plain = {**only, **plain}
    return plain


def main() -> None:
    """Write all schemas."""
    make_folder(SCHEMAS)
    for name in FILES:
        write_text(SCHEMAS / f"{name}.schema.json", schema_text(name))


if __name__ == "__main__":
    main()
