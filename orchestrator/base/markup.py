"""Text out of records: a container wrote it, so it is shown as text and never as markup."""

from __future__ import annotations

import re
import unicodedata
from typing import Any

MARKUP = re.compile(r"([\\`*\[\]|~$])")
NAME = re.compile(r"[A-Za-z0-9_@.+-]+")
# An underscore inside of a word means nothing to Markdown, and names are full of them.
EDGE_UNDERSCORE = re.compile(r"(?<![A-Za-z0-9])_|_(?![A-Za-z0-9])")


def escape(text: str) -> str:
    """Return `text` on one line with nothing in it that Markdown or HTML would act on."""
    line = " ".join(printable(text).split())
    line = line.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
    line = EDGE_UNDERSCORE.sub(r"\\_", MARKUP.sub(r"\\\1", line))
    # No address becomes a link by itself.
    return line.replace("://", ":&#47;&#47;").replace("www.", "www&#46;")


def code(name: str) -> str:
    """Return a name as code where it is one, else as escaped text: backslashes mean nothing inside of code."""
    return f"`{name}`" if NAME.fullmatch(name) else escape(name)


def printable(text: str) -> str:
    """Return `text` without control characters (terminal escapes, direction marks); line ends and tabs stay."""
    if text.isprintable():
        return text
    return "".join(c if c in "\n\t" or unicodedata.category(c) not in ("Cc", "Cf", "Cs", "Co") else " " for c in text)


def shortened(text: str, length: int) -> str:
    """Return at most `length` characters of `text`, marked where some were left out."""
    return text if len(text) <= length else text[: length - 2].rstrip() + " …"


def plain(value: Any) -> str:
    """Return a value of a record's JSON in words, what is nested too."""
    if isinstance(value, dict):
        return ", ".join(f"{key} {plain(inner)}" for key, inner in value.items()) or "none"
    if isinstance(value, (list, tuple)):
        return " ".join(plain(inner) for inner in value) or "none"
    return str(value)
