"""The command `schema`: the JSON Schemas of what people and `bench` write."""

from __future__ import annotations

import click

DIALECT = "https://json-schema.org/draft/2020-12/schema"
FILES = ("record", "stack", "suite")


@click.command("schema", short_help="Print a file format's JSON Schema.")
@click.argument("file", type=click.Choice(FILES))
def schema_command(file: str) -> None:
    """Print the JSON Schema of a record, of a stack.toml or of a suite file, for editors and other tools."""
    from orchestrator.base.text import show

    show(schema_text(file), end="")


def schema_text(name: str) -> str:
    """Return the schema of `record`, `stack` or `suite`."""
    import json

    from pydantic import BaseModel
    from pydantic.json_schema import GenerateJsonSchema

    from orchestrator.plan.stack import Stack
    from orchestrator.plan.suite import SuiteFile
    from orchestrator.records.record import Record

    class Untitled(GenerateJsonSchema):
        """Without titles: they only repeat the keys."""

        def field_title_should_be_set(self, schema: object) -> bool:  # noqa: ARG002
            return False

    kinds: dict[str, type[BaseModel]] = {"record": Record, "stack": Stack, "suite": SuiteFile}
    schema = {"$schema": DIALECT, **kinds[name].model_json_schema(schema_generator=Untitled)}
    if name == "stack":
        # Where a stack was found is known to the orchestrator, and is not a key of the file.
        del schema["properties"]["folder"]
    return json.dumps(schema, indent=1) + "\n"
