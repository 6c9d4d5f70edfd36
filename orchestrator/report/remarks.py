"""What stands under a table: how its figures were made, the versions, what is wrong with published figures."""

from __future__ import annotations

from typing import TYPE_CHECKING

from orchestrator.base.text import counted
from orchestrator.report.cells import unproved
from orchestrator.report.words import warnings

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from orchestrator.analysis.published import Published, PublishedFigure
    from orchestrator.analysis.reduced_run import Pair
    from orchestrator.analysis.rows import Row
    from orchestrator.report.source import Source


def remarks(found: Sequence[tuple[Source, Pair]]) -> list[str]:
    """Return the remarks on one table's rows as plain lines."""
    steady = [pair.steady for _, pair in found]
    shown = [row for row in steady if row.headline is not None]
    notes = [pair.note for _, pair in found if pair.note.headline is not None]
    lines = _told("Steady", ((row.figure.basis, row) for row in shown))
    lines += _told("As the note", ((row.figure.basis, row) for row in notes))
    if any(not row.figure.complete for row in notes):
        lines.append("* The run has fewer samples than the note's.")
    if any(row.figure.interval_kind == "within-process" for row in shown):
        lines.append(
            "One round: within-process interval, which knows nothing of how processes differ from one another."
        )
    lines += _told("No share of the ceiling", ((row.share.reason, row) for row in shown if row.share.reason))
    if any(row.share.share is not None and row.share.ceiling_of == "this model of device" for row in shown):
        lines.append("The ceilings were measured on another device of the same model.")
    lines += [f"{row.name}: {counted(row.recompiled, 'recompile')}." for row in steady if row.recompiled]
    lines += [f"{', '.join(dict.fromkeys(names))}: {text}." for text, names in unproved(steady).items()]
    return lines + _warned(shown) + _versions(steady) + _stacks(found)


def published_caveats(comparison: Published, figures: Iterable[PublishedFigure]) -> list[str]:
    """Return what has to be known of the published figures: of these, and of all of them."""
    named = {key for figure in comparison.figures for key in figure.caveats}
    own = dict.fromkeys(key for figure in figures for key in figure.caveats)
    keys = [*own, *(key for key in comparison.caveats if key not in named)]
    return [f"{key.replace('_', ' ')}: {comparison.caveats[key]}" for key in keys]


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
    known = [(row.environment, row.stack) for row in rows if row.environment is not None]
    stacks: dict[str, set[str]] = {}
    for environment, stack in known:
        stacks.setdefault(environment.in_short, set()).add(stack)
    lines = [f"{', '.join(sorted(names))}: {text}." for text, names in stacks.items()]
    if len({environment.torch for environment, _ in known}) > 1:
        lines.append("The rows of this table ran on different versions of torch.")
    return lines


def _stacks(found: Sequence[tuple[Source, Pair]]) -> list[str]:
    """Return where stacks differ from the note's pins, what they were built without, and what changed since."""
    lines = []
    for source, pair in found:
        stack = pair.steady.stack
        facts = source.report.header.stacks.get(stack, {})
        for told in facts.get("deviations") or ():
            package, wanted, here, reason = (told.get(key) for key in ("package", "wanted", "here", "reason"))
            lines.append(f"{stack} has {package} {here}, not {wanted}: {reason}.")
        lines += [f"{stack} was built without {part}." for part in facts.get("left_out") or ()]
        if facts.get("drift"):
            lines.append(f"{stack} has drifted {facts['drift']}.")
    return list(dict.fromkeys(lines))
