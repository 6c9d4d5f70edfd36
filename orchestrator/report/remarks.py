"""What stands under a table: how its figures were made, what ran, what is not proved, and what to know of the rest.

A remark is a line in parts, so that Markdown can show names as code and the page can show them as they are.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

from orchestrator.analysis.beside import across_stacks
from orchestrator.analysis.ceilings import Ceiling
from orchestrator.analysis.published import Published, PublishedFigure
from orchestrator.analysis.reduced_run import Pair, Report
from orchestrator.analysis.rows import Power, Row
from orchestrator.analysis.statistics import FEWEST_ROUNDS, Verdict, rounds_wanted
from orchestrator.base.grouping import grouped
from orchestrator.base.limits import MOST_ROUNDS
from orchestrator.base.text import MISSING, code, counted, escape, gpu_in_short, shortened, significant
from orchestrator.records.record import COMPUTED, Compiles, Dispatch
from orchestrator.report.columns import SECONDS_DIGITS, later_compiles, not_fused, published_text, resembles
from orchestrator.report.words import disturbances, disturbed, loss_advice, taint_note, warnings

GROUPS_SHOWN = 5
SHARE_SHOWN = 0.005
REASON_LENGTH, LONG_REASON = 160, 320


class Name(str):
    """A part of a remark that is code: a row's or a stack's name."""

    __slots__ = ()


class Typed(Name):
    """A part of a remark that is to be typed: plain text marks it too."""

    __slots__ = ()


class Strong(str):
    """A part of a remark that nobody should miss."""

    __slots__ = ()


Remark = tuple[str, ...]


def coded(text: str) -> Remark:
    """Return a text in parts, of which those between backticks are to be typed."""
    return tuple(Typed(part) if number % 2 else part for number, part in enumerate(re.split("`([^`]+)`", text)))


def as_text(remark: Remark) -> str:
    """Return a remark as plain text."""
    return "".join(f"`{part}`" if isinstance(part, Typed) else part for part in remark)


def as_markdown(remark: Remark) -> str:
    """Return a remark as Markdown in which nothing from a record is markup."""
    return "".join(map(_markdown, remark))


def _markdown(part: str) -> str:
    if isinstance(part, Name):
        return code(part)
    # Blanks at a part's ends stand between words of the line.
    begin, end = " " * part.startswith(" "), " " * part.endswith(" ")
    return f"**{escape(part)}**" if isinstance(part, Strong) else f"{begin}{escape(part)}{end}"


def run_facts(report: Report) -> list[tuple[str, list[str]]]:
    """Return what stands at the head of a run's tables: where it ran, its ceilings, its rounds and rows."""
    header, steady = report.header, [pair.steady for pair in report.pairs]
    hardware = {row.hardware.in_words for row in steady} | {found.hardware.in_words for found in report.ceilings}
    sources = [(c.stack, gpu_in_short(c.hardware.uuid)) for c in report.ceilings]
    told = [len(set(parts)) > 1 for parts in zip(*sources, strict=True)]
    ceilings = [
        "".join(f"{part}: " for part, needed in zip(source, told, strict=True) if needed and part)
        + (c.in_words if c.status == "ok" else f"{c.status}: {shortened(c.reason or 'no reason given', LONG_REASON)}")
        for c, source in zip(report.ceilings, sources, strict=True)
    ]
    statuses, beside = Counter(row.status for row in steady), disturbed(report.ceilings)
    return [
        ("Ran on", sorted(filter(None, hardware)) or [MISSING]),
        ("Measured ceilings", list(dict.fromkeys(ceilings)) or ["none in this run"]),
        *([("Disturbed ceilings", [beside])] if beside else []),
        ("Run", [f"{header.run_id}, started {header.started_utc}"]),
        *([("Imported", [f"{header.imported_utc}; not measured here"])] if header.imported_utc else []),
        ("Rounds", [f"{report.recorded} of {report.planned} recorded"]),
        ("Rows", [", ".join(f"{count} {status}" for status, count in statuses.most_common()) or "none"]),
        *([("Remark", [header.note])] if header.note else []),
    ]


