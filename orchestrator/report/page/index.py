"""What the page shows at once: the runs, the workloads, and a line for each row with its numbers and their texts.

Numbers are rounded here, by the same functions as in the tables; what charts need goes along unrounded. A row that is
not ok has no speed on the page.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import Any

from orchestrator.analysis.growth import growths
from orchestrator.analysis.ladders import ladders
from orchestrator.analysis.protocol import unit_of
from orchestrator.analysis.published import PublishedFigure
from orchestrator.analysis.reduce import place
from orchestrator.analysis.reduced_run import Pair
from orchestrator.analysis.rows import Row
from orchestrator.analysis.statistics import FEWEST_ROUNDS, LEVEL, verdict
from orchestrator.base.grouping import grouped
from orchestrator.base.text import MISSING, between, gigabytes, milliseconds, says_nothing, significant
from orchestrator.plan.workload import TRAINING, WHAT, told_apart
from orchestrator.records.record import COMPUTED
from orchestrator.report.columns import (
    SECONDS_DIGITS,
    Column,
    against_eager,
    columns_of,
    host_memory,
    published_text,
    share,
    speed,
)
from orchestrator.report.remarks import (
    about_published,
    as_text,
    comparisons,
    figure_caveats,
    more_rounds,
    remarks,
    run_facts,
)
from orchestrator.report.source import Source
from orchestrator.report.words import GLOSSARY, better

OPPOSITE = {"faster": "slower", "slower": "faster"}
MOST_ROWS = 40
"""Of one workload and method: nobody reads more comparisons, and their number grows with the square."""
BELOW = {"checks": "ratio", "first": "even"}
"""Columns whose cell stands below another's, because the page is narrow."""
PAYS_OFF = {"never": "never pays off", "at once": "pays off at once"}
ELSEWHERE = ("steady", "note", "share", *BELOW.values())
"""The page draws these itself, for the protocol that its reader chose."""


@dataclass(frozen=True)
class Index:
    """The rows of all runs in the order of the tables, and what goes above and below them."""

    sources: tuple[Source, ...]
    pairs: tuple[tuple[Source, Pair], ...]
    tables: Mapping[tuple[str, ...], Sequence[tuple[Source, Pair]]]
    """The same by table: (benchmark, workload_id)."""

    def content(self, environments: Sequence[Any]) -> dict[str, Any]:
        """Return it as JSON; `environments` are those that the drawers refer to by number."""
        number = {id(source): place for place, source in enumerate(self.sources)}
        group = {key: place for place, key in enumerate(self.tables)}
        shown = {
            (key, id(source)): columns_of([pair for _, pair in found], source.report.published)
            for key, found in self.tables.items()
            for source in self.sources
        }
        by_note = {
            id(pair): n for n, pair in enumerate(sorted((p for _, p in self.pairs), key=lambda p: place(p.note)))
        }
        grown = _grown(self.sources)
        what = told_apart({pair.steady.workload_id: pair.steady.workload for _, pair in self.pairs})
        rows = [
            {
                "run": number[id(source)],
                "workload": group[_group(pair)],
                "noteOrder": by_note[id(pair)],
                **_row(pair, shown[_group(pair), id(source)]),
                **grown.get((id(source), pair.steady.cell_id), {}),
            }
            for source, pair in self.pairs
        ]
        return {
            "title": "Stackbench: " + ", ".join(source.name for source in self.sources),
            "runs": [_run_card(source) for source in self.sources],
            "workloads": [self._workload(key, what) for key in self.tables],
            "rows": rows,
            "ladders": _ladders([pair.steady for _, pair in self.pairs]),
            "verdicts": _verdicts([pair.steady for _, pair in self.pairs]),
            "environments": list(environments),
            "glossary": GLOSSARY,
        }

    def _workload(self, key: tuple[str, ...], what: Mapping[str, str]) -> dict[str, Any]:
        found = [(source.report, pair) for source, pair in self.tables[key]]
        steady = found[0][1].steady
        published = comparisons(found)
        figures = {comparison.name: comparison.for_workload(steady.workload) for comparison in published}
        return {
            "id": steady.workload_id,
            "benchmark": steady.benchmark,
            "what": what[steady.workload_id],
            "about": f"{WHAT[steady.benchmark]}; {better(steady.benchmark)} is better.",
            "better": better(steady.benchmark),
            "unit": unit_of(steady.benchmark),
            "training": steady.benchmark in TRAINING,
            "manyShapes": steady.workload.shortest is not None,
            "columns": [
                [column.key, column.head]
                for column in columns_of([pair for _, pair in found], published)
                if column.key not in ELSEWHERE and any(column.line(pair) not in (MISSING, "none") for _, pair in found)
            ],
            "remarks": [as_text(remark) for remark in remarks(found)],
            "caveats": [
                as_text(caveat)
                for comparison in published
                for caveat in (*about_published(comparison), *figure_caveats(comparison, figures[comparison.name]))
            ],
            "published": [
                comparison.model_dump(include={"name", "short", "gpu"})
                | {"figures": [_published_figure(figure) for figure in figures[comparison.name]]}
                for comparison in published
            ],
        }


