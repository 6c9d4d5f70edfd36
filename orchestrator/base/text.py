"""Text for people: figures are rounded when they are shown and nowhere else, strangers' words are made harmless."""

from __future__ import annotations

import contextlib
import datetime as dt
import json
import math
import os
import re
import shutil
import sys
import textwrap
from collections.abc import Callable, Sequence
from typing import Any, TextIO

Say = Callable[[str], None]
"""Shows a person one line."""
NO_GPU = "no GPU is here"
DIGITS = 4
FOLD = 100
SMALLEST = 1e-4
"""What is nearer to zero is written with an exponent."""
MISSING = "–"  # noqa: RUF001 - a dash is what a table has there
MARKUP = re.compile(r"([\\`*\[\]|~$])")
EDGE_UNDERSCORE = re.compile(r"(?<![A-Za-z0-9])_|_(?![A-Za-z0-9])")
"""Inside of a word an underscore means nothing to Markdown, and names are full of them."""
NAME = re.compile(r"[A-Za-z0-9_@.+-]+")
UNUSUAL = re.compile(r"[^\n -~]")
COLOUR = re.compile(r"\x1b\[[0-9;]*m")
"""What sets a colour or a weight of a terminal's text, and nothing else."""
IN_ASCII = str.maketrans({"–": "-", "×": "x", "÷": "/", "…": "...", "“": '"', "”": '"', "’": "'"})  # noqa: RUF001
"""For a terminal that has no more: a `?` in their place would read as a doubt."""


def on_stderr(line: str) -> None:
    """Show a line that is no part of what was asked for."""
    show(f"orchestrator: {line}", sys.stderr)


# Figures and their units.


def significant(value: float | None, digits: int = DIGITS) -> str:
    """Return `value` to that many significant digits; digits before the point are never rounded away."""
    if value is None or not math.isfinite(value):
        return MISSING
    if value == 0:
        return "0"
    exact = f"{value:.{digits - 1}e}"
    if abs(value) < SMALLEST:
        return exact
    # The exponent after rounding: 9.9996 to four digits is 10.00, not 10.000.
    return f"{value:.{max(digits - 1 - int(exact.partition('e')[2]), 0)}f}"


def between(low: float, high: float, digits: int = DIGITS) -> str:
    """Return an interval as `[low, high]`, and of one that says nothing only how wide it is."""
    return between_texts((low, high), significant(low, digits), significant(high, digits))


def between_texts(interval: tuple[float, float], low: str, high: str) -> str:
    """Return the same of ends in words of their own."""
    return f"[over {FOLD}-fold]" if says_nothing(interval) else f"[{low}, {high}]"


def says_nothing(interval: tuple[float, float]) -> bool:
    """Whether an interval is so wide, as those of two wild rounds are, that its ends are no figures to show."""
    return 0 < interval[0] * FOLD < interval[1]


def with_interval(figure: str, interval: tuple[float, float] | None, level: float | None, kind: str | None) -> str:
    """Return a figure, its unit included, and what interval it has, if any: `1.02 s [1.00, 1.05] at 98.4 %, kind`."""
    if interval is None or level is None:
        return figure
    return f"{figure} {between(*interval)} at {level * 100:.3g} %, {kind}"


def percent(share: float | None) -> str:
    """Return a share as a percentage with one digit after the point."""
    return MISSING if share is None else f"{share * 100:.1f} %"


def milliseconds(seconds: float | None, digits: int = 3) -> str:
    """Return seconds as ms, without the unit."""
    return MISSING if seconds is None else significant(seconds * 1e3, digits)


def gigabytes(count: int | None) -> str:
    """Return bytes as GB (1e9 bytes), without the unit."""
    return MISSING if count is None else significant(count / 1e9, 3)


def scaled(value: float | None, unit: str) -> str:
    """Return a rate with a decimal prefix: 7.81e14 FLOP/s is `781 TFLOP/s`."""
    if value is None or not math.isfinite(value) or value <= 0:
        return MISSING
    prefixes = ("", "k", "M", "G", "T", "P")
    power = min(max(math.floor(math.log10(value) / 3), 0), len(prefixes) - 1)
    return f"{significant(value / 1000**power, 3)} {prefixes[power]}{unit}"


# Counts, times and sizes in words.


def counted(count: int, noun: str, plural: str | None = None) -> str:
    """Return `1 sample`, `2 samples`."""
    return f"{count} {noun}" if count == 1 else f"{count} {plural or f'{noun}s'}"


def gpu_in_short(uuid: str | None) -> str:
    """Return a UUID's beginning, by which a GPU is known among its host's; empty where there is none."""
    return (uuid or "")[: len("GPU-01234567")]


def utc(moment: dt.datetime | None = None) -> str:
    """Return the time as `2026-11-23T07:31:39Z`."""
    return f"{moment or dt.datetime.now(dt.timezone.utc):%Y-%m-%dT%H:%M:%SZ}"


def in_words(seconds: float) -> str:
    """Return `45 s`, `12 min`, `3.5 h`."""
    if seconds < 90:  # noqa: PLR2004
        return f"{seconds:.0f} s"
    minutes = seconds / 60
    return f"{minutes:.0f} min" if minutes < 90 else f"{minutes / 60:.1f} h"  # noqa: PLR2004


