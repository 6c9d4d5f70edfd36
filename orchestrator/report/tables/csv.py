"""The rows as CSV for a spreadsheet: one line for each row and protocol, full precision, unknown is empty.

Columns are named as in the rows of tables.json: `figure.value`; an interval has a `.low` and a `.high`.
"""

from __future__ import annotations

import csv
import io
import unicodedata
from collections.abc import Mapping
from operator import attrgetter
from typing import TYPE_CHECKING, Any

from orchestrator.analysis.protocol import Protocol
from orchestrator.analysis.published import PublishedFigure
from orchestrator.analysis.reduced_run import Report
from orchestrator.analysis.rows import Row
from orchestrator.base.text import printable
from orchestrator.report.tables.json import LEFT_OUT

if TYPE_CHECKING:
    from pydantic import BaseModel

# A spreadsheet takes a text that begins so for a formula, also after blanks and in forms of another width, and what a
# container wrote must never become one.
FORMULA, BREAKS = ("=", "+", "-", "@"), ("\t", "\r", "\n")
NUMBERS = frozenset((float, int, bool, type(None)))
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
    of_row = Part({**_shape(Row, LEFT_OUT), **BESIDE})
    of_published = Part(_shape(PublishedFigure, {"benchmark": True}))
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(["name", *of_row.columns, *(f"published.{name}" for name in of_published.columns)])
    for pair in report.pairs:
        published = of_published.cells(pair.published)
        for row in (pair.steady, pair.note):
            if protocol in (None, row.protocol):
                writer.writerow([_text(row.name), *of_row.cells(row), *published])
    return out.getvalue()


class Part:
    """The columns of one value, its own parts' columns among them."""

    def __init__(self, tree: Tree) -> None:
        self.parts = [Part(inner) if inner else None for inner in tree.values()]
        # One after the other rows share what they ran on and in.
        self.last: Any = None
        self.last_cells: list[Any] = []
        self.columns: list[str] = [
            f"{name}.{rest}" if rest else name
            for name, part in zip(tree, self.parts, strict=True)
            for rest in (part.columns if part else ("",))
        ]
        # With one name alone attrgetter gives no tuple: the second is not used.
        self.get: Any = tuple if tuple(tree) == BOUNDS else attrgetter(*tree, "__class__")

    def cells(self, value: Any) -> list[Any]:
        """Return the cells of a value, as many as there are columns; none is known where the value is not."""
        if value is None:
            return [None] * len(self.columns)
        if value is self.last:
            return self.last_cells
        cells: list[Any] = []
        for found, part in zip(self.get(value), self.parts, strict=False):
            if part is None:
                cells.append(found if type(found) in NUMBERS else _text(found))
            else:
                cells += part.cells(found)
        self.last, self.last_cells = value, cells
        return cells


def _shape(model: type[BaseModel], left_out: Mapping[str, Any]) -> Tree:
    """Return the columns of a model, by its JSON Schema; a list of objects does not fit a cell and is left out."""
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


def _text(value: Any) -> Any:
    if isinstance(value, dict):
        value = "; ".join(f"{name} {inner}" for name, inner in value.items())
    elif isinstance(value, tuple):
        value = "; ".join(map(str, value))
    if not isinstance(value, str):
        return value
    if value.isascii() and value.isprintable() and value[:1].isalnum():  # most of them
        return value
    text = printable(value)
    begin = unicodedata.normalize("NFKC", text.lstrip()[:1])
    return f"'{text}" if value.startswith(BREAKS) or begin.startswith(FORMULA) else text