def remarks(found: Sequence[tuple[Report, Pair]]) -> list[Remark]:
    """Return the remarks on one table's rows, each with the report that it is of."""
    steady, notes = [pair.steady for _, pair in found], [pair.note for _, pair in found]
    shown = [row for row in steady if row.headline is not None]
    lines = _by_text("Steady: ", [(row.figure.basis, row) for row in shown])
    lines += _by_text("As the note: ", [(row.figure.basis, row) for row in notes if row.headline is not None])
    if any(row.figure.interval_kind == "within-process" for row in shown):
        lines.append(("One round: the interval is within one process and does not include how processes differ.",))
    lines += [(Name(row.name), f": {facts}.") for row in steady if (facts := _facts(row))]
    lines += [(Name(row.name), f" dispatched {what}.") for row in steady if (what := _dispatched(row))]
    lines += _unproved(steady)
    told = [(row, warning) for row in steady for warning in _warnings(row)]
    lines += [(Name(row.name), *coded(f": {warning}.")) for row, warning in told]
    verdicts = [row.versus.verdict for row in steady if row.versus is not None and row.versus.verdict.reason]
    reasons = sorted({f"{found.reason} ({more_rounds(found)})" for found in verdicts})
    lines += [coded(f"Inconclusive against eager: {reason}.") for reason in reasons]
    lines += _across(found)
    lines += _by_text("No share of the ceiling: ", [(row.share.reason, row) for row in shown])
    shares = [(row.share, row) for row in shown if row.share.share is not None]
    if not all(share.is_plain for share, _ in shares):
        by_products = [(share.rate_in_words, row) for share, row in shares if share.bound == "compute"]
        lines += _by_text("Of the ceiling: of the matrix product's ", by_products)
    if disturbed(_ceilings_of(found)):
        lines.append(("Of the ceiling: perhaps too high, see the disturbed ceilings at the head.",))
    if any(share.ceiling_of == "this model of device" for share, _ in shares):
        lines.append(("The ceilings were measured on another device of the same model.",))
    lines += [*_versions(steady), *_stacks(found), *_own_methods(found)]
    if any(not row.figure.complete and row.headline is not None for row in notes):
        lines.append(("* The run has fewer samples than the note's.",))
    names = grouped((id(report), pair.steady.name) for report, pair in found)
    if any(len(set(of_one)) < len(of_one) for of_one in names.values()):
        lines.append(
            coded(
                "Rows of one name are different cells (other packages, device or cache): see `orchestrator explain ID`."
            )
        )
    lines += [line for comparison in comparisons(found) for line in _others_published(steady, comparison)]
    return list(dict.fromkeys(lines))


def _warnings(row: Row) -> list[str]:
    """Return what a reader should know; of a row without a speed only what its flag stands for."""
    if row.status == "ok":
        return warnings(row)
    return disturbances(row) if "tainted" in row.shown_flags else []


def _ceilings_of(found: Sequence[tuple[Report, Pair]]) -> list[Ceiling]:
    """Return the ceilings that these rows' shares may be of: those of their devices, by the stacks that they name."""
    shown = {
        (id(report), pair.steady.share.stack, pair.steady.hardware.model) for report, pair in found if _has_share(pair)
    }
    reports = {id(report): report for report, _ in found}
    return [
        ceiling
        for key, report in reports.items()
        for ceiling in report.ceilings
        if ceiling.devices == 1 and (key, ceiling.stack, ceiling.hardware.model) in shown
    ]


def _has_share(pair: Pair) -> bool:
    return pair.steady.headline is not None and pair.steady.share.share is not None


def more_rounds(found: Verdict) -> str:
    """Return what would bring a verdict: so many rounds, as far as can be said from those that there are."""
    wanted = rounds_wanted(found)
    if wanted is None:
        return f"rounds differ so much that {MOST_ROUNDS:,} would not do"
    return f"`--rounds {wanted}` or more" if wanted == FEWEST_ROUNDS else f"about `--rounds {wanted}` would do"


def comparisons(found: Sequence[tuple[Report, Pair]]) -> list[Published]:
    """Return the published comparisons that have the workload of these rows."""
    known = {published.name: published for report, _ in found for published in report.published}
    return [published for published in known.values() if published.for_workload(found[0][1].steady.workload)]


def figure_caveats(comparison: Published, figures: Iterable[PublishedFigure]) -> list[Remark]:
    """Return what has to be known of these published figures."""
    return [_caveat(comparison, key) for key in dict.fromkeys(key for figure in figures for key in figure.caveats)]


