"""What in docs/results/ is made from the committed runs, for made_docs.py.

A page's text is written by hand. Between two marks stand its tables, made of the run's bundle.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable
from pathlib import Path

from places import RESULTS, ROOT

from orchestrator.analysis.protocol import unit_of
from orchestrator.analysis.reduce import place
from orchestrator.analysis.reduced_run import Pair, Report, make_report, standing
from orchestrator.base.text import code, counted
from orchestrator.plan.workload import BATCHED, MEASURED, describe
from orchestrator.records.runs import find_run
from orchestrator.report import which_engine
from orchestrator.report.columns import COLUMNS, Column, speed
from orchestrator.report.latency import latency_picture
from orchestrator.report.tables import render_tables
from orchestrator.report.tables.markdown import WHERE_EXPLAINED, grid

PAGES = ROOT / "docs" / "results"
OPERATORS = "operators-h100"
RUNS = {
    "H100": ("h100-operators", "h100-inductor", "h100-thunder"),
    "H200": (
        "h200-pinned-forward",
        "h200-pinned-train",
        "h200-pinned-thunder",
        "h200-pinned-thunder-train",
        "h200-pinned-fused",
        "h200-pinned-fused-generation",
        "h200-models",
        "h200-models-train",
        "h200-rounds",
        "h200-second",
        "h200-two",
        "h200-two-second",
        "h200-side-by-side",
    ),
}
"""Of a row that several have with equally many rounds, the first one's stands in the overview."""
WHICH_ENGINE = "which-engine"
ENGINES: tuple[str, ...] = ()
"""The committed runs of the suite `engines`, each beside `inductor`: of them there is a page, and its picture."""
BEGIN = "<!-- Made by `make docs-generate`: write above this line, or below the last one. -->"
END = "<!-- Made until here. -->"
EXPLAINED = "Columns, flags and other words: [Reading a row](../reading.md)."
SHOWN = ("versus", "checks", "share", "first")


def made() -> dict[Path, str]:
    """Return each page with what belongs in it."""
    parts = {name: run_part(name) for names in RUNS.values() for name in names}
    parts |= {"index": index_part(), OPERATORS: operators_part()}
    if ENGINES:
        parts[WHICH_ENGINE] = "\n\n".join(which_engine.body(engine_reports(), ENGINES, "inductor"))
    return {PAGES / f"{name}.md": filled(PAGES / f"{name}.md", part) for name, part in parts.items()} | pictures()


def pictures() -> dict[Path, str]:
    """Return the picture of throughput against latency, where there is a run to draw."""
    return {PAGES / f"{WHICH_ENGINE}.svg": latency_picture(engine_reports(), ENGINES)} if ENGINES else {}


def engine_reports() -> list[Report]:
    """Return the committed runs of engines."""
    return [make_report(find_run(RESULTS, name).folder) for name in ENGINES]


def filled(page: Path, part: str) -> str:
    """Return the page's text with `part` between the marks, which are put at its end where there are none."""
    text = page.read_text(encoding="utf-8")
    before, begin, rest = text.partition(BEGIN)
    after = rest.partition(END)[2].strip() if begin else ""
    return "\n\n".join(filter(None, (before.strip(), BEGIN, part.strip(), END, after))) + "\n"


def run_part(name: str) -> str:
    """Return a run's tables without the words that docs/ explains elsewhere, and its suite unless it is one of ours."""
    folder = find_run(RESULTS, name).folder
    tables = render_tables(folder).partition("## How to read this")[0]
    tables = re.sub("^# .*\n", "## The run\n", tables).replace(WHERE_EXPLAINED, EXPLAINED).strip()
    if not (folder / "suite.toml").is_file():
        return tables
    suite = (folder / "suite.toml").read_text(encoding="utf-8").strip()
    return f'{tables}\n\n## The suite\n\n```toml title="suite.toml"\n{suite}\n```'


