"""What a drawer is made of: sections of a few kinds of blocks, which the page's scripts know how to draw."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

Block = dict[str, Any]
Section = dict[str, Any]


def section(title: str, *blocks: Block | None, folded: bool = False) -> Section | None:
    """Return a section with those of the blocks that are there, or nothing where there is none."""
    kept = [block for block in blocks if block is not None]
    if not kept:
        return None
    return {"title": title, "blocks": kept, "folded": folded}


def facts(pairs: Iterable[tuple[str, Any]]) -> Block | None:
    """Return labels with their values; what is not known (null) is left out."""
    known = [[label, str(value)] for label, value in pairs if value is not None]
    return {"kind": "facts", "facts": known} if known else None


def table(
    head: Sequence[str], rows: Sequence[Sequence[Any]], *, numeric: Sequence[int] = (), state: int | None = None
) -> Block | None:
    """Return a table, or nothing without rows. Columns in `numeric` are set to the right; `state` is a status."""
    if not rows:
        return None
    lines = [["" if cell is None else str(cell) for cell in row] for row in rows]
    return {"kind": "table", "head": list(head), "rows": lines, "numeric": list(numeric), "state": state}


def text(*lines: str | None, warning: bool = False) -> Block | None:
    """Return lines of prose; those that are null are left out."""
    kept = [line for line in lines if line]
    return {"kind": "text", "lines": kept, "warning": warning} if kept else None


def code(content: str, *, copied: bool = False) -> Block | None:
    """Return preformatted text; with a button that copies it where `copied`."""
    return {"kind": "code", "text": content, "copied": copied} if content else None


def shares(rows: Sequence[tuple[str, float | None, str]]) -> Block | None:
    """Return bars: (name, share of the whole or null, text)."""
    return {"kind": "shares", "rows": [list(row) for row in rows]} if rows else None


def samples(rows: Sequence[Sequence[Any]]) -> Block | None:
    """Return a chart of samples with their table: (index, phase, since_s, wall_s, device_s, loss, taint, shape)."""
    return {"kind": "samples", "rows": [list(row) for row in rows]} if rows else None


def environment(number: int) -> Block:
    """Return the environment of that number: kept once for all the rows that share it."""
    return {"kind": "environment", "number": number}


def kept(sections: Iterable[Section | None]) -> list[Section]:
    """Return the sections that are there."""
    return [found for found in sections if found is not None]