def size_in_words(size: int | None) -> str:
    """Return `350 MB`, `8.1 GB`, or `unknown`."""
    if size is None:
        return "unknown"
    return f"{size / 1e9:.1f} GB" if size >= 1e9 else f"{size / 1e6:.0f} MB"  # noqa: PLR2004


# What others wrote.


def printable(text: str) -> str:
    """Return `text` with a space for each character that steers a terminal, turns or hides text, or is none at all.

    Line ends and tabs stay.
    """
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() or c in "\n\t" else " " for c in text)


def show(text: str, out: TextIO | None = None, *, end: str = "\n", styled: bool = False) -> None:
    """Print `text`, printable, to `out` (standard output where null): whatever a command says leaves here.

    `styled`: colours in it stay; what others wrote was made printable before they were added.
    Where nobody reads any more, nothing is written from then on. Another failure to write is an OSError.
    """
    out = out or sys.stdout
    parts = re.split(f"({COLOUR.pattern})", text) if styled else [text]
    clean = "".join(part if number % 2 else printable(part) for number, part in enumerate(parts))
    try:
        out.write(clean + end)  # at once: threads that say something never share a line
        out.flush()
    except OSError as error:
        # What is left in the buffer must not fail again when the command ends.
        with contextlib.suppress(OSError):
            os.dup2(os.open(os.devnull, os.O_WRONLY), out.fileno())
        if not isinstance(error, BrokenPipeError):
            raise


def plain_characters(error: UnicodeError) -> tuple[str, int]:
    """Return what stands for characters that a stream's encoding lacks: an error handler, as `codecs` has them."""
    if not isinstance(error, UnicodeEncodeError):
        raise error
    text = error.object[error.start : error.end].translate(IN_ASCII)
    return "".join(character if character.isascii() else "?" for character in text), error.end


def json_document(content: Any) -> str:
    """Return `content` as what a command prints for programs, printable; NaN or infinity in it is a ValueError."""
    return in_json(json.dumps(content, indent=1, ensure_ascii=False, allow_nan=False))


def in_json(document: str) -> str:
    """Return a JSON document of the same values in which what is not printable is written as an escape."""
    if document.isascii() and "\x7f" not in document:
        return document
    return UNUSUAL.sub(lambda found: found[0] if found[0].isprintable() else json.dumps(found[0])[1:-1], document)


def escape(text: str) -> str:
    """Return `text` on one line with nothing in it that Markdown or HTML would act on."""
    line = " ".join(printable(text).split())
    line = line.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
    line = EDGE_UNDERSCORE.sub(r"\\_", MARKUP.sub(r"\\\1", line))
    # No address becomes a link by itself.
    return line.replace("://", ":&#47;&#47;").replace("www.", "www&#46;")


def code(name: str) -> str:
    """Return names as code where they are some, else as escaped text: backslashes mean nothing inside of code."""
    return f"`{name}`" if all(map(NAME.fullmatch, name.split(" "))) else escape(name)


def one_line(text: str, *, keep: bool = False) -> str:
    """Return `text` printable and on one line; with `keep` the blanks inside of it stay as they are."""
    return " ".join(printable(text).split("\n" if keep else None))


def aligned(rows: Sequence[Sequence[str]], right: Sequence[int] = ()) -> list[str]:
    """Return a table for a terminal: columns of equal width, those in `right` set to the right."""
    clean = [[one_line(text) for text in row] for row in rows]
    widths = [max(map(len, column)) for column in zip(*clean, strict=True)]
    return [
        "  ".join(
            text.rjust(width) if n in right else text.ljust(width)
            for n, (text, width) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in clean
    ]


def fitted(rows: Sequence[Sequence[str]], below: Sequence[int], width: int | None) -> list[str]:
    """Return an aligned table; where it is wider than `width` (null: no bound), the columns in `below` move.

    Each row then has them under it, indented, with their names from the first row, the head.
    """
    lines = aligned(rows)
    if width is None or max(map(len, lines)) <= width:
        return lines
    kept = [[text for n, text in enumerate(row) if n not in below] for row in rows]
    first, *others = aligned(kept)
    lines = [first]
    for line, row in zip(others, rows[1:], strict=True):
        beneath = "; ".join(f"{rows[0][n]}: {one_line(row[n])}" for n in below if row[n])
        lines += [line, *wrapped(f"    {beneath}", width, indent=4)]
    return lines


def wrapped(line: str, width: int | None, *, indent: int) -> list[str]:
    """Return a line in pieces of at most `width` (null: no bound), broken between words; all but the first indented."""
    if width is None or width <= indent:
        return [line]
    blanks = " " * indent
    return textwrap.wrap(line, width, subsequent_indent=blanks, break_long_words=False, break_on_hyphens=False)


def terminal_width() -> int | None:
    """Return how many columns the terminal has that standard output is; null where it is none."""
    return shutil.get_terminal_size().columns if sys.stdout.isatty() else None


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
