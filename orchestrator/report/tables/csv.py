"""The rows as CSV for a spreadsheet: one line for each row and protocol, full precision, an unknown value empty.

Columns are named as in the rows of tables.json: `figure.value`; an interval has a `.low` and a `.high`.
"""

from __future__ import annotations

import csv
import io
from typing import TYPE_CHECKING, Any

from orchestrator.analysis.published import PublishedFigure
from orchestrator.analysis.rows import Row
from orchestrator.report.tables.json import LEFT_OUT

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from pydantic import BaseModel

    from orchestrator.analysis.protocol import Protocol
    from orchestrator.analysis.reduced_run import Report

# A spreadsheet takes a text that begins so for a formula, and what a container wrote must never become one.
FORMULA = ("=", "+", "-", "@", "\t", "\r")
BOUNDS = ("low", "high")

Tree = dict[str, Any]
"""A column's name, or the first part of it, with the parts that follow; none after the last."""

BESIDE: Tree = {
    "workload": {"model": {"name": {}}, "dtype": {}, "batch": {}, "sequence": {}, "new_tokens": {}},
    "environment": {name: {} for name in ("python", "torch", "torch_git", "cuda", "triton", "fingerprint")},
}
"""Of what tables.json has once for many rows: what tells rows apart in a spreadsheet."""


def render(report: Report, protocol: Protocol | None = None) -> str:
    """Return a header line and a line for each row: of `protocol`, or of both where it is null."""
    of_row, of_published = {**_shape(Row, LEFT_OUT), **BESIDE}, _shape(PublishedFigure, {"benchmark": True})
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(["name", *_names(of_row, ""), *_names(of_published, "published.")])
    for pair in report.pairs:
        for row in (pair.steady, pair.note):
            if protocol in (None, row.protocol):
                writer.writerow([row.name, *_cells(row, of_row), *_cells(pair.published, of_published)])
    return out.getvalue()


def _shape(model: type[BaseModel], left_out: Mapping[str, Any]) -> Tree:
    """Return the columns of a model, by its JSON Schema; a list of objects is no cell and is left out."""
    schema = model.model_json_schema(mode="serialization")
    return _tree(schema, schema.get("$defs", {}), left_out)


def _tree(schema: Mapping[str, Any], defs: Mapping[str, Any], left_out: Any) -> Tree:
    found: Tree = {}
    for name, inner in schema["properties"].items():
        without = left_out.get(name) if isinstance(left_out, dict) else name in left_out
        kind = _resolved(inner, defs)
        if without is True or "properties" in _resolved(kind.get("items", {}), defs):
            continue
        if name == "interval":
            found[name] = {bound: {} for bound in BOUNDS}
        else:
            found[name] = _tree(kind, defs, without or {}) if "properties" in kind else {}
    return found


def _resolved(schema: Mapping[str, Any], defs: Mapping[str, Any]) -> Mapping[str, Any]:
    """Follow a reference, and leave null aside."""
    if "$ref" in schema:
        return _resolved(defs[schema["$ref"].rpartition("/")[2]], defs)
    known = [option for option in schema.get("anyOf", ()) if option.get("type") != "null"]
    return _resolved(known[0], defs) if len(known) == 1 else schema


def _names(tree: Tree, path: str) -> Iterator[str]:
    for name, inner in tree.items():
        yield from _names(inner, f"{path}{name}.") if inner else (path + name,)


def _cells(value: Any, tree: Tree) -> Iterator[Any]:
    """Yield the cells of a value, as many as its tree has columns."""
    if isinstance(value, tuple):
        yield from value
        return
    for name, inner in tree.items():
        found = None if value is None else getattr(value, name)
        if inner:
            yield from _cells(found, inner)
        else:
            yield _text(found) if isinstance(found, (str, tuple, dict)) else found


def _text(value: str | tuple[Any, ...] | dict[str, Any]) -> str:
    if isinstance(value, dict):
        text = "; ".join(f"{name} {inner}" for name, inner in value.items())
    else:
        text = value if isinstance(value, str) else "; ".join(map(str, value))
    return f"'{text}" if text.startswith(FORMULA) else text
