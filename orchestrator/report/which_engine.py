"""The page "which engine": what batched_generation showed of each method and engine, joined over runs by one row.

Runs of several loans are of several machines: an engine is compared with the row of `beside` in its own run, and the
runs are joined by that ratio.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from orchestrator.analysis.ladders import Ladder, Step, ladders
from orchestrator.analysis.protocol import unit_of
from orchestrator.analysis.reduced_run import Report, make_report, standing
from orchestrator.analysis.rows import Row
from orchestrator.analysis.statistics import FEWEST_ROUNDS, Verdict, verdict
from orchestrator.base.errors import UsageError
from orchestrator.base.grouping import grouped
from orchestrator.base.text import MISSING, between, code, counted, escape, milliseconds, significant
from orchestrator.plan.workload import BATCHED
from orchestrator.report.columns import SECONDS_DIGITS, beside_status, checks, peaks, speed
from orchestrator.report.tables.markdown import grid

HEADS = (
    *("batch", "method@stack", f"all, {unit_of(BATCHED)}", "each sequence", "first token, ms", "further token, ms"),
    *("start-up, s", "peak, GB", "checks", "status", "run"),
)
FRONT = "◆"
NEAR = 0.005
"""Rows of `beside` in two runs that differ by less are said to agree."""


@dataclass(frozen=True)
class Joined:
    """The rows that stand for each method on a stack, and the row of `beside` on each workload in each run."""

    names: tuple[str, ...]
    beside: str
    ladders: tuple[Ladder, ...]
    without: tuple[Row, ...]
    """Rows of batched_generation that have no point."""
    anchors: Mapping[tuple[int, str], Row]
    """By report and workload_id."""


def page_of(runs: Mapping[str, Path], beside: str) -> str:
    """Return the page of the runs, folders by name. Runs without a row of batched_generation are a UsageError."""
    return render([make_report(folder) for folder in runs.values()], tuple(runs), beside)


def render(reports: Sequence[Report], names: Sequence[str], beside: str) -> str:
    """Return the page as Markdown: what is compared, then for each model and prompt its answer and its table."""
    parts = ["# Which engine", *body(reports, names, beside)]
    return "\n\n".join(parts) + "\n"


def body(reports: Sequence[Report], names: Sequence[str], beside: str) -> Iterator[str]:
    """Yield the page's paragraphs, its heading left out."""
    joined = join(reports, names, beside)
    if not joined.ladders and not joined.without:
        raise UsageError(f"no row of {BATCHED}", where=", ".join(names), remedy="name a run of the suite `engines`")
    yield (
        "All prompts of a batch are given at once, all of one length and different, and no sequence ends early. "
        f"Speeds are steady ones; {FRONT} marks the Pareto front, rows that no proved row beats in both "
        "throughput and time for a further token. Start-up is all until the first call has ended; the peak is the "
        "process's, of an engine with the memory that it takes for its cache beforehand. "
        f"Beside `{escape(beside)}`: how many times as fast as that row of the same run, on the same machine; "
        f"a verdict takes {FEWEST_ROUNDS} rounds a side."
    )
    if spread := "\n".join(_spread(joined)):
        yield spread
    for ladder in joined.ladders:
        device = f" on {escape(ladder.device)}" if ladder.device else ""
        yield f"## {escape(ladder.what)}{device}"
        yield "\n".join(_answers(ladder, joined))
        yield _table(ladder, joined)
    if joined.without:
        yield "## Without a figure"
        yield "\n".join(
            f"- {code(row.name)}, batch {row.workload.batch}, {counted(row.workload.prompt_length, 'prompt token')}: "
            f"{row.status}{': ' + escape(row.reason) if row.reason else ''}"
            for row in joined.without
        )