def make_index(sources: Sequence[Source]) -> Index:
    """Put the rows of the runs together: by benchmark and workload, ok rows first, the best of them first."""
    pairs = [(source, pair) for source in sources for pair in source.report.pairs]
    pairs.sort(key=lambda item: place(item[1].steady))
    tables = grouped((_group(item[1]), item) for item in pairs)
    return Index(tuple(sources), tuple(item for table in tables.values() for item in table), tables)


def _group(pair: Pair) -> tuple[str, ...]:
    return (pair.steady.benchmark, pair.steady.workload_id)


def _ladders(rows: Sequence[Row]) -> list[dict[str, Any]]:
    """Return what is drawn as throughput against latency; each point's `row` is the row's place."""
    return [
        {
            "what": ladder.what,
            "device": ladder.device,
            "points": [
                {
                    "row": step.number,
                    "batch": step.batch,
                    "tokens": step.tokens_per_second,
                    "further": step.further_seconds * 1e3,
                    "text": [significant(step.tokens_per_second), *map(milliseconds, step.seconds)],
                    "proved": step.proved,
                    "front": step.on_front,
                }
                for step in ladder.steps
            ],
        }
        for ladder in ladders(enumerate(rows))
    ]


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
                "further": None if further is None else significant(further, SECONDS_DIGITS),
                "gpus": len(growth.gpus),
            }
    return found


def _row(pair: Pair, shown: Sequence[Column]) -> dict[str, Any]:
    row = pair.steady
    peak = row.memory.host_bytes if host_memory(row) else row.memory.process_bytes
    content: dict[str, Any] = {
        **row.model_dump(include={"method", "stack", "status", "reason"}),
        "name": row.name,
        "cell": row.cell_id,
        "gpu": row.hardware.name,
        "flags": list(row.shown_flags),
        "rounds": [row.rounds, row.rounds_ok],
        "steady": _speed(row) | _versus(row),
        "note": _speed(pair.note),
        "first": _first_call(row) if row.status == "ok" else None,
        "memory": {"bytes": peak, "text": gigabytes(peak)},
        "cells": _cells(pair, shown),
    }
    if row.evidence.dispatch is not None and row.status in COMPUTED:
        content["kinds"] = row.evidence.dispatch.kind
        content["groups"] = [[group.name, group.share, group.launches] for group in row.evidence.dispatch.groups]
    return {key: value for key, value in content.items() if value is not None}


def _cells(pair: Pair, shown: Sequence[Column]) -> dict[str, list[str]]:
    """Return by column what stands in a row's cell: its figure, and what stands below it."""
    by_key = {column.key: column for column in shown}
    cells = {}
    for key, column in by_key.items():
        if key not in ELSEWHERE:
            cell = column.cell(pair)
            # What a check lacks stands below how many passed: the column would be wider than all others.
            text, *lacking = re.split("[,;] ", cell.text) if key == "checks" else [cell.text.replace("~~", "")]
            cells[key] = [text, *lacking, *cell.beside]
            if key in BELOW and (text := by_key[BELOW[key]].cell(pair).text) != MISSING:
                cells[key].append(PAYS_OFF.get(text) or f"{by_key[BELOW[key]].head} {text}")
    return {key: lines for key, lines in cells.items() if lines != [MISSING]}


