"""What is wrong with a value that a person or a file gave, in words: the key, the reason, the nearest known name."""

from __future__ import annotations

import difflib
import json
from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Any

from pydantic import BaseModel, ValidationError

from orchestrator.base.errors import UsageError
from orchestrator.base.text import one_line

MOST_ERRORS = 1_000
SHOWN_INPUT, SHOWN_PROBLEMS = 60, 4
PLAIN_WORDS = {
    "too_short": "must have at least {min_length}, has {actual_length}",
    "too_long": "must have at most {max_length}, has {actual_length}",
    "string_too_short": "must have at least {min_length} characters",
    "string_too_long": "must have at most {max_length} characters",
    "string_pattern_mismatch": "must be like {pattern} (a regular expression)",
    "tuple_type": "must be a list",
    "list_type": "must be a list",
    "dict_type": "must be a table",
    "model_type": "must be a table",
    "bool_type": "must be true or false",
    "string_type": "must be text",
}
"""Of kinds of errors of pydantic's whose own sentences speak of Python."""
EMPTY = "must not be empty"
PLAIN_PATTERNS = {
    "^[a-z0-9][a-z0-9_-]*$": "must be of small letters, digits, - and _, and begin with a letter or a digit",
    "^[0-9a-f]{64}$": "must be a SHA-256, 64 digits of 0-9a-f",
}


def explain_validation(error: ValidationError, raw: Any, model: type[BaseModel]) -> str:
    """Return what is wrong as one line: key, reason and remedy of the first few, and how many more there are."""
    if error.error_count() > MOST_ERRORS:
        return f"{error.error_count()} of its values are wrong"  # each takes a thousand bytes to be told
    problems = error.errors(include_url=False)
    # An unknown key explains most other errors (it is usually the misspelt missing one): name it first.
    problems.sort(key=lambda problem: problem["type"] != "extra_forbidden")
    within = {problem["loc"][:depth] for problem in problems for depth in range(len(problem["loc"]))}
    found = dict[str, list[Mapping[str, Any]]]()
    for problem in problems:
        # A list all of whose values are wrong counts as empty too.
        if problem["type"] != "too_short" or problem["loc"] not in within:
            key = key_name(problem["loc"], raw, missing=problem["type"] == "missing")
            found.setdefault(key, []).append(problem)
    lines = [_line(key, of_one, model) for key, of_one in found.items()]
    more = len(lines) - SHOWN_PROBLEMS
    return one_line("; ".join(lines[:SHOWN_PROBLEMS]) + (f" (and {more} more)" if more > 0 else ""))


def _line(key: str, problems: Sequence[Mapping[str, Any]], model: type[BaseModel]) -> str:
    """Return what is wrong with one key: of a choice between kinds of values each kind has its own problem."""
    location, kind = problems[0]["loc"], problems[0]["type"]
    if kind == "extra_forbidden":
        return f"{key}: unknown key{_suggestion(str(location[-1]), model, location)}"
    if kind == "missing":
        return f"{key}: missing; add this key"
    first = {problem["loc"]: problem for problem in reversed(problems)}  # of one kind the first
    must = " or ".join(dict.fromkeys(map(_must, reversed(first.values()))))
    shown = _shown(problems[0]["input"]) if key and must != EMPTY else ""
    return (f"{key}: " if key else "") + must + (f", is {shown}" if shown else "")


def _must(problem: Mapping[str, Any]) -> str:
    context = problem.get("ctx", {})
    if problem["type"] == "too_short" and context.get("min_length") == 1:
        return EMPTY
    must = PLAIN_PATTERNS.get(context.get("pattern", "")) or PLAIN_WORDS.get(problem["type"], "").format(**context)
    return must or str(problem["msg"]).removeprefix("Value error, ").replace("Input should be ", "must be ", 1)


def key_name(location: Sequence[str | int], raw: Any, *, missing: bool = True) -> str:
    """Return `cells[0].batch` for ("cells", 0, "batch", 0) where the file, which may be unknown, says `batch = 3`.

    `missing`: its last part may not be there. Any other that is not says which of several kinds of values was tried.
    """
    name, here = "", raw
    for depth, part in enumerate(location, 1):
        if isinstance(part, int):
            if raw is not None and not isinstance(here, list):
                break  # A single value was taken for a list of one.
            name += f"[{part}]"
            here = here[part] if isinstance(here, list) and part < len(here) else None
        elif raw is None or (isinstance(here, dict) and (part in here or (missing and depth == len(location)))):
            name += f".{part}" if name else part
            here = here.get(part) if raw is not None else None
    return name


def closest(word: str, known: Iterable[str]) -> str:
    """Return ` (did you mean "x"?)`, or nothing where no known word is near."""
    near = difflib.get_close_matches(word, list(known), n=1)
    return f' (did you mean "{near[0]}"?)' if near else ""


def check_known(kind: str, words: Iterable[str], known: Collection[str], *, where: str = "") -> None:
    """Raise the error for the first of `words` that nothing here is called, listing the names that there are."""
    for word in words:
        if word not in known:
            what = f'unknown {kind} "{one_line(word)}"{closest(word, known)}'
            raise UsageError(what, where=where, remedy=f"known: {', '.join(known) or 'none'}")


def _suggestion(word: str, model: type[BaseModel], location: Sequence[str | int]) -> str:
    """Return the near or the possible keys of the table that the unknown key stands in."""
    fields = _fields_at(model, location[:-1])
    if not fields:
        return "; remove it"
    return closest(word, fields) or f"; known: {', '.join(fields)}"


def _fields_at(model: type[BaseModel], location: Sequence[str | int]) -> list[str]:
    """Return the keys of the table at `location`, found through the model's JSON Schema."""
    schema = model.model_json_schema()
    definitions = schema.get("$defs", {})

    def resolved(node: dict[str, Any]) -> dict[str, Any]:
        while True:
            if "$ref" in node:
                node = definitions[node["$ref"].rsplit("/", 1)[-1]]
            elif "anyOf" in node:
                node = next((option for option in node["anyOf"] if option.get("type") != "null"), {})
            else:
                return node

    node = resolved(schema)
    for part in location:
        if isinstance(part, int):
            node = resolved(node.get("items", {}))
        else:
            inner = node.get("properties", {}).get(part) or node.get("additionalProperties", {})
            node = resolved(inner if isinstance(inner, dict) else {})
    return list(node.get("properties", {}))


def _shown(value: Any) -> str:
    if isinstance(value, dict):
        return ""
    text = one_line(json.dumps(value, ensure_ascii=False, default=str))
    return text if len(text) <= SHOWN_INPUT else text[:SHOWN_INPUT] + "…"