def about_published(comparison: Published) -> list[Remark]:
    """Return where published figures come from, with the caveats that hold for all of them."""
    about = (
        f"{comparison.short}: {comparison.title} ({comparison.source}); {comparison.gpu}, "
        f"driver {comparison.driver or MISSING}, CUDA {comparison.cuda or MISSING}."
    )
    own = {key for figure in comparison.figures for key in figure.caveats}
    return [(about,), *(_caveat(comparison, key) for key in comparison.caveats if key not in own)]


def _caveat(comparison: Published, key: str) -> Remark:
    return (f"{comparison.short}, {key.replace('_', ' ')}: {comparison.caveats[key]}",)


def _others_published(rows: Sequence[Row], comparison: Published) -> list[Remark]:
    ran = {row.method for row in rows}
    others = [
        f"{figure.label} {published_text(figure).replace('~~', '')}"
        for figure in comparison.for_workload(rows[0].workload)
        if figure.method not in ran
    ]
    return [(f"Published for methods that are not in this table: {'; '.join(others)}.",)] if others else []


def _across(found: Sequence[tuple[Report, Pair]]) -> Iterator[Remark]:
    """Yield the verdicts of each run's best row across its stacks, on one model of device."""
    rows = grouped(((id(report), pair.steady.hardware.name), pair.steady) for report, pair in found)
    for of_one in rows.values():
        if others := across_stacks(of_one):
            best = next(row for row in of_one if row.headline is not None)
            parts = [(", ", Name(one.against), f" ({one.verdict.in_words})") for one in others]
            yield ("Across stacks: ", Name(best.name), " against ", *[part for each in parts for part in each][1:], ".")


def _by_text(begin: str, found: Iterable[tuple[str | None, Row]]) -> list[Remark]:
    """Return a line for each text; the rows are named only where they differ."""
    names = grouped((text, row.name) for text, row in found if text)
    if len(names) == 1:
        return [(f"{begin}{next(iter(names))}.",)]
    return [(f"{begin}{text} (", *_listed(rows), ").") for text, rows in names.items()]


def _listed(names: Iterable[str]) -> list[str]:
    parts = [part for name in dict.fromkeys(names) for part in (", ", Name(name))]
    return parts[1:]


def _facts(row: Row) -> str:
    """Return what ran in a row and what it cost."""
    if row.status not in COMPUTED:
        return ""
    seen = row.evidence
    parts = [
        _ran(seen.dispatch) if seen.dispatch else "",
        _compiled(row, seen.compiles) if seen.compiles else "",
        _power(seen.power) if seen.power else "",
        loss_advice(row) or "",
        taint_note(row) or "",
    ]
    return "; ".join(part for part in parts if part)


def _ran(ran: Dispatch) -> str:
    """Return `412 kernels in one step, 1 graph replay: matrix product 60 %, …`."""
    text = f"{counted(ran.launches, ran.kind.removesuffix('s'))} in {ran.what}"
    if ran.graph_replays:
        text += f", {counted(ran.graph_replays, 'graph replay')}"
    shown = sorted((g for g in ran.groups if (g.share or 0) >= SHARE_SHOWN), key=lambda g: -(g.share or 0))
    if shown:
        text += ": " + ", ".join(f"{g.name} {(g.share or 0) * 100:.0f} %" for g in shown[:GROUPS_SHOWN])
    return text


def _compiled(row: Row, compilation: Compiles) -> str:
    if not compilation.made:
        return ""
    parts = [f"{counted(compilation.graphs, 'graph')} compiled"] if compilation.graphs else []
    if compilation.recompiles:
        parts.append(counted(compilation.recompiles, "recompile"))
    if compilation.kernels:
        after = f", {compilation.later_kernels} of them after the first call" if compilation.later_kernels else ""
        parts.append(f"{counted(compilation.kernels, 'kernel')} compiled by Triton at launch{after}")
    later = later_compiles(row)
    if later is not None:
        parts.append(f"{significant(later, SECONDS_DIGITS)} s for compiles in the warm-up")
    if compilation.breaks:
        reason = shortened(compilation.breaks[0], REASON_LENGTH)
        parts.append(f"{counted(len(compilation.breaks), 'graph break')} ({reason})")
    if compilation.warm is not None and compilation.warm.reason:
        parts.append(f"no warm start: {shortened(compilation.warm.reason, REASON_LENGTH)}")
    return ", ".join(parts)


