"""What stands under a table: how its figures were made, the versions, what is wrong with published figures."""

from __future__ import annotations

from typing import TYPE_CHECKING

from orchestrator.advice import warnings
from orchestrator.numbers import counted
from orchestrator.tables.proof import not_fused

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from orchestrator.page.source import Source
    from orchestrator.published import Published, PublishedFigure
    from orchestrator.report import Pair
    from orchestrator.rows import Row, Versions


def remarks(found: Sequence[tuple[Source, Pair]]) -> list[str]:
    """Return the remarks on one table's rows as plain lines."""
    steady = [pair.steady for _, pair in found]
    shown = [row for row in steady if row.headline is not None]
    notes = [pair.note for _, pair in found if pair.note.headline is not None]
    lines = _told("Steady", ((row.basis, row) for row in shown))
    lines += _told("As the note", ((row.basis, row) for row in notes))
    if any(not row.complete for row in notes):
        lines.append("* The run has fewer samples than the note's.")
    if any(row.interval_kind == "within-process" for row in shown):
        lines.append(
            "One round: within-process interval, which knows nothing of how processes differ from one another."
        )
    lines += _told("No share of the ceiling", ((row.share.reason, row) for row in shown if row.share.reason))
    if any(row.share.share is not None and row.share.ceiling_of == "this model of device" for row in shown):
        lines.append("The ceilings were measured on another device of the same model.")
    lines += [f"{row.name}: {counted(row.recompiled, 'recompile')}." for row in steady if row.recompiled]
    return lines + _unproved(steady) + _warned(shown) + _versions(steady)


def published_caveats(comparison: Published, figures: Iterable[PublishedFigure]) -> list[str]:
    """Return what has to be known of the published figures: of these, and of all of them."""
    named = {key for figure in comparison.figures for key in figure.caveats}
    own = dict.fromkeys(key for figure in figures for key in figure.caveats)
    keys = [*own, *(key for key in comparison.caveats if key not in named)]
    return [f"{key.replace('_', ' ')}: {comparison.caveats[key]}" for key in keys]


def _unproved(rows: Iterable[Row]) -> list[str]:
    """Return why rows are unchecked or not fused, each reason once."""
    told: dict[str, list[str]] = {}
    for row in rows:
        if row.status not in ("ok", "incorrect"):
            continue
        if row.checks is not None and row.checks.unchecked:
            told.setdefault(f"not checked: {row.checks.why}", []).append(row.name)
        if row.probe is not None and not row.probe.passed and row.probe.status != "incorrect":
            how = f"{row.probe.status}: " if row.probe.status not in (None, "ok") else ""
            told.setdefault(f"not checked on the probe: {how}{row.probe.reason}", []).append(row.name)
        if row.ran is not None and row.ran.missing:
            told.setdefault(f"not fused: {not_fused(row.ran)}", []).append(row.name)
        if row.resembles:
            told.setdefault(f"its error has the effect of a known fault: {row.resembles}", []).append(row.name)
    return [f"{', '.join(dict.fromkeys(names))}: {text}." for text, names in told.items()]


def _warned(rows: Sequence[Row]) -> list[str]:
    """Return what the samples warn of, and why verdicts against eager are none."""
    lines = [f"{row.name}: {warning}." for row in rows for warning in warnings(row)]
    reasons = {row.versus.verdict.reason for row in rows if row.versus is not None and row.versus.verdict.reason}
    return lines + [f"Inconclusive against eager: {reason} (`--rounds 5` or more)." for reason in sorted(reasons)]


def _told(what: str, told: Iterable[tuple[str | None, Row]]) -> list[str]:
    """Return a line for each text; the rows are named only where they differ."""
    names: dict[str, list[str]] = {}
    for text, row in told:
        if text:
            names.setdefault(text, []).append(row.name)
    if len(names) == 1:
        return [f"{what}: {next(iter(names))}."]
    return [f"{what}: {text} ({', '.join(dict.fromkeys(found))})." for text, found in names.items()]


def _versions(rows: Sequence[Row]) -> list[str]:
    known = [row for row in rows if row.versions.python is not None]
    stacks: dict[str, set[str]] = {}
    for row in known:
        stacks.setdefault(_short(row.versions), set()).add(row.stack)
    lines = [f"{', '.join(sorted(names))}: {text}." for text, names in stacks.items()]
    if len({row.versions.torch for row in known}) > 1:
        lines.append("The rows of this table ran on different versions of torch.")
    return lines


def _short(versions: Versions) -> str:
    parts = (
        ("torch", versions.torch),
        ("CUDA", versions.cuda),
        ("Triton", versions.triton),
        ("Python", versions.python),
    )
    return ", ".join(f"{name} {version}" for name, version in parts if version)
