"""The page as one file: data as inert JSON, styles and scripts named by their hashes, everything else forbidden.

What a record says reaches the page in one way only: as JSON in which no character can end the element that it stands
in. The scripts put it on the page as text, never as markup. Were there a hole all the same, the page's own policy
lets nothing run but the two scripts it names, and lets nothing be loaded from anywhere.
"""

from __future__ import annotations

import base64
import hashlib
import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from orchestrator.base.text import printable

ASSETS = Path(__file__).resolve().parent / "assets"
STYLES = ("theme.css", "page.css", "matrix.css", "table.css", "chart.css", "drawer.css")
EARLY = "early.js"
"""Runs before anything is shown, so that a remembered theme does not flash."""
SCRIPTS = (
    "dom.js",
    "data.js",
    "svg.js",
    "bars.js",
    "plots.js",
    "table.js",
    "matrix.js",
    "ladders.js",
    "sections.js",
    "compare.js",
    "blocks.js",
    "drawer.js",
    "filters.js",
    "keys.js",
    "main.js",
)
ESCAPES = {c: f"\\u{ord(c):04x}" for c in "<>&\u2028\u2029"}


def render(content: Mapping[str, Any], drawers: Sequence[Mapping[str, Any]]) -> str:
    """Return the page. `content` is what is needed at once, `drawers` each row's proof, read when it is opened."""
    style = "\n".join(_asset(name) for name in STYLES)
    early = _asset(EARLY)
    script = '(function () {\n"use strict";\n' + "\n".join(_asset(name) for name in SCRIPTS) + "\n})();\n"
    environment = Environment(
        loader=FileSystemLoader(ASSETS), autoescape=True, undefined=StrictUndefined, trim_blocks=True
    )
    return environment.get_template("page.html.jinja").render(
        title=printable(str(content["title"])),
        policy=f"default-src 'none'; script-src {_hashes(early, script)}; style-src {_hashes(style)}; img-src data:; "
        "base-uri 'none'; form-action 'none'",
        style=Markup(style),  # noqa: S704 - this package's own files
        early=Markup(early),  # noqa: S704
        script=Markup(script),  # noqa: S704
        glossary=content["glossary"],
        data=embedded(content),
        drawers=[embedded(drawer) for drawer in drawers],
    )


def embedded(value: Any) -> Markup:
    """Return `value` as JSON that is the same text in HTML, whatever its strings hold.

    Characters that steer a terminal or turn the direction of text become spaces; what is not a number is null.
    """
    text = json.dumps(_clean(value), ensure_ascii=False, allow_nan=False, separators=(",", ":"))
    for character, escape in ESCAPES.items():
        text = text.replace(character, escape)
    return Markup(text)  # noqa: S704 - escaped by the lines above


def _clean(value: Any) -> Any:
    if isinstance(value, str):
        return printable(value)
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, dict):
        return {printable(str(key)): _clean(inner) for key, inner in value.items()}
    if isinstance(value, (list, tuple)):
        return [_clean(inner) for inner in value]
    return value


def _asset(name: str) -> str:
    return (ASSETS / name).read_text(encoding="utf-8")


def _hashes(*texts: str) -> str:
    digests = (base64.b64encode(hashlib.sha256(text.encode()).digest()).decode() for text in texts)
    return " ".join(f"'sha256-{digest}'" for digest in digests)