def _speed(row: Row) -> dict[str, Any]:
    if row.headline is None:
        why = row.figure.reason if row.status == "ok" else f"the row is {row.status}"
        return {"cell": [MISSING], "why": why}
    cell, ceiling = speed(row), share(row)
    content: dict[str, Any] = {
        "value": row.headline,
        "text": significant(row.headline),
        "cell": [cell.text, *cell.beside],
        "seconds": row.figure.seconds,
    }
    if row.figure.interval is not None:
        level = row.figure.interval_level or LEVEL
        content["interval"] = between(*row.figure.interval)
        content["bounds"] = None if says_nothing(row.figure.interval) else row.figure.interval
        content["level"] = f"{level * 100:.3g} %, {row.figure.interval_kind}"
    if row.share.share is not None:
        content["share"], content["shareText"], content["bound"] = row.share.share, ceiling.text, row.share.bound
    return content


def _versus(row: Row) -> dict[str, Any]:
    if row.versus is None or row.versus.verdict.speedup is None:
        return {}
    found, cell = row.versus.verdict, against_eager(row)
    content = {"value": found.speedup, "text": cell.text, "beside": list(cell.beside)}
    if found.reason is not None:
        content["why"] = f"inconclusive: {found.reason} ({more_rounds(found)})"
    return {"versus": content}


def _first_call(row: Row) -> dict[str, Any] | None:
    call = row.first_call
    if call.seconds is None:
        return None
    content = {"seconds": call.seconds, "text": significant(call.seconds, SECONDS_DIGITS), "cache": call.cache or ""}
    if call.warm_seconds is not None and call.cache != "warm":
        content |= {"warm": call.warm_seconds, "warmText": significant(call.warm_seconds, SECONDS_DIGITS)}
    return content


def _published_figure(figure: PublishedFigure) -> dict[str, Any]:
    # What its authors called wrong is not shown as a speed here either; what they put in its place is.
    value = figure.figure if figure.status == "ok" else None
    return {
        **figure.model_dump(include={"method", "label", "status"}),
        "value": figure.corrected if figure.corrected is not None else value,
        "text": published_text(figure).replace("~~", ""),
    }


def _run_card(source: Source) -> dict[str, Any]:
    """Return what stands at the head of a run's tables."""
    report = source.report
    return {
        "name": source.name,
        "suite": report.header.suite,
        "finished": report.header.finished_utc is not None,
        "facts": run_facts(report),
        "unreadable": list(source.unreadable),
        "failed": list(report.failed_references),
    }


def _verdicts(rows: Sequence[Row]) -> dict[str, list[str]]:
    """Return `"A:B"` → (outcome, text) for rows A and B by their places: A against B, of one workload and method."""
    alike = grouped(
        ((row.benchmark, row.workload_id, row.method), number)
        for number, row in enumerate(rows)
        if row.headline is not None and len(row.figure.round_seconds) >= FEWEST_ROUNDS
    )
    found: dict[str, list[str]] = {}
    for places in alike.values():
        for one, other in combinations(places[:MOST_ROWS], 2):
            result = verdict(rows[one].figure.round_seconds, rows[other].figure.round_seconds)
            if result.speedup_interval is None:
                continue
            low, high = result.speedup_interval
            found[f"{one}:{other}"] = [result.outcome, _times(low, high)]
            found[f"{other}:{one}"] = [OPPOSITE.get(result.outcome, result.outcome), _times(1 / high, 1 / low)]
    return found


def _times(low: float, high: float) -> str:
    return f"{significant(low)} to {significant(high)} times as fast at 99 %"  # the level of every verdict