def join(reports: Sequence[Report], names: Sequence[str], beside: str) -> Joined:
    """Return the reports' rows of batched_generation, put together."""
    pairs = [(number, pair.steady) for number, pair in standing(reports) if pair.steady.benchmark == BATCHED]
    anchors: dict[tuple[int, str], Row] = {}
    for number, report in enumerate(reports):
        for pair in report.pairs:
            row, key = pair.steady, (number, pair.steady.workload_id)
            good = row.benchmark == BATCHED and row.method == beside and row.headline is not None
            if good and (key not in anchors or anchors[key].rounds_ok < row.rounds_ok):
                anchors[key] = row
    found = ladders(pairs)
    shown = {step.row.cell_id for ladder in found for step in ladder.steps}
    without = tuple(row for _, row in pairs if row.cell_id not in shown)
    return Joined(tuple(names), beside, tuple(found), without, anchors)


def _against(step: Step, joined: Joined) -> Verdict | None:
    anchor = joined.anchors.get((step.number, step.row.workload_id))
    if anchor is None or anchor.cell_id == step.row.cell_id:
        return None
    return verdict(step.row.figure.round_seconds, anchor.figure.round_seconds)


def _times(found: Verdict | None) -> str:
    if found is None or found.speedup is None:
        return MISSING
    interval = "" if found.speedup_interval is None else f" {between(*found.speedup_interval, 3)}"
    return f"{significant(found.speedup, 3)}×{interval} {found.outcome}"  # noqa: RUF001  (times)


def _table(ladder: Ladder, joined: Joined) -> str:
    head = (*HEADS[:6], f"beside {joined.beside}", *HEADS[6:])
    steps = sorted(ladder.steps, key=lambda step: _worth(step, joined), reverse=True)
    by_batch = sorted(steps, key=lambda step: step.batch)
    return grid(head, [_line(step, joined) for step in by_batch], left=(1, -3, -2, -1))


def _worth(step: Step, joined: Joined) -> tuple[float, float]:
    """Return what rows of one batch are ordered by: the ratio that joins runs, then the figure."""
    found = _against(step, joined)
    return (found.speedup if found is not None and found.speedup is not None else 1.0), step.tokens_per_second


def _line(step: Step, joined: Joined) -> tuple[str, ...]:
    row, startup = step.row, step.row.first_call.startup_seconds
    return (
        str(step.batch),
        f"{code(row.name)}{' ' + FRONT if step.on_front else ''}",
        speed(row).line(),
        significant(step.tokens_per_second / step.batch),
        milliseconds(step.first_seconds),
        milliseconds(step.further_seconds),
        _times(_against(step, joined)),
        MISSING if startup is None else significant(startup, SECONDS_DIGITS),
        peaks(row).text,
        checks(row),
        f"{row.status}{beside_status(row)}",
        escape(joined.names[step.number]),
    )


def _answers(ladder: Ladder, joined: Joined) -> Iterator[str]:
    """Yield a line for each batch: whose proved row has the most throughput."""
    for batch, steps in sorted(grouped((step.batch, step) for step in ladder.steps).items()):
        proved = [step for step in steps if step.proved]
        if not proved:
            yield f"- {_at_once(batch)}: no row whose output is proved."
            continue
        best = max(proved, key=lambda step: _worth(step, joined))
        beside = _times(_against(best, joined))
        times = "" if beside == MISSING else f", {beside} beside `{escape(joined.beside)}`"
        yield f"- {_at_once(batch)}: {code(best.row.name)}, {significant(best.tokens_per_second)} tokens/s{times}."


def _at_once(batch: int) -> str:
    return "One sequence" if batch == 1 else f"{batch} sequences at once"


def _spread(joined: Joined) -> Iterator[str]:
    """Yield how far the rows that join the runs are apart, where several runs have them."""
    by_workload = grouped((workload, row) for (_, workload), row in joined.anchors.items())
    widest = 0.0
    for rows in by_workload.values():
        figures = [row.headline for row in rows if row.headline is not None]
        widest = max(widest, max(figures) / min(figures) - 1)
    if any(len(rows) > 1 for rows in by_workload.values()):
        apart = "agree" if widest < NEAR else f"differ by up to {significant(widest * 100, 2)} %"
        yield f"The rows of `{escape(joined.beside)}` in these runs {apart}: compare ratios, not figures of two runs."
