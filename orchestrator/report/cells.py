"""A row's proof in few words: for the columns of a table, and for the lines below it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from orchestrator.base.text import MISSING, between, code, counted, escape, shortened, significant
from orchestrator.records.record import COMPUTED
from orchestrator.report.words import loss_advice, taint_note, warnings

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from orchestrator.analysis.reduced_run import Pair
    from orchestrator.analysis.rows import CheckCounts, Power, Row
    from orchestrator.records.record import Compiles, Dispatch

GROUPS_SHOWN = 5
SHARE_SHOWN = 0.005
REASON_LENGTH = 160
SECONDS_DIGITS = 3


def against_eager(row: Row) -> str:
    """Return how many times as fast as eager the row is, with interval and verdict."""
    if row.versus is None:
        return MISSING
    told = row.versus.verdict
    text = f"{significant(told.speedup, 3)}×"  # noqa: RUF001  (times)
    if told.speedup_interval is not None:
        text += f" {between(*told.speedup_interval, 3)}"
    return f"{text} {told.outcome}"


def error_ratio(row: Row) -> str:
    """Return the row's error over eager's."""
    return (
        MISSING if row.evidence.error_ratio is None or row.status != "ok" else significant(row.evidence.error_ratio, 3)
    )


def checks(row: Row) -> str:
    """Return `9/9`, and what of the proof is missing; the reasons stand below the table."""
    if row.status not in COMPUTED:
        return MISSING
    text = _fraction(row.evidence.checks) if row.evidence.checks else "none"
    if row.probe is None or row.probe.passed:
        return text
    return f"{text}; probe {row.probe.status if row.probe.status not in (None, 'ok') else 'unchecked'}"


def first_call(row: Row, unit: str = "", digits: int = SECONDS_DIGITS) -> str:
    """Return an ok row's first call in seconds, cold and warm as far as each was measured: `39.6 cold, 7.31 warm`.

    `unit` goes after each number.
    """
    if row.first_call.seconds is None or row.status != "ok":
        return MISSING
    told = [(row.first_call.seconds, row.first_call.cache)]
    if row.first_call.warm_seconds is not None and row.first_call.cache != "warm":
        told.append((row.first_call.warm_seconds, "warm"))
    return ", ".join(f"{significant(seconds, digits)}{unit}{f' {cache}' if cache else ''}" for seconds, cache in told)


def later_compiles(row: Row) -> float | None:
    """Return the seconds that compiles in the warm-up, after the first call, cost; null where there were none."""
    if row.first_call.upfront_seconds is None or row.first_call.seconds is None:
        return None
    later = row.first_call.upfront_seconds - row.first_call.seconds
    return later if later > 0 else None


def break_even(row: Row) -> str:
    """Return after how many passes, tokens or steps the first call and later compiles have paid off."""
    if row.break_even is None:
        return MISSING
    if row.break_even.count is None:
        return "never" if row.break_even.reason == "it is no faster than eager" else MISSING
    count = row.break_even.count
    return f"{count:,} {row.break_even.of}{_plural(row.break_even.of, count)}"


def lines(pairs: Sequence[Pair]) -> list[str]:
    """Return a line for each row on what ran and what it cost, and lines on what is not proved or warns."""
    rows = [pair.steady for pair in pairs]
    told = [(row, "; ".join(_facts(row))) for row in rows if row.status in COMPUTED]
    found = [f"{code(row.name)}: {text}." for row, text in told if text]
    found += [f"{code(row.name)} dispatched {_dispatched(row)}." for row, _ in told if row.evidence.operators]
    found += _unproved(rows)
    found += [
        f"{code(row.name)}: {escape(warning)}." for row in rows if row.status == "ok" for warning in warnings(row)
    ]
    return found + _inconclusive(rows)


def _facts(row: Row) -> list[str]:
    parts = [
        _ran(row.evidence.dispatch) if row.evidence.dispatch else "",
        _compiled(row, row.evidence.compiles) if row.evidence.compiles else "",
    ]
    parts += [
        _power(row.evidence.power) if row.evidence.power else "",
        escape(loss_advice(row) or ""),
        escape(taint_note(row) or ""),
    ]
    return [part for part in parts if part]


def _ran(ran: Dispatch) -> str:
    """Return `412 kernels in one step, 1 graph replay: matrix product 60 %, …`."""
    text = f"{counted(ran.launches, ran.kind.removesuffix('s'))} in {escape(ran.what)}"
    if ran.graph_replays:
        text += f", {counted(ran.graph_replays, 'graph replay')}"
    shown = sorted((g for g in ran.groups if (g.share or 0) >= SHARE_SHOWN), key=lambda g: -(g.share or 0))
    if shown:
        text += ": " + ", ".join(f"{escape(g.name)} {(g.share or 0) * 100:.0f} %" for g in shown[:GROUPS_SHOWN])
    return text


def _dispatched(row: Row) -> str:
    """Return `attention to flash_attn_func; norm and loss to eager`."""
    by_target: dict[str, list[str]] = {}
    for operator, target in row.evidence.operators.items():
        by_target.setdefault(target, []).append(operator)
    return "; ".join(
        f"{escape(' and '.join(operators))} to {escape(shortened(target, REASON_LENGTH))}"
        for target, operators in by_target.items()
    )


def not_fused(ran: Dispatch) -> str:
    """Return what should have been seen and was not, with what ran in its place."""
    text = f"expected {', '.join(ran.missing)}"
    return f"{text}; ran instead: {ran.instead}" if ran.instead else text


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
        reason = escape(shortened(compilation.breaks[0], REASON_LENGTH))
        parts.append(f"{counted(len(compilation.breaks), 'graph break')} ({reason})")
    if compilation.warm is not None and compilation.warm.reason:
        parts.append(f"no warm start: {escape(shortened(compilation.warm.reason, REASON_LENGTH))}")
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


def _unproved(rows: Sequence[Row]) -> list[str]:
    """Return a line for each reason why rows are unchecked or not fused."""
    told = unproved(rows)
    return [
        f"{', '.join(map(code, names))}: {escape(shortened(text, 2 * REASON_LENGTH))}." for text, names in told.items()
    ]


def unproved(rows: Iterable[Row]) -> dict[str, list[str]]:
    """Return why rows are unchecked or not fused, and by each reason the names of its rows."""
    told: dict[str, list[str]] = {}
    for row in rows:
        if row.status not in COMPUTED:
            continue
        if row.evidence.checks is not None and row.evidence.checks.unchecked:
            told.setdefault(f"not checked: {row.evidence.checks.why}", []).append(row.name)
        if row.probe is not None and not row.probe.passed and row.probe.status != "incorrect":
            how = f"{row.probe.status}: " if row.probe.status not in (None, "ok") else ""
            told.setdefault(f"not checked on the probe: {how}{row.probe.reason}", []).append(row.name)
        if row.evidence.dispatch is not None and row.evidence.dispatch.missing:
            told.setdefault(f"not fused: {not_fused(row.evidence.dispatch)}", []).append(row.name)
        if row.evidence.resembles:
            told.setdefault(f"its error has the effect of a known fault: {row.evidence.resembles}", []).append(row.name)
    return told


def _inconclusive(rows: Sequence[Row]) -> list[str]:
    reasons = {row.versus.verdict.reason for row in rows if row.versus is not None and row.versus.verdict.reason}
    return [f"Inconclusive against eager: {escape(reason)} (`--rounds 5` or more)." for reason in sorted(reasons)]


def _fraction(checks: CheckCounts) -> str:
    text = f"{checks.passed}/{checks.total}"
    return f"{text}, {checks.unchecked} unchecked" if checks.unchecked else text


def _plural(word: str, count: int) -> str:
    return "" if count == 1 else "es" if word == "pass" else "s"