def _power(power: Power) -> str:
    parts = []
    if power.joules is not None:
        parts.append(f"{significant(power.joules, 3)} J a {power.per}")
    if power.watts is not None:
        parts.append(f"{significant(power.watts.median, 3)} W")
    if power.sm_clock_mhz is not None:
        low, high = power.sm_clock_mhz.low, power.sm_clock_mhz.high
        parts.append(f"{low:.0f} MHz" if low == high else f"{low:.0f} to {high:.0f} MHz")
    return ", ".join(parts)


def _dispatched(row: Row) -> str:
    """Return `attention to flash_attn_func; norm and loss to eager`."""
    dispatched = row.evidence.operators if row.status in COMPUTED else {}
    by_target = grouped((target, operator) for operator, target in dispatched.items())
    return "; ".join(
        f"{' and '.join(operators)} to {shortened(target, REASON_LENGTH)}" for target, operators in by_target.items()
    )


def _unproved(rows: Iterable[Row]) -> list[Remark]:
    """Return a line for each reason why rows are unchecked or not fused, with the names of its rows."""
    names = grouped((reason, row.name) for row in rows if row.status in COMPUTED for reason in _reasons(row))
    return [(*_listed(of), f": {shortened(reason, LONG_REASON)}.") for reason, of in names.items()]


def _reasons(row: Row) -> Iterator[str]:
    seen = row.evidence
    if seen.checks is not None and seen.checks.unchecked:
        yield f"not checked: {seen.checks.why}"
    if row.probe is not None and not row.probe.passed and row.probe.status != "incorrect":
        how = f"{row.probe.status}: " if row.probe.status not in (None, "ok") else ""
        yield f"not checked on the probe: {how}{row.probe.reason}"
    if seen.dispatch is not None and seen.dispatch.missing:
        yield f"not fused: {not_fused(seen.dispatch)}"
    if seen.resembles:
        yield resembles(seen.resembles)
    if "memoised" in row.flags:
        yield "memoised: a call on an input that it had just seen took less than 0.9 of the time of one on a new input"
    if "coarser" in row.flags:
        yield "coarser: the logits' error is more than 1.4 times eager's, over 256 positions or more"


def _versions(rows: Sequence[Row]) -> list[Remark]:
    known = [(row.stack, row.environment) for row in rows if row.environment is not None]
    stacks = grouped((environment.in_short, stack) for stack, environment in known)
    lines: list[Remark] = [(*_listed(sorted(names)), f": {text}.") for text, names in stacks.items()]
    if len({environment.torch for _, environment in known}) > 1:
        lines.append((Strong("The rows of this table ran on different versions of torch."),))
    return lines


def _own_methods(found: Sequence[tuple[Report, Pair]]) -> list[Remark]:
    """Return which methods are somebody's own, and by which file."""
    rows = {pair.steady.method for _, pair in found}
    reports = {id(report): report for report, _ in found}.values()
    own = sorted({one for report in reports for one in report.own_methods if one[0] in rows})
    return [
        (Name(method), f" is an own method, not part of bench: methods/{method}.py of the run, SHA-256 {sha256}.")
        for method, sha256 in own
    ]


def _stacks(found: Sequence[tuple[Report, Pair]]) -> list[Remark]:
    """Return where stacks differ from the note's pins, what they were built without, and what changed since."""
    lines: list[Remark] = []
    for report, pair in sorted(found, key=lambda item: item[1].steady.stack):
        stack = pair.steady.stack
        facts: dict[str, Any] = report.header.stacks.get(stack, {})
        for deviation in facts.get("deviations") or ():
            if isinstance(deviation, dict):
                package, wanted, here, reason = (deviation.get(key) for key in ("package", "wanted", "here", "reason"))
                lines.append((Name(stack), f" has {package} {here}, not {wanted}: {reason}."))
        lines += [(Name(stack), f" was built without {part}.") for part in facts.get("left_out") or ()]
        if facts.get("drift"):
            lines.append((Name(stack), f" has drifted {facts['drift']}."))
    return lines
