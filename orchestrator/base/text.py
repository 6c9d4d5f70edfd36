"""Numbers for people: rounded to significant digits when they are shown, and nowhere else."""

from __future__ import annotations

import math

DIGITS = 4
MISSING = "–"  # noqa: RUF001 - a dash is what a table has there


def significant(value: float | None, digits: int = DIGITS) -> str:
    """Return `value` to that many significant digits; digits before the point are never rounded away."""
    if value is None or not math.isfinite(value):
        return MISSING
    if value == 0:
        return "0"
    decimals = digits - 1 - math.floor(math.log10(abs(value)))
    if decimals > digits + 3:
        return f"{value:.{digits - 1}e}"
    text = f"{value:.{max(decimals, 0)}f}"
    # 9.9996 to four digits is 10.00, not 10.000.
    if sum(c.isdigit() for c in text.lstrip("-0.")) > digits and decimals > 0:
        text = f"{value:.{decimals - 1}f}"
    return text


def between(low: float, high: float, digits: int = DIGITS) -> str:
    """Return an interval as `[low, high]`."""
    return f"[{significant(low, digits)}, {significant(high, digits)}]"


def with_interval(figure: str, interval: tuple[float, float] | None, level: float | None, kind: str | None) -> str:
    """Return a figure, its unit included, and what interval it has, if any: `1.02 s [1.00, 1.05] at 98.4 %, kind`."""
    if interval is None or level is None:
        return figure
    return f"{figure} {between(*interval)} at {level * 100:.3g} %, {kind}"


def gigabytes(count: int | None) -> str:
    """Return bytes as GB (1e9 bytes), without the unit."""
    return MISSING if count is None else significant(count / 1e9, 3)


def percent(share: float | None) -> str:
    """Return a share as a percentage with one digit after the point."""
    return MISSING if share is None else f"{share * 100:.1f} %"


def milliseconds(seconds: float | None, digits: int = 3) -> str:
    """Return seconds as ms, without the unit."""
    return MISSING if seconds is None else significant(seconds * 1e3, digits)


def scaled(value: float | None, unit: str) -> str:
    """Return a rate with a decimal prefix: 7.81e14 FLOP/s is `781 TFLOP/s`."""
    if value is None or not math.isfinite(value) or value <= 0:
        return MISSING
    prefixes = ("", "k", "M", "G", "T", "P")
    power = min(max(math.floor(math.log10(value) / 3), 0), len(prefixes) - 1)
    return f"{significant(value / 1000**power, 3)} {prefixes[power]}{unit}"


def counted(count: int, noun: str, plural: str | None = None) -> str:
    """Return `1 sample`, `2 samples`."""
    return f"{count} {noun}" if count == 1 else f"{count} {plural or f'{noun}s'}"
