"""What describes a cell's proof: sections of a few kinds of blocks, shown as text by `explain` and by the page."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from orchestrator.base.text import aligned, one_line
from orchestrator.report.again import PROGRAM, program

INDENT = "  "


@dataclass(frozen=True)
class Facts:
    """Labels with their values."""

    facts: tuple[tuple[str, str], ...]


@dataclass(frozen=True)
class Table:
    """Columns in `numeric` are set to the right; that of `state` has a status."""

    head: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    numeric: tuple[int, ...] = ()
    state: int | None = None


@dataclass(frozen=True)
class Text:
    """Lines of prose; `warning` where a reader must not miss them."""

    paragraphs: tuple[str, ...]
    warning: bool = False


@dataclass(frozen=True)
class Code:
    """Preformatted text; `command`: to be copied into a terminal."""

    text: str
    command: bool = False


@dataclass(frozen=True)
class Shares:
    """Bars: name, share of the whole or null, text."""

    rows: tuple[tuple[str, float | None, str], ...]


@dataclass(frozen=True)
class Samples:
    """A chart of samples: index, phase, since_s, wall_s, device_s, loss, taint, shape."""

    rows: tuple[tuple[Any, ...], ...]


@dataclass(frozen=True)
class Environment:
    """What was installed and set; the page keeps equal ones once."""

    facts: tuple[tuple[str, str], ...]
    settings: tuple[tuple[str, str], ...]
    packages: tuple[tuple[str, str], ...]


Block = Facts | Table | Text | Code | Shares | Samples | Environment


@dataclass(frozen=True)
class Section:
    """A title and what stands under it; `folded`: closed on the page until it is asked for."""

    title: str
    blocks: tuple[Block, ...]
    folded: bool = False

    def lines(self) -> list[str]:
        """Return title and indented lines: nothing that a container wrote begins a line or steers a terminal."""
        shown = (block for block in self.blocks if not (self.folded and isinstance(block, Code)))
        return [self.title, *(INDENT + one_line(line, keep=True) for block in shown for line in _lines(block))]

    def as_json(self, environments: dict[Environment, int]) -> dict[str, Any]:
        """Return what the page's scripts draw; an environment is named by its number in `environments`."""
        blocks = [
            {"number": environments.setdefault(block, len(environments))}
            if isinstance(block, Environment)
            else vars(block)
            for block in self.blocks
        ]
        kinds = [type(block).__name__.lower() for block in self.blocks]
        return {**vars(self), "blocks": [{"kind": kind, **block} for kind, block in zip(kinds, blocks, strict=True)]}


def _lines(block: Block) -> list[str]:
    """Return a block as text."""
    if isinstance(block, Facts):
        lines = [f"{label}: {value}" for label, value in block.facts]
    elif isinstance(block, Table):
        lines = aligned([block.head, *block.rows], right=block.numeric)
    elif isinstance(block, Text):
        lines = [f"warning: {line}" if block.warning else line for line in block.paragraphs]
    elif isinstance(block, Code):
        # What is not a command may be a container's.
        lines = [f"| {line}" for line in block.text.splitlines()]
        if block.command:
            lines = [f"{program()}{block.text.removeprefix(PROGRAM)}"]
    elif isinstance(block, Shares):
        lines = [f"{name}: {text}" for name, _, text in block.rows]
    elif isinstance(block, Samples):  # Of the others the facts beside say enough.
        lines = [f"sample {row[0]} ({row[1]}) is tainted: {row[6]}" for row in block.rows if row[6]]
    else:
        packages = ", ".join(f"{name} {version}" for name, version in block.packages)
        settings = (f"setting: {name}={value}" for name, value in block.settings)
        lines = [*_lines(Facts(block.facts)), *settings, f"packages ({len(block.packages)}): {packages}"]
    return lines


def section(title: str, *blocks: Block | None, folded: bool = False) -> Section | None:
    """Return a section with those of the blocks that are there, or nothing where there is none."""
    kept = tuple(block for block in blocks if block is not None)
    return Section(title, kept, folded) if kept else None


def facts(*pairs: tuple[str, Any]) -> Facts | None:
    """Return labels with their values; what is not known (null) is left out."""
    known = tuple((label, str(value)) for label, value in pairs if value is not None)
    return Facts(known) if known else None


def table(
    head: Sequence[str], rows: Iterable[Sequence[Any]], *, numeric: Sequence[int] = (), state: int | None = None
) -> Table | None:
    """Return a table, or nothing without rows; an unknown cell is empty."""
    lines = tuple(tuple("" if cell is None else str(cell) for cell in row) for row in rows)
    return Table(tuple(head), lines, tuple(numeric), state) if lines else None


def text(*paragraphs: str | None, warning: bool = False) -> Text | None:
    """Return lines of prose; those that are null are left out."""
    known = tuple(line for line in paragraphs if line)
    return Text(known, warning) if known else None


def code(content: str | None, *, command: bool = False) -> Code | None:
    """Return preformatted text."""
    return Code(content, command) if content else None


def shares(rows: Iterable[tuple[str, float | None, str]]) -> Shares | None:
    """Return bars."""
    found = tuple(rows)
    return Shares(found) if found else None
