"""The page's colours in both themes: enough contrast, and series that colour-blind eyes can tell apart."""

from __future__ import annotations

import re
from itertools import combinations
from typing import TYPE_CHECKING

import pytest

from orchestrator.report.page.embed import ASSETS

if TYPE_CHECKING:
    from collections.abc import Sequence

COLOUR = re.compile(r"--([\w-]+): light-dark\(#([0-9a-f]{6})\w*, #([0-9a-f]{6})\w*\)")
FOUND = {name: (light, dark) for name, light, dark in COLOUR.findall((ASSETS / "theme.css").read_text())}
SERIES = [f"s{n}" for n in range(8)]
TONES = [*(f"{side}{n}" for side in ("fast", "slow") for n in (1, 2, 3)), "even"]
SHADE = re.compile(r"\.k(\d) { --k: (\d+)%; }")
SHADES = {int(n): int(part) / 100 for n, part in SHADE.findall((ASSETS / "chart.css").read_text())}
"""How much of a method's colour there is in a kind of kernel's; the rest is the panel's."""
TEXT, GRAPHIC = 4.5, 3.0
"""WCAG 2: of text, and of what a chart is made of."""
BLINDNESS = {
    # Machado, Oliveira and Fernandes 2009, severity 1, on linear RGB.
    "none": ((1, 0, 0), (0, 1, 0), (0, 0, 1)),
    "protan": ((0.152286, 1.052583, -0.204868), (0.114503, 0.786281, 0.099216), (-0.003882, -0.048116, 1.051998)),
    "deutan": ((0.367322, 0.860646, -0.227968), (0.280085, 0.672501, 0.047413), (-0.011820, 0.042940, 0.968881)),
}
LIGHT = 0.45
"""Of a shade up to which it has text on it, in ink."""
APART = 15.0
"""CIE76 units between any two of the first six series. Shapes and dashes tell them apart as well."""


def linear(colour: str) -> list[float]:
    parts = [int(colour[n : n + 2], 16) / 255 for n in (0, 2, 4)]
    return [p / 12.92 if p <= 0.04045 else ((p + 0.055) / 1.055) ** 2.4 for p in parts]


def luminance(colour: str) -> float:
    return sum(weight * part for weight, part in zip((0.2126, 0.7152, 0.0722), linear(colour), strict=True))


def contrast(one: str, other: str) -> float:
    low, high = sorted((luminance(one), luminance(other)))
    return (high + 0.05) / (low + 0.05)


def lab(rgb: Sequence[float]) -> tuple[float, float, float]:
    r, g, b = (min(max(part, 0.0), 1.0) for part in rgb)
    xyz = (
        (0.4124 * r + 0.3576 * g + 0.1805 * b) / 0.9505,
        0.2126 * r + 0.7152 * g + 0.0722 * b,
        (0.0193 * r + 0.1192 * g + 0.9505 * b) / 1.089,
    )
    x, y, z = (t ** (1 / 3) if t > 0.008856 else 7.787 * t + 16 / 116 for t in xyz)
    return (116 * y - 16, 500 * (x - y), 200 * (y - z))


def seen(colour: str, matrix: Sequence[Sequence[float]]) -> tuple[float, float, float]:
    parts = linear(colour)
    return lab([sum(m * p for m, p in zip(row, parts, strict=True)) for row in matrix])


@pytest.mark.parametrize("theme", [0, 1], ids=["light", "dark"])
def test_contrast(theme: int) -> None:
    colours = {name: pair[theme] for name, pair in FOUND.items()}
    pairs = [
        (front, ground) for front in ("ink", "muted", "accent", "good", "bad", "warn") for ground in ("page", "panel")
    ]
    pairs += [
        ("ink", "raised"),
        ("muted", "raised"),
        ("warn", "warn-ground"),
        ("ink", "bad-ground"),
        ("bad", "bad-ground"),
        ("on-accent", "accent"),
    ]
    pairs += [(front, ground) for front in ("fast", "slow") for ground in ("page", "panel")]
    pairs += [("ink", ground) for ground in TONES]
    for front, ground in [*pairs, *(("on-series", name) for name in SERIES)]:
        assert contrast(colours[front], colours[ground]) >= TEXT, f"{front} on {ground}"
    for front in [*SERIES, "strong-line", "focus"]:
        for ground in ("panel", "page"):
            assert contrast(colours[front], colours[ground]) >= GRAPHIC, f"{front} on {ground}"


@pytest.mark.parametrize("theme", [0, 1], ids=["light", "dark"])
@pytest.mark.parametrize("eyes", BLINDNESS)
def test_series_are_distinguished(theme: int, eyes: str) -> None:
    places = {name: seen(FOUND[name][theme], BLINDNESS[eyes]) for name in SERIES[:6]}
    for (one, a), (other, b) in combinations(places.items(), 2):
        distance = sum((p - q) ** 2 for p, q in zip(a, b, strict=True)) ** 0.5
        assert distance >= APART, f"{one} and {other}: {distance:.1f}"


@pytest.mark.parametrize("theme", [0, 1], ids=["light", "dark"])
def test_a_kind_of_kernel_can_be_read_on_its_shade(theme: int) -> None:
    assert len(set(SHADES.values())) == 8
    colours = {name: pair[theme] for name, pair in FOUND.items()}
    for name in SERIES:
        for kind, part in SHADES.items():
            if kind and part > LIGHT:
                continue  # these have no text on them
            ground = mixed(colours[name], colours["panel"], part)
            assert contrast(colours["ink" if kind else "on-series"], ground) >= TEXT, f"kind {kind} of {name}"


def mixed(one: str, other: str, part: float) -> str:
    pairs = [(int(one[n : n + 2], 16), int(other[n : n + 2], 16)) for n in (0, 2, 4)]
    return "".join(f"{round(a * part + b * (1 - part)):02x}" for a, b in pairs)


@pytest.mark.parametrize("theme", [0, 1], ids=["light", "dark"])
@pytest.mark.parametrize("eyes", BLINDNESS)
def test_faster_and_slower_are_distinguished(theme: int, eyes: str) -> None:
    places = {name: seen(FOUND[name][theme], BLINDNESS[eyes]) for name in TONES}
    for n in (2, 3):
        for one, other in ((f"fast{n}", f"slow{n}"), (f"fast{n}", "even"), (f"slow{n}", "even")):
            distance = sum((p - q) ** 2 for p, q in zip(places[one], places[other], strict=True)) ** 0.5
            assert distance >= APART, f"{one} and {other}: {distance:.1f}"
