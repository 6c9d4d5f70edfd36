"""What the page shows at once: the runs, the workloads, and a line for each row with its numbers and their texts.

Numbers are rounded here, by the same functions as in the tables; what charts need goes along unrounded. A row that is
not ok has no speed on the page.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from orchestrator.analysis.growth import growths
from orchestrator.analysis.protocol import higher_is_better, unit_of
from orchestrator.analysis.reduce import place
from orchestrator.analysis.statistics import LEVEL
from orchestrator.base.text import MISSING, between, gigabytes, milliseconds, percent, significant
from orchestrator.plan.workload import GENERATING, TRAINING, WHAT, describe
from orchestrator.records.record import COMPUTED
from orchestrator.report import cells as proof
from orchestrator.report.notes import published_text
from orchestrator.report.page.runs import run_card
from orchestrator.report.page.verdicts import verdicts
from orchestrator.report.remarks import published_caveats, remarks

if TYPE_CHECKING:
    from collections.abc import Sequence

    from orchestrator.analysis.published import Published, PublishedFigure
    from orchestrator.analysis.reduced_run import Pair
    from orchestrator.analysis.rows import Row
    from orchestrator.report.source import Source


@dataclass(frozen=True)
class Index:
    """The rows of all runs in the order of the tables, and what goes above and below them."""

    sources: tuple[Source, ...]
    pairs: tuple[tuple[Source, Pair], ...]
    groups: tuple[tuple[str, ...], ...]
    """(benchmark, workload_id) of each table."""

    def content(self, environments: Sequence[Any]) -> dict[str, Any]:
        """Return it as JSON; `environments` are those that the drawers refer to by number."""
        number = {id(source): place for place, source in enumerate(self.sources)}
        group = {key: place for place, key in enumerate(self.groups)}
        by_note = {
            id(pair): n for n, pair in enumerate(sorted((p for _, p in self.pairs), key=lambda p: place(p.note)))
        }
        grown = _grown(self.sources)
        rows = [
            {
                "run": number[id(source)],
                "workload": group[_group(pair)],
                "noteOrder": by_note[id(pair)],
                **_row(pair),
                **grown.get((id(source), pair.steady.cell_id), {}),
            }
            for source, pair in self.pairs
        ]
        return {
            "title": self._title(),
            "runs": [run_card(source) for source in self.sources],
            "workloads": [self._workload(key) for key in self.groups],
            "rows": rows,
            "verdicts": verdicts([pair.steady for _, pair in self.pairs]),
            "environments": list(environments),
        }

    def _title(self) -> str:
        return "Stackbench: " + ", ".join(source.name for source in self.sources)

    def _workload(self, key: tuple[str, ...]) -> dict[str, Any]:
        found = [(source, pair) for source, pair in self.pairs if _group(pair) == key]
        steady = found[0][1].steady
        better = "higher" if higher_is_better(steady.benchmark) else "lower"
        published = {comparison.name: comparison for source, _ in found for comparison in source.report.published}
        return {
            "id": steady.workload_id,
            "benchmark": steady.benchmark,
            "what": describe(steady.workload),
            "about": f"{WHAT[steady.benchmark]}; {better} is better.",
            "better": better,
            "unit": unit_of(steady.benchmark),
            "tokens": steady.benchmark in GENERATING,
            "training": steady.benchmark in TRAINING,
            "manyShapes": steady.workload.shortest is not None,
            "remarks": remarks(found),
            "published": [_published(c, steady) for c in published.values() if c.for_workload(steady.workload)],
        }


def make_index(sources: Sequence[Source]) -> Index:
    """Put the rows of the runs together: by benchmark and workload, ok rows first, the best of them first."""
    pairs = [(source, pair) for source in sources for pair in source.report.pairs]
    pairs.sort(key=lambda item: place(item[1].steady))
    groups = tuple(dict.fromkeys(_group(pair) for _, pair in pairs))
    order = {key: number for number, key in enumerate(groups)}
    pairs.sort(key=lambda item: order[_group(item[1])])
    return Index(tuple(sources), tuple(pairs), groups)


def _group(pair: Pair) -> tuple[str, ...]:
    return (pair.steady.benchmark, pair.steady.workload_id)


def _grown(sources: Sequence[Source]) -> dict[tuple[int, str], dict[str, Any]]:
    """Return by source and cell which series of growing first calls a row is in, and its place there."""
    found: dict[tuple[int, str], dict[str, Any]] = {}
    series = [(source, g) for source in sources for g in growths(pair.steady for pair in source.report.pairs)]
    for number, (source, growth) in enumerate(series):
        for point in growth.points:
            further = point.further_layer_seconds
            found[id(source), point.cell_id] = {
                "growth": number,
                "layers": point.layers,
                "further": None if further is None else significant(further, proof.SECONDS_DIGITS),
                "gpus": len(growth.gpus),
            }
    return found


def _row(pair: Pair) -> dict[str, Any]:
    row = pair.steady
    ok = row.status == "ok"
    content: dict[str, Any] = {
        "name": row.name,
        "method": row.method,
        "stack": row.stack,
        "cell": row.cell_id,
        "gpu": row.hardware.name,
        "status": row.status,
        "reason": row.reason,
        "flags": list(row.shown_flags),
        "rounds": [row.rounds, row.rounds_ok],
        "steady": _speed(row),
        "note": _speed(pair.note),
        "tokens": [
            milliseconds(s) if ok else MISSING for s in (row.figure.first_token_seconds, row.figure.next_token_seconds)
        ],
        "first": _first_call(row) if ok else None,
        "memory": _memory(row),
        "checks": proof.checks(row),
        "ratio": proof.error_ratio(row),
        "even": proof.break_even(row),
        "versus": _versus(row),
        "energy": _energy(row),
    }
    if row.evidence.dispatch is not None and row.status in COMPUTED:
        content["kinds"] = row.evidence.dispatch.kind
        content["groups"] = [[group.name, group.share, group.launches] for group in row.evidence.dispatch.groups]
    if pair.published is not None:
        content["published"] = published_text(pair.published).replace("~~", "")
    return {key: value for key, value in content.items() if value is not None}


def _speed(row: Row) -> dict[str, Any]:
    if row.headline is None:
        why = row.figure.reason if row.status == "ok" else f"the row is {row.status}"
        return {"text": MISSING, "why": why}
    content: dict[str, Any] = {
        "value": row.headline,
        "text": significant(row.headline),
        "seconds": row.figure.seconds,
        "basis": row.figure.basis,
        "complete": row.figure.complete,
    }
    if row.figure.interval is not None:
        level = row.figure.interval_level or LEVEL
        content["interval"] = between(*row.figure.interval)
        content["bounds"] = row.figure.interval
        content["level"] = f"{level * 100:.3g} %, {row.figure.interval_kind}"
    if row.share.share is not None:
        content["share"] = row.share.share
        content["shareText"] = percent(row.share.share)
        content["bound"] = row.share.bound
    return content


def _first_call(row: Row) -> dict[str, Any] | None:
    if row.first_call.seconds is None:
        return None
    cache = row.first_call.cache or ""
    content = {"seconds": row.first_call.seconds, "text": significant(row.first_call.seconds, 3), "cache": cache}
    warm = row.first_call.warm_seconds
    if warm is not None and cache != "warm":
        content |= {"warm": warm, "warmText": significant(warm, 3)}
    return content


def _versus(row: Row) -> list[str] | None:
    """Return how many times as fast as eager the row is, the verdict, and its interval."""
    if row.versus is None or row.versus.verdict.speedup is None:
        return None
    told = row.versus.verdict
    interval = "" if told.speedup_interval is None else between(*told.speedup_interval, 3)
    return [f"{significant(told.speedup, 3)}×", told.outcome, interval]  # noqa: RUF001 - times


def _energy(row: Row) -> list[str] | None:
    """Return the energy of one pass, token or step with what it is of."""
    if row.evidence.power is None or row.evidence.power.joules is None or row.status != "ok":
        return None
    return [significant(row.evidence.power.joules, 3), f"J a {row.evidence.power.per}"]


def _memory(row: Row) -> dict[str, Any]:
    host = row.memory.process_bytes is None and row.memory.host_bytes is not None and row.hardware.device != "cuda"
    return {
        "bytes": row.memory.host_bytes if host else row.memory.process_bytes,
        "process": gigabytes(row.memory.host_bytes if host else row.memory.process_bytes),
        "steady": gigabytes(row.memory.steady_bytes),
        "reserved": gigabytes(row.memory.reserved_bytes),
        "host": host,
    }


def _published(comparison: Published, steady: Row) -> dict[str, Any]:
    figures = comparison.for_workload(steady.workload)
    return {
        "name": comparison.name,
        "short": comparison.short,
        "gpu": comparison.gpu,
        "about": f"{comparison.title} ({comparison.source}); {comparison.gpu}, driver "
        f"{comparison.driver or MISSING}, CUDA {comparison.cuda or MISSING}",
        "figures": [_published_figure(figure) for figure in figures],
        "caveats": published_caveats(comparison, figures),
    }


def _published_figure(figure: PublishedFigure) -> dict[str, Any]:
    # What its authors called wrong is no speed here either; what they put in its place is.
    value = figure.figure if figure.status == "ok" else None
    return {
        "method": figure.method,
        "label": figure.label,
        "status": figure.status,
        "value": figure.corrected if figure.corrected is not None else value,
        "text": published_text(figure).replace("~~", ""),
    }
