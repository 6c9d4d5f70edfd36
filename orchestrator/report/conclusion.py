"""What a table comes to, in one sentence: worded from the rows' own verdicts, never by another rule."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from orchestrator.analysis.beside import EAGER
from orchestrator.analysis.protocol import higher_is_better
from orchestrator.analysis.rows import Row
from orchestrator.analysis.statistics import FEWEST_ROUNDS, Verdict
from orchestrator.base.grouping import grouped
from orchestrator.base.text import between, counted, percent, significant
from orchestrator.report.columns import name_in
from orchestrator.report.remarks import more_rounds

Names = dict[str, str]
"""By cell_id."""
DIGITS = 3
SHOWN = 3
"""Names of rows; more are counted."""


def conclude(rows: Sequence[Row]) -> str:
    """Return one sentence on the rows of one workload, in the order of the tables: what is fastest, how sure that is.

    A row that is not ok has no speed; where a speed's own row is flagged, or its output not fully checked, it says so.
    """
    names = _names(rows)
    return "; ".join([*_speeds(rows, names), *_scaling(rows, names), *_incorrect(rows, names)]) + "."


def _names(rows: Sequence[Row]) -> Names:
    """Return what each row is called: its method, with the stack where there are several, and its cell if it must."""
    one_stack = len({row.stack for row in rows}) == 1
    return {
        row.cell_id: name_in(row, rows).replace(f"@{row.stack}", "" if one_stack else f"@{row.stack}") for row in rows
    }


def _speeds(rows: Sequence[Row], names: Names) -> list[str]:
    """Return what the best row is worth against eager; where it has none beside it, what the best that has is worth."""
    shown = [row for row in rows if row.headline is not None]
    if not shown:
        return [f"no row has a speed: {_statuses(rows, names)}"]
    best, subject = shown[0], next((row for row in shown if row.versus is not None), None)
    if subject is None or subject.versus is None:
        scaled = all(row.method == EAGER for row in rows) and any(row.scaling for row in rows)
        return [*([] if scaled else [_without_verdict(shown, rows, names)]), *_flags([best], names)]
    name, eager = names[subject.cell_id], next(row for row in shown if row.name == subject.versus.against)
    against = _against(subject.versus.verdict, names[eager.cell_id])
    if best is subject:
        several = len({row.stack for row in shown}) > 1
        said = f"{name} has the best figure and is {against}" if several else f"{name} is {against}"
    elif best.method == EAGER:
        said = f"no method has a better figure than {names[best.cell_id]}: {name} is {against}"
    else:
        said = f"{names[best.cell_id]} has the best figure, and no eager on its stack; {name} is {against}"
    return [said, *_flags((best, subject, eager), names)]


def _scaling(rows: Sequence[Row], names: Names) -> list[str]:
    """Return a clause for each row of several devices on what it has of so many times its speed on one."""
    found = [(names[row.cell_id], row.scaling) for row in rows if row.scaling is not None and row.headline is not None]
    return [
        f"{name} has {percent(one.efficiency)} of {one.devices} times its speed on one device ({one.way} scaling)"
        for name, one in found[:SHOWN]
    ]


def _against(verdict: Verdict, eager: str) -> str:
    """Return `1.33 times as fast as eager; not proven, one round: add …`, by the outcome of the one rule."""
    rounds = counted(min(verdict.rounds), "round")
    interval = "" if verdict.speedup_interval is None else f" {between(*verdict.speedup_interval, DIGITS)}"
    if verdict.outcome == "same":
        return f"as fast as {eager}, within 1 %: {significant(verdict.speedup, DIGITS)} times{interval}, {rounds} each"
    said = f"{significant(verdict.speedup, DIGITS)} times as fast as {eager}"
    if verdict.outcome != "inconclusive":
        return f"{said}{interval}: {verdict.outcome}, {rounds} each"
    rounds = "one round" if min(verdict.rounds) == 1 else rounds
    if min(verdict.rounds) >= FEWEST_ROUNDS:
        rounds += f" and an interval of{interval} that holds 1"
    enough = min(verdict.rounds) >= FEWEST_ROUNDS
    return f"{said}; not proven, {rounds}: {more_rounds(verdict) if enough else f'add `--rounds {FEWEST_ROUNDS}`'}"


def _without_verdict(shown: Sequence[Row], rows: Sequence[Row], names: Names) -> str:
    best, others = shown[0], [row for row in rows if row.method != EAGER]
    if all(row.method == EAGER for row in shown):
        if not others:
            return "only eager was run, so there is nothing to compare it with"
        return f"only eager has a speed: {_statuses(others, names)}"
    eagers = [row for row in rows if row.method == EAGER and row.stack == best.stack]
    why = f"eager is {eagers[0].status}" if eagers else "eager was not run on its stack"
    said = f"{names[best.cell_id]} has the best figure" if len(shown) > 1 else f"only {names[best.cell_id]} has a speed"
    return f"{said}, and there is nothing to compare it with: {why}"


def _statuses(rows: Sequence[Row], names: Names) -> str:
    """Return `inductor crashed, thunder unsupported`, or of many rows `4 crashed, 1 unsupported`."""
    words = [(row, row.status if row.status != "ok" else "ok without a figure") for row in rows]
    if len(rows) <= SHOWN:
        return ", ".join(f"{names[row.cell_id]} {word}" for row, word in words)
    return ", ".join(f"{count} {word}" for word, count in Counter(word for _, word in words).most_common())


def _incorrect(rows: Sequence[Row], names: Names) -> list[str]:
    """Return a clause for the rows that were wrong: how fast they were does not count, and is said not to."""
    wrong = [row for row in rows if row.status == "incorrect"]
    if not wrong or all(row.headline is None for row in rows):
        return []
    best = next(row.headline for row in rows if row.headline is not None)
    sign = -1 if higher_is_better(wrong[0].benchmark) else 1
    faster = [row for row in wrong if row.figure.value is not None and sign * row.figure.value < sign * best]
    are, their = ("are", "their") if len(wrong) > 1 else ("is", "its")
    better = ", a better one," if len(faster) == len(wrong) else ""
    some = f", though {_named(faster, names)} had a better one" if 0 < len(faster) < len(wrong) else ""
    return [f"{_named(wrong, names)} {are} incorrect, so {their} speed{better} does not count{some}"]


def _named(rows: Sequence[Row], names: Names) -> str:
    """Return the rows' names, of many the first and how many more there are: at least two, one has a name as well."""
    shown = rows if len(rows) <= SHOWN + 1 else rows[:SHOWN]
    more = f" and {len(rows) - len(shown)} others" if len(rows) > len(shown) else ""
    return ", ".join(names[row.cell_id] for row in shown) + more


def _flags(rows: Sequence[Row], names: Names) -> list[str]:
    """Return a clause for each set of flags: a speed is worth less with one, and the tables say why."""
    flagged = grouped((", ".join(row.shown_flags), names[row.cell_id]) for row in rows if row.shown_flags)
    found = [(flags, list(dict.fromkeys(of))) for flags, of in flagged.items()]
    return [f"{' and '.join(of)} {'are' if of[1:] else 'is'} flagged {flags}" for flags, of in found]