def index_part() -> str:
    """Return the list of the runs, and for each GPU the rows of all of its runs in one table."""
    lines, parts = [], list[str]()
    for gpu, names in RUNS.items():
        reports = {name: make_report(find_run(RESULTS, name).folder) for name in names}
        lines += [_run_line(name, report) for name, report in reports.items()]
        parts += [f"## On the {gpu}", *_figures(reports)]
    runs = grid(("run", "on", "began", "rows"), lines, left=(0, 1, 2))
    return "\n\n".join(["## The runs", runs, *parts])


def _run_line(name: str, report: Report) -> tuple[str, ...]:
    gpu, began = report.header.host["gpu"]["name"], report.header.started_utc[:10]
    benchmarks = ", ".join(dict.fromkeys(pair.steady.benchmark for pair in report.pairs))
    return f"[{name}]({name}.md): {benchmarks}", gpu, began, str(len(report.pairs))


def _figures(reports: dict[str, Report]) -> Iterable[str]:
    """Yield a heading and a table for each model; of a row that several runs have, the one that stands for it."""
    names = list(reversed(reports))
    found = [(names[number], pair) for number, pair in standing([reports[name] for name in names])]
    for benchmark in (name for name in MEASURED if name != BATCHED):  # its rows stand on the page of engines
        shown = [(name, pair) for name, pair in found if pair.steady.benchmark == benchmark and _of_one_gpu(pair)]
        models = {_whole(pair) for _, pair in shown}
        for model in sorted(models, key=lambda name: (not name.startswith("open_llama"), name)):
            yield from _of_model(benchmark, [(name, pair) for name, pair in shown if _whole(pair) == model])


def _of_one_gpu(pair: Pair) -> bool:
    """Whether it is beside the others: those of several GPUs have pages of their own."""
    return pair.steady.workload.devices == 1 and len(pair.steady.gpus) < 2


def _whole(pair: Pair) -> str:
    """Return the name of a row's model with all of its layers."""
    return re.sub(r"_\d+_layers$", "", pair.steady.workload.model.name)


def _of_model(benchmark: str, shown: list[tuple[str, Pair]]) -> Iterable[str]:
    """Yield a heading and a table of the rows with all of the model's layers."""
    full = max(pair.steady.workload.model.layers for _, pair in shown)
    rows = [(name, pair) for name, pair in shown if pair.steady.workload.model.layers == full]
    # As in one table: without the parts that are of the workload, whose iterations differ.
    rows.sort(key=lambda found: place(found[1].steady)[3:])
    yield f"### {benchmark}: {describe(rows[0][1].steady.workload)}"
    yield _table(benchmark, rows)


def _table(benchmark: str, rows: list[tuple[str, Pair]]) -> str:
    steady = Column("steady", f"steady, {unit_of(benchmark)}", lambda pair: speed(pair.steady))  # type: ignore[arg-type]
    columns = [steady, *(column for column in COLUMNS if column.key in SHOWN)]
    lines = [
        [
            code(pair.steady.name),
            *(column.line(pair) for column in columns),
            f"[{name}]({name}.md), {counted(pair.steady.rounds_ok, 'round')}",
        ]
        for name, pair in rows
    ]
    return grid(("method@stack", *(column.head for column in columns), "of"), lines, left=(0, -1))


def operators_part() -> str:
    """Return a table of every operator by every method: what ran, and its worst relative error of both directions."""
    content = json.loads((RESULTS / f"{OPERATORS}.json").read_text(encoding="utf-8"))
    keys = dict.fromkeys((f["operator"], f["dtype"], f["limit"]) for one in content.values() for f in one["findings"])
    lines = []
    for operator, dtype, limit in keys:
        cells = []
        for one in content.values():
            found = [f for f in one["findings"] if (f["operator"], f["dtype"]) == (operator, dtype)]
            worst = max((f[way] for f in found for way in ("forward", "backward") if f[way] is not None), default=None)
            ran = ", ".join(dict.fromkeys(f["dispatched"] for f in found))
            passed = "" if all(f["status"] == "passed" for f in found) else " **failed**"
            cells.append("" if worst is None else f"{worst:.1e}: {ran}{passed}")
        lines.append((operator, dtype, f"{limit:g}", *cells))
    return grid(("operator", "dtype", "limit", *map(code, content)), lines, left=(0, 1, 3, 4, 5, 6))
