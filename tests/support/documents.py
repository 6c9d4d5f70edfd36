"""README and the pages of docs/ as what stands in them: headings, links, fences and code within lines."""

from __future__ import annotations

import itertools
import re
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from markdown_it import MarkdownIt
from markdown_it.token import Token
from places import ROOT

README = ROOT / "README.md"
DOCS = ROOT / "docs"
PAGES = [README, *sorted(DOCS.rglob("*.md"))]
TITLE = re.compile(r'^(\w+) title="([^"]+)"$')


@dataclass(frozen=True)
class Fence:
    """A block of code: its language, the file that it is called, and its text. Indented code is commands too."""

    page: Path
    line: int
    language: str
    title: str | None
    text: str

    def __str__(self) -> str:
        return f"{self.page.relative_to(ROOT)}:{self.line}"


@cache
def tokens(page: Path) -> tuple[Token, ...]:
    return tuple(MarkdownIt().enable("table").parse(page.read_text(encoding="utf-8")))


def fences(page: Path) -> Iterator[Fence]:
    for token in tokens(page):
        if token.type in ("fence", "code_block"):
            titled = TITLE.match(token.info)
            language, title = titled.groups() if titled else (token.info, None)
            line = (token.map or [0])[0] + 1
            yield Fence(page, line, language if token.type == "fence" else "sh", title, token.content)


def within_lines(page: Path) -> Iterator[Token]:
    for token in tokens(page):
        yield from token.children or ()


def inline_code(page: Path) -> Iterator[str]:
    return (token.content for token in within_lines(page) if token.type == "code_inline")


def links(page: Path) -> Iterator[str]:
    """Targets of links and pictures."""
    for token in within_lines(page):
        target = token.attrGet("href") if token.type == "link_open" else token.attrGet("src")
        if isinstance(target, str):
            yield target


def anchors(page: Path) -> set[str]:
    """What a link may name in the page, as GitHub and the site make it of headings."""
    found: Counter[str] = Counter()
    names = set()
    every = tokens(page)
    for token, following in itertools.pairwise(every):
        if token.type == "heading_open":
            plain = "".join(child.content for child in following.children or ())
            slug = re.sub(r"[^\w\- ]", "", plain.lower()).replace(" ", "-")
            names.add(f"{slug}-{found[slug]}" if found[slug] else slug)
            found[slug] += 1
    return names
